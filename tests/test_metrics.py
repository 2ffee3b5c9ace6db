import math

import numpy as np
import pytest
import torch
from monai.metrics.regression import MultiScaleSSIMMetric, PSNRMetric, SSIMMetric
from scipy.ndimage import gaussian_laplace
from scipy.signal import convolve2d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fedmr.metrics import (
    METRICS,
    VOLUME_METRICS,
    hfen,
    mean_metrics,
    ms_ssim,
    nmse,
    psnr,
    psnr_foreground,
    sharpness,
    ssim,
    volume_metrics,
)


@pytest.fixture(scope="module")
def volumes() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(5, 24, 21, generator=generator).cumsum(1) / 24
    return (reference + 0.05 * torch.randn(reference.shape, generator=generator)).clamp_min(0), reference


def test_psnr_and_nmse_by_hand():
    reference = torch.zeros(2, 12, 12)
    reference[0, 0, 0] = 4.0
    prediction = reference + 0.5
    assert psnr(prediction, reference) == pytest.approx(10 * math.log10(16 / 0.25))
    assert nmse(prediction, reference) == pytest.approx(0.25 * 288 / 16)
    assert psnr_foreground(prediction, reference) == pytest.approx(10 * math.log10(16 / 0.25))
    assert math.isinf(psnr(reference, reference))


def test_psnr_is_of_the_volume_not_the_mean_over_slices():
    reference = torch.ones(2, 12, 12)
    prediction = reference.clone()
    prediction[1] += 0.1
    assert psnr(prediction, reference) == pytest.approx(10 * math.log10(1 / 0.005), rel=1e-5)


def test_foreground_psnr_ignores_background():
    reference = torch.zeros(1, 12, 12)
    reference[:, 3:9, 3:9] = 1
    prediction = reference + 0.2 * (reference == 0)
    assert math.isinf(psnr_foreground(prediction, reference))
    assert psnr(prediction, reference) < 20


def test_psnr_equals_skimage_and_monai(volumes):
    prediction, reference = volumes
    data_range = float(reference.max())
    expected = peak_signal_noise_ratio(reference.numpy(), prediction.numpy(), data_range=data_range)
    assert psnr(prediction, reference) == pytest.approx(expected, abs=1e-4)
    assert psnr(prediction, reference) == pytest.approx(
        PSNRMetric(max_val=data_range)(prediction[None], reference[None]).item(), abs=1e-4
    )


def test_ssim_equals_monai(volumes):
    prediction, reference = volumes
    metric = SSIMMetric(spatial_dims=2, data_range=float(reference.max()))
    assert ssim(prediction, reference, batch=2) == pytest.approx(
        metric(prediction[:, None], reference[:, None]).mean().item(), abs=1e-5
    )


def test_ssim_equals_skimage_on_full_windows(volumes):
    prediction, reference = (v.double().numpy() for v in volumes)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    maps = [
        structural_similarity(r, p, data_range=reference.max(), **options)[1][5:-5, 5:-5]
        for p, r in zip(prediction, reference, strict=True)
    ]
    assert ssim(*volumes) == pytest.approx(float(np.mean(maps)), abs=1e-5)


def test_metrics_do_not_depend_on_the_intensity_scale(volumes):
    prediction, reference = volumes
    once, scaled = volume_metrics(prediction, reference), volume_metrics(700 * prediction, 700 * reference)
    assert scaled == pytest.approx(once, rel=1e-4)


def test_mean_over_volumes():
    assert mean_metrics([{"psnr": 30.0}, {"psnr": 32.0}]) == {"psnr": 31.0}


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (torch.ones(1, 12, 12), torch.ones(1, 12, 13), "one shape"),
        (torch.ones(12, 12), torch.ones(12, 12), "S, H, W"),
        (torch.ones(1, 12, 12), torch.zeros(1, 12, 12), "maximum 0.0"),
        (torch.ones(1, 9, 12), torch.ones(1, 9, 12), "smaller than SSIM"),
    ],
)
def test_unusable_volumes_are_refused(prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        volume_metrics(prediction, reference)


def test_sharpness_by_hand():
    """A step of height 1 and one of 0.5 beside it: central differences are half of each, at two voxels per row."""
    reference = torch.zeros(1, 20, 20)
    reference[:, :, 10:] = 1
    assert sharpness(reference, reference) == 1
    assert sharpness(0.25 + 0.5 * reference, reference) == pytest.approx(0.5)
    ramp = torch.linspace(0, 1, 20).expand(1, 20, 20)
    assert sharpness(ramp, reference) == pytest.approx((1 / 19) / 0.5)


def test_blur_lowers_sharpness_and_its_scale_does_not(volumes):
    _, reference = volumes
    blurred = torch.nn.functional.avg_pool2d(reference, 3, stride=1, padding=1)
    assert sharpness(blurred, reference) < 0.8
    assert sharpness(700 * blurred, 700 * reference) == pytest.approx(sharpness(blurred, reference), rel=1e-4)


def test_the_table_of_metrics_computes_what_its_functions_do_within_its_bounds():
    generator = torch.Generator().manual_seed(1)
    reference = torch.rand(2, 24, 24, generator=generator)
    prediction = reference + 0.1 * torch.rand(2, 24, 24, generator=generator)
    assert volume_metrics(prediction, reference) == {
        n: METRICS[n].function(prediction, reference) for n in VOLUME_METRICS
    }
    for scale in (1e-3, 1.0, 1e12):
        for name, metric in METRICS.items():
            low, high = metric.bounds
            assert low <= metric.function(scale * prediction, reference) <= high, (name, scale)


def test_a_metrics_better_direction_is_that_of_the_better_image():
    reference = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(1))
    noise = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(2))
    for name, metric in METRICS.items():
        if metric.higher_is_better is not None:
            better, worse = (metric.function(reference + share * noise, reference) for share in (0.1, 0.4))
            assert (better > worse) is metric.higher_is_better, name


