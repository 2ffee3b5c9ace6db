"""Whose scan a file is, by folders and names as archives have them: no person is ever taken for two."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmr.data.readers.nifti import find_plain
from fedmr.data.readers.patients import called_alike, identifier, is_neutral, patient_key

ROOT = Path("/archive")
IDS = ("P001", "P002", "P003")

# pattern of the path, identifiers, values of {s}
FOUND = {
    "patient, sequence": ("{p}/{s}.nii", IDS, ("T1", "T2")),
    "sequence, patient": ("{s}/{p}.nii", IDS, ("T1", "T2", "FLAIR")),
    "protocol, patient": ("{s}/{p}.nii", IDS, ("t1_mprage_sag_p2_iso", "t2_tse_tra_512")),
    "numbered protocols": ("{p}/{s}.nii", IDS, ("003_t1_mprage_sag", "004_t2_tse_tra")),
    "sequence in front of the patient": ("{s}_{p}.nii", IDS, ("T1", "T2")),
    "dots": ("{p}.{s}.nii", IDS, ("T1", "T2")),
    "dots, sequence first": ("{s}.{p}.nii", IDS, ("T1", "T2")),
    "no sign between": ("{p}{s}.nii", ("sub01", "sub02"), ("T1", "T2")),
    "date, patient": ("{s}/{p}/T1.nii", IDS, ("20200101", "2021-03-04")),
    "patient, date": ("{p}/{s}/T1.nii", IDS, ("20200101", "2021-03-04")),
    "date in a file name": ("{s} {p} T1.nii", IDS, ("2020-01-01", "2021-03-04")),
    "date behind a folder's name": ("{p}-{s}/T1.nii", IDS, ("2020-01-01", "2021-01-01")),
    "date before a folder's name": ("{s}_{p}/T1.nii", IDS, ("20200101", "20210101")),
    "visit behind a folder's name": ("{p}_{s}/T1.nii", IDS, ("v1", "followup")),
    "months": ("{p}/{s}/T1.nii", IDS, ("M00", "M12", "M24")),
    "months first": ("{s}/{p}_T1.nii", IDS, ("M00", "M12")),
    "weeks first": ("{s}/{p}/T1.nii", IDS, ("week0", "week12")),
    "before and after an operation": ("{s}/{p}/T1.nii", IDS, ("pre-op", "postop")),
    "parts of a data set": ("{s}/{p}_T1.nii", IDS, ("train", "test")),
    "field strength": ("{s}/{p}/T1.nii", IDS, ("1.5T", "3T")),
    "vendor": ("{s}/{p}/T1.nii", IDS, ("Siemens", "Philips")),
    "a disease": ("{s}/{p}/T1.nii", IDS, ("MS",)),
    "bare numbers": ("{s}/{p}.nii", ("1", "2", "12"), ("T1", "T2")),
    "year and number": ("{p}/{s}.nii", ("2020-00123", "2020-00124", "2021-00007"), ("T1", "T2")),
    "persons": ("{s}/{p}.nii", ("mueller", "weber", "schmidt"), ("T1", "T2")),
    "ADNI": (
        "{p}/{s}/2005-06-02_14_01_53.0/S12345/x_{s}.nii",
        ("002_S_0295", "002_S_0298"),
        ("MPRAGE", "MPRAGE_REPEAT"),
    ),
    "OASIS-1": ("{p}_{s}/T1.nii", ("OAS1_0001", "OAS1_0002"), ("MR1", "MR2")),
    "OASIS-3": ("{p}_{s}/anat/T1w.nii", ("OAS30001", "OAS30002"), ("MR_d0129", "MR_d0757")),
    "TCGA": ("{p}_1997.06.08_{s}.nii", ("TCGA-02-0003", "TCGA-02-0006"), ("t1", "flair")),
    "UPENN": ("{p}_{s}/{p}_{s}_T1.nii", ("UPENN-GBM-00001", "UPENN-GBM-00002"), ("11", "21")),
    "HCP": ("{p}/unprocessed/3T/{s}/{p}_3T_{s}.nii", ("100307", "100408"), ("T1w_MPR1", "T2w_SPC1")),
    "XNAT": ("{p}/{p}_{s}/SCANS/3/NIFTI/T1.nii", ("XNAT_S001", "XNAT_S002"), ("MR1", "MR2")),
}
# what cannot be told: the same names in several folders, or nothing that names a person
REFUSED = {
    "one numbering in two hospitals": ("{s}/{p}/T1.nii", IDS, ("Utrecht", "Singapore")),
    "scanners": ("{s}/{p}_T1.nii", IDS, ("Prisma", "Skyra")),
    "years and months": ("{s}/{p}/T1.nii", IDS, ("2020/01", "2021/03")),
    "echo times": ("T1_te{s}.nii", ("",), ("30", "80")),
    "sides": ("T1/T1_{s}.nii", ("",), ("left", "right")),
}


def who(names):
    return [(scan.patient, scan.doubt) for scan in find_plain([ROOT / name for name in names], ROOT).scans]


def paths(pattern, persons, scans):
    return {pattern.format(p=p, s=s): p for p in persons for s in scans}


@pytest.mark.parametrize("layout", FOUND.values(), ids=FOUND)
def test_each_person_is_found_once(layout):
    names = paths(*layout)
    found = who(names)
    assert [doubt for _, doubt in found] == [""] * len(names)
    assert [patient for patient, _ in found] == list(names.values())


@pytest.mark.parametrize("layout", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_told_is_refused_with_the_remedy(layout):
    found = who(paths(*layout))
    assert all("--patient-pattern" in doubt and not patient for patient, doubt in found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("T1/P001.nii", "T2/p001.nii"),
        ("T1/pat01.nii", "T2/pat1.nii"),
        ("T1/P-001.nii", "T2/P001.nii"),
        ("T1/pat 01.nii", "T2/pat_01.nii"),
        ("T1/M\u00fcller.nii", "T2/Mu\u0308ller.nii"),
        ("P01/T1.nii", "p01/T2.nii"),
        ("0012/T1.nii", "12/T2.nii"),
    ],
)
def test_spellings_of_one_identifier_are_one_person(one, other):
    (first, _), (second, _), (third, _) = who([one, other, "T1/Q77.nii" if "/T1" not in one else "Q77/T1.nii"])
    assert first == second != third


@settings(max_examples=25, deadline=None)
@given(
    persons=st.lists(
        st.builds(
            "{}{}".format,
            st.sampled_from(["P", "SUB", "pat-", "MS", "PD", "AD", "KLM_"]),
            st.from_regex(r"[0-9]{3,4}", fullmatch=True),
        ),
        min_size=3,
        max_size=6,
        unique_by=patient_key,
    ),
    layout=st.sampled_from(["{p}/{s}", "{s}/{p}", "{p}_{s}", "{p}/{v}/{s}", "{v}/{p}/{s}", "{v}/{s}/{p}"]),
    scans=st.lists(st.sampled_from(["T1", "t2_tse_tra", "FLAIR", "Ax T1 +C"]), min_size=1, max_size=3, unique=True),
    visits=st.sampled_from([("v1", "v2"), ("20200101", "20210101"), ("baseline", "followup"), ("M00", "M12")]),
)
def test_in_six_layouts_every_scan_of_a_person_is_that_persons(persons, layout, scans, visits):
    names = {layout.format(p=p, s=s, v=v) + ".nii.gz": p for p in persons for s in scans for v in visits}
    found = who(names)
    assert found == [(person, "") for person in names.values()]


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        *(("M00_P001_T1", "P001"), ("BRATS_001_T1", "BRATS_001"), ("anna_meier_T2", "anna"), ("P001-1_T1", "P001")),
        *(("20200101 M\u00fcller T1", "M\u00fcller"), ("subj 7 T2", "subj 7"), ("S001_T1", "S001"), ("T1_P1", "P1")),
        *(("T1_1", ""), ("scan_1", ""), ("IM0001", ""), ("T1_te30", ""), ("T1_run-2", ""), ("t2_tse_tra_512", "")),
    ],
)
def test_an_identifier_is_taken_from_a_name(name, patient):
    assert identifier(name) == patient


@pytest.mark.parametrize(
    ("folder", "neutral"),
    [
        *(("T1", True), ("003_t1_mprage", True), ("visit_01", True), ("ses-02", True), ("2021-03-04", True)),
        *(
            ("controls", True),
            ("1.5T", True),
            ("S001", False),
            ("PD001", False),
            ("controls12", False),
            ("17", False),
            ("Utrecht", False),
        ),
    ],
)
def test_a_folder_of_a_contrast_visit_or_group_is_no_person(folder, neutral):
    assert is_neutral(folder) is neutral


def test_the_spelling_that_is_used_most_names_the_person():
    assert called_alike(["p 01", "P01", "P01", "Q2"]) == {"p 01": "P01", "P01": "P01", "Q2": "Q2"}
    assert patient_key("---") == "---"
