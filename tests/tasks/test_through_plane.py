"""From in-plane images to thick slices and back: batches, evaluation, the card, and networks that run in the task."""

import json
from dataclasses import replace

import pytest
import torch

from fedmr.checkpoints.card import describe, make_card, task_of
from fedmr.metrics import psnr
from fedmr.nets import build
from fedmr.tasks.registry import build_task
from fedmr.tasks.thick_slices import ThickSliceSampler, ThickVolume, load_volumes, noise_of
from fedmr.tasks.through_plane import ThroughPlaneTask
from fedmr.training.trainer import Trainer, evaluate
from fedmr.utils.errors import DataError
from phantoms import write_site
from small_networks import SMALL

PROFILE = {"kind": "gaussian", "thickness": [0.8, 1.0]}
NETWORK = {"name": "mscan", "scale": 1, "channels": 8, "blocks": 1, "start": "he"}


def make_task(**values):
    given = {
        "network": NETWORK,
        "slice_profile": PROFILE,
        "factors": [2, 8],
        "patch_size": 16,
        "batch_size": 4,
        **values,
    }
    return build_task(json.loads(json.dumps(given)))


def volume_of(images: torch.Tensor, pixel: float = 1.0) -> ThickVolume:
    return ThickVolume("name", "patient", "T1w", "train", images, images[:, ::4], pixel)


@pytest.fixture
def site(tmp_path):
    return write_site(tmp_path, "site-1", 1)


def test_what_a_config_states_decides_the_kind():
    assert isinstance(make_task(), ThroughPlaneTask)


def test_an_untrained_network_gives_the_cubic_interpolation(site):
    task = make_task()
    volumes = load_volumes(site, task, ("test",))
    found = evaluate(build(**task.network), volumes, task, with_baselines=True)
    assert found["model"]["psnr"] == pytest.approx(found["interpolated"]["psnr"], abs=1e-3)
    assert volumes[0].hr.shape == (5, 48, 45)
    assert volumes[0].lr.shape == (5, 12, 45)
    assert [panel.shape for panel in task.panels(build(**task.network), volumes[0])] == [volumes[0].hr.shape[1:]] * 4


def test_training_gains_over_interpolation(site):
    task = make_task(learning_rate=1e-2, warmup_steps=5, factors=[3.9, 4], patches_per_slice=6, rotated=0)
    volumes = load_volumes(site, task, ("train", "val"))
    trainer = Trainer(task, task.sampler(volumes), rounds=12)
    validation = [v for v in volumes if v.split == "val"]
    before = evaluate(trainer.net, validation, task)["model"]["psnr"]
    for _ in range(12):
        trainer.run_round()
    assert evaluate(trainer.net, validation, task)["model"]["psnr"] > before + 0.2


def test_an_epoch_is_repeated_by_its_number_and_another_number_is_another(site):
    task = make_task(noise=0.5)
    sampler = task.sampler(load_volumes(site, task, ("train",)))
    first, again, other = (list(sampler.epoch(number)) for number in (3, 3, 4))
    assert len(first) == sampler.steps_per_epoch
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert not torch.equal(first[0][1], other[0][1])


def test_a_patch_that_is_not_rotated_is_a_part_of_its_slice_whichever_way_it_is_turned():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    image = 1 + rows * 50 + columns  # no number twice
    task = make_task(rotated=0)
    sampler = ThickSliceSampler([volume_of(image[None] / 2000)], task)
    found = set()
    for number in range(60):
        for _, sharp in sampler.epoch(number):
            values = (sharp[0, 0] * 2000).round() - 1
            inside = values[values >= 0]
            assert torch.equal(inside, inside.unique().sort().values[inside.argsort().argsort()])
            steps = {int(abs(values[5, 5] - values[6, 5])), int(abs(values[5, 5] - values[5, 6]))}
            assert steps == {1, 50}
            found.add((float(values[6, 5] - values[5, 5]), float(values[5, 6] - values[5, 5])))
    assert len(found) >= 7, "turns by quarters, flipped and not, of which there are 8"