def test_psnr_and_ssim_equal_their_formulas(volumes):
    """MONAI's metrics, which the package takes, against the definitions written out."""
    prediction, reference = volumes
    top, error = float(reference.max()), (prediction.double() - reference.double()).square().mean()
    assert psnr(prediction, reference) == pytest.approx(float(10 * torch.log10(top**2 / error)), abs=1e-5)
    x = torch.arange(11) - 5
    line = torch.exp(-(x**2) / 4.5)
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def blur(image):
        return torch.nn.functional.conv2d(image.unsqueeze(1), window)

    p, r = blur(prediction), blur(reference)
    c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
    covariance, variances = blur(prediction * reference) - p * r, blur(prediction**2) - p**2 + blur(reference**2) - r**2
    value = (2 * p * r + c1) * (2 * covariance + c2) / ((p**2 + r**2 + c1) * (variances + c2))
    assert ssim(prediction, reference) == pytest.approx(float(value.mean()), abs=1e-5)


def test_hfen_sees_detail_and_no_shift_of_brightness(volumes):
    prediction, reference = volumes
    blurred, more = (
        torch.nn.functional.avg_pool2d(reference, size, stride=1, padding=size // 2, count_include_pad=False)
        for size in (3, 5)
    )
    assert hfen(reference, reference) == 0
    assert hfen(reference + 0.3, reference) < 1e-2
    assert hfen(torch.zeros_like(reference), reference) == pytest.approx(1)
    assert 0.05 < hfen(blurred, reference) < hfen(more, reference) < 1
    assert hfen(700 * prediction, 700 * reference) == pytest.approx(hfen(prediction, reference), rel=1e-5)


def test_hfen_equals_its_formula_on_a_kernel_of_fifteen_pixels():
    reference = torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(3))
    prediction = reference + 0.1 * torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(4))
    spot = np.zeros((15, 15))
    spot[7, 7] = 1
    kernel = gaussian_laplace(spot, 1.5, truncate=7 / 1.5)
    assert kernel[7, 7] == pytest.approx(-1 / (np.pi * 1.5**4), rel=0.02)  # of the continuous LoG
    inside = (slice(7, -7), slice(7, -7))
    images = [(prediction - reference)[0].double().numpy(), reference[0].double().numpy()]
    error, whole = (np.linalg.norm(convolve2d(image, kernel, mode="valid")) for image in images)
    by_scipy = [np.linalg.norm(gaussian_laplace(image, 1.5, truncate=7 / 1.5)[inside]) for image in images]
    assert error / whole == pytest.approx(by_scipy[0] / by_scipy[1], rel=1e-6)
    assert hfen(prediction, reference) == pytest.approx(error / whole, rel=0.15)  # which leaves out the border


@pytest.mark.parametrize("side", [11, 24, 100, 180])
def test_ms_ssim_takes_slices_of_any_size(side):
    reference = torch.rand(3, side, side, generator=torch.Generator().manual_seed(5))
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(6))
    assert ms_ssim(reference, reference) == pytest.approx(1, abs=1e-6)
    assert 0 < ms_ssim(reference + 0.5 * noise, reference) < ms_ssim(reference + 0.1 * noise, reference) < 1
    if side >= 176:
        monai = MultiScaleSSIMMetric(2, data_range=float(reference.max()))
        value = monai((reference + 0.1 * noise)[:, None], reference[:, None]).mean()
        assert ms_ssim(reference + 0.1 * noise, reference) == pytest.approx(float(value), abs=1e-5)
