"""`infer` on files and folders: what is done, what is kept, what is refused."""

import gzip
import os
import resource
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from dicom_files import Series, no_image, save, write_classic
from fedmr.checkpoints.model_file import CARD_KEY, save_model
from fedmr.data.images import read_nifti
from fedmr.data.readers import dicom
from fedmr.data.readers.folder import find_scans
from fedmr.federation.render import read_task
from fedmr.inference.infer import infer
from fedmr.inference.resolver import Options
from fedmr.nets import build
from fedmr.tasks.registry import build_task
from fedmr.utils.errors import DataError
from landmarks import model
from phantoms import phantom

ROOT = Path(__file__).parents[2]
SPACING = np.diag([0.8, 0.9, 4.0, 1.0])


@pytest.fixture
def saved(tmp_path):
    save_model(tmp_path / "m" / "model.pt", model())
    return tmp_path / "m" / "model.pt"


@pytest.fixture
def scan(tmp_path):
    return write(tmp_path / "in" / "scan.nii.gz")


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(phantom(seed, (24, 20, 3)), SPACING), path)
    return path


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_file_and_a_scan_are_all_that_is_needed(saved, scan, tmp_path):
    told = []
    outcome = infer(saved, scan, tmp_path / "new" / "out.nii", progress=lambda *said: told.append(said))
    assert outcome.written == [tmp_path / "new" / "out.nii"]
    assert not outcome.problems
    assert read_nifti(tmp_path / "new" / "out.nii").voxels.shape == (48, 40, 3)
    assert told == [(str(scan), 3, 3)]


def test_flares_own_model_is_taken_with_the_jobs_config_beside_it_or_named(scan, tmp_path):
    job = ROOT / "jobs" / "mscan_fedavg"
    net = build(**build_task(read_task(job)).network)
    shutil.copytree(job / "app" / "config", tmp_path / "app_server" / "config")
    path = tmp_path / "app_server" / "FL_global_model.pt"
    torch.save({"model": net.state_dict(), "train_conf": {"train": {"model": "MSCAN"}}}, path)
    infer(path, scan, tmp_path / "a.nii")
    moved = path.rename(tmp_path / "moved.pt")
    with pytest.raises(FileNotFoundError, match="--job"):
        infer(moved, scan, tmp_path / "b.nii")
    infer(moved, scan, tmp_path / "b.nii", job=job)
    assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()


def change(**card):
    def spoil(path):
        file = torch.load(path, weights_only=True)
        file[CARD_KEY] |= card
        torch.save(file, path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(scale=4), "scale is 4, that of its network 2"),
        (change(grid="half"), "grid is 'half'"),
        (change(task=model(scale=2, blocks=3).card["task"]), "does not hold the network"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "truncated"),
        (lambda path: torch.save({"model": {}, "x": Path("malware")}, path), "foreign code"),
        (Path.unlink, "does not exist"),
    ],
)
def test_a_model_that_does_not_fit_or_is_none_makes_nothing(saved, scan, tmp_path, spoil, message):
    spoil(saved)
    with pytest.raises((ValueError, OSError), match=message):
        infer(saved, scan, tmp_path / "out.nii")
    assert not (tmp_path / "out.nii").exists()


def test_a_model_of_another_job_is_refused(saved, scan, tmp_path):
    with pytest.raises(ValueError, match="Leave out --job"):
        infer(saved, scan, tmp_path / "out.nii", job=ROOT / "jobs" / "mscan_fedavg")


def huge(path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((32000, 32000, 32000))
    with gzip.open(path, "wb") as handle:
        header.write_to(handle)


def bad_nan(path):
    nib.save(nib.Nifti1Image(np.full((20, 20, 3), np.nan, dtype=np.float32), SPACING), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"GIF89a, not a scan"), "truncated or no NIfTI"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "truncated or no NIfTI"),
        (huge, "too many for the memory"),
        (bad_nan, "NaN"),
        (Path.unlink, "does not exist"),
    ],
)
def test_a_scan_that_cannot_be_used_is_named_and_makes_nothing(saved, scan, tmp_path, spoil, message):
    spoil(scan)
    with pytest.raises(DataError, match=message) as caught:
        infer(saved, scan, tmp_path / "out" / "out.nii.gz")
    assert str(scan) in str(caught.value)
    assert list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else []) == []


