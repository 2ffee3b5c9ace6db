"""What hospitals have in their folders beside sound scans."""

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fedmr.data.volumes import read_volume
from fedmr.hospital.prepare import prepare
from hospital_files import AFFINE, ONE, write, write_patients
from phantoms import phantom


@pytest.fixture
def source(tmp_path) -> Path:
    return write_patients(tmp_path / "hospital", 4)


def shear(path):
    affine = AFFINE.copy()
    affine[0, 1] = 0.3
    write(path, affine=affine)


def voxel_sizes(*sizes):
    def spoil(path):
        write(path)
        raw = bytearray(gzip.decompress(path.read_bytes()))
        raw[80:92] = np.array(sizes, "<f4").tobytes()  # pixdim[1:4]
        path.write_bytes(gzip.compress(bytes(raw)))

    return spoil


def with_voxels(change, dtype=np.float32):
    def spoil(path):
        voxels = phantom(99).astype(dtype)
        write(path, change(voxels))

    return spoil


def put(value):
    def change(voxels):
        voxels[3:6, 3, 2] = value
        return voxels

    return with_voxels(change)


def wrapped(path):
    voxels = (phantom(99).astype(np.int32) * 40).astype(np.int16)
    assert voxels.min() < 0
    write(path, voxels)


def huge(path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((30000, 30000, 30000))
    with gzip.open(path, "wb") as handle:
        header.write_to(handle)


def colour(path):
    write(path, np.zeros((20, 20, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))


def outward(path):
    target = write(path.parents[3] / "elsewhere" / path.name)
    path.symlink_to(target)


def dangling(path):
    path.symlink_to(path.with_name("gone.nii.gz"))


BAD = {
    "a truncated file": (lambda p: p.write_bytes(write(p).read_bytes()[:3000]), "truncated or no NIfTI"),
    "a zero-byte file": (lambda p: p.write_bytes(b""), "truncated or no NIfTI"),
    "text renamed": (lambda p: p.write_text("dear colleague"), "truncated or no NIfTI"),
    "other content, compressed": (lambda p: p.write_bytes(gzip.compress(b"x" * 999)), "truncated or no NIfTI"),
    "NaN voxels": (put(np.nan), "3 voxels that are NaN or infinite"),
    "infinite voxels": (put(np.inf), "3 voxels that are NaN or infinite"),
    "an all-zero volume": (with_voxels(np.zeros_like), "constant or has no positive voxel"),
    "a constant volume": (with_voxels(np.ones_like), "constant or has no positive voxel"),
    "only negative values": (with_voxels(lambda v: -v - 1), "constant or has no positive voxel"),
    "a 2-D image": (lambda p: write(p, phantom(9)[:, :, 0]), "a 2-D image"),
    "a single slice": (lambda p: write(p, phantom(9)[:, :, :1]), "a 2-D image"),
    "a 4-D series": (lambda p: write(p, np.stack([phantom(9)] * 3, -1)), "Split it into 3-D files"),
    "an RGB image": (colour, "colour image"),
    "a complex image": (with_voxels(lambda v: v.astype(np.complex64)), "is complex; give its magnitude"),
    "a sheared affine": (shear, "sheared affine"),
    "a zero voxel size": (voxel_sizes(1, 0, 5), "voxel sizes of 1, 0, 5 mm"),
    "a negative voxel size": (voxel_sizes(1, 1, -5), "voxel sizes of 1, 1, -5 mm"),
    "a voxel size that is no number": (voxel_sizes(1, np.nan, 5), "voxel sizes of 1, nan, 5 mm"),
    "standardised intensities": (with_voxels(lambda v: v - v.mean()), "no magnitude image"),
    "Hounsfield units": (with_voxels(lambda v: v - 1024, np.int16), "no magnitude image"),
    "16-bit overflow": (wrapped, "wrapped round"),
    "values beyond 32 bits": (with_voxels(lambda v: v * 1e300, np.float64), "more than 32-bit numbers hold"),
    "slices too small": (lambda p: write(p, phantom(9, (12, 40, 5))), "at least 16 x 16"),
    "a header of 10^13 voxels": (huge, "too many for the memory here"),
    "a link out of the folder": (outward, "a symbolic link out of"),
    "a link to nothing": (dangling, "a symbolic link to nothing"),
    "a copy under another name": (
        lambda p: shutil.copy(p.parents[2] / "sub-00/anat/sub-00_T1w.nii.gz", p),
        "same voxels as .*sub-00_T1w.nii.gz under another patient",
    ),
    "a copy turned over": (
        lambda p: write(
            p,
            np.asarray(nib.load(p.parents[2] / "sub-00/anat/sub-00_T1w.nii.gz").dataobj)[::-1],
            np.diag([-1.0, 1, 5, 1]),
        ),
        "same voxels as .*sub-00_T1w.nii.gz",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_bad_file_is_named_with_the_reason_and_the_others_are_prepared(case, source, tmp_path):
    spoil, message = BAD[case]
    bad = source / "sub-xx" / "anat" / "sub-xx_T1w.nii.gz"
    bad.parent.mkdir(parents=True)
    spoil(bad)
    outcome = prepare(source, site="a", out=tmp_path / "data", options=ONE)
    assert len(outcome.volumes) == 8
    assert len(outcome.problems) == 1
    assert str(bad) in outcome.problems[0]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(outcome.problems[0])


GOOD = {
    "an oblique affine": lambda p: write(
        p, affine=np.array([[0.96, -0.28, 0, 9], [0.28, 0.96, 0, 9], [0, 0, 5, 9], [0, 0, 0, 1]])
    ),
    "another orientation": lambda p: write(
        p, affine=np.array([[0, 0, 5, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    ),
    "a fourth axis of one": lambda p: write(p, phantom(9)[..., None]),
    "a few negative voxels": put(-20),
    "unsigned 16 bits": with_voxels(lambda v: v * 40, np.uint16),
    "spaces and non-ASCII letters": lambda p: write(p.with_name("sub-xx_run-1 (Kopf, Jürgen) 頭_T1w.nii.gz")),
    "an upper-case suffix": lambda p: (
        p.with_name("sub-xx_T1w.nii").write_bytes(gzip.decompress(write(p).read_bytes())) and p.unlink()
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_is_unusual_and_sound_is_prepared(case, source, tmp_path):
    path = source / "sub-xx" / "anat" / "sub-xx_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    GOOD[case](path)
    outcome = prepare(source, site="a", out=tmp_path / "data ü", options=ONE)
    assert (outcome.problems, len(outcome.volumes)) == ([], 9)


def test_mixed_orientations_give_slices_in_one_orientation(source, tmp_path):
    original = nib.load(source / "sub-00/anat/sub-00_T1w.nii.gz")
    for n, axes in enumerate(("LPS", "PIR", "SAL")):
        turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes))
        voxels = np.asarray(original.as_reoriented(turn).dataobj) + np.int16(n + 1)
        write(source / f"sub-7{n}/anat/sub-7{n}_T1w.nii", voxels, original.as_reoriented(turn).affine)
    outcome = prepare(source, site="a", out=tmp_path / "data", options=ONE)
    folder = outcome.datalist.parent
    assert outcome.problems == []
    first = read_volume(folder / outcome.volumes[0]["image"]) if outcome.volumes[0]["contrast"] == "T1w" else None
    first = read_volume(source / "sub-00/anat/sub-00_T1w.nii.gz") if first is None else first
    for n, entry in enumerate(outcome.volumes[-3:], start=1):
        assert torch.equal(read_volume(folder / entry["image"]), first + n)
