"""How much of a DICOM image's matrix was acquired and how thick it is, by its header."""

import math
from typing import Any

from pydicom import Dataset

from fedmr.data.images import plausible_thickness
from fedmr.data.readers.dicom_stack import Frame


def acquired_shares(frame: Frame) -> tuple[float, float]:
    """Return the share of the columns and of the rows that were acquired, 1.0 where the header does not say.

    The share along the frequency axis is the acquired samples over the stored ones. Along the phase axis it is taken
    from voxel sizes, since a rectangular field of view is stored with fewer lines or with a margin: acquired lines
    over the lines that a field of PercentPhaseFieldOfView would have at the stored voxel size.
    """
    try:
        found = _classic(frame) or _enhanced(frame)
        if found is None:
            return 1.0, 1.0
        frequency, phase, along_columns = found
        pixels = frame.dataset
        height, width = (int(pixels.Rows) * frame.spacing[0], int(pixels.Columns) * frame.spacing[1])
        # phase encoding "COL" runs along a column, so that rows are its lines
        field, across, size, line = (
            (width, height, frame.spacing[1], frame.spacing[0])
            if along_columns
            else (height, width, frame.spacing[0], frame.spacing[1])
        )
        percent = float(pixels.get("PercentPhaseFieldOfView") or 0)
        view = field * percent / 100 if percent > 0 else across
        along, lines = _share(frequency * size / field), _share(phase * line / view)
    except (ArithmeticError, AttributeError, TypeError, ValueError, IndexError):
        return 1.0, 1.0
    return (along, lines) if along_columns else (lines, along)


def slice_thickness(frame: Frame) -> float:
    """Return the nominal thickness of a slice, mm, at most `THICKEST`; 0.0 where the header says nothing of use."""
    try:
        stated = frame.dataset.get("SliceThickness") or _value(frame, "PixelMeasuresSequence", "SliceThickness")
        return plausible_thickness(float(stated))
    except (ArithmeticError, AttributeError, TypeError, ValueError, IndexError):
        return 0.0


def _share(value: float) -> float:
    return min(value, 1.0) if math.isfinite(value) and value > 0 else 1.0


def _classic(frame: Frame) -> tuple[float, float, bool] | None:
    """Return acquired samples and lines, and whether phase encoding runs along columns."""
    matrix = [float(number) for number in frame.dataset.get("AcquisitionMatrix") or []]
    if len(matrix) != 4:
        return None
    frequency_rows, frequency_columns, phase_rows, phase_columns = matrix
    if frequency_columns > 0 and phase_rows > 0:
        return frequency_columns, phase_rows, True
    if frequency_rows > 0 and phase_columns > 0:
        return frequency_rows, phase_columns, False
    return None


def _enhanced(frame: Frame) -> tuple[float, float, bool] | None:
    """Return the same of an enhanced object, whose steps lack those of partial Fourier and parallel imaging."""
    frequency = _value(frame, "MRFOVGeometrySequence", "MRAcquisitionFrequencyEncodingSteps")
    phase = _value(frame, "MRFOVGeometrySequence", "MRAcquisitionPhaseEncodingStepsInPlane")
    direction = _value(frame, "MRFOVGeometrySequence", "InPlanePhaseEncodingDirection")
    if not (frequency and phase and direction):
        return None
    partial = _value(frame, "MRModifierSequence", "PartialFourier")
    reduction = float(_value(frame, "MRModifierSequence", "ParallelReductionFactorInPlane") or 1)
    if partial == "YES":
        return None
    return float(frequency), float(phase) * max(reduction, 1.0), direction == "COLUMN"


def _value(frame: Frame, group: str, name: str) -> Any:
    """Return an element of a functional group of the image, or of all images of the file; None if there is none."""
    shared = frame.dataset.get("SharedFunctionalGroupsSequence") or []
    own = frame.dataset.get("PerFrameFunctionalGroupsSequence") or []
    holders: list[Dataset] = [*own[frame.index : frame.index + 1], *shared[:1]]
    for holder in holders:
        for item in holder.get(group) or []:
            if item.get(name) is not None:
                return item.get(name)
    return None
