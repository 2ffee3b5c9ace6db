"""Latents of sites: the classifier on clouds with a known answer, principal components, and the picture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedmr.nets import build
from fedmr.tasks.registry import build_task
from fedmr.training.latents import domain_accuracy, draw_latents, latents_of, pair_accuracy, pca
from phantoms import write_site

NETWORK = {"name": "unet", "channels": 2, "skip": True, "seed": 0}
TASK = build_task({"network": NETWORK, "mask": {}, "size": 32})


def clouds(centres, n=40, width=8, seed=0):
    rng = np.random.default_rng(seed)
    return {f"site-{k}": (rng.normal(size=(n, width)) + centre).astype(np.float32) for k, centre in enumerate(centres)}


def test_sites_far_apart_are_told_apart_and_equal_ones_by_chance_only():
    apart = [0.0, 10.0, -10.0, 20.0]
    assert domain_accuracy(clouds(apart), clouds(apart, seed=1)) == 1
    same = domain_accuracy(clouds([0.0] * 4, n=400), clouds([0.0] * 4, n=400, seed=1))
    assert same == pytest.approx(1 / 4, abs=0.05)


def test_a_site_with_more_slices_does_not_count_more():
    train, test = (clouds([0.0, 0.0], n=300, seed=seed) for seed in (0, 1))
    train["site-0"], test["site-0"] = train["site-0"][:30], test["site-0"][:30]
    assert domain_accuracy(train, test) == pytest.approx(1 / 2, abs=0.12), "not 10 / 11, as for always the larger"


def test_the_target_is_compared_with_every_other_site():
    where = [0.0, 0.0, 10.0]
    train, test = clouds(where, n=400), clouds(where, n=400, seed=1)
    assert pair_accuracy("site-2", train, test) == 1
    assert pair_accuracy("site-0", train, test) == pytest.approx(3 / 4, abs=0.05), "half from site-1, all from site-2"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6))
def test_principal_components_do_not_depend_on_rotation_or_origin(seed, width):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(30, width)) * np.geomspace(8, 1, width)).astype(np.float32)
    rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
    first, second = pca(points), pca((points @ rotation + rng.normal(size=width)).astype(np.float32))
    np.testing.assert_allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("shape", [(30, 6), (6, 30), (2, 2), (400, 64)])
def test_principal_components_are_those_of_the_singular_values_to_the_last_shown_digit(shape):
    points = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * strengths[:2]
    largest = expected[np.abs(expected).argmax(axis=0), np.arange(2)]
    np.testing.assert_allclose(pca(points), expected * np.where(largest < 0, -1, 1), atol=1e-10)


def test_principal_components_are_the_directions_of_most_variance():
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(5000, 3)) * [1, 5, 2]).astype(np.float32)
    plane = pca(points)
    assert plane.shape == (5000, 2)
    np.testing.assert_allclose(plane.std(axis=0), [5, 2], rtol=0.05)
    assert abs(np.corrcoef(plane[:, 0], points[:, 1])[0, 1]) > 0.999
    assert abs(plane.mean()) < 1e-6


def test_latents_are_those_of_training_images_and_the_same_each_time(tmp_path):
    volumes = TASK.load(write_site(tmp_path, "site-1", seed=1))
    net = build(**NETWORK)
    found = latents_of(net, volumes, TASK)
    assert found.shape == (15, 4 * 2 * 2**4), "three volumes of five slices"
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, latents_of(net, volumes, TASK))
    with torch.no_grad():
        net.bottleneck[0].weight.mul_(-1)
    assert not np.allclose(found, latents_of(net, volumes, TASK))


def test_the_picture_has_a_panel_for_each_model(tmp_path):
    one, four = ({f"model {k}": clouds([0.0, 5.0], n=5) for k in range(n)} for n in (1, 4))
    draw_latents(one, tmp_path / "one.png")
    draw_latents(four, tmp_path / "four.png")
    widths = [Image.open(tmp_path / f"{name}.png").size[0] for name in ("one", "four")]
    assert widths[1] > 2 * widths[0]
