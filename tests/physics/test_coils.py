import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmr.physics.coils import (
    KspaceNetwork,
    consistent_coils,
    crop_or_pad,
    reconstruct_zero_filled,
    root_sum_of_squares,
    statistics,
)
from fedmr.physics.degradation import fft2c, ifft2c
from fedmr.physics.masks import Mask

SIZES = st.tuples(st.integers(16, 45), st.integers(16, 45))


def coil_images(coils, size, seed=0):
    """Smooth complex maps times an anatomy: (2, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    anatomy = torch.rand(2, 1, *size, generator=generator) + 2 * (x**2 + y**2 < 0.7)
    angles = torch.arange(coils)[:, None, None] * (2 * torch.pi / coils)
    maps = torch.exp(-((x - angles.cos()) ** 2) - (y - angles.sin()) ** 2 + 1j * (x + angles))
    return anatomy * maps


@settings(max_examples=30, deadline=None)
@given(before=SIZES, after=SIZES)
def test_fitting_keeps_the_origin_in_place_and_fits_back(before, after):
    image = torch.zeros(3, *before)
    image[1, before[0] // 2, before[1] // 2] = 7.0
    fitted = crop_or_pad(image, after)
    assert fitted.shape == (3, *after)
    assert fitted[1, after[0] // 2, after[1] // 2] == 7.0
    assert fitted.sum() == 7.0
    larger = max(before[0], after[0]), max(before[1], after[1])
    noise = torch.rand(2, *before)
    assert torch.equal(crop_or_pad(crop_or_pad(noise, larger), before), noise)


def test_full_kspace_gives_the_root_sum_of_squares():
    images = coil_images(4, (33, 40))
    expected = images.abs().square().sum(dim=1).sqrt()
    assert torch.allclose(reconstruct_zero_filled(fft2c(images), (33, 40)), expected, atol=1e-5)
    assert torch.allclose(reconstruct_zero_filled(fft2c(images), (20, 16)), crop_or_pad(expected, (20, 16)), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    coils=st.sampled_from([1, 3, 8]),
    size=SIZES,
    kind=st.sampled_from(["random", "equispaced"]),
    cut=st.integers(0, 6),
    seed=st.integers(0, 999),
)
def test_data_consistency_returns_what_was_measured_exactly(coils, size, kind, cut, seed):
    mask = Mask(kind, 4, 0.1)
    full = fft2c(coil_images(coils, size, seed))
    columns = mask.columns(size[1], torch.Generator().manual_seed(seed))
    image = torch.rand(2, size[0] - cut, size[1])
    made = fft2c(consistent_coils(image, full * columns, columns, mask.center(size[1])))
    scale = full.abs().max()
    assert ((made - full)[..., columns].abs().max() / scale) < 1e-5


def test_data_consistency_keeps_a_perfect_image_with_coil_maps_as_smooth_as_the_centre():
    """Where the centre of k-space holds the maps, the true image is a fixed point, single-coil and multi-coil."""
    size, mask = (48, 64), Mask("random", 2, 0.45)
    columns = mask.columns(64, torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    anatomy = torch.exp(-4 * (x**2 + y**2))[None, None]
    for maps in (torch.ones(1, *size) + 0j, torch.stack([torch.exp(-(x**2) + 1j * y), torch.exp(x - 1j * x)])):
        coils = anatomy * maps
        full, truth = fft2c(coils), root_sum_of_squares(coils)
        made = consistent_coils(truth, full * columns, columns, mask.center(64))
        assert torch.allclose(root_sum_of_squares(made), truth, atol=0.02)


def test_outside_the_image_the_zero_filled_one_stands_in():
    full = fft2c(coil_images(2, (40, 32)))
    mask = Mask("random", 4, 0.1)
    columns = mask.columns(32, torch.Generator().manual_seed(3))
    whole = reconstruct_zero_filled(full * columns, (40, 32))
    inner = crop_or_pad(whole, (20, 32))
    with_all, with_inner = (
        consistent_coils(image, full * columns, columns, mask.center(32)) for image in (whole, inner)
    )
    assert torch.allclose(with_all, with_inner, atol=1e-6)


class Double(torch.nn.Module):
    def forward(self, image):
        self.given = image
        return 2 * image + 1


@pytest.mark.parametrize("scale", [1.0, 3e-6])
def test_a_slice_is_standardised_for_the_network_and_mapped_back(scale):
    kspace = fft2c(coil_images(3, (33, 40))) * scale
    everything = torch.ones(40, dtype=torch.bool)
    inner = Double()
    image = KspaceNetwork(inner)(kspace, everything, slice(18, 22), (33, 40))
    truth = reconstruct_zero_filled(kspace, (33, 40))
    mean, std = statistics(truth)
    assert torch.allclose(inner.given.mean(dim=(-2, -1)), torch.zeros(2, 1), atol=1e-4)
    assert torch.allclose(inner.given.std(dim=(-2, -1)), torch.ones(2, 1), atol=1e-4)
    assert torch.allclose(image / scale, (2 * (truth - mean) + std + mean).clamp_min(0) / scale, atol=1e-3)
    kept = KspaceNetwork(inner, data_consistency=True)(kspace, everything, slice(18, 22), (33, 40))
    assert torch.allclose(kept / scale, truth / scale, atol=1e-4), "everything was measured, nothing is left to change"


def test_an_empty_slice_stays_empty():
    empty = torch.zeros(1, 2, 32, 32, dtype=torch.complex64)
    columns = torch.ones(32, dtype=torch.bool)
    for data_consistency in (False, True):
        net = KspaceNetwork(torch.nn.Identity(), data_consistency=data_consistency)
        assert torch.equal(net(empty, columns, slice(14, 18), (32, 32)), torch.zeros(1, 32, 32))
    assert torch.equal(ifft2c(empty), empty)
