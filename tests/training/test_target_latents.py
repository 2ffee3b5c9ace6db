"""Latents of a site, their protection by hand, and what a message of latents may hold."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmr.algorithms.flmrcm import LATENTS, Mrcm, latent_width
from fedmr.nets import build
from fedmr.tasks.slices import SliceSampler, load_volumes
from fedmr.training.target_latents import check_latents, protect, site_latents
from fedmr.utils.errors import UnsafeError
from kspace_site import make_task
from phantoms import write_site

NET = build("unet", channels=2, pools=2)
WIDTH = 32


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    task = make_task(batch_size=2)
    site = write_site(tmp_path_factory.mktemp("data"), "site-1", seed=1, patients=3, shape=(44, 40, 4))
    return SliceSampler(load_volumes(site, task, ("train",)), task)


@pytest.mark.parametrize("vectors", [1, 3, 4, 7])
def test_there_are_as_many_latents_as_asked_for_of_different_slices_first(sampler, vectors):
    """Four slices; the fifth latent is of one of them again, under another mask."""
    latents = site_latents(NET, sampler, vectors=vectors, number=0)
    assert latents.shape == (vectors, WIDTH)
    assert len({tuple(row) for row in latents.tolist()}) == vectors
    assert not latents.requires_grad


def test_they_are_of_what_the_network_gets_in_training(sampler):
    """One latent is that of the slice which the round chooses, under the mask that it draws."""
    drawn = []
    original = sampler.pair
    sampler.pair = lambda *arguments: drawn.append(original(*arguments)) or drawn[-1]
    try:
        latents = site_latents(NET, sampler, vectors=3, number=5)
    finally:
        del sampler.pair
    for row, (image, _) in zip(latents, drawn, strict=True):
        assert torch.allclose(row, NET.latent(image[None, None])[0], atol=1e-5)


def test_round_and_seed_choose_and_nothing_global_does(sampler):
    state = torch.random.get_rng_state()
    first, again, later = (site_latents(NET, sampler, vectors=3, number=n) for n in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    other = copy.copy(sampler)
    other.task = dataclasses.replace(sampler.task, seed=1)
    assert not torch.equal(first, site_latents(NET, other, vectors=3, number=0))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_task_without_slices_or_a_u_net_has_no_latents(sampler):
    with pytest.raises(TypeError, match="not of Linear on SliceSampler"):
        site_latents(torch.nn.Linear(1, 1), sampler, vectors=1, number=0)


def test_the_width_is_read_off_the_weights():
    assert latent_width(NET.state_dict()) == WIDTH == NET.latent(torch.zeros(1, 1, 32, 32)).shape[1]
    assert latent_width(build("unet").state_dict()) == 2048
    with pytest.raises(ValueError, match="without a bottleneck"):
        latent_width({"conv.weight": np.ones((3, 3))})


def chosen(**numbers):
    return Mrcm(target_sites=["site-1"], **numbers)


def rows(*norms):
    """Latents (n, 4) of these norms."""
    return np.array([[norm, 0, 0, 0] for norm in norms], np.float32)


def test_without_a_clip_latents_leave_as_they_are():
    assert np.array_equal(protect(rows(3, 4), chosen()), rows(3, 4))


def test_longer_latents_are_scaled_down_one_by_one():
    sent = protect(rows(0.5, 2, 8), chosen(clip=2.0))
    assert sent.dtype == np.float32
    assert np.allclose(np.linalg.norm(sent, axis=1), [0.5, 2, 2])


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=6), st.floats(0.1, 10))
@settings(deadline=None, max_examples=30)
def test_no_latent_is_longer_than_the_clip_nor_all_together_than_the_noise_assumes(norms, clip):
    sent = protect(rows(*norms), chosen(clip=clip)).astype(np.float64)
    assert (np.linalg.norm(sent, axis=1) <= clip).all()
    assert np.linalg.norm(sent) <= clip * math.sqrt(len(norms))


def test_the_noise_is_that_of_one_release_of_all_latents():
    """Its deviation is noise_multiplier * C * sqrt(V), here 0.5 * 2 * 2."""
    latents, numbers = rows(8, 1, 2, 3), np.linspace(-1, 1, 16)
    sent = protect(latents, chosen(clip=2.0, noise_multiplier=0.5, max_epsilon=1.0), normal=lambda count: numbers)
    assert np.allclose(sent, rows(2, 1, 2, 2) + 2.0 * numbers.reshape(4, 4), atol=1e-6)
    many = np.zeros((64, 100), np.float32)
    sent = protect(many, chosen(clip=2.0, noise_multiplier=0.5, max_epsilon=1.0))
    assert sent.std() == pytest.approx(0.5 * 2 * 8, rel=0.05)


def test_latents_alone_pass():
    latents = rows(1, 2)
    assert check_latents({LATENTS: latents}, vectors=2, width=4) is latents


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({LATENTS: rows(1, 2, 3)}, r"shape \(3, 4\); 1 to 2 of 4 values"),
        ({LATENTS: rows(1)[:0]}, r"shape \(0, 4\)"),
        ({LATENTS: rows(1)[:, :3]}, r"shape \(1, 3\)"),
        ({LATENTS: rows(1)[0]}, r"shape \(4,\)"),
        ({LATENTS: np.ones((1, 2, 4), np.float32)}, r"shape \(1, 2, 4\)"),
        ({LATENTS: rows(1).astype(float)}, "float64, not float32"),
        ({LATENTS: [[1.0]]}, "list, not float32"),
        ({LATENTS: rows(math.nan)}, "not finite"),
        ({LATENTS: rows(1), "image": rows(1)}, "not the latents alone"),
        ({}, "not the latents alone"),
        ([rows(1)], "not the latents alone"),
    ],
)
def test_anything_else_does_not(arrays, message):
    with pytest.raises(UnsafeError, match=message):
        check_latents(arrays, vectors=2, width=4)
