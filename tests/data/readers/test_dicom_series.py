"""Series as scanners and archives deliver them: split by what differs, copies taken once, one person a study."""

import shutil

import pytest
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from dicom_files import Series, assert_shows_the_field, classic, find, save, write_classic
from fedmr.data.readers import dicom

STUDY = generate_uid()


def write_parts(folder, *parts):
    """One series of several images at every place, an image for each dict of tags."""
    uid = generate_uid()
    for number, tags in enumerate(parts):
        series = Series(uid=uid, tags=tags)
        for place in range(5):
            dataset = classic(series, place)
            dataset.InstanceNumber = 5 * number + place + 1
            save(dataset, folder / f"{number}_{place}")
    return uid


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ([{"EchoNumbers": 1, "EchoTime": 5}, {"EchoNumbers": 2, "EchoTime": 10}], ["echo1", "echo2"]),
        ([{"EchoTime": 10}, {"EchoTime": 5}, {"EchoTime": 100}], ["echo1", "echo2", "echo3"]),
        ([{"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}], ["b1", "b2"]),
        ([{"TemporalPositionIdentifier": n} for n in (1, 2, 3)], ["time1", "time2", "time3"]),
        ([{"AcquisitionNumber": n} for n in (1, 2)], ["acquisition1", "acquisition2"]),
        ([{"ImageType": ["ORIGINAL", "PRIMARY", "M", kind]} for kind in ("ND", "NORM")], ["type1", "type2"]),
        ([{}, {}], ["part1", "part2"]),
        (
            [{"EchoTime": te, "AcquisitionNumber": n} for te in (5, 10) for n in (1, 2)],
            ["echo1-acquisition1", "echo1-acquisition2", "echo2-acquisition1", "echo2-acquisition2"],
        ),
    ],
    ids=["echo", "echo time", "b-value", "time", "acquisition", "type", "number", "echo and time"],
)
def test_a_series_is_split_by_what_differs(tmp_path, parts, names):
    uid = write_parts(tmp_path, *parts)
    found = find(tmp_path)
    assert found.problems == []
    assert sorted(scan.key for scan in found.scans) == [f"{uid}-{name}" for name in names]
    for scan in found.scans:
        assert len(scan.files) == 5
        assert_shows_the_field(dicom.read(scan))


def test_a_whole_series_keeps_its_name_though_its_images_have_different_numbers(tmp_path):
    series = Series()
    for number in range(5):
        dataset = classic(series, number)
        dataset.AcquisitionNumber, dataset.TriggerTime = number, 10.0 * number
        save(dataset, tmp_path / f"{number}")
    assert [scan.key for scan in find(tmp_path).scans] == [series.uid]


def test_a_copy_is_taken_once_and_counted(tmp_path):
    paths = write_classic(tmp_path)
    shutil.copy(paths[0], tmp_path / "IM0000 (1).dcm")
    (tmp_path / "backup").mkdir()
    shutil.copy(paths[3], tmp_path / "backup" / "IM0003.dcm")
    found = find(tmp_path)
    (scan,) = found.scans
    assert len(scan.files) == 5
    assert found.left_out == {"identical copies of DICOM files": 2}
    assert_shows_the_field(dicom.read(scan))


def test_images_with_a_series_uid_each_are_one_series(tmp_path):
    for number in range(5):
        save(classic(Series(), number), tmp_path / f"{number}")
    (scan,) = find(tmp_path).scans
    assert_shows_the_field(dicom.read(scan))


@pytest.mark.parametrize(
    "tags",
    [
        [{}, {"PatientID": ""}, {"PatientName": "DOE^JANE^"}, {"PatientID": "47 11"}],
        [{"PatientID": "", "PatientName": ""}, {}],
        [{"PatientID": "4711"}, {"PatientID": "mr 4711"}, {"PatientID": None}],
    ],
    ids=["empty and retyped", "nameless", "another spelling"],
)
def test_one_study_is_of_one_person_however_it_is_written(tmp_path, tags):
    for number, own in enumerate(tags):
        write_classic(tmp_path / str(number), Series(tags=own | {"StudyInstanceUID": STUDY}))
    found = find(tmp_path)
    assert {scan.patient for scan in found.scans} == {found.scans[0].patient}
    assert len(found.scans) == len(tags)
    assert not any(scan.doubt for scan in found.scans)


def test_images_of_one_series_with_an_identifier_in_some_are_one_scan(tmp_path):
    series = Series(tags={"StudyInstanceUID": STUDY})
    for number in range(5):
        dataset = classic(series, number)
        dataset.PatientID = "4711" if number == 2 else ""
        save(dataset, tmp_path / f"{number}")
    assert [(scan.patient, len(scan.files)) for scan in find(tmp_path).scans] == [("4711", 5)]


def test_two_studies_are_of_one_person_if_the_identifiers_differ_in_signs_only(tmp_path):
    for study, patient in enumerate(("P-01", "p 01", "P02")):
        tags = {"PatientID": patient, "StudyInstanceUID": generate_uid()}
        write_classic(tmp_path / str(study), Series(tags=tags))
    first, second, third = (scan.patient for scan in find(tmp_path).scans)
    assert first == second != third


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({"SeriesDescription": "T2 Map"}, "parameter map"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MNIP"]}, "projection"),
        ({"ImageType": ["DERIVED", "PRIMARY", "CSA MIP"]}, "projection"),
        ({"SeriesDescription": "ADC (10^-6 mm2/s)"}, "parameter map"),
        ({"SeriesDescription": "mIP_Images(SW)"}, "projection"),
        ({"SeriesDescription": "Pha_Images"}, "phase image"),
    ],
)
def test_maps_phase_and_projections_are_left_out(tmp_path, tags, kind):
    write_classic(tmp_path, Series(tags=tags))
    found = find(tmp_path)
    assert found.scans == []
    assert found.left_out == {f"DICOM {kind}": 5}


