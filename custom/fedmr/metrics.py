"""Image quality per volume: the one definition used in training, jobs, reports and tests.

A volume is (S, H, W), S slices. The data range is the maximum of the reference volume (the fastMRI convention);
no window, no border crop. Values change by up to several dB under other conventions, so compare only like with
like: PSNR is taken from the volume's mean squared error (not the mean over slices), SSIM is Wang et al. 2004
with the 11-tap Gaussian of sigma 1.5 on full windows only (MONAI's default; skimage with gaussian_weights=True
and use_sample_covariance=False), mean over slices.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FOREGROUND = 0.05  # fraction of a volume's maximum above which a voxel counts as foreground
_EDGES = 0.1  # share of the foreground voxels that are edges
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _check(prediction: Tensor, reference: Tensor) -> float:
    """Return the data range after the checks that every metric needs."""
    if prediction.shape != reference.shape or reference.ndim != 3:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} must be volumes (S, H, W) "
            "of one shape"
        )
    data_range = float(reference.max())
    if not data_range > 0:
        raise ValueError(f"the reference volume has maximum {data_range}; the metrics need a positive one")
    return data_range


def _decibel(mean_squared_error: float, data_range: float) -> float:
    if mean_squared_error == 0:
        return math.inf
    return 10 * math.log10(data_range**2 / mean_squared_error)


def foreground(volume: Tensor, top: float | None = None) -> Tensor:
    """Return the foreground of a volume (S, H, W), bool (S, H, W): voxels above `FOREGROUND` times `top`.

    The one definition for metrics, samplers and preflight.

    Args:
        volume: magnitudes >= 0, in any unit.
        top: the intensity that counts as full, in the same unit; the volume's maximum if not given.
    """
    return volume > FOREGROUND * (float(volume.max()) if top is None else top)


def psnr(prediction: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio of the whole volume (S, H, W) in dB; infinite for identical volumes."""
    from monai.metrics.regression import PSNRMetric  # here, so that only a process that measures holds MONAI

    data_range = _check(prediction, reference)
    return float(PSNRMetric(max_val=data_range)(prediction[None].float(), reference[None].float()))


def psnr_foreground(prediction: Tensor, reference: Tensor) -> float:
    """Return the PSNR in dB over voxels of (S, H, W) whose reference exceeds `FOREGROUND` times its maximum."""
    data_range = _check(prediction, reference)
    inside = foreground(reference, data_range)
    return _decibel(float((prediction - reference)[inside].double().square().mean()), data_range)


def nmse(prediction: Tensor, reference: Tensor) -> float:
    """Return the normalised mean squared error |prediction - reference|^2 / |reference|^2 of (S, H, W), no unit."""
    _check(prediction, reference)
    difference = (prediction - reference).double().square().sum()
    return float(difference / reference.double().square().sum())


def ssim(prediction: Tensor, reference: Tensor, batch: int = 2) -> float:
    """Structural similarity, mean over slices (Wang et al., IEEE TIP 2004), in [-1, 1].

    Of few slices at a time: buffers of sixteen leave the caches, take twice as long and 1.5 GB at 512 x 512. The value
    is the same.

    Raises:
        ValueError: slices smaller than the 11 x 11 window.
    """
    from monai.metrics.regression import SSIMMetric

    data_range = _check(prediction, reference)
    if min(reference.shape[-2:]) < _WINDOW:
        raise ValueError(f"slices of {tuple(reference.shape[-2:])} are smaller than SSIM's {_WINDOW} x {_WINDOW}")
    metric = SSIMMetric(2, data_range, win_size=_WINDOW, kernel_sigma=_SIGMA, k1=_K1, k2=_K2)
    pairs = zip(prediction.float().split(batch), reference.float().split(batch), strict=True)
    values = [metric(p.unsqueeze(1), r.unsqueeze(1)) for p, r in pairs]
    return float(torch.cat(values).double().mean())


def volume_metrics(prediction: Tensor, reference: Tensor) -> dict[str, float]:
    """All metrics of one volume (S, H, W): psnr and psnr_foreground in dB, ssim, nmse."""
    return {name: METRICS[name].function(prediction, reference) for name in VOLUME_METRICS}


def detail_metrics(prediction: Tensor, reference: Tensor) -> dict[str, float]:
    """Metrics of one volume (S, H, W) that look at detail: ms_ssim, hfen, sharpness."""
    return {name: METRICS[name].function(prediction, reference) for name in DETAIL_METRICS}


def mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean over volumes of each metric."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def sharpness(prediction: Tensor, reference: Tensor) -> float:
    """Return how sharp the edges of a volume (S, H, W) are: its mean gradient magnitude over that of the reference.

    Both are means over the reference's edges, the tenth of its foreground voxels with the largest gradient magnitude
    (central differences within a slice): 1 as sharp as the reference, below 1 blurred, above 1 overshooting. Where the
    gradients point is not asked, so noise counts as sharpness: read it together with PSNR.
    """
    data_range = _check(prediction, reference)
    expected, found = _gradient_magnitude(reference), _gradient_magnitude(prediction)
    inside = foreground(reference, data_range)
    threshold = float(np.quantile(expected[inside].cpu().numpy(), 1 - _EDGES))
    edges = inside & (expected >= threshold)
    return float(found[edges].double().mean() / expected[edges].double().mean())


