"""Properties of image formation that hold for every factor and size, odd ones included."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmr.physics.degradation import (
    GRID_OF,
    degrade,
    fft2c,
    ifft2c,
    interpolate,
    low_size,
    truncate,
    truncate_adjoint,
    zero_filled,
    zero_filled_acquisition,
)

sizes = st.tuples(st.integers(12, 41), st.integers(12, 41))
scales = st.sampled_from([1, 2, 3, 4])
examples = settings(max_examples=40, deadline=None)


def image(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, *size, generator=generator, dtype=torch.float64)


def band_limited(size: tuple[int, int], scale: int) -> torch.Tensor:
    """Positive image whose frequencies lie strictly inside the central 1/scale."""
    height, width = size
    y = torch.arange(height, dtype=torch.float64)[:, None] * 2 * torch.pi / height
    x = torch.arange(width, dtype=torch.float64) * 2 * torch.pi / width
    ky, kx = (height // scale - 1) // 2, (width // scale - 1) // 2
    return 3 + torch.cos(ky * y + 0.3) + torch.sin(kx * x) + 0.5 * torch.cos(ky * y - kx * x)


@examples
@given(sizes)
def test_centred_fft_is_unitary_and_inverted(size):
    x = image(size)
    assert torch.allclose(ifft2c(fft2c(x)).real, x)
    assert torch.allclose(fft2c(x).abs().square().sum(), x.square().sum())


def test_centred_fft_has_dc_in_the_middle():
    k = fft2c(torch.ones(1, 7, 10))
    assert k.abs()[0].argmax() == 3 * 10 + 5


@examples
@given(sizes, st.one_of(scales, st.tuples(scales, scales)))
def test_truncation_and_its_adjoint_pass_the_dot_product_test(size, scale):
    x = image(size)
    low = truncate(x, scale)
    y = torch.complex(image(low.shape[-2:], 1), image(low.shape[-2:], 2))
    left = (low.conj() * y).sum()
    right = (x * truncate_adjoint(y, scale, size)).sum()
    assert torch.allclose(left, right)


@pytest.mark.parametrize("kind", ["truncation", "bicubic"])
def test_factor_one_is_the_identity(kind):
    x = image((17, 22))
    assert torch.allclose(degrade(x, 1, kind), x)
    assert torch.allclose(zero_filled(x, 1), x)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("low", [(8, 9), (9, 8), (7, 7), (10, 10)])
def test_zero_filling_a_band_limited_image_is_exact(scale, low):
    x = band_limited((low[0] * scale, low[1] * scale), scale)
    small = degrade(x, scale)
    assert torch.allclose(small, x[::scale, ::scale]), "LR sample p must be the HR value at scale*p"
    assert torch.allclose(zero_filled(small, scale), x)
    assert torch.allclose(zero_filled_acquisition(x, scale), x)


@pytest.mark.parametrize("scale", [(1, 3), (4, 1), (2, 3)])
def test_axes_may_have_factors_of_their_own(scale):
    x = band_limited((9 * scale[0], 8 * scale[1]), 4)
    small = degrade(x, scale)
    assert torch.allclose(small, x[:: scale[0], :: scale[1]])
    assert torch.allclose(zero_filled(small, scale), x)
    assert torch.allclose(zero_filled_acquisition(x, scale), x)
    assert zero_filled(degrade(x, scale, "bicubic"), scale, grid="half").shape == x.shape


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kind", ["truncation", "bicubic"])
def test_a_pair_of_equal_factors_is_the_factor_to_the_last_bit(scale, kind):
    x, grid = image((23, 18)).float(), GRID_OF[kind]
    low = degrade(x, scale, kind)
    assert torch.equal(low, degrade(x, (scale, scale), kind))
    assert torch.equal(zero_filled(low, scale, (23, 18), grid), zero_filled(low, (scale, scale), (23, 18), grid))


@examples
@given(st.tuples(st.integers(20, 41), st.integers(20, 41)), st.sampled_from([2, 3, 4]), st.integers(0, 10**6))
def test_a_point_source_stays_where_it_is(size, scale, where):
    """No half-pixel shift: for any size, also one that is no multiple of the factor."""
    x = torch.zeros(size, dtype=torch.float64)
    low = [low_size(n, scale) for n in size]
    y, column = (where % (low[0] - 4) + 2) * scale, (where // 7 % (low[1] - 4) + 2) * scale
    x[y, column] = 1
    small = degrade(x, scale)
    assert list(small.shape) == low
    for up in (
        zero_filled(small, scale, size),
        zero_filled_acquisition(x, scale),
        interpolate(small[None, None], scale)[0, 0],
    ):
        assert divmod(int(up.argmax()), up.shape[1]) == (y, column)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_half_grid_interpolation_is_torch_bicubic_and_stays_centred(scale):
    x = image((13, 11))[:, None].float()
    expected = F.interpolate(x, scale_factor=scale, mode="bicubic", align_corners=False)
    assert torch.allclose(interpolate(x, scale, "half"), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("grid", ["pixel0", "half"])
def test_upsampling_puts_a_slope_where_its_grid_says(scale, grid):
    """A cosine sampled on the grid comes back as the same cosine at HR positions."""
    n = 24
    shift = 0.0 if grid == "pixel0" else (scale - 1) / 2
    fine = torch.arange(n * scale, dtype=torch.float64)
    wave = 2 + torch.cos(2 * torch.pi * fine / (n * scale))
    coarse = 2 + torch.cos(2 * torch.pi * (torch.arange(n) * scale + shift) / (n * scale))
    low = coarse.expand(n, n).double()
    expected = wave.expand(n * scale, n * scale)
    assert torch.allclose(zero_filled(low, scale, grid=grid), expected, atol=1e-9)
    cubic = interpolate(low[None, None], scale, grid)[0, 0]
    inner = slice(3 * scale, -3 * scale)
    # the kernel's own error is up to 0.015; the wrong grid would be off by 0.065 at x2 and more at x3 and x4
    assert torch.allclose(cubic[:, inner], expected[:, inner], atol=2e-2)


def test_the_wrong_grid_is_measurably_wrong():
    x = band_limited((48, 48), 4)
    low = degrade(x, 2)[None, None]
    right = (interpolate(low, 2, "pixel0")[0, 0] - x).square().mean()
    wrong = (interpolate(low, 2, "half")[0, 0] - x).square().mean()
    assert wrong > 4 * right


@pytest.mark.parametrize("scale", [2, 3])
def test_degradation_is_differentiable(scale):
    x = (image((6, 7))[:1] + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: degrade(v, scale), x)
    assert torch.autograd.gradcheck(lambda v: zero_filled(v, scale), x)


def test_bad_arguments_name_the_value():
    with pytest.raises(ValueError, match="blur"):
        degrade(image((12, 12)), 2, "blur")
    with pytest.raises(ValueError, match="scale is 0"):
        truncate(image((12, 12)), 0)
