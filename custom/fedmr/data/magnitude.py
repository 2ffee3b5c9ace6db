"""Detection of images that are not magnitudes of anatomy: masks, label maps, parameter maps, phase images, projections.

One list of names for NIfTI, BIDS and DICOM, and one test of the voxels for all formats and for preflight.
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

MASK, MAP, PHASE, PROJECTION = "mask or segmentation", "parameter map", "phase image", "projection"
LOCALIZER, PART, DERIVED, SCREEN = "localizer", "real or imaginary part", "derived image", "screen capture"
REFORMATTED = "reformatted image"  # a magnitude of anatomy that software resampled: no truth to train on

_LEVELS = 32  # distinct values of a label map; an 8-bit scan has more than 100
_LABELS = 4096  # distinct values of a parcellation
_EQUAL = 0.8  # share of touching foreground voxels that are equal: noise keeps it below 0.3 in a scan
_SPARSE = 0.01  # share of voxels above 0; a brain alone fills more than 10 %
_WRAPPED = 0.2  # share of touching voxels at the border that differ by 0.4 of the range: 0.36 for uniform noise
_SAMPLE = 200_000
_SIDE = 16  # voxels: below, too few values to judge

# words of a name; those in _LAST count only at its end, because a study or a person can be called so
_ANYWHERE = {
    **dict.fromkeys(("dseg", "probseg", "aseg", "aparc", "seg", "segm", "segmentation", "segmentations"), MASK),
    **dict.fromkeys(("segmentierung", "parcellation", "parc", "groundtruth", "wmparc", "pveseg", "labelmap"), MASK),
    **dict.fromkeys(("delineation", "contour", "contours", "annot"), MASK),
    **dict.fromkeys(("unit1", "uniden", "adc", "eadc", "dadc", "tsnr", "qsm", "mtsat", "mtr", "r2star", "r2s"), MAP),
    **dict.fromkeys(("qt1", "qt2", "quantitative", "quant", "pdff", "mwf", "colfa", "relcbv", "rcbv", "rcbf"), MAP),
    **dict.fromkeys(("cbf", "cbv", "mtt", "ttp", "tmax", "ktrans", "kep", "tensor", "fraction", "stddev"), MAP),
    **dict.fromkeys(("biasfield", "warpfield", "deformation", "displacement", "jacobian", "residuals", "pvalue"), MAP),
    **dict.fromkeys(("mip", "tmip", "mnip", "minip"), PROJECTION),
    **dict.fromkeys(("phasediff",), PHASE),
    **dict.fromkeys(("localizer", "localiser", "scout", "survey", "smartbrain", "calibration"), LOCALIZER),
    **dict.fromkeys(("subtraction", "subtracted", "subtract"), DERIVED),
    **dict.fromkeys(("screenshot", "screensave", "screencapture", "snapshot"), SCREEN),
}
_LAST = {
    **dict.fromkeys(("label", "labels", "gt", "wmh", "lesion", "lesions", "roi", "rois", "annotation", "pve"), MASK),
    **dict.fromkeys(("annotations", "gm", "wm", "csf", "ribbon", "prob", "probability", "confidence"), MASK),
    **dict.fromkeys(("fa", "md", "rd", "ff", "m0", "snr", "uni", "t1rho", "std", "bias", "warp", "uncertainty"), MAP),
    **dict.fromkeys(("phase", "ph", "pha"), PHASE),
    **dict.fromkeys(("real", "imag", "imaginary"), PART),
    **dict.fromkeys(("loc",), LOCALIZER),
}
_PHRASES = (
    (re.compile(r"maske?n?s?(?![a-z])|ground[ _-]?truth"), MASK),
    # tissue classes of SPM and CAT12
    (re.compile(r"^(s?m?wp[1-3]|s?(r|m?w)c[1-6]|c[1-6](?=t[12]|sub|mp?rage|anat))"), MASK),
    (re.compile(r"map(s|ping)?(?![a-z])|r[12]\*|uni[ _-]?(den|images)|bias[ _-]?field|eigen(vector|value)"), MAP),
    (re.compile(r"(?<![a-z])dti[ _-](fa|md|ad|rd|mo|s0|[lv][123])(?![a-z0-9])"), MAP),
    # statistics of FSL and SPM
    (re.compile(r"(?<![a-z])(z|t|f)stat[ _-]?[0-9]*(?![a-z])|(?<![a-z])(var)?cope[0-9]+"), MAP),
    (re.compile(r"^(spm[tf]|con|beta|ess)_[0-9]{4}(?![0-9])"), MAP),
    (
        re.compile(r"apparent[ _-]diffusion|fractional[ _-]an|average[ _-]dc|time[ _-]to[ _-]peak|enhancement[ _-]int"),
        MAP,
    ),
    (re.compile(r"part-phase|(?<![a-z])pha[ _-]images"), PHASE),
    (re.compile(r"part-(real|imag)"), PART),
    (re.compile(r"(max|min)[ _-]?ip(?![a-z])"), PROJECTION),
    (re.compile(r"(3|three)[ _-]?plane|ref(erence)?[ _-]?scan|plan[ _-]?scan|coil[ _-]?(survey|cal)"), LOCALIZER),
    (re.compile(r"screen[ _-]?(shot|save|cap)|secondary[ _-]?capture"), SCREEN),
)
_ARTERIAL = re.compile(r"arter|venous|portal|late|delay|equil|early|hepato")
# values of DICOM's ImageType and ComplexImageComponent, with blanks for underscores
_IMAGE_TYPES = {
    **dict.fromkeys(("P", "PHASE", "PHASE MAP", "VELOCITY"), PHASE),
    **dict.fromkeys(("R", "I", "REAL", "IMAGINARY"), PART),
    **dict.fromkeys(("PROJECTION IMAGE", "MIP", "MAX IP", "MIN IP", "MNIP", "MINIP", "CSA MIP", "TMIP"), PROJECTION),
    **dict.fromkeys(("ADC", "EADC", "FA", "COLFA", "R2 MAP", "R2 STAR MAP", "R2*", "B0 MAP", "B1 MAP", "MTR"), MAP),
    **dict.fromkeys(("T1 MAP", "T2 MAP", "T2 STAR MAP", "T2* MAP", "T1MAP", "T2MAP", "ADC MAP", "FA MAP"), MAP),
    **dict.fromkeys(("CBF", "CBV", "MTT", "TTP", "TMAX", "RELCBF", "RELCBV", "RELMTT", "UNI", "TENSOR"), MAP),
    **dict.fromkeys(("SEGMENTATION", "MASK"), MASK),
    **dict.fromkeys(("SUBTRACTION", "SUBTRACT", "SUB", "VRT", "VOLUME RENDERING"), DERIVED),
    **dict.fromkeys(("MPR", "CSA MPR", "MPR THICK", "REFORMATTED", "RESAMPLED"), REFORMATTED),
    **dict.fromkeys(("SCREEN SAVE", "SCREENSHOT", "SCREEN CAPTURE"), SCREEN),
    **dict.fromkeys(("LOCALIZER",), LOCALIZER),
    **dict.fromkeys(("MOSAIC",), "mosaic of a time series"),
}


def named_kind(name: str, *, last: bool = True) -> str:
    """Return what a file or series name says that the image is, "" for an image of anatomy.

    Args:
        name: the name without suffix.
        last: whether its last word may be one that says so only there; in free text it does not.
    """
    text = name.lower()
    words = [word for word in re.split(r"[\W_]+", text) if word and not word.isdigit()]
    for word in words:
        if word in _ANYWHERE:
            return _ANYWHERE[word]
    for pattern, kind in _PHRASES:
        if pattern.search(text):
            return kind
    kind = _LAST.get(words[-1], "") if words and last else ""
    return "" if kind == PHASE and _ARTERIAL.search(text) else kind


def image_type_kind(values: list[str]) -> str:
    """Return what DICOM's ImageType (from its third value on) says that the image is, "" for an image of anatomy."""
    plain = (re.sub(r"[_\s]+", " ", value.upper()).strip() for value in values)
    return next((_IMAGE_TYPES[value] for value in plain if value in _IMAGE_TYPES), "")


