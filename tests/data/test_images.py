from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmr.data.images import Image, canonical, check, read_nifti, save_nifti, slices
from fedmr.utils.errors import DataError
from fedmr.utils.files import write_atomically
from phantoms import phantom

SPACING = np.diag([0.8, 0.9, 4.0, 1.0])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = [[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]]
ORIENTATIONS = [
    np.array(list(zip(axes, flips, strict=True)))
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]


def turned(voxels, affine, orientation):
    image = nib.Nifti1Image(voxels, affine).as_reoriented(orientation)
    return Image(np.asarray(image.dataobj), image.affine)


@pytest.mark.parametrize("affine", [SPACING, np.eye(4), OBLIQUE @ SPACING], ids=["2-D", "isotropic", "oblique"])
def test_all_48_axis_orders_give_the_same_slices(affine):
    voxels = phantom(0, (20, 23, 17))
    assert len(ORIENTATIONS) == 48
    expected = np.moveaxis(voxels, 2, 0).astype(np.float32)
    for orientation in ORIENTATIONS:
        assert np.array_equal(slices(turned(voxels, affine, orientation)), expected), orientation


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 47), st.integers(0, 2**31))
def test_turning_keeps_every_voxel_at_its_place_in_the_world(number, seed):
    rng = np.random.default_rng(seed)
    affine = OBLIQUE @ SPACING
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    image = turned(rng.integers(1, 99, (4, 5, 6), dtype=np.int16), affine, ORIENTATIONS[number])
    result = canonical(image)
    index = np.array([rng.integers(0, side) for side in result.voxels.shape])
    world = result.affine @ [*index, 1]
    before = np.rint(np.linalg.inv(image.affine) @ world)[:3].astype(int)
    assert np.allclose(image.affine @ [*before, 1], world)
    assert image.voxels[tuple(before)] == result.voxels[tuple(index)]


@pytest.mark.parametrize(("dtype", "kept"), [(np.uint8, np.int16), (np.int16, np.int16), (np.float64, np.float32)])
def test_a_saved_image_is_read_back_exactly_with_nothing_else_in_its_header(tmp_path, dtype, kept):
    image = Image(phantom(1).clip(0, 255).astype(dtype), OBLIQUE @ SPACING)
    save_nifti(image, tmp_path / "v.nii")
    result = read_nifti(tmp_path / "v.nii")
    assert result.voxels.dtype == kept
    assert np.array_equal(result.voxels, image.voxels)
    assert np.allclose(result.affine, image.affine, atol=1e-6)
    header = nib.load(tmp_path / "v.nii").header
    assert all(not header[field].item() for field in ("descrip", "aux_file", "intent_name", "db_name"))


def test_whole_numbers_beyond_16_bits_are_not_cut(tmp_path):
    voxels = phantom(1).astype(np.uint16) * 30
    save_nifti(Image(voxels, SPACING), tmp_path / "v.nii")
    assert voxels.max() > 2**15
    assert np.array_equal(read_nifti(tmp_path / "v.nii").voxels, voxels)


def test_scaled_values_are_those_of_the_header(tmp_path):
    stored = nib.Nifti1Image(phantom(1), SPACING)
    stored.header.set_slope_inter(0.5, 3)
    nib.save(stored, tmp_path / "v.nii")
    raw = np.asarray(nib.load(tmp_path / "v.nii").dataobj)
    assert np.allclose(read_nifti(tmp_path / "v.nii").voxels, raw)


def test_what_is_remarkable_is_noted_and_used_all_the_same():
    voxels = phantom(1).astype(np.float32)
    voxels[0, 0, 0] = -2
    assert "1 voxels below 0 (lowest -2)" in check(Image(voxels, SPACING), "x")[0]
    assert slices(Image(voxels, SPACING)).min() == 0
    saturated = np.minimum(phantom(1) * 3, 255).astype(np.uint8)
    assert "at 255, the most the type holds" in check(Image(saturated, SPACING), "x")[0]


def test_a_file_without_orientation_says_so(tmp_path):
    stored = nib.Nifti1Image(phantom(1), None)
    nib.save(stored, tmp_path / "v.nii")
    image = read_nifti(tmp_path / "v.nii")
    assert "states no orientation" in check(image, "x")[0]


def test_a_header_that_claims_more_than_the_memory_is_refused_before_reading(tmp_path):
    import gzip

    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((30000, 30000, 30000))
    for name, opener in (("v.nii", open), ("v.nii.gz", gzip.open)):
        with opener(tmp_path / name, "wb") as handle:
            header.write_to(handle)
        with pytest.raises(DataError, match=r"truncated|memory"):
            read_nifti(tmp_path / name)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    def fail(handle):
        handle.write(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "v", fail)
    assert list(tmp_path.iterdir()) == []
