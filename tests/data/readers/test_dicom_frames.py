"""Enhanced multi-frame files that hold several stacks: each echo, b-value, time point or kind is a scan of its own."""

import numpy as np
import pytest

from dicom_files import Series, assert_shows_the_field, enhanced, find, save
from fedmr.data.readers import dicom
from valid_dicom import item

SHAPE = (20, 18, 4)


def stacks(path, *groups, order=None):
    """Write one enhanced file with a stack for each dict of functional groups; stack n is the field plus 100 n."""
    series = Series(shape=SHAPE)
    dataset = enhanced(series)
    frames, pixels = [], []
    for number, group in enumerate(groups):
        held = enhanced(series)
        stored = np.frombuffer(held.PixelData, "<u2").reshape(SHAPE[2], *SHAPE[:2])
        for frame, image in zip(held.PerFrameFunctionalGroupsSequence, stored, strict=True):
            for name, value in group.items():
                setattr(frame, name, [value])
            frames.append(frame)
            pixels.append(image + np.uint16(100 * number))
    order = range(len(frames)) if order is None else order
    dataset.PerFrameFunctionalGroupsSequence = [frames[place] for place in order]
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = np.stack([pixels[place] for place in order]).tobytes()
    save(dataset, path)
    return series.uid


def echo(time):
    return {"MREchoSequence": item(EffectiveEchoTime=float(time))}


def b_value(value):
    return {"MRDiffusionSequence": item(DiffusionBValue=float(value))}


def time(number):
    return {"FrameContentSequence": item(TemporalPositionIndex=number)}


def cine(delay):
    return {"CardiacSynchronizationSequence": item(NominalCardiacTriggerDelayTime=float(delay))}


KINDS = {
    "echoes": ([echo(5), echo(10), echo(15)], "echo"),
    "b-values": ([b_value(0), b_value(1000)], "b"),
    "time points": ([time(1), time(2)], "time"),
    "phases of the heart": ([cine(0), cine(40)], "trigger"),
}


@pytest.mark.parametrize(("groups", "word"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_each_stack_of_a_multi_frame_file_is_a_scan(tmp_path, groups, word, interleaved):
    total = len(groups) * SHAPE[2]
    order = np.arange(total).reshape(len(groups), -1).T.ravel() if interleaved else range(total)
    uid = stacks(tmp_path / "a.dcm", *groups, order=order)
    found = find(tmp_path)
    assert found.problems == []
    assert [scan.key for scan in found.scans] == [f"{uid}-{word}{n}" for n in range(1, len(groups) + 1)]
    for number, scan in enumerate(found.scans):
        image = dicom.read(scan)
        assert image.voxels.shape == (18, 20, 4)
        assert_shows_the_field(dicom.Image(image.voxels - 100.0 * number, image.affine))


def test_magnitude_and_phase_in_one_file_leave_the_magnitude(tmp_path):
    kinds = [
        {"MRImageFrameTypeSequence": item(FrameType=["ORIGINAL", "PRIMARY", kind, "NONE"], ComplexImageComponent=part)}
        for kind, part in (("M", "MAGNITUDE"), ("P", "PHASE"))
    ]
    stacks(tmp_path / "a.dcm", *kinds)
    found = find(tmp_path)
    assert found.left_out == {"DICOM phase image": 1}
    (scan,) = found.scans
    assert_shows_the_field(dicom.read(scan))


def test_a_file_of_one_stack_keeps_its_name_and_all_its_images(tmp_path):
    uid = stacks(tmp_path / "a.dcm", echo(5))
    (scan,) = find(tmp_path).scans
    assert (scan.key, scan.images) == (uid, ())


def test_two_files_of_one_series_with_an_echo_each_are_two_scans(tmp_path):
    first = enhanced(Series(shape=SHAPE, uid="1.2.3"))
    for number, value in enumerate((5.0, 10.0)):
        dataset = enhanced(Series(shape=SHAPE, uid="1.2.3"))
        dataset.StudyInstanceUID = first.StudyInstanceUID
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.MREchoSequence = [item(EffectiveEchoTime=value)]
        save(dataset, tmp_path / f"{number}.dcm")
    found = find(tmp_path)
    assert [scan.key for scan in found.scans] == ["1.2.3-echo1", "1.2.3-echo2"]
    for scan in found.scans:
        assert_shows_the_field(dicom.read(scan))
