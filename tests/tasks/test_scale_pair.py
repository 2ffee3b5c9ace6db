"""A task may enlarge rows and columns by factors of their own, from the config to the place in the scanner."""

import io
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from fedmr.checkpoints.bundle_transforms import Restore
from fedmr.checkpoints.card import describe, make_card, task_of
from fedmr.checkpoints.export import to_torchscript
from fedmr.checkpoints.monai_bundle import metadata
from fedmr.data.images import Image, canonical
from fedmr.inference.resolver import Options
from fedmr.inference.super_resolver import SuperResolver, impose
from fedmr.nets import build
from fedmr.physics.degradation import degrade, interpolate, pixel_shuffle, truncate
from fedmr.tasks.patches import PatchSampler, Volume
from fedmr.tasks.registry import build_task
from fedmr.training.trainer import Trainer, evaluate
from landmarks import AFFINES, GRIDS, ORIENTATIONS, blob, model, place
from phantoms import write_site
from small_networks import SMALL

PAIRS = [(4, 1), (1, 3), (2, 3)]


def task_of_json(scale, name="mscan", **values):
    network = {"name": name, "scale": scale, **SMALL[name]}
    return build_task(json.loads(json.dumps({"network": network, "patch_size": 9, "batch_size": 8, **values})))


@pytest.mark.parametrize("scale", PAIRS)
@pytest.mark.parametrize("name", SMALL)
def test_every_network_enlarges_each_axis_by_its_factor(name, scale):
    task = task_of_json(scale, name)
    assert task.scale == scale
    net = build(**task.network)
    assert net(torch.rand(2, 1, 20, 23)).shape == (2, 1, 20 * scale[0], 23 * scale[1])
    if name == "mscan":  # which starts as interpolation
        low = torch.rand(1, 1, 20, 23)
        assert torch.allclose(net(low), interpolate(low, scale), atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_equal_factors_are_one_number_to_the_last_bit(name, scale):
    low = torch.rand(1, 1, 20, 23)
    one, two = (build(name, seed=3, scale=value, **SMALL[name]) for value in (scale, [scale, scale]))
    assert torch.equal(one(low), two(low))
    assert (
        task_of_json(scale, name).facts
        == task_of_json([scale, scale], name).facts
        == {
            "scale": scale,
            "degradation": "truncation",
            "grid": "pixel0",
        }
    )


@pytest.mark.parametrize(
    "scale", ["2", "22", 2.0, None, [], [2], [2, 2, 2], [2, 1.5], [4, 0], [4, True], True, {"a": 2}]
)
def test_what_is_no_scale_is_named(scale):
    with pytest.raises(ValueError, match=r"network scale is .*integer of 1 or more"):
        task_of_json(scale)
    with pytest.raises(ValueError, match="scale is "):
        build("mscan", scale=scale)


def test_a_scale_that_enlarges_nothing_or_too_much_is_refused():
    with pytest.raises(ValueError, match="needs 2 or more"):
        task_of_json([1, 1])
    with pytest.raises(ValueError, match="scale is 5; known are"):
        build("mscan", scale=[1, 5])
    with pytest.raises(ValueError, match="scale is 5x1; known are"):
        build("edsr", scale=[5, 1])


def test_interleaving_is_torchs_where_torch_has_it():
    phases = torch.arange(2 * 3 * 4 * 5 * 6).reshape(2, 12, 5, 6).float()
    assert torch.equal(pixel_shuffle(phases, 2), torch.nn.functional.pixel_shuffle(phases, 2))
    high = pixel_shuffle(phases, (4, 1))
    assert torch.equal(high[:, :, 2::4], phases[:, 2::4])
    assert torch.equal(pixel_shuffle(phases.mT, (1, 4)).mT, high)


@pytest.mark.parametrize("scale", PAIRS)
@pytest.mark.parametrize("degradation", GRIDS)
@pytest.mark.parametrize("flip", range(8))
def test_flipped_patches_stay_on_the_grid_of_each_axis(scale, degradation, flip):
    task = task_of_json(scale, degradation=degradation)
    y, x = torch.arange(84)[:, None] * 2 * torch.pi / 84, torch.arange(96) * 2 * torch.pi / 96
    hr = (2 + torch.sin(2 * y) * torch.cos(x) + 0.5 * torch.sin(2 * x + y))[None] / 3.5
    sampler = PatchSampler([Volume("v", "p", "T1w", "train", hr, degrade(hr, scale, degradation), 1.0)], task)
    flips = torch.tensor([[flip & 1], [flip >> 1 & 1], [flip >> 2 & 1]]).bool().expand(3, 8)
    lr, hr = sampler.gather(torch.zeros(8).long(), torch.linspace(0, 0.99, 8).double(), flips)
    assert (lr.shape[-2:], hr.shape[-2:]) == ((9, 9), (9 * scale[0], 9 * scale[1]))
    inner = slice(3 * scale[0], -3 * scale[0]), slice(3 * scale[1], -3 * scale[1])
    guess = interpolate(lr, scale, task.grid)
    aligned = (guess - hr)[..., inner[0], inner[1]].abs().mean()
    for shift in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        assert aligned < 0.5 * (guess - hr.roll(shift, dims=(-2, -1)))[..., inner[0], inner[1]].abs().mean()


def test_a_task_of_one_axis_is_trained_and_evaluated(tmp_path):
    task = task_of_json([2, 1], warmup_steps=2)
    volumes = task.load(write_site(tmp_path, "site-1", seed=1))
    assert volumes[0].lr.shape[1:] == (-(-volumes[0].hr.shape[1] // 2), volumes[0].hr.shape[2])
    trainer = Trainer(task, task.sampler(volumes), rounds=3)
    before = evaluate(trainer.net, volumes, task, with_baselines=True)
    for _ in range(3):
        trainer.run_epoch()
    after = evaluate(trainer.net, volumes, task)
    assert after["model"]["psnr"] > before["model"]["psnr"] > 20
    assert before["model"]["psnr"] == pytest.approx(before["interpolated"]["psnr"])
    assert {panel.shape for panel in task.panels(trainer.net, volumes[0])} == {volumes[0].hr.shape[1:]}


@pytest.mark.parametrize("scale", PAIRS)
@pytest.mark.parametrize("degradation", GRIDS)
def test_a_landmark_stays_at_its_place_in_the_world(degradation, scale):
    resolver = SuperResolver(model(degradation, [*scale]))
    for orientation in ORIENTATIONS[::5]:
        stored = nib.Nifti1Image(blob((18, 21, 7), (8.7, 9.2, 3.3)), AFFINES["oblique"]).as_reoriented(orientation)
        image = Image(stored.get_fdata(), stored.affine)
        result, _ = resolver(image)
        assert canonical(result).voxels.shape == (18 * scale[0], 21 * scale[1], 7)
        moved = np.linalg.solve(image.affine[:3, :3], place(result) - place(image))
        assert np.abs(moved).max() < 0.01, orientation


@pytest.mark.parametrize("scale", PAIRS)
def test_tiles_leave_no_seam_and_measured_kspace_is_kept(scale):
    trained = model("truncation", [*scale], trained=True)
    image = Image(blob((70, 40, 3), (30, 20, 1), 9), np.diag([1, 1, 4, 1.0]))
    whole, tiled = (SuperResolver(trained, Options(tile=side))(image)[0].voxels for side in (0, 32))
    assert np.abs(whole - tiled).max() < 1e-3 * whole.max()
    low = torch.rand(12, 15)
    assert torch.allclose(
        truncate(impose(torch.rand(12 * scale[0], 15 * scale[1]), low, scale, "pixel0"), scale).real, low, atol=1e-5
    )


def test_a_model_of_one_axis_is_described_and_exported():
    made = model("bicubic", [4, 1], trained=True)
    card = json.loads(json.dumps(made.card))
    assert card["scale"] == [4, 1]
    assert task_of(card) == made.task
    assert "x4x1 in the slice plane" in describe(card)
    assert "x4x1" in metadata(make_card(made.task))["name"]
    scripted = torch.jit.load(io.BytesIO(to_torchscript(made)))
    low = torch.rand(2, 1, 17, 19)
    assert torch.allclose(scripted(low), made.net(low).clamp_min(0), atol=1e-5)


def test_a_bundle_puts_each_axis_in_its_place():
    from monai.data import MetaTensor

    image = MetaTensor(torch.zeros(1, 5, 6, 2), affine=np.diag([1, 1, 4, 1.0]))
    data = {"image": image, "pred": torch.ones(1, 20, 6, 2), "intensity": 3.0}
    found = Restore([4, 1], "half")(data)["pred"]
    assert found.affine.numpy() == pytest.approx(
        np.array([[0.25, 0, 0, -0.375], [0, 1, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]])
    )