@pytest.mark.parametrize("name", ["photo.jpg", "notes.txt"])
def test_a_file_that_is_no_scan_is_refused(saved, tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xd8\xff not a scan")
    with pytest.raises(DataError, match="holds no scan of NIfTI"):
        infer(saved, tmp_path / name, tmp_path / "out.nii")


def test_raw_k_space_needs_another_kind_of_model(saved, tmp_path):
    import h5py

    with h5py.File(tmp_path / "brain.h5", "w") as file:
        file["kspace"] = np.zeros((2, 1, 32, 32), dtype=np.complex64)
    with pytest.raises(DataError, match="takes a reconstruction model"):
        infer(saved, tmp_path / "brain.h5", tmp_path / "out.nii")


@pytest.mark.parametrize("target", ["out", "out.png", "out.nii.bz2"])
def test_the_result_of_a_nifti_file_is_a_nifti_file(saved, scan, tmp_path, target):
    with pytest.raises(DataError, match=r"no name of a NIfTI file; end it in \.nii or \.nii\.gz"):
        infer(saved, scan, tmp_path / target)


def test_what_is_there_is_kept_unless_forced(saved, scan, tmp_path):
    target = tmp_path / "out.nii"
    target.write_text("mine")
    with pytest.raises(FileExistsError, match=r"out\.nii exists; .*--force"):
        infer(saved, scan, target)
    assert target.read_text() == "mine"
    infer(saved, scan, target, force=True)
    assert read_nifti(target).voxels.shape == (48, 40, 3)


@pytest.mark.parametrize("target", ["scan.nii.gz", "../in/scan.nii.gz", "link.nii.gz"])
def test_the_input_is_never_overwritten(saved, scan, target):
    (scan.parent / "link.nii.gz").symlink_to(scan)
    before = scan.read_bytes()
    with pytest.raises(DataError, match=r"is the input .*, holds it or lies in it"):
        infer(saved, scan, scan.parent / target, force=True)
    assert scan.read_bytes() == before


def test_a_place_that_cannot_be_written_is_told_before_the_work(saved, scan, tmp_path):
    (tmp_path / "file").touch()
    places = [Path("/proc/results"), tmp_path / "file"]  # neither takes files, not even of root
    if os.geteuid() != 0:
        places.append(tmp_path / "read-only")
        places[-1].mkdir(mode=0o555)
    for place in places:
        told = []
        with pytest.raises(OSError, match="cannot be written to"):
            infer(saved, scan, place / "out.nii", progress=lambda *said, told=told: told.append(said))
        assert not told


def test_an_interrupted_run_leaves_nothing(saved, scan, tmp_path):
    def stop(*said):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer(saved, scan, tmp_path / "out" / "out.nii.gz", progress=stop)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def full_disk():
    """No file can grow beyond 3000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["scan.nii.gz", "dicom"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(saved, scan, tmp_path, name, request):
    write_classic(tmp_path / "in" / "dicom", Series(shape=(40, 36, 3)))
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="File too large"):
        infer(saved, tmp_path / "in" / name, tmp_path / "out" / name)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_of_nifti_files_gives_the_same_names_and_goes_on_after_a_bad_one(saved, tmp_path):
    names = ["sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii", "sub-2/func/sub-2_bold.nii.gz"]
    for seed, name in enumerate(names):
        write(tmp_path / "in" / name, seed)
    bad = tmp_path / "in" / "sub-3" / "anat" / "sub-3_T1w.nii.gz"
    shutil.copy(write(bad.with_name("sub-3_mask.nii.gz")), bad)
    bad.write_bytes(bad.read_bytes()[:-40])
    outcome = infer(saved, tmp_path / "in", tmp_path / "out")
    assert outcome.written == [tmp_path / "out" / name for name in names]
    records = {name.partition(".nii")[0] + ".fedmr.json" for name in names}
    assert set(content(tmp_path / "out")) == {*names} | records
    assert len(outcome.problems) == 1
    assert str(bad) in outcome.problems[0]
    assert outcome.left_out == {"mask or segmentation": 1}
    for name in names:
        before, after = read_nifti(tmp_path / "in" / name), read_nifti(tmp_path / "out" / name)
        assert np.allclose(after.affine, before.affine @ np.diag([0.5, 0.5, 1, 1]))
    # a second run skips what is there and says so, without a problem
    write(bad)
    (tmp_path / "out" / names[0]).unlink()
    again = infer(saved, tmp_path / "in", tmp_path / "out")
    assert again.written == [tmp_path / "out" / names[0], tmp_path / "out" / "sub-3" / "anat" / "sub-3_T1w.nii.gz"]
    assert (again.problems, again.skipped) == ([], 2)
    made = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in names}
    last = infer(saved, tmp_path / "in", tmp_path / "out")
    assert (last.written, last.problems, last.skipped) == ([], [], 4)
    assert made == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in names}
    assert len(infer(saved, tmp_path / "in", tmp_path / "out", force=True).written) == 4


def test_several_series_get_a_folder_each_and_other_objects_are_left_out(saved, tmp_path):
    for folder, count in (("t1", 1), ("t2", 1), ("both", 2)):
        for number in range(count):
            series = Series(shape=(20, 18, 3))
            for path in write_classic(tmp_path / "in" / folder, series):
                path.rename(path.with_name(f"{number}-{path.name}"))
    save(no_image("1.2.840.10008.5.1.4.1.1.88.11", "SR"), tmp_path / "in" / "report.dcm")
    outcome = infer(saved, tmp_path / "in", tmp_path / "out")
    assert not outcome.problems
    assert sum(outcome.left_out.values()) == 1
    folders = [str(path.relative_to(tmp_path / "out")) for path in outcome.written]
    assert {"t1", "t2"} < set(folders)
    assert sorted(Path(name).parts[0] for name in folders) == ["both", "both", "t1", "t2"]
    assert all(len(list(path.glob("IM000?.dcm"))) == 3 for path in outcome.written)


def test_a_single_series_gives_the_folder_itself_and_is_replaced_only_by_force(saved, tmp_path):
    write_classic(tmp_path / "in" / "deep" / "er", Series(shape=(20, 18, 3)))
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is no result
    assert infer(saved, tmp_path / "in", out).written == [out]
    before = content(out)
    with pytest.raises(FileExistsError, match="--force"):
        infer(saved, tmp_path / "in", out)
    assert content(out) == before
    infer(saved, tmp_path / "in", out, force=True)
    assert set(content(out)) == set(before)
    assert content(out) != before
    (out / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="a folder of something else"):
        infer(saved, tmp_path / "in", out, force=True)
    assert (out / "letter.txt").read_text() == "mine"


def test_no_folder_replaces_its_own_source(saved, tmp_path):
    write_classic(tmp_path / "in", Series(shape=(20, 18, 3)))
    before = content(tmp_path / "in")
    for target in (tmp_path / "in", tmp_path / "in" / "out", tmp_path):
        with pytest.raises(DataError, match=r"is the input .*, holds it or lies in it"):
            infer(saved, tmp_path / "in", target, force=True)
    assert content(tmp_path / "in") == before


def test_a_folder_of_both_kinds_needs_a_choice(saved, tmp_path):
    write(tmp_path / "in" / "scan.nii.gz")
    write_classic(tmp_path / "in" / "dicom", Series(shape=(20, 18, 3)))
    with pytest.raises(DataError, match="--format"):
        infer(saved, tmp_path / "in", tmp_path / "out")
    assert infer(saved, tmp_path / "in", tmp_path / "a", layout="nifti").written == [tmp_path / "a" / "scan.nii.gz"]
    assert infer(saved, tmp_path / "in", tmp_path / "b", layout="dicom").written == [tmp_path / "b"]


def test_options_reach_the_volume(saved, scan, tmp_path):
    infer(saved, scan, tmp_path / "out.nii", options=Options("coronal", tile=32, exact=False))
    assert read_nifti(tmp_path / "out.nii").voxels.shape == (48, 20, 6)


def test_a_series_becomes_a_nifti_file_where_the_result_is_named_so(saved, tmp_path):
    write_classic(tmp_path / "in", Series(shape=(20, 18, 3)))
    infer(saved, tmp_path / "in", tmp_path / "series")
    out = tmp_path / "new" / "out.nii.gz"
    assert infer(saved, tmp_path / "in", out).written == [out]
    made, series = read_nifti(out), dicom.read(find_scans(tmp_path / "series", "dicom")[0].scans[0])
    assert made.voxels.shape == series.voxels.shape == (36, 40, 3)
    np.testing.assert_allclose(made.affine, series.affine, atol=1e-4)
    assert np.abs(made.voxels - series.voxels).max() <= 0.51  # DICOM's are whole numbers
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match="--force"):
        infer(saved, tmp_path / "in", out)
    assert out.read_bytes() == before
    infer(saved, tmp_path / "in", out, force=True)


def test_a_nifti_file_takes_one_series_only(saved, tmp_path):
    for folder in ("t1", "t2"):
        write_classic(tmp_path / "in" / folder, Series(shape=(20, 18, 3)))
    with pytest.raises(DataError, match="holds 2 series"):
        infer(saved, tmp_path / "in", tmp_path / "out.nii.gz")