@pytest.mark.parametrize(
    ("tags", "contrast"),
    [
        ({"SeriesDescription": "t1_tse_tra", "ContrastBolusAgent": "Gd"}, "T1ce"),
        ({"SeriesDescription": "Ax T1 FLAIR"}, "T1w"),
        ({"SeriesDescription": "SWAN"}, "T2starw"),
    ],
)
def test_names_and_agent_give_the_contrast(tmp_path, tags, contrast):
    write_classic(tmp_path, Series(tags=tags))
    assert [scan.contrast for scan in find(tmp_path).scans] == [contrast]


PRIVATE_B = {
    "Siemens": (0x0019100C, "IS", "SIEMENS MR HEADER", ["0", "1000"]),
    "GE": (0x00431039, "IS", "GEMS_PARM_01", [["1000000000", "8", "0", "0"], ["1000001000", "8", "0", "0"]]),
    "Philips": (0x20011003, "FL", "Philips Imaging DD 001", [0.0, 800.0]),
    "UIH": (0x00651009, "FD", "Image Private Header", [0.0, 1000.0]),
}


@pytest.mark.parametrize("implicit", [False, True])
def test_phase_in_ges_own_element_is_left_out_of_a_series(tmp_path, implicit):
    uid = generate_uid()
    for number in (0, 1, 2):
        for place in range(5):
            dataset = classic(Series(uid=uid), place)
            dataset.add_new((0x0043, 0x0010), "LO", "GEMS_PARM_01")
            dataset.add_new(0x0043102F, "SS", number)
            dataset.InstanceNumber = 3 * place + number + 1
            if implicit:
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            save(dataset, tmp_path / f"{number}_{place}")
    found = find(tmp_path)
    assert (found.problems, found.left_out) == ([], {"DICOM phase image": 5, "DICOM real or imaginary part": 5})
    (scan,) = found.scans
    assert {path.name[0] for path in scan.files} == {"0"}


@pytest.mark.parametrize("vendor", PRIVATE_B)
def test_b_values_in_each_vendors_own_element_split_a_series(tmp_path, vendor):
    tag, kind, creator, values = PRIVATE_B[vendor]
    uid = generate_uid()
    for number, value in enumerate(values):
        for place in range(5):
            dataset = classic(Series(uid=uid), place)
            dataset.add_new((tag >> 16, 0x0010), "LO", creator)
            dataset.add_new(tag, kind, value)
            dataset.InstanceNumber = 2 * place + number + 1
            save(dataset, tmp_path / f"{number}_{place}")
    found = find(tmp_path)
    assert found.problems == []
    assert [scan.key for scan in found.scans] == [f"{uid}-b1", f"{uid}-b2"]
    for number, scan in enumerate(found.scans):
        assert {path.name[0] for path in scan.files} == {str(number)}
        assert_shows_the_field(dicom.read(scan))
