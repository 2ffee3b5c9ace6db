"""The axis across the slices: stated by the header, or told by voxel sizes, whatever way the scan is turned."""

import nibabel as nib
import numpy as np
import pytest

from dicom_files import Series, write_classic
from fedmr.data.images import Image, canonical, read_nifti, save_nifti, slices
from fedmr.hospital.prepare import Options, prepare
from phantoms import phantom


@pytest.mark.parametrize(
    ("sizes", "axis"),
    [
        ((1, 1, 4), 2),
        ((4.8, 1, 1), 0),
        ((1, 1, 1), 2),
        ((2, 2, 1), 2),
        ((1, 2, 2), 0),
        ((2, 1, 2), 1),
        ((1.5, 1.5, 1), 2),
        ((1.006, 1.146, 1.146), 2),  # a sagittal slab as scanners have it: its voxels are nearly cubes
        ((0.5, 1, 3), 2),
    ],
)
def test_voxel_sizes_tell_the_axis(sizes, axis):
    assert Image(np.zeros((2, 2, 2)), np.diag([*sizes, 1.0])).slice_axis == axis


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_stated_axis_is_kept_through_turning_and_files(tmp_path, turn):
    voxels = phantom(0, (24, 20, 18)).transpose(turn)
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([1.2, 1.2, 1.0]) @ np.eye(3))[:, list(turn)]
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_dim_info(slice=turn.index(2))
    nib.save(image, tmp_path / "a.nii")
    read = read_nifti(tmp_path / "a.nii")
    assert (read.across, canonical(read).slice_axis) == (turn.index(2), 2)
    save_nifti(canonical(read), tmp_path / "b.nii")
    again = read_nifti(tmp_path / "b.nii")
    assert np.array_equal(slices(again), slices(read))
    assert slices(again).shape == (18, 24, 20)


def test_of_cubic_voxels_the_last_axis_counts_whatever_is_stated():
    assert Image(np.zeros((2, 2, 2)), np.eye(4), across=0).slice_axis == 2


def test_slices_of_a_series_are_its_images_though_they_are_thin(tmp_path):
    for patient in range(3):
        tags = {"PatientID": f"P{patient}", "SeriesDescription": "t1_se"}
        thin = Series(shape=(40, 36, 8), spacing=(1.2, 1.2, 1.0), origin=(patient, 0, 0), tags=tags)
        write_classic(tmp_path / "in" / str(patient), thin)
    outcome = prepare(tmp_path / "in", site="s", out=tmp_path / "out", options=Options(workers=1))
    assert (len(outcome.volumes), outcome.problems) == (3, [])
    assert slices(read_nifti(tmp_path / "out" / "s" / outcome.volumes[0]["image"])).shape == (8, 36, 40)