def _gradient_magnitude(volume: Tensor) -> Tensor:
    rows, columns = torch.gradient(volume.float(), dim=(1, 2))
    return torch.hypot(rows, columns)


def hfen(prediction: Tensor, reference: Tensor) -> float:
    """Return the high-frequency error norm of (S, H, W), no unit: |LoG(prediction - reference)| / |LoG(reference)|.

    LoG is the Laplacian of a Gaussian of 1.5 pixels within a slice, 15 x 15 pixels (Ravishankar and Bresler, IEEE TMI
    2011): it keeps edges and fine detail, and no slow change of brightness. 0 for identical volumes.
    """
    from scipy.ndimage import gaussian_laplace

    _check(prediction, reference)
    error, total = 0.0, 0.0
    pairs = zip((prediction - reference).double().cpu().numpy(), reference.double().cpu().numpy(), strict=True)
    for difference, expected in pairs:
        found, whole = (gaussian_laplace(image, 1.5, truncate=7 / 1.5) for image in (difference, expected))
        error, total = error + float((found**2).sum()), total + float((whole**2).sum())
    return math.sqrt(error / total) if total else math.inf


def ms_ssim(prediction: Tensor, reference: Tensor) -> float:
    """Return the multi-scale structural similarity, mean over slices (Wang et al., Asilomar 2003), in [0, 1].

    MONAI's, with the window of `ssim` and the paper's weights of five scales; slices below 176 pixels have as many of
    these scales as hold the window, their weights scaled to a sum of 1.

    Raises:
        ValueError: slices smaller than the 11 x 11 window.
    """
    from monai.metrics.regression import MultiScaleSSIMMetric

    data_range = _check(prediction, reference)
    if (side := min(reference.shape[-2:])) < _WINDOW:
        raise ValueError(f"slices of {tuple(reference.shape[-2:])} are smaller than SSIM's {_WINDOW} x {_WINDOW}")
    weights = [weight for n, weight in enumerate(_MS_WEIGHTS) if side // 2**n >= _WINDOW]
    metric = MultiScaleSSIMMetric(
        2,
        data_range,
        kernel_size=_WINDOW,
        kernel_sigma=_SIGMA,
        k1=_K1,
        k2=_K2,
        weights=[w / sum(weights) for w in weights],
    )
    pairs = zip(prediction.float().split(2), reference.float().split(2), strict=True)
    values = [metric(p.unsqueeze(1), r.unsqueeze(1)) for p, r in pairs]
    return float(torch.cat(values).double().mean())


@dataclass(frozen=True)
class Metric:
    """A metric as it is computed, checked and shown.

    Attributes:
        label: in tables, without the unit.
        unit: empty if it has none.
        higher_is_better: direction; None where neither end is.
        bounds: smallest and largest value that a measurement can have; one from elsewhere beyond them is refused.
        digits: decimals in tables.
        function: prediction and reference (S, H, W) to the value.
    """

    label: str
    unit: str
    higher_is_better: bool | None
    bounds: tuple[float, float]
    digits: int
    function: Callable[[Tensor, Tensor], float]

    @property
    def title(self) -> str:
        """Label with the unit in parentheses."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


# 200 dB is beyond float32's rounding, -300 dB a model that has diverged by 15 orders of magnitude
_DECIBEL = (-300.0, 200.0)
_ERROR = (0.0, 1e36)  # NMSE at -300 dB of a volume whose mean square is a millionth of its squared maximum
# by name, as in messages and files; the one place where a metric is listed
METRICS = {
    "psnr": Metric("PSNR", "dB", True, _DECIBEL, 2, psnr),
    "ssim": Metric("SSIM", "", True, (-1.0, 1.0), 4, ssim),
    "nmse": Metric("NMSE", "", False, _ERROR, 4, nmse),
    "psnr_foreground": Metric("PSNR of foreground", "dB", True, _DECIBEL, 2, psnr_foreground),
    "ms_ssim": Metric("MS-SSIM", "", True, (-1.0, 1.0), 4, ms_ssim),
    "hfen": Metric("HFEN", "", False, (0.0, 1e18), 3, hfen),
    "sharpness": Metric("sharpness", "", None, (0.0, 1e18), 3, sharpness),
}
DETAIL_METRICS = ("ms_ssim", "hfen", "sharpness")  # where images are at hand: in studies and benchmarks
VOLUME_METRICS = ("psnr", "ssim", "nmse", "psnr_foreground")  # of every evaluation; these alone leave a site