@pytest.mark.parametrize("rotated", [0, 1])
def test_a_smooth_image_passes_thick_slices_unchanged_so_nothing_is_shifted(rotated):
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    image = 2 + torch.sin(rows / 25) + torch.cos(columns / 30)
    task = make_task(rotated=rotated, factors=[2, 4])
    sampler = ThickSliceSampler([volume_of(image[None])], task)
    for number in range(20):
        for low, sharp in sampler.epoch(number):
            if sharp.min() > 1e-3 and sharp.shape[-1] == 16:  # else it lies at the border, beyond which is nothing
                inner = (low - sharp)[..., 4:-4, 4:-4].abs().median()
                assert inner < 0.03, "a shift by half a pixel would be 0.02 and more everywhere"


def test_added_noise_makes_a_thick_slice_as_noisy_as_the_image():
    """On noise alone: averaging takes away most of it, the task's noise gives it back where slices lie."""
    noise = 0.1 * torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(0))
    image = 1 + noise
    assert noise_of(image) == pytest.approx(0.1, rel=0.1)
    spread = {}
    for share in (0, 1):
        task = make_task(rotated=0, noise=share, factors=[3.99, 4], patch_size=64, batch_size=1)
        sampler = ThickSliceSampler([volume_of(image)], task)
        pairs = [pair for number in range(40) for pair in sampler.epoch(number)]
        spread[share] = torch.tensor([low[..., 20:-20, 20:-20].std() for low, _ in pairs]).max()
    assert spread[0] < 0.07 < 0.085 < spread[1] < 0.115


def test_fine_pixels_are_trained_on_at_half_their_matrix_too():
    images = torch.ones(3, 64, 64)
    task = make_task()
    assert ThickSliceSampler([volume_of(images, pixel=1.0)], task).n_slices == 3
    assert ThickSliceSampler([volume_of(images, pixel=0.5)], task).n_slices == 6


def test_the_sampler_takes_the_slices_that_preflight_counts(site):
    task = make_task()
    volumes = load_volumes(site, task, ("train",))
    usable = sum(int(task.usable_slices(volume.hr).sum()) for volume in volumes)
    assert task.sampler(volumes).n_slices == usable > 0


def test_too_small_and_empty_scans_are_named(site):
    with pytest.raises(DataError, match=r"sub-0_T1w.nii.gz has slices of \(48, 45\) voxels.*patch_size 50"):
        load_volumes(site, make_task(patch_size=50))
    task = make_task()
    dark = [replace(v, hr=torch.zeros_like(v.hr) + (torch.arange(45) == 3)) for v in load_volumes(site, task)]
    with pytest.raises(DataError, match="no training patch of 16 x 16 pixels"):
        task.sampler(dark)


@pytest.mark.parametrize("name", SMALL)
def test_every_network_runs_in_the_task(site, name):
    task = make_task(network={"name": name, "scale": 1, **SMALL[name]})
    trainer = Trainer(task, task.sampler(load_volumes(site, task, ("train",))), rounds=1)
    assert trainer.run_round().steps == trainer.sampler.steps_per_epoch
    volume = load_volumes(site, task, ("test",))[0]
    assert psnr(task.restore(trainer.net, volume), volume.reference) > 5


def test_a_card_says_factors_and_profile_and_is_read_again():
    task = make_task()
    card = make_card(task)
    assert task_of(json.loads(json.dumps(card))) == task
    text = describe(card)
    assert "2 to 8 in-plane pixels apart" in text
    assert "gaussian, FWHM 0.8 to 1 slice distances" in text
    with pytest.raises(ValueError, match="contradicts itself: factors"):
        task_of({**card, "factors": [2, 4]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"network": {"name": "mscan", "scale": 2}}, "needs 1"),
        ({"network": {"name": "mscan"}}, "needs 1"),
        ({"factors": [8, 2]}, "factors is .* the smaller first"),
        ({"factors": [1, 2]}, "factors is .* above 1"),
        ({"factors": [2]}, "factors is .* two numbers"),
        ({"slice_profile": {"kind": "triangle", "thickness": [0.8, 1]}}, "gaussian, box or sinc"),
        ({"slice_profile": {"kind": "box"}}, "thickness"),
        ({"slice_profile": {"kind": "box", "thickness": [0, 1]}}, "thickness is .* above 0"),
        ({"noise": 2}, "noise is 2; it must be a number from 0 to 1"),
        ({"test_factor": 0}, "test_factor is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        make_task(**values)
