from pathlib import Path

import pytest

from fedmr.data.readers import contrast_of
from fedmr.data.readers.nifti import find_bids, find_brats, find_ixi, find_plain

ROOT = Path("/source")


def describe(find, *names):
    found = find([ROOT / name for name in names], ROOT)
    return [(s.patient, s.contrast, s.hospital) for s in found.scans], dict(found.left_out)


def test_bids_takes_anatomy_by_subject_and_suffix():
    scans, left_out = describe(
        find_bids,
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_acq-hires_FLAIR.nii",
        "sub-02/anat/sub-02_T2starw.nii.gz",
        "sub-02/func/sub-02_task-rest_bold.nii.gz",
        "sub-02/anat/sub-02_T1w_mask.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
        "participants.nii.gz",
    )
    assert scans == [("sub-01", "T1w", ""), ("sub-01", "FLAIR", ""), ("sub-02", "T2starw", "")]
    assert left_out == {"func": 1, "mask or segmentation": 1, "derivatives": 1, "no sub- entity": 1}


def test_ixi_names_hospital_patient_and_contrast():
    scans, left_out = describe(
        find_ixi, "IXI002-Guys-0828-T1.nii.gz", "IXI012-HH-1211-PD.nii.gz", "IXI035-IOP-0873-MRA.nii.gz", "x.nii"
    )
    assert scans == [("IXI002", "T1w", "Guys"), ("IXI012", "PDw", "HH"), ("IXI035", "angio", "IOP")]
    assert left_out == {"not named as IXI": 1}


def test_brats_of_all_years_keeps_the_visits_of_a_patient_together():
    scans, left_out = describe(
        find_brats,
        "BraTS20_Training_001/BraTS20_Training_001_t1ce.nii.gz",
        "BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz",
        "Brats18_2013_0_1/Brats18_2013_0_1_flair.nii.gz",
        "BraTS-GLI-00005-000/BraTS-GLI-00005-000-t1n.nii.gz",
        "BraTS-GLI-00005-001/BraTS-GLI-00005-001-t2f.nii.gz",
    )
    assert scans == [
        ("BraTS20_Training_001", "T1ce", ""),
        ("Brats18_2013_0_1", "FLAIR", ""),
        ("BraTS-GLI-00005", "T1w", ""),
        ("BraTS-GLI-00005", "FLAIR", ""),
    ]
    assert left_out == {"mask or segmentation": 1}


def test_in_any_other_folder_names_never_split_a_patient():
    scans, _ = describe(find_plain, "anna/t1.nii", "anna/visit 2/t2_tse.nii.gz", "042_T1.nii", "042_FLAIR.nii")
    assert scans == [("anna", "T1w", ""), ("anna", "T2w", ""), ("042", "T1w", ""), ("042", "FLAIR", "")]


@pytest.mark.parametrize(
    ("text", "contrast"),
    [
        ("t1_mprage_sag_p2", "T1w"),
        ("T2 FLAIR", "FLAIR"),
        ("AXT1POST", "T1ce"),
        ("AX T1 FSE POST", "T1ce"),
        ("CORPDFS_FBK", "PDw"),
        ("ep2d_diff T2star", "T2starw"),
        ("TOF_3D", "angio"),
        ("sub01", "unknown"),
        ("Imran_Pdolski", "unknown"),
        ("Erika Mustermann", "unknown"),
    ],
)
def test_a_contrast_is_one_of_a_few_words_and_never_free_text(text, contrast):
    assert contrast_of(text) == contrast
