"""Properties of thick slices that hold for every profile, thickness, distance and size, odd and broken ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fedmr.physics.slice_profile import (
    ThickSlices,
    acquire,
    acquire_adjoint,
    agree,
    fine_size,
    interpolate_slices,
    interpolation_matrix,
    slice_matrix,
)

sizes = st.integers(9, 61)
lengths = st.floats(1, 8)
profiles = st.sampled_from(["gaussian", "box", "sinc"])
kinds = ["nearest", "linear", "cubic", "sinc"]
examples = settings(max_examples=40, deadline=None)


@st.composite
def slices(draw, thinnest=0.8, thickest=1.2):
    spacing = draw(lengths)
    return ThickSlices(draw(st.floats(thinnest, thickest)) * spacing, spacing, draw(profiles))


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@examples
@given(sizes, slices(), st.sampled_from([-3, -2, -1]))
def test_acquisition_and_its_adjoint_pass_the_dot_product_test(size, thick, axis):
    shape = [3, 4, 5]
    shape[axis] = size
    x = image(*shape)
    low = acquire(x, thick, axis)
    y = image(*low.shape, seed=1)
    assert torch.allclose((low * y).sum(), (x * acquire_adjoint(y, thick, size, axis)).sum())


@examples
@given(sizes, slices())
def test_a_constant_keeps_its_value_up_to_the_border_and_back(size, thick):
    low = acquire(torch.full((size, 2), 7.0), thick)
    assert torch.allclose(low, torch.tensor(7.0))
    for kind in kinds:
        assert torch.allclose(interpolate_slices(low, thick, size, kind), torch.tensor(7.0), atol=1e-4)


@examples
@given(sizes, slices())
def test_averaging_makes_no_energy(size, thick):
    """A mean of squares is no smaller than the square of the mean (Jensen); the sinc alone has negative weights."""
    x = image(size, 3) - 0.5
    if thick.profile != "sinc":
        assert (acquire(x, thick).square() <= acquire(x.square(), thick) + 1e-12).all()
    assert slice_matrix(size, thick).abs().sum(dim=1).max() < 1.5, "what the lobes of a sinc add is little"


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_boxes_without_gap_share_all_the_signal(factor):
    x = image(6 * factor, 3)
    low = acquire(x, ThickSlices(factor, factor, "box"))
    assert torch.allclose(low, x.reshape(6, factor, 3).mean(dim=1))
    assert torch.allclose(low.sum(dim=0) * factor, x.sum(dim=0))


@pytest.mark.parametrize("profile", ["gaussian", "box", "sinc"])
@pytest.mark.parametrize("size", [1, 2, 3, 16, 17])
def test_points_at_the_distance_of_voxels_are_the_identity(profile, size):
    x = image(size, 3)
    point = ThickSlices(0.5, 1, profile)
    assert torch.allclose(acquire(x, point), x)
    for kind in kinds:
        assert torch.allclose(interpolate_slices(x, point, size, kind), x)


@pytest.mark.parametrize("profile", ["gaussian", "box", "sinc"])
@pytest.mark.parametrize("thickness", [3.0, 5.5, 8.0])
def test_a_profile_has_the_stated_width_at_half_maximum(profile, thickness):
    """Found on a grid a hundred times as fine, where the weights are the profile."""
    fine = 100
    weights = slice_matrix(40 * fine, ThickSlices(thickness * fine, 40 * fine, profile))[0]
    above = (weights >= weights.max() / 2).nonzero()
    width = float(above.max() - above.min() + 1) / fine
    assert width == pytest.approx(thickness, abs=0.03)


@examples
@given(st.integers(20, 61), slices(0.6, 1.0))
def test_an_image_is_made_to_agree_with_its_slices_by_the_smallest_change(size, thick):
    x, guess = image(size, 3), image(size, 3, seed=1)
    low = acquire(x, thick)
    made = agree(guess, low, thick)
    assert torch.allclose(acquire(made, thick), low, atol=1e-6)
    assert torch.allclose(agree(x, low, thick), x, atol=1e-6), "an image that agrees stays as it is"
    assert (made - guess).norm() <= (x - guess).norm() + 1e-6, "no image that agrees is nearer"


@examples
@given(st.integers(1, 60), lengths)
def test_slices_cover_the_field_of_view_and_none_is_lost(count, spacing):
    size = fine_size(count, spacing)
    thick = ThickSlices(spacing, spacing)
    assert thick.count(size) == count
    assert count * spacing - 0.01 <= size < count * spacing + 1
    assert 0 <= thick.centres(size).min() <= thick.centres(size).max() <= size - 1 + 0.02 * spacing


@pytest.mark.parametrize("kind", ["linear", "cubic", "sinc"])
@pytest.mark.parametrize("spacing", [2, 3, 2.5, 4.7])
def test_interpolation_puts_a_wave_where_its_slices_are(kind, spacing):
    count = 40
    thick = ThickSlices(0.5, spacing)
    size = fine_size(count, spacing)

    def wave(place):
        return torch.cos(2 * torch.pi * 3 * (place + 0.5) / (count * spacing))

    found = interpolate_slices(wave(thick.centres(size))[:, None], thick, size, kind)[:, 0]
    inner = slice(3 * int(spacing), -3 * int(spacing) - 1)
    fine = torch.arange(size, dtype=torch.float64)
    error = (found - wave(fine))[inner].abs().max()
    assert error < {"linear": 0.03, "cubic": 1e-3, "sinc": 1e-9}[kind]


def test_the_cubic_interpolation_is_the_b_spline_through_the_samples():
    samples = image(30).numpy()
    thick = ThickSlices(3, 3)
    found = interpolation_matrix(90, thick).numpy() @ samples
    expected = ndimage.map_coordinates(samples, [(np.arange(90) - 1) / 3], order=3, mode="mirror")
    assert np.allclose(found[30:60], expected[30:60], atol=1e-6), "far from the ends, whose treatment differs"


def test_a_gap_is_what_lies_between_two_slices():
    assert ThickSlices(3, 3.3).gap == pytest.approx(0.3)
    assert ThickSlices(6, 3).gap == -3


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["thickness", "spacing"])
def test_a_length_that_is_none_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be a number above 0"):
        ThickSlices(**{"thickness": 2.0, "spacing": 2.0, name: value})


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="gaussian, box, sinc"):
        ThickSlices(2, 2, "triangle")
    with pytest.raises(ValueError, match="nearest, linear, cubic, sinc"):
        interpolation_matrix(9, ThickSlices(2, 2), "lanczos")
