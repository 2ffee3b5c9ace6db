"""Augmentation changes what its keys say, the same for the same seed and epoch; off, nothing changes."""

import dataclasses

import pytest
import torch

from dp_settings_example import SETTINGS
from fedmr.tasks.augmentation import Augmented
from fedmr.tasks.patches import PatchSampler, load_volumes

NOISE = {"_target_": "monai.transforms.RandGaussianNoised", "keys": "low", "prob": 1.0, "std": 0.05}
BRIGHTER = {"_target_": "monai.transforms.RandScaleIntensityd", "keys": ["low", "high"], "prob": 1.0, "factors": 0.5}
KNOWN = ["RandRicianNoised", "RandBiasFieldd", "RandAdjustContrastd", "RandGaussianSmoothd", "RandGibbsNoised"]


@pytest.fixture
def volumes(site, task):
    return load_volumes(site, task, ("train",))


@pytest.fixture
def batches(volumes, task):
    def draw(*chain, epoch=0, seed=0):
        changed = dataclasses.replace(task, augmentation=chain, seed=seed)
        return list(changed.sampler(volumes).epoch(epoch))

    return draw


def test_noise_is_added_to_the_low_resolution_alone(batches):
    for (low, high), (noisy, same) in zip(batches(), batches(NOISE), strict=True):
        assert torch.equal(high, same)
        inside = low > 0.3  # no value is cut at 0
        assert 0 < float((noisy - low)[inside].std()) < 0.06
        assert float(noisy.min()) >= 0


def test_what_both_keys_name_changes_both_alike(batches):
    for (low, high), (brighter, too) in zip(batches(), batches(BRIGHTER), strict=True):
        factors = (brighter / low)[:, 0].nanmedian(dim=1).values.nanmedian(dim=1).values
        assert torch.allclose(too, high * factors.view(-1, 1, 1, 1), atol=1e-4)


def test_seed_and_epoch_determine_the_draw(batches):
    def same(a, b):
        return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))

    assert same(batches(NOISE, BRIGHTER, epoch=3), batches(NOISE, BRIGHTER, epoch=3))
    assert not same(batches(NOISE, epoch=3), batches(NOISE, epoch=4))
    assert not same(batches(NOISE, seed=0), batches(NOISE, seed=1))


@pytest.mark.parametrize("name", KNOWN)
def test_each_transform_of_the_list_keeps_the_shapes(batches, name):
    chain = {"_target_": f"monai.transforms.{name}", "keys": ["low", "high"], "prob": 1.0}
    (plain_low, plain_high), (low, high) = batches()[0], batches(chain)[0]
    assert (low.shape, high.shape) == (plain_low.shape, plain_high.shape)
    assert not torch.equal(low, plain_low)
    assert torch.isfinite(high).all()


def test_without_a_chain_the_sampler_is_the_plain_one(task, volumes):
    assert isinstance(task.sampler(volumes), PatchSampler)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"keys": "low"}, "no '_target_'"),
        ({"_target_": "monai.transforms.Lambdad", "keys": "low"}, "not allowed here"),
        ({"_target_": "torch.nn.L1Loss"}, "no monai.transforms"),
        ({**NOISE, "sigma": 1}, "does not take the arguments"),
    ],
)
def test_what_is_no_transform_is_refused(task, volumes, entry, message):
    with pytest.raises(ValueError, match=message):
        Augmented(PatchSampler(volumes, task), [entry], seed=0)


def test_dp_sgd_refuses_it(task):
    with pytest.raises(ValueError, match="leave out augmentation"):
        dataclasses.replace(task, dp_sgd=SETTINGS, augmentation=[NOISE])
