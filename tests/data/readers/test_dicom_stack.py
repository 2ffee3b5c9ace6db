"""What is wrong with a DICOM series, one reason each, and what its user is told."""

import pydicom
import pytest
from pydicom.uid import (
    MPEG2MPML,
    JPEG2000Lossless,
    JPEGLSLossless,
    generate_uid,
)

from dicom_files import (
    CORONAL,
    SAGITTAL,
    Series,
    classic,
    enhanced,
    find,
    save,
    write_classic,
)
from fedmr.data.readers import dicom
from fedmr.utils.errors import DataError


def _changed(change, numbers=(2,)):
    """A writer of a series whose slices `numbers` are changed."""

    def write(folder):
        for number, path in enumerate(write_classic(folder)):
            if number in numbers:
                dataset = pydicom.dcmread(path)
                change(dataset)
                save(dataset, path)

    return write


def _every(change):
    return _changed(change, range(5))


def _set(**tags):
    def change(dataset):
        for tag, value in tags.items():
            setattr(dataset, tag, value)

    return change


def _without(*tags):
    def change(dataset):
        for tag in tags:
            del dataset[tag]

    return change


def _half_the_columns(dataset):
    dataset.Columns //= 2
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]


def _shifted(along, by):
    def change(dataset):
        position = list(dataset.ImagePositionPatient)
        position[along] += by
        dataset.ImagePositionPatient = position

    return change


def _removed(*numbers, slices=9):
    def write(folder):
        for number, path in enumerate(write_classic(folder, Series(shape=(16, 16, slices)))):
            if number in numbers:
                path.unlink()

    return write


def _echoes(*times):
    def write(folder):
        uid = generate_uid()
        for number, time in enumerate(times):
            write_classic(folder / f"{number}", Series(uid=uid, tags={"EchoTime": time}))

    return write


def _some_repeated(folder):
    series = Series()
    write_classic(folder, series)
    save(classic(series, 3), folder / "again.dcm")


def _compressed(syntax):
    """As a file that claims a transfer syntax which is not installed; what is inside is never decoded."""

    def write(folder):
        for path in write_classic(folder):
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True
            save(dataset, path)

    return write


def _truncated(folder):
    path = write_classic(folder)[1]
    path.write_bytes(path.read_bytes()[:-100])


def _multiframe(change):
    def write(folder):
        dataset = enhanced(Series())
        change(dataset)
        save(dataset, folder / "volume.dcm")

    return write


def _enhanced_gap(dataset):
    frames = dataset.PerFrameFunctionalGroupsSequence
    frames[4].PlanePositionSequence[0].ImagePositionPatient[2] += 8


def _enhanced_twice(dataset):
    frames = dataset.PerFrameFunctionalGroupsSequence
    for frame in frames[1:]:
        frame.PlanePositionSequence = frames[0].PlanePositionSequence


def _enhanced_mixed(dataset):
    frame = dataset.PerFrameFunctionalGroupsSequence[0]
    frame.PlaneOrientationSequence = [pydicom.Dataset()]
    frame.PlaneOrientationSequence[0].ImageOrientationPatient = list(SAGITTAL)


