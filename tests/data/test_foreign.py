"""Volumes in other formats are read where they lie, prepared and super-resolved."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from fedmr.checkpoints.model_file import save_model
from fedmr.data.images import read_nifti
from fedmr.data.readers.folder import find_scans
from fedmr.hospital.prepare import prepare
from fedmr.inference.infer import infer
from fedmr.utils.errors import DataError
from hospital_files import ONE
from landmarks import model
from phantoms import phantom

# a scan tilted about two axes, voxels of 1.1 x 0.9 x 4 mm
TURN = np.array([[0.98, -0.17, 0.1], [0.18, 0.97, -0.16], [-0.07, 0.18, 0.98]])
AXES = np.linalg.qr(TURN)[0] * np.sign(np.diag(np.linalg.qr(TURN)[0]))
AFFINE = np.eye(4)
AFFINE[:3, :3], AFFINE[:3, 3] = AXES * (1.1, 0.9, 4.0), (-12.0, 31.0, 7.5)


def by_nibabel(path, voxels):
    kinds = {".hdr": nib.Nifti1Pair, ".mgz": nib.MGHImage, ".mgh": nib.MGHImage}
    nib.save(kinds[path.suffix](voxels.astype(np.float32), AFFINE), path)


def by_itk(path, voxels):
    image = SimpleITK.GetImageFromArray(voxels.T)
    flip = np.diag([-1.0, -1.0, 1.0])
    image.SetSpacing((1.1, 0.9, 4.0))
    image.SetDirection((flip @ AXES).ravel().tolist())
    image.SetOrigin((flip @ AFFINE[:3, 3]).tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=path.suffix in (".nrrd", ".mhd"))


WRITERS = {
    **dict.fromkeys((".hdr", ".mgz", ".mgh"), by_nibabel),
    **dict.fromkeys((".nrrd", ".mha", ".mhd", ".nhdr"), by_itk),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_voxels_and_places_are_those_of_the_file(tmp_path, suffix):
    voxels = phantom(1, (40, 36, 6))
    WRITERS[suffix](tmp_path / f"a{suffix}", voxels)
    image = read_nifti(tmp_path / f"a{suffix}")
    assert np.array_equal(image.voxels, voxels)
    assert np.allclose(image.affine, AFFINE, atol=1e-4)


def test_an_analyze_pair_is_read_and_its_axes_are_named_as_assumed(tmp_path):
    nib.save(nib.AnalyzeImage(phantom(1, (40, 36, 6)), np.diag([-2.0, 2, 4, 1])), tmp_path / "a.hdr")
    image = read_nifti(tmp_path / "a.hdr")
    assert image.spacing == (2, 2, 4)
    assert any("states no orientation" in note for note in image.notes)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_folder_of_them_is_prepared_and_super_resolved_in_place(tmp_path, suffix):
    (tmp_path / "in").mkdir()
    for p in range(3):
        WRITERS[suffix](tmp_path / "in" / f"P{p}_T1{suffix}", phantom(p, (40, 36, 6)))
    outcome = prepare(tmp_path / "in", site="s", out=tmp_path / "out", options=ONE)
    assert (len(outcome.volumes), outcome.problems) == (3, [])
    assert {volume["contrast"] for volume in outcome.volumes} == {"T1w"}
    save_model(tmp_path / "m" / "model.pt", model())
    results = infer(tmp_path / "m" / "model.pt", tmp_path / "in", tmp_path / "sr").written
    assert [path.name for path in results] == [f"P{p}_T1.nii.gz" for p in range(3)]
    finer = nib.load(results[0])
    assert finer.shape == (80, 72, 6)
    # grid "pixel0": the axes are turned to right-anterior-superior before, and back after
    corner = np.linalg.inv(AFFINE) @ finer.affine @ [0, 0, 0, 1]
    assert np.allclose(np.linalg.norm(finer.affine[:3, :3], axis=0), (0.55, 0.45, 4.0), atol=1e-3)
    assert np.abs(corner[:3]).max() <= 0.51
    infer(tmp_path / "m" / "model.pt", tmp_path / "in" / f"P0_T1{suffix}", tmp_path / "one.nii")
    assert np.allclose(nib.load(tmp_path / "one.nii").affine, finer.affine, atol=1e-4)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_truncated_one_is_named(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f"a{suffix}", phantom(1, (40, 36, 6)))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"a\\{suffix}"):
        read_nifti(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize("place", ["../secret.raw", "/etc/hostname", "LIST", "slice%03d.raw 1 9 1"])
def test_voxels_elsewhere_are_not_followed(tmp_path, suffix, place):
    (tmp_path / "in").mkdir()
    by_itk(tmp_path / "in" / f"a{suffix}", phantom(1, (40, 36, 6)))
    header = tmp_path / "in" / f"a{suffix}"
    old = next(path for path in header.parent.iterdir() if path != header)
    (tmp_path / "secret.raw").write_bytes(old.read_bytes())
    header.write_bytes(header.read_bytes().replace(old.name.encode(), place.encode()))
    with pytest.raises(DataError, match=f"a\\{suffix}"):
        read_nifti(header)


def test_voxel_files_are_no_scans_of_their_own_and_one_without_header_is_named(tmp_path):
    by_nibabel(tmp_path / "P0.hdr", phantom(0))
    (tmp_path / "P1.img").write_bytes(b"voxels")
    found, layout = find_scans(tmp_path)
    assert (layout, [scan.files[0].name for scan in found.scans]) == ("nifti", ["P0.hdr"])
    assert found.left_out == {"voxels of a header beside them": 1}
    assert ["P1.img" in problem and ".hdr file is missing" in problem for problem in found.problems] == [True]


def test_colour_is_refused(tmp_path):
    image = SimpleITK.GetImageFromArray(np.zeros((4, 20, 20, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    with pytest.raises(DataError, match="3 values per voxel"):
        read_nifti(tmp_path / "a.mha")


@pytest.mark.parametrize("suffixes", [(".HDR", ".IMG"), (".hdr", ".IMG"), (".HDR", ".img")])
def test_a_pair_in_upper_case_is_one_scan(tmp_path, suffixes):
    voxels = phantom(1, (40, 36, 6))
    by_nibabel(tmp_path / "b.hdr", voxels)
    for old, new in zip((".hdr", ".img"), suffixes, strict=True):
        (tmp_path / f"b{old}").rename(tmp_path / f"A{new}")
    found, layout = find_scans(tmp_path)
    assert (layout, [scan.files[0].name for scan in found.scans], found.problems) == ("nifti", [f"A{suffixes[0]}"], [])
    assert np.array_equal(read_nifti(tmp_path / f"A{suffixes[0]}").voxels, voxels)


@pytest.mark.parametrize("suffix", [".MGZ", ".NRRD", ".MHA"])
def test_a_suffix_in_upper_case_is_read(tmp_path, suffix):
    voxels = phantom(1, (40, 36, 6))
    WRITERS[suffix.lower()](tmp_path / f"a{suffix.lower()}", voxels)
    path = (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"A{suffix}")
    assert np.array_equal(read_nifti(path).voxels, voxels)
