"""Files of real scanners, as pydicom and nibabel bring them along."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    generate_uid,
)

from dicom_files import (
    find,
    read,
)
from fedmr.data.readers import dicom
from fedmr.utils.errors import DataError

NIBABEL_FILES = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


def _stack_of(name, folder):
    """Five slices made of a real MR image, in the encoding of a real file."""
    for number in range(5):
        dataset = pydicom.dcmread(get_testdata_file(name, download=False))
        dataset.ImagePositionPatient[2] += 5 * number
        dataset.SOPInstanceUID = generate_uid()
        dataset.save_as(folder / f"{number}.dcm")
    return read(folder)


REAL = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"]


@pytest.mark.parametrize("name", [*REAL, "MR_small_jp2klossless.dcm", "MR_small_padded.dcm", "MR_small_expb.dcm"])
def test_a_real_image_is_the_same_in_every_encoding(tmp_path, name):
    image = _stack_of(name, tmp_path)
    original = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    assert image.voxels.dtype == np.dtype("int16")
    for number in range(5):
        assert np.array_equal(image.voxels[:, :, number], original.pixel_array.T)
    assert np.allclose(image.spacing, (0.3125, 0.3125, 5))
    assert np.allclose(image.affine[:3, 3], np.array(original.ImagePositionPatient, float) * [-1, -1, 1])


def test_a_real_image_compressed_by_jpeg_ls_is_read_as_the_original(tmp_path):
    image = _stack_of("MR_small_jpeg_ls_lossless.dcm", tmp_path)
    original = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    assert np.array_equal(image.voxels[:, :, 0], original.pixel_array.T)


def test_a_real_truncated_image_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be decoded"):
        _stack_of("MR_truncated.dcm", tmp_path)


def test_the_contrast_of_a_real_image_without_description_comes_from_its_timing():
    path = Path(get_testdata_file("MR_small.dcm", download=False))
    (scan,) = dicom.find([path], path.parent).scans
    assert (scan.contrast, scan.patient) == ("T2w", "4MR1")
    with pytest.raises(DataError, match="is a single image"):
        dicom.read(scan)


def test_a_real_folder_of_many_kinds_is_sorted_out():
    folder = Path(get_testdata_file("DICOMDIR", download=False)).parent
    found = find(folder)
    assert {scan.patient for scan in found.scans} == {"98890234"}
    assert found.left_out["DICOM Media Storage Directory"] >= 1
    assert found.left_out["DICOM projection"] == 7
    assert all("modality C" in problem for problem in found.problems)
    assert len(found.problems) >= 2


def test_all_test_files_of_pydicom_are_found_out_without_a_crash():
    folder = Path(get_testdata_file("MR_small.dcm", download=False)).parent
    found = find(folder)
    for scan in found.scans:
        with pytest.raises(DataError):
            dicom.read(scan)
    assert found.left_out["DICOM RT Plan"] >= 1


def test_mosaics_and_projections_of_a_real_scanner_are_left_out():
    files = [NIBABEL_FILES / name for name in ("0.dcm", "1.dcm", "slicethickness_empty_string.dcm")]
    found = dicom.find(files, NIBABEL_FILES)
    assert found.scans == []
    assert found.left_out == {"DICOM mosaic of a time series": 2, "DICOM projection": 1}


def test_every_frame_of_a_real_enhanced_volume_lies_where_its_header_says(tmp_path):
    path = tmp_path / "philips_mprage.dcm"
    path.write_bytes(gzip.decompress((NIBABEL_FILES / "philips_mprage.dcm.gz").read_bytes()))
    (scan,) = dicom.find([path], tmp_path).scans
    image = dicom.read(scan)
    assert scan.contrast == "T1w"
    assert image.voxels.shape == (256, 256, 176)
    assert np.allclose(image.spacing, 1, atol=1e-3)
    frames = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    corners = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], dtype=float)
    ours = [image.affine @ [0, 0, z, 1] for z in range(176)]
    gaps = np.linalg.norm(np.array(ours)[:, None, :3] - corners[None] * [-1, -1, 1], axis=-1).min(axis=0)
    assert gaps.max() < 0.01