def content_kind(voxels: NDArray[Any]) -> str:
    """Return what the voxels show that is no magnitude image of anatomy, with the finding, "" if nothing.

    Args:
        voxels: (X, Y, Z), finite, in any unit.
    """
    if voxels.ndim != 3 or sorted(voxels.shape)[1] < _SIDE:
        return ""
    share = np.count_nonzero(voxels) / voxels.size
    sample = voxels.ravel()[:: max(1, voxels.size // _SAMPLE)]
    levels = np.unique(sample)
    if len(levels) <= _LEVELS and (levels := np.unique(voxels)).size <= _LEVELS:
        return f"{MASK}: it has {levels.size} different values"
    if share < _SPARSE:
        return f"sparse map: {share:.2%} of its voxels are not 0"
    if len(levels) <= _LABELS and (equal := _equal(voxels)) > _EQUAL:
        return f"label map: {equal:.0%} of its touching voxels are equal"
    top = float(sample.max())
    if abs(top - 1) < 1e-3 and sample.min() >= 0 and (sample[sample > 0] > 0.95).mean() > 0.3:
        return "probability map: its values end at 1, which most of them reach"
    if _border_jumps(voxels) > _WRAPPED:
        return f"{PHASE}: its border is noise over the whole range of values"
    return ""


def _equal(voxels: NDArray[Any]) -> float:
    """Share of pairs of voxels that touch along the first axis, both not 0, that are equal."""
    one, other = voxels[1:], voxels[:-1]
    both = (one != 0) & (other != 0)
    return float((one[both] == other[both]).mean()) if both.any() else 0.0


def _border_jumps(voxels: NDArray[Any]) -> float:
    """Share of neighbours on the border of the slices that differ by more than 0.4 of the range."""
    low, high = np.percentile(voxels.ravel()[:: max(1, voxels.size // _SAMPLE)].astype(np.float64), (0.5, 99.5))
    if high <= low:
        return 0.0
    axis = int(np.argmax(voxels.shape))
    border = np.concatenate([np.take(voxels, place, axis=axis) for place in (0, 1, -2, -1)]).astype(np.float64)
    return float((np.abs(np.diff(border, axis=0)) > 0.4 * (high - low)).mean())
