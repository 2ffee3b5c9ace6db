import nibabel as nib
import numpy as np
import pytest

from fedmr.data.readers.folder import FORMATS, find_scans
from fedmr.utils.errors import DataError
from phantoms import phantom


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(phantom(0, (20, 20, 3)), np.diag([1.0, 1, 5, 1])), path)


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (("sub-1/anat/sub-1_T1w.nii.gz", "derivatives/m/sub-1_T1w.nii.gz"), "bids"),
        (("IXI002-Guys-0828-T1.nii.gz", "IXI012-HH-1211-PD.nii.gz"), "ixi"),
        (("BraTS20_Training_001_t1.nii.gz",), "brats"),
        (("sub-1/anat/sub-1_T1w.nii.gz", "anna/T1.nii"), "nifti"),
    ],
)
def test_the_format_is_found_from_the_names(tmp_path, names, layout):
    for name in names:
        write(tmp_path / name)
    assert find_scans(tmp_path)[1] == layout


def test_files_come_in_a_fixed_order_and_all_others_are_counted(tmp_path):
    for name in ("b/T1.nii", "a/T1.nii", ".hidden/T1.nii", "a/._T1.nii"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    found, _ = find_scans(tmp_path)
    assert [s.patient for s in found.scans] == ["a", "b"]
    assert found.left_out == {"no image": 1, "hidden": 1}


def test_what_was_prepared_before_is_not_found_again(tmp_path):
    write(tmp_path / "a" / "T1.nii")
    write(tmp_path / "site-1" / "volumes" / "0123.nii")
    (tmp_path / "site-1" / "private").mkdir()
    (tmp_path / "site-1" / "datalist.json").write_text("{}")
    assert [s.patient for s in find_scans(tmp_path)[0].scans] == ["a"]


def test_a_link_within_the_folder_is_followed_and_one_out_of_it_is_a_problem(tmp_path):
    write(tmp_path / "source" / "store" / "T1.nii")
    write(tmp_path / "elsewhere" / "T1.nii")
    source = tmp_path / "source"
    (source / "anna").mkdir()
    (source / "anna" / "in.nii").symlink_to(source / "store" / "T1.nii")
    (source / "anna" / "out.nii").symlink_to(tmp_path / "elsewhere" / "T1.nii")
    (source / "folder").symlink_to(tmp_path / "elsewhere")
    (source / "nothing.nii").symlink_to(source / "gone.nii")
    found, _ = find_scans(source)
    assert [s.patient for s in found.scans] == ["anna", "store"]
    assert [p.partition(" is ")[0].rpartition("/")[2] for p in found.problems] == ["folder", "nothing.nii", "out.nii"]


@pytest.mark.parametrize(
    ("names", "layout", "message"),
    [
        ((), "auto", "holds no scan of NIfTI"),
        (("x.txt",), "auto", "holds no scan of NIfTI .* 1 files"),
        (("a.nii", "b.h5"), "auto", "holds 1 fastmri files and 1 nifti files; choose one kind with --format"),
        (("a.nii",), "dcm", "format 'dcm' is unknown; known are auto, bids"),
        (("a.nii",), "ixi", "holds no scan of format ixi; 1 files were looked at .1 not named as IXI"),
    ],
)
def test_a_folder_without_scans_says_what_was_looked_for(tmp_path, names, layout, message):
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=message):
        find_scans(tmp_path, layout)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        find_scans(tmp_path / "none")
    assert set(FORMATS) == {"bids", "nifti", "ixi", "brats", "nnunet", "fastmri", "dicom"}
