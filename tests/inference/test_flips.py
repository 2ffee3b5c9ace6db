"""Flips keep the places of samples; what is alike under flips has no spread; the map lies beside the result."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmr.checkpoints.model_file import save_model
from fedmr.data.images import Image
from fedmr.inference.flips import FLIPS, flip, over_flips
from fedmr.inference.infer import infer
from fedmr.inference.resolver import Options
from fedmr.inference.super_resolver import SuperResolver
from fedmr.physics.degradation import degrade, zero_filled
from landmarks import blob, model, place
from phantoms import phantom

SIDES, AXES = st.sampled_from([5, 7, 9]), st.sampled_from(FLIPS)
KIND_OF_GRID = {"pixel0": "truncation", "half": "bicubic"}


@given(SIDES, SIDES, AXES, st.sampled_from([*KIND_OF_GRID]))
def test_a_flip_twice_is_the_image(height, width, axes, grid):
    image = torch.rand(2, height, width)
    assert torch.equal(flip(flip(image, axes, grid), axes, grid), image)


@given(SIDES, SIDES, AXES, st.sampled_from([*KIND_OF_GRID]), st.sampled_from([2, 3, 4]))
def test_the_measurement_of_a_flipped_image_is_the_flipped_measurement(height, width, axes, grid, scale):
    image = torch.rand(2, scale * height, scale * width, dtype=torch.float64)
    of_flipped = degrade(flip(image, axes, grid), scale, KIND_OF_GRID[grid])
    flipped = flip(degrade(image, scale, KIND_OF_GRID[grid]), axes, grid)
    assert torch.allclose(of_flipped, flipped, atol=1e-6)


@pytest.mark.parametrize("grid", KIND_OF_GRID)
def test_zero_filling_is_alike_under_flips_and_has_no_spread(grid):
    low = torch.rand(3, 9, 7)
    mean, spread = over_flips(lambda part: zero_filled(part, 2, grid=grid), low, grid)
    assert torch.allclose(mean, zero_filled(low, 2, grid=grid), atol=1e-5)
    assert float(spread.max()) < 1e-5


@pytest.mark.parametrize("degradation", KIND_OF_GRID.values())
def test_mean_and_spread_lie_where_the_plain_result_lies(degradation):
    image = Image(blob((20, 21, 18), (9, 9, 9)), np.diag([-1.0, 1.1, 1.2, 1.0]))
    plain, _ = SuperResolver(model(degradation))(image)
    mean, spread, _ = SuperResolver(model(degradation), Options(uncertainty=True)).with_spread(image)
    assert np.abs(place(mean) - place(plain)).max() < 0.05
    assert np.array_equal(mean.affine, spread.affine)
    assert mean.voxels.shape == spread.voxels.shape
    assert float(spread.voxels.min()) >= 0


def test_the_map_lies_beside_the_result_in_the_units_of_the_scan(tmp_path):
    save_model(weights := tmp_path / "model.pt", model(trained=True))
    scan, out = tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz"
    nib.save(nib.Nifti1Image(phantom(0, (24, 22, 6)).astype(np.float32), np.diag([1, 1, 3, 1])), scan)
    outcome = infer(weights, scan, out, options=Options(uncertainty=True))
    result, spread = nib.load(out), nib.load(tmp_path / "out.uncertainty.nii.gz")
    assert np.allclose(result.affine, spread.affine)
    assert result.shape == spread.shape
    assert 0 < spread.get_fdata().max() < result.get_fdata().max()
    assert any("out.uncertainty.nii.gz" in note for note in outcome.notes)
