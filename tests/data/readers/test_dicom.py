"""Which DICOM files make a scan, and where its voxels lie, on series written by pydicom."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    BasicTextSRStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from dicom_files import (
    AXIAL,
    CORONAL,
    PATIENT_NAME,
    SAGITTAL,
    Series,
    assert_shows_the_field,
    classic,
    ct,
    enhanced,
    find,
    no_image,
    read,
    save,
    write_classic,
)
from fedmr.data.images import canonical
from fedmr.data.readers import dicom

OBLIQUE = tuple(np.round([0.96, 0.28 * 0.8, 0.28 * 0.6, -0.28, 0.96 * 0.8, 0.96 * 0.6], 6))


@pytest.mark.parametrize("write", ["classic", "enhanced"])
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE], ids=["axial", "sag", "cor", "oblique"])
def test_every_voxel_lies_where_the_scanner_measured_it(tmp_path, orientation, write):
    series = Series(orientation=orientation)
    if write == "classic":
        write_classic(tmp_path, series)
    else:
        save(enhanced(series), tmp_path / "volume.dcm")
    image = read(tmp_path)
    assert image.voxels.shape == (18, 20, 5)
    assert image.voxels.dtype == np.uint16
    assert np.allclose(image.spacing, (1.25, 1.5, 4.0), atol=1e-4)
    assert image.slice_axis == 2
    assert_shows_the_field(image)


rotations = st.tuples(*[st.floats(-3, 3)] * 3).map(lambda angles: _rotation(*angles))


def _rotation(a, b, c):
    def turn(angle, i, j):
        matrix = np.eye(3)
        matrix[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        return matrix

    return turn(a, 0, 1) @ turn(b, 0, 2) @ turn(c, 1, 2)


@settings(max_examples=15, deadline=None)
@given(rotations, st.permutations(range(6)), st.permutations(range(6)), st.booleans())
def test_neither_file_names_nor_instance_numbers_nor_frame_order_matter(rotation, names, instances, multiframe):
    scaling = [(2, 10), (0.5, 0), (1, 0), (4, -100)]
    series = Series(orientation=np.round(rotation[:2].ravel(), 8).tolist(), shape=(17, 16, 6), scaling=scaling)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if multiframe:
            save(enhanced(series, order=names), folder / "volume")
        else:
            for number in range(6):
                dataset = classic(series, number)
                dataset.InstanceNumber = instances[number]
                save(dataset, folder / f"{number % 2}" / f"{names[number]}")
        image = read(folder)
    assert image.voxels.dtype == np.float32
    assert_shows_the_field(image, tolerance=2.01)  # half the largest slope


def test_slices_of_any_orientation_agree_after_canonical(tmp_path):
    # the same 16 x 16 x 16 points of the world, sliced in three ways
    low, high = np.array([-20.0, -15.0, 10.0]), np.array([-5.0, 0.0, 25.0])
    origins = {AXIAL: low, SAGITTAL: (high[0], low[1], high[2]), CORONAL: (low[0], low[1], high[2])}
    volumes = {}
    for orientation, origin in origins.items():
        folder = tmp_path / str(len(volumes))
        write_classic(folder, Series(orientation, (16, 16, 16), (1.0, 1.0, 1.0), tuple(origin)))
        volumes[orientation] = canonical(read(folder))
    for image in volumes.values():
        assert np.array_equal(image.voxels, volumes[AXIAL].voxels)
        assert np.allclose(image.affine, volumes[AXIAL].affine)
    assert volumes[AXIAL].voxels.std() > 100


def test_slope_and_intercept_are_those_of_each_slice(tmp_path):
    write_classic(tmp_path, Series(scaling=[(0.25, 50), (3, 0), (1, -20)]))
    image = read(tmp_path)
    assert image.voxels.dtype == np.float32
    assert_shows_the_field(image, tolerance=1.51)


def test_padding_becomes_background(tmp_path):
    write_classic(tmp_path, Series(scaling=[(2, 100)]))
    before = read(tmp_path).voxels
    value = int(pydicom.dcmread(tmp_path / "IM0000.dcm").pixel_array[3, 4])
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", "US", value)
        save(dataset, path)
    after = read(tmp_path).voxels
    assert after[4, 3, 0] == 0
    assert np.array_equal(after, np.where(before == 2 * value + 100, 0, before))


def test_two_series_in_one_folder_and_one_series_in_two_folders(tmp_path):
    first, second = Series(), Series(origin=(0.0, 0.0, 0.0), tags={"SeriesDescription": "T1 mprage"})
    for number in range(5):
        save(classic(first, number), tmp_path / "a" / f"{2 * number}")
        save(classic(second, number), tmp_path / ("a" if number < 2 else "b") / f"{2 * number + 1}")
    found = find(tmp_path)
    assert {scan.key for scan in found.scans} == {first.uid, second.uid}
    assert [scan.contrast for scan in found.scans] == ["T2w", "T1w"]
    assert all(len(scan.files) == 5 for scan in found.scans)
    for scan in found.scans:
        assert_shows_the_field(dicom.read(scan))


def test_one_series_number_of_two_patients_is_two_scans(tmp_path):
    uid = generate_uid()
    for patient in ("4711", "4712"):
        write_classic(tmp_path / patient, Series(uid=uid, tags={"PatientID": patient}))
    assert [scan.patient for scan in find(tmp_path).scans] == ["4711", "4712"]


def test_images_without_a_series_uid_are_one_series_per_folder(tmp_path):
    for folder in ("a", "b"):
        write_classic(tmp_path / folder, Series(tags={"SeriesInstanceUID": None}))
    assert [len(scan.files) for scan in find(tmp_path).scans] == [5, 5]


@pytest.mark.parametrize(
    ("tags", "patient"),
    [
        ({}, "4711"),
        ({"PatientID": " 4711 "}, "4711"),
        ({"PatientID": ""}, "Doe^Jane 19700101"),
        ({"PatientID": None, "PatientBirthDate": None}, "Doe^Jane"),
    ],
)
def test_the_patient_is_the_id_or_else_name_and_birth_date(tmp_path, tags, patient):
    write_classic(tmp_path, Series(tags=tags))
    assert [scan.patient for scan in find(tmp_path).scans] == [patient]


NAMELESS = {"SeriesDescription": "head of Jane Doe", "ProtocolName": ""}


@pytest.mark.parametrize(
    ("tags", "contrast"),
    [
        ({"SeriesDescription": "Doe AX FLAIR T2"}, "FLAIR"),
        ({"SeriesDescription": "T2 tra", "ProtocolName": "T1 head"}, "T2w"),
        ({"SeriesDescription": "Jane Doe", "ProtocolName": "MPRAGE"}, "T1w"),
        (NAMELESS | {"AcquisitionContrast": "FLUID_ATTENUATED"}, "FLAIR"),
        (NAMELESS | {"AcquisitionContrast": "PROTON_DENSITY"}, "PDw"),
        (NAMELESS | {"RepetitionTime": 500, "EchoTime": 12}, "T1w"),
        (NAMELESS | {"RepetitionTime": 500, "EchoTime": 12, "ContrastBolusAgent": "Gd"}, "T1ce"),
        (NAMELESS | {"RepetitionTime": 4000, "EchoTime": 98}, "T2w"),
        (NAMELESS | {"RepetitionTime": 2500, "EchoTime": 15}, "PDw"),
        (NAMELESS | {"RepetitionTime": 1500, "EchoTime": 50}, "unknown"),
        (NAMELESS | {"ScanningSequence": ["SE", "IR"], "RepetitionTime": 9000, "InversionTime": 2500}, "FLAIR"),
        (NAMELESS | {"ScanningSequence": ["SE", "IR"], "EchoTime": 60, "InversionTime": 160}, "unknown"),
        (NAMELESS | {"ScanningSequence": ["SE", "IR"], "EchoTime": 20, "InversionTime": 160}, "unknown"),
        (NAMELESS | {"ScanningSequence": ["GR", "IR"], "EchoTime": 3, "InversionTime": 900}, "T1w"),
        (NAMELESS | {"ScanningSequence": "GR", "RepetitionTime": 30, "EchoTime": 5}, "unknown"),
        (NAMELESS | {"ScanningSequence": ["EP", "SE"]}, "unknown"),
        (NAMELESS | {"EchoTime": None}, "unknown"),
    ],
)
def test_the_contrast_is_one_word_from_names_or_timing(tmp_path, tags, contrast):
    write_classic(tmp_path, Series(shape=(16, 16, 2), tags=tags))
    assert [scan.contrast for scan in find(tmp_path).scans] == [contrast]


def test_what_is_no_scan_is_counted_by_what_it_is(tmp_path):
    write_classic(tmp_path / "scan")
    others = {
        "sr": no_image(BasicTextSRStorage, "SR"),
        "rt": no_image(RTStructureSetStorage, "RTSTRUCT"),
        "private": no_image("1.3.12.2.1107.5.9.1", "MR"),
        "capture": classic(Series(), 0),
        "localizer": classic(Series(tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}), 0),
        "scout": classic(Series(tags={"SeriesDescription": "AAHScout"}), 0),
        "loc": classic(Series(tags={"SeriesDescription": "3-plane_loc"}), 0),
        "phase": classic(Series(tags={"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}), 0),
        "real": enhanced(Series(tags={"ComplexImageComponent": "REAL"})),
        "map": classic(Series(tags={"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]}), 0),
        "mosaic": classic(Series(tags={"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}), 0),
    }
    others["capture"].SOPClassUID = SecondaryCaptureImageStorage
    for name, dataset in others.items():
        save(dataset, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no DICOM")
    found = find(tmp_path)
    assert (len(found.scans), found.problems) == (1, [])
    assert dict(found.left_out) == {
        "DICOM Basic Text SR": 1,
        "DICOM RT Structure Set": 1,
        "DICOM private object": 1,
        "DICOM Secondary Capture Image": 1,
        "DICOM localizer": 3,
        "DICOM phase image": 1,
        "DICOM real or imaginary part": 1,
        "DICOM parameter map": 1,
        "DICOM mosaic of a time series": 1,
        "no DICOM": 1,
    }


def test_magnitude_and_phase_in_one_series_leave_the_magnitude(tmp_path):
    series = Series()
    write_classic(tmp_path, series)
    for number in range(5):
        dataset = classic(series, number)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "P", "ND"]
        save(dataset, tmp_path / f"phase{number}.dcm")
    assert find(tmp_path).left_out == {"DICOM phase image": 5}
    assert_shows_the_field(read(tmp_path))


def _ct(folder):
    series = Series()
    for number in range(3):
        save(ct(series, number), folder / f"{number}")


def _text_named_dcm(folder):
    (folder / "a.dcm").write_text("not DICOM")


def _empty(folder):
    (folder / "a.dcm").touch()


def _header_cut(folder):
    path = save(classic(Series(), 0), folder / "a.dcm")
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_ct, "is of modality CT, not MR. Move it"),
        (_text_named_dcm, r"a\.dcm is no DICOM file, though its name says so"),
        (_empty, r"a\.dcm is no DICOM file, though its name says so"),
        (_header_cut, r"a\.dcm "),
    ],
)
def test_what_cannot_be_used_is_one_problem_with_a_remedy(tmp_path, write, message):
    write(tmp_path)
    found = find(tmp_path)
    assert found.scans == []
    (problem,) = found.problems
    assert re.search(message, problem)
    assert str(tmp_path) in problem


def test_a_series_without_a_patient_is_a_scan_with_a_doubt_which_training_refuses(tmp_path):
    write_classic(tmp_path, Series(tags={"PatientID": "", "PatientName": ""}))
    (scan,) = find(tmp_path).scans
    assert scan.patient == ""
    assert re.search("has neither PatientID nor PatientName.* Fill in PatientID", scan.doubt)
    assert_shows_the_field(dicom.read(scan))


def test_nothing_of_the_patient_but_the_identifier_comes_out(tmp_path):
    write_classic(tmp_path)
    (scan,) = find(tmp_path).scans
    image = dicom.read(scan)
    said = repr((scan.contrast, scan.hospital, image.notes, image.affine))
    for planted in (PATIENT_NAME, "Doe", "Elsewhere", "House", "Ratched", "Main Street", "0815", "ACC4711", "1970"):
        assert planted not in said


def test_values_that_break_the_standard_are_read_and_not_printed(tmp_path, recwarn):
    series = Series()
    for number, path in enumerate(write_classic(tmp_path, series)):
        # a name where a date belongs, and more pixels than the header says
        content = path.read_bytes().replace(b"DA\x08\x0019700101", b"DA\x08\x00Doe Jane")
        pixels = series.pixels(number).tobytes()
        length = len(pixels).to_bytes(4, "little"), (len(pixels) + 64).to_bytes(4, "little")
        path.write_bytes(content.replace(b"OW\0\0" + length[0], b"OW\0\0" + length[1]) + bytes(64))
    recwarn.clear()
    assert_shows_the_field(read(tmp_path))
    assert [str(warning.message) for warning in recwarn] == []


def test_lossy_compression_is_remarked(tmp_path):
    write_classic(tmp_path, Series(tags={"LossyImageCompression": "01"}))
    assert "compressed with loss" in read(tmp_path).notes[0]


@pytest.mark.parametrize("little", [True, False])
def test_files_without_preamble_are_read(tmp_path, little):
    series = Series()
    for number in range(5):
        dataset = classic(series, number)
        del dataset.file_meta
        if not little:
            dataset.PixelData = series.pixels(number).astype(">u2").tobytes()
        dataset.save_as(tmp_path / f"{number}", implicit_vr=little, little_endian=little)
    image = read(tmp_path)
    assert image.voxels.dtype == np.uint16
    assert_shows_the_field(image)