def _enhanced_short(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[-1]


ERRORS = {
    "one slice missing": (_removed(4), r"lacks 1 slice: between 42\.0 and 50\.0 mm along"),
    "two gaps": (_removed(2, 5, 6), r"lacks 3 slices: between 34\.0 and 42\.0 mm, 46\.0 and 58\.0 mm"),
    "many gaps": (_removed(1, 4, 7, 10, slices=13), r"lacks 4 slices: .* and at 1 more places"),
    "every place but one": (_removed(1, 3, 5), "unevenly spaced"),
    "a slice out of place": (_changed(_shifted(2, 1.5)), r"unevenly spaced: its slices are 2\.50 to 5\.50 mm"),
    "a slice shifted in its plane": (_changed(_shifted(0, 3)), r"no straight stack: slices are up to 3\.00 mm off"),
    "two time points": (_echoes(90, 90), "has 2 images at each of 5 positions: stacks, echoes or time points"),
    "one slice twice": (_some_repeated, "has 1 to 2 images at each of 5 positions"),
    "one place": (_every(_set(ImagePositionPatient=[0, 0, 0])), "has 5 images at each of 1 positions"),
    "orientations": (_changed(_set(ImageOrientationPatient=list(CORONAL)), (0, 1)), "2 orientations, as a localizer"),
    "matrices": (_changed(_half_the_columns), "mixes images of 2 matrix sizes"),
    "spacings": (_changed(_set(PixelSpacing=[2, 2])), "mixes images of 2 pixel spacings"),
    "a single image": (_removed(*range(1, 9)), "is a single image"),
    "colour": (
        _every(_set(SamplesPerPixel=3, PhotometricInterpretation="RGB")),
        r"colour .*\(3 samples per pixel, RGB",
    ),
    "palette": (_every(_set(PhotometricInterpretation="PALETTE COLOR")), "colour"),
    "inverted": (_every(_set(PhotometricInterpretation="MONOCHROME1")), "inverted"),
    "JPEG-LS, damaged": (_compressed(JPEGLSLossless), "its pixel data cannot be decoded"),
    "MPEG": (_compressed(MPEG2MPML), "stored as MPEG2 Main Profile.*, which no decoder reads"),
    "JPEG 2000, damaged": (_compressed(JPEG2000Lossless), "its pixel data cannot be decoded"),
    "truncated": (_truncated, r"IM0001\.dcm: its pixel data cannot be decoded .*Copy it again"),
    "no pixels": (_changed(_without("PixelData")), r"IM0002\.dcm holds no image \(PixelData missing\)"),
    "no rows": (_changed(_without("Rows")), r"IM0002\.dcm holds no image \(Rows missing\)"),
    "zero spacing": (_every(_set(PixelSpacing=[0, 1])), "has a PixelSpacing of 0 x 1 mm; both must be above 0"),
    "negative spacing": (_every(_set(PixelSpacing=[1, -1])), "has a PixelSpacing of 1 x -1 mm; both must be above 0"),
    "no position": (_changed(_without("ImagePositionPatient")), r"IM0002\.dcm has no ImagePositionPatient"),
    "empty orientation": (_every(_set(ImageOrientationPatient="")), "has no ImageOrientationPatient"),
    "no spacing": (_every(_without("PixelSpacing")), "has no PixelSpacing"),
    "two numbers": (_every(_set(ImagePositionPatient=[1, 2])), "has a ImagePositionPatient that is not 3 numbers"),
    "skew axes": (_every(_set(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])), "no pair of unit vectors at right angles"),
    "zero axes": (_every(_set(ImageOrientationPatient=[0] * 6)), "no pair of unit vectors at right angles"),
    "zero slope": (_every(_set(RescaleSlope=0, RescaleIntercept=0)), "RescaleSlope of 0"),
    "frames without positions": (_every(_set(NumberOfFrames=2)), "holds 2 images, but positions of 1"),
    "enhanced, slices missing": (_multiframe(_enhanced_gap), "lacks 2 slices: between 42.0 and 54.0 mm"),
    "enhanced, one place": (_multiframe(_enhanced_twice), "has 5 images at each of 1 positions"),
    "enhanced, orientations": (_multiframe(_enhanced_mixed), "2 orientations"),
    "enhanced, too few frames": (_multiframe(_enhanced_short), "holds 5 images, but positions of 4"),
}


@pytest.mark.parametrize(("write", "message"), ERRORS.values(), ids=ERRORS)
def test_a_series_that_cannot_be_used_says_why_and_what_to_do(tmp_path, write, message):
    write(tmp_path)
    (scan,) = find(tmp_path).scans
    with pytest.raises(DataError, match=message) as error:
        dicom.read(scan)
    assert str(tmp_path) in str(error.value)
    assert "Doe" not in str(error.value)
    assert "4711" not in str(error.value)


def test_a_file_that_went_away_or_was_cut_is_an_error(tmp_path):
    write_classic(tmp_path)
    (scan,) = find(tmp_path).scans
    scan.files[0].write_bytes(scan.files[0].read_bytes()[:400])
    with pytest.raises(DataError, match="IM0000"):
        dicom.read(scan)
    scan.files[0].unlink()
    with pytest.raises(DataError, match=r"IM0000\.dcm cannot be read"):
        dicom.read(scan)


@pytest.mark.parametrize("tag", [b"(\0\x10\0", b"(\0S\x10", b"\x20\0\x37\0"], ids=["Rows", "RescaleSlope", "axes"])
def test_a_damaged_element_is_an_error_of_its_file(tmp_path, tag):
    paths = write_classic(tmp_path, Series(scaling=[(2, 0)]))
    content = paths[1].read_bytes()
    where = content.index(tag) + len(tag)
    paths[1].write_bytes(content[:where] + b"ZZ" + content[where + 2 :])  # no type of value of the standard
    (scan,) = find(tmp_path).scans
    with pytest.raises(DataError, match=r"IM0001\.dcm"):
        dicom.read(scan)
