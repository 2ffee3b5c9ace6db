"""Archives as hospitals keep them: patients, kinds and contrasts are read right or refused with the reason."""

import os
from pathlib import Path

import numpy as np
import pytest

import dicom_files
from fedmr.hospital.plan import plan
from fedmr.hospital.prepare import Options, prepare
from fedmr.utils.errors import DataError
from hospital_files import ONE, write
from phantoms import phantom


def fill(root, names):
    """Write a different scan for every name."""
    for seed, name in enumerate(names):
        write(root / name, phantom(seed, (24, 22, 3)))
    return root


def patients(root, **options):
    shown = plan(root, site="s", options=Options(**options))
    return [row.patient for row in shown.rows], shown.problems


LAYOUTS = {
    "contrast first": [f"{c}/pat{p:02}.nii.gz" for c in ("T1", "T2", "FLAIR") for p in range(3)],
    "patient first": [f"pat{p:02}/{c}.nii.gz" for p in range(3) for c in ("T1", "T2")],
    "visits": [f"pat{p:02}/visit{v}/T1.nii.gz" for p in range(3) for v in (1, 2)],
    "visits first": [f"baseline/pat{p:02}_T1.nii.gz" for p in range(3)]
    + [f"followup/pat{p:02}_T1.nii.gz" for p in range(3)],
    "flat": [f"pat{p:02}_{c}.nii.gz" for p in range(3) for c in ("T1", "FLAIR")],
    "groups": [f"{g}/pat{p:02}/T1.nii.gz" for p, g in enumerate(("controls", "cases", "cases"))],
    "site and session": [f"site-1/pat{p:02}/20240{p + 1}01/t2_tse.nii.gz" for p in range(3)],
    "nnunet": [f"imagesTr/pat{p:02}_000{c}.nii.gz" for p in range(3) for c in (0, 1)],
    "bids": [f"sub-pat{p:02}/anat/sub-pat{p:02}_T1w.nii.gz" for p in range(3)],
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_a_patient_is_found_in_each_layout(tmp_path, names):
    fill(tmp_path / "in", names)
    found, problems = patients(tmp_path / "in")
    assert problems == []
    assert sorted({name.removeprefix("sub-") for name in found}) == ["pat00", "pat01", "pat02"]
    assert len(found) == len(names)


@pytest.mark.parametrize(
    "names",
    [
        [f"T1/T1_{n}.nii.gz" for n in range(3)],
        [f"scan_{n}.nii.gz" for n in range(3)],
        [f"2024010{n + 1}/FLAIR.nii.gz" for n in range(3)],
        [f"{home}/pat{p}.nii.gz" for home in ("north", "south") for p in range(3)],
    ],
    ids=["repetitions", "generic names", "dates", "names that recur"],
)
def test_a_patient_who_cannot_be_told_is_refused_with_the_remedy(tmp_path, names):
    fill(tmp_path / "in", names)
    with pytest.raises(DataError, match="patient") as error:
        prepare(tmp_path / "in", site="s", out=tmp_path / "out", options=ONE)
    assert str(error.value).count("--patient-pattern") == len(names)
    assert not (tmp_path / "out" / "s" / "datalist.json").exists()


def test_a_pattern_and_a_table_tell_patients(tmp_path):
    source = fill(tmp_path / "in", [f"{h}/pat{p}.nii.gz" for h in ("north", "south") for p in range(3)])
    found, problems = patients(source, patient_pattern=r"(pat\d)")
    assert (sorted(set(found)), problems) == (["pat0", "pat1", "pat2"], [])
    table = tmp_path / "who.csv"
    table.write_bytes("path;patient\nnorth;A\nsouth/pat0.nii.gz; B \nsouth;Ä\ngone;D\n".encode("cp1252"))
    found, problems = patients(source, patients=table)
    assert found == ["A", "A", "A", "B", "Ä", "Ä"]
    assert len(problems) == 1
    assert "gone does not exist" in problems[0]
    with pytest.raises(DataError, match="is no regular expression"):
        patients(source, patient_pattern="(")
    table.write_text("path,patient\nnorth,\n")
    with pytest.raises(DataError, match=r"line 2, names no patient"):
        patients(source, patients=table)


def test_a_plan_writes_nothing_and_gives_the_split_of_the_run(tmp_path):
    source = fill(tmp_path / "in", LAYOUTS["contrast first"])
    before = sorted(tmp_path.rglob("*"))
    shown = plan(source, site="s")
    assert sorted(tmp_path.rglob("*")) == before
    volumes = prepare(source, site="s", out=tmp_path / "out", options=ONE).volumes
    assert [(row.contrast, row.split) for row in shown.rows] == [(v["contrast"], v["split"]) for v in volumes]
    assert {row.evidence for row in shown.rows} == {"file name"}
    assert {row.contrast for row in shown.rows} == {"T1w", "T2w", "FLAIR"}


def test_a_plan_says_what_told_patient_and_contrast_and_what_each_image_is(tmp_path):
    names = ["T1/pat01.nii.gz", "x/pat02_FLAIR.nii.gz", "T1/pat03.nii.gz", "T1/pat01_MTR.nii.gz", "pat04.nii.gz"]
    shown = plan(fill(tmp_path / "in", names), site="s")
    rows = {Path(row.file).name: row for row in (*shown.rows, *shown.others)}
    assert [(rows[Path(n).name].contrast, rows[Path(n).name].told, rows[Path(n).name].kind) for n in names] == [
        ("T1w", "folder", "image"),
        ("FLAIR", "file name", "image"),
        ("T1w", "folder", "image"),
        ("", "", "parameter map"),
        ("unknown", "", "image"),
    ]
    assert [row.split for row in shown.others] == [""]


def test_a_plan_of_dicom_says_it_too(tmp_path):
    tags = ({"SeriesDescription": "t1_se", "ContrastBolusAgent": "Gd"}, {"ImageType": ["DERIVED", "PRIMARY", "ADC"]})
    for number, more in enumerate((*tags, {"SeriesDescription": "", "ProtocolName": "", "EchoTime": 100})):
        series = dicom_files.Series(shape=(16, 16, 3), tags={"PatientID": f"P{number}", **more})
        dicom_files.write_classic(tmp_path / "in" / str(number), series)
    shown = plan(tmp_path / "in", site="s")
    assert [(row.patient, row.contrast, row.told) for row in shown.rows] == [
        ("P0", "T1ce", "SeriesDescription and ContrastBolusAgent"),
        ("P2", "T2w", "TR, TE and TI"),
    ]
    assert [(row.kind, row.file.endswith("and 2 more files")) for row in shown.others] == [("parameter map", True)]


def test_label_maps_are_left_out_by_folder_name_and_content(tmp_path):
    source = tmp_path / "in"
    for p in range(3):
        scan = phantom(p, (40, 36, 6))
        write(source / f"p{p}" / "FLAIR.nii.gz", scan)
        for name in ("brainmask", "consensus_gt", "wmh", "lesion", "aseg", "ROI"):
            write(source / f"p{p}" / f"{name}.nii.gz", (scan > 300).astype(np.uint8))
        write(source / f"p{p}" / "result_T2.nii.gz", (scan // 100).astype(np.uint8))
    outcome = prepare(source, site="s", out=tmp_path / "out", options=ONE)
    assert [v["contrast"] for v in outcome.volumes] == ["FLAIR"] * 3
    assert outcome.left_out == {"mask or segmentation": 18}
    assert len(outcome.problems) == 3
    assert all("no magnitude image of anatomy (mask" in problem for problem in outcome.problems)


def test_maps_and_phase_of_bids_are_left_out(tmp_path):
    suffixes = ("T1w", "T1map", "T2map", "R1map", "UNIT1", "part-mag_T2starw", "part-phase_T2starw", "Chimap", "MTsat")
    names = [f"sub-{p}/anat/sub-{p}_{suffix}.nii.gz" for p in range(3) for suffix in suffixes]
    outcome = prepare(fill(tmp_path / "in", names), site="s", out=tmp_path / "out", options=ONE)
    assert sorted({v["contrast"] for v in outcome.volumes}) == ["T1w", "T2starw"]
    assert (len(outcome.volumes), outcome.problems) == (6, [])
    assert outcome.left_out == {"parameter map": 18, "phase image": 3}


def test_labels_of_a_challenge_layout_are_left_out(tmp_path):
    source = fill(tmp_path / "in", [f"imagesTr/BRATS_{p:03}.nii.gz" for p in range(3)])
    for p in range(3):
        write(source / f"labelsTr/BRATS_{p:03}.nii.gz", (phantom(p) > 300).astype(np.uint8))
    outcome = prepare(source, site="s", out=tmp_path / "out", options=ONE)
    assert len({v["patient"] for v in outcome.volumes}) == 3
    assert outcome.left_out == {"mask or segmentation": 3}


def test_names_in_latin_1_upper_case_and_great_length_are_taken(tmp_path):
    names = [b"M\xfcller%d_T1.nii.gz" % n for n in range(2)] + [b"X9_" + b"n" * 200 + b"_T1.NII.GZ"]
    for seed, name in enumerate(names):
        passing = write(tmp_path / "in" / f"x{seed}.nii.gz", phantom(seed, (24, 22, 3)))
        os.rename(passing, os.fsencode(tmp_path / "in") + b"/" + name)  # noqa: PTH104
    outcome = prepare(tmp_path / "in", site="s", out=tmp_path / "out", options=ONE)
    assert (len(outcome.volumes), outcome.problems) == (3, [])
    again = prepare(tmp_path / "in", site="s", out=tmp_path / "out", options=ONE)
    assert again.kept == 3


@pytest.mark.parametrize(
    "content",
    [
        b"patient;split\nP0;train\nP1;val\nP2;test\n",
        b"Patient,Split,note\nP0,train,M\xfcller\nP1,val,\nP2,Test,\n",
        "patient\tsplit\r\nP0\ttrain\r\nP1\tval\r\nP2\ttest\r\n\t\r\n".encode("utf-16"),
        b"\xef\xbb\xbfpatient, split\nP0, train\nP1, val\nP2, test \n",
        b"sep=;\r\npatient;split\r\nP0;train\r\nP1;val\r\nP2;test\r\n",
        b"patient,split\rP0,train\rP1,val\rP2,test\r",
        b'"patient","split"\r\n"p-0","train"\r\n"P01","val"\r\n"2","test"\r\n'.replace(b'"2"', b'"P002"'),
    ],
    ids=["semicolon", "cp1252", "utf-16", "blanks", "Excel's own line", "old Mac", "quotes and other spellings"],
)
def test_a_split_file_is_read_as_a_spreadsheet_saves_it(tmp_path, content):
    source = fill(tmp_path / "in", [f"P{p}/T1.nii.gz" for p in range(3)])
    (tmp_path / "split.csv").write_bytes(content)
    options = Options(workers=1, split_file=tmp_path / "split.csv")
    outcome = prepare(source, site="s", out=tmp_path / "out", options=options)
    assert [v["split"] for v in outcome.volumes] == ["train", "val", "test"]
    assert outcome.problems == []


def test_a_row_of_the_split_file_that_matches_nothing_is_named(tmp_path):
    source = fill(tmp_path / "in", [f"P{p}/T1.nii.gz" for p in range(3)])
    (tmp_path / "split.csv").write_text("patient,split\nP0,train\nPX,val\nP2,test\n")
    options = Options(workers=1, split_file=tmp_path / "split.csv")
    outcome = prepare(source, site="s", out=tmp_path / "out", options=options)
    assert len(outcome.volumes) == 2
    assert ["PX" in problem for problem in outcome.problems] == [True]


def test_a_run_that_is_refused_as_a_whole_names_every_scan_and_its_reason(tmp_path):
    for p in range(4):
        voxels = phantom(p, (24, 22, 3)).astype(np.float32)
        if p > 1:
            voxels[0, 0, 0] = np.nan
        write(tmp_path / "in" / f"P{p}" / "T1.nii.gz", voxels)
    with pytest.raises(DataError, match="usable scans of 2 patients") as error:
        prepare(tmp_path / "in", site="s", out=tmp_path / "out", options=ONE)
    assert str(error.value).count("NaN") == 2
    assert "P2/T1.nii.gz" in str(error.value)


@pytest.mark.parametrize(("site", "remedy"), [("st.elsewhere", "st-elsewhere"), ("a b", "a-b"), ("..", "site-1")])
def test_a_site_name_that_flare_refuses_is_refused_with_another(tmp_path, site, remedy):
    with pytest.raises(DataError, match=f"give e.g. {remedy}"):
        prepare(tmp_path, site=site, out=tmp_path / "out")
