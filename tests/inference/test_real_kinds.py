"""`infer` on each kind of scan that archives hold: every voxel stays at its place, by SimpleITK and nibabel."""

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.uid import RLELossless, generate_uid

from dicom_files import AXIAL, CORONAL, SAGITTAL, Series, classic, save, write_classic
from fedmr.checkpoints.model_file import save_model
from fedmr.inference.infer import infer
from landmarks import model
from phantoms import phantom
from valid_dicom import CLASSIC, ENHANCED, item, valid_enhanced

OBLIQUE = tuple(np.round([0.96, 0.28 * 0.8, 0.28 * 0.6, -0.28, 0.96 * 0.8, 0.96 * 0.6], 6))
SHAPE = (26, 22, 18)
TURN = nib.eulerangles.euler2mat(0.2, -0.15, 0.3) @ np.diag([0.9, 1.1, 3.5])
AFFINE = nib.affines.from_matvec(TURN, [-20, 14, 7])
THIN = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.2, -0.1) @ np.diag([2.0, 2.0, 1.0]), [3, -5, 9])
VOXELS = phantom(4, SHAPE)
TOLERANCE = 0.01  # of a voxel


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_model(path, model())
    return path


def nifti(path, voxels=VOXELS, affine=AFFINE, kind=nib.Nifti1Image):
    nib.save(kind(voxels, affine), path)
    return path


def standard_space(path):
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(nib.affines.from_matvec(np.diag([1.1, 1.2, 3.0]) + 0.05, [1, 2, 3]), 4)
    nib.save(image, path)
    return path


def with_nan(path):
    voxels = VOXELS.astype(np.float32)
    voxels[:3] = np.nan
    return nifti(path, voxels)


def by_itk(path):
    image = SimpleITK.GetImageFromArray(VOXELS.T)
    lps = np.diag([-1.0, -1.0, 1.0]) @ AFFINE[:3, :3]
    image.SetSpacing(np.linalg.norm(lps, axis=0).tolist())
    image.SetDirection((lps / np.linalg.norm(lps, axis=0)).ravel().tolist())
    image.SetOrigin((AFFINE[:3, 3] * [-1, -1, 1]).tolist())
    SimpleITK.WriteImage(image, str(path))
    return path


def upper(path):
    return nifti(path.with_name("a.nii.gz")).rename(path)


FILES = {
    "NIfTI": (nifti, "a.nii.gz", AFFINE),
    "upper case": (upper, "A.NII.GZ", AFFINE),
    "standard space beside the scanner's": (standard_space, "a.nii", AFFINE),
    "NaN background": (with_nan, "a.nii", AFFINE),
    "time series": (lambda path: nifti(path, np.stack([VOXELS, VOXELS + 50], -1)), "a.nii", AFFINE),
    "coarse in the plane": (lambda path: nifti(path, affine=THIN), "a.nii", THIN),
    "pair": (lambda path: nifti(path, kind=nib.Nifti1Pair), "a.hdr", AFFINE),
    "FreeSurfer": (lambda path: nifti(path, kind=nib.MGHImage), "a.mgz", AFFINE),
    "NRRD": (by_itk, "a.nrrd", AFFINE),
    "MetaImage": (by_itk, "a.mha", AFFINE),
}


@pytest.mark.parametrize(("write", "name", "affine"), FILES.values(), ids=FILES)
def test_voxels_of_a_file_stay_in_their_place(saved, tmp_path, write, name, affine):
    source = write(tmp_path / name)
    infer(saved, source, tmp_path / "sr.nii.gz")
    result = nib.load(tmp_path / "sr.nii.gz")
    code = result.header.get_best_affine() if result.header["sform_code"] < 3 else result.header.get_qform()
    assert result.shape[:3] == (52, 44, 18)
    for index in ((0, 0, 0), (25, 0, 17), (3, 21, 9)):
        wanted = nib.affines.apply_affine(affine, index)
        off = np.linalg.inv(affine[:3, :3]) @ (nib.affines.apply_affine(code, np.multiply(index, (2, 2, 1))) - wanted)
        assert np.abs(off).max() < TOLERANCE
    values = np.asarray(result.dataobj, dtype=float)[::2, ::2]
    expected = np.nan_to_num(VOXELS).astype(float)
    values = values if values.ndim == 3 else values[..., 0]
    assert np.corrcoef(values[4:-4].ravel(), expected[4:-4].ravel())[0, 1] > 0.97


def series_of(orientation, **tags):
    return Series(orientation=orientation, shape=(22, 20, 5), tags={**CLASSIC, **tags})


def one_uid_a_slice(folder):
    for number in range(5):
        dataset = classic(series_of(AXIAL), number)
        dataset.SeriesInstanceUID = generate_uid()
        save(dataset, folder / f"{number}.dcm")


def with_copy(folder):
    path = write_classic(folder, series_of(OBLIQUE))[0]
    shutil.copy(path, folder / "IM0001 (1).dcm")


def compressed(syntax):
    def write(folder):
        for number in range(5):
            dataset = classic(series_of(AXIAL), number)
            dataset.compress(syntax)
            save(dataset, folder / f"{number}.dcm")

    return write


def echoes(folder):
    uid = generate_uid()
    for number, time in enumerate(("5", "10")):
        series = series_of(AXIAL, EchoTime=time, EchoNumbers=number + 1)
        series.uid = uid
        for path in write_classic(folder / "passing", series):
            path.rename(folder / f"{number}{path.name}")
    (folder / "passing").rmdir()


SERIES = {
    "axial": (lambda folder: write_classic(folder, series_of(AXIAL)), AXIAL, 1),
    "sagittal": (lambda folder: write_classic(folder, series_of(SAGITTAL)), SAGITTAL, 1),
    "coronal": (lambda folder: write_classic(folder, series_of(CORONAL)), CORONAL, 1),
    "oblique": (lambda folder: write_classic(folder, series_of(OBLIQUE)), OBLIQUE, 1),
    "nobody's": (lambda folder: write_classic(folder, series_of(AXIAL, PatientID="", PatientName="")), AXIAL, 1),
    "one UID a slice": (one_uid_a_slice, AXIAL, 1),
    "with a copy": (with_copy, OBLIQUE, 1),
    "run-length encoded": (compressed(RLELossless), AXIAL, 1),
    "two echoes": (echoes, AXIAL, 2),
}


def stacks_by_itk(folder):
    """(origin, direction, spacing) of each series below a folder, as SimpleITK reads it."""
    found = []
    for place in sorted({path.parent for path in folder.rglob("*.dcm")}):
        reader = SimpleITK.ImageSeriesReader()
        for uid in reader.GetGDCMSeriesIDs(str(place)):
            names = reader.GetGDCMSeriesFileNames(str(place), uid)
            reader.SetFileNames(names)
            found.append(reader.Execute())
    return found


def dciodvfy_errors(path):
    checker = shutil.which("dciodvfy", path=f"{Path(sys.executable).parent}")
    if checker is None:
        pytest.skip("dciodvfy is not installed (package dicom3tools)")
    result = subprocess.run([checker, path], capture_output=True, text=True, check=False)
    return {line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")}


@pytest.mark.parametrize(("write", "orientation", "number"), SERIES.values(), ids=SERIES)
def test_pixels_of_a_series_stay_in_their_place_and_its_objects_are_valid(saved, tmp_path, write, orientation, number):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    write_classic(tmp_path / "reference", series_of(orientation))
    outcome = infer(saved, tmp_path / "in", tmp_path / "out")
    assert (len(outcome.written), outcome.problems) == (number, [])
    (reference,) = stacks_by_itk(tmp_path / "reference")
    results = stacks_by_itk(tmp_path / "out")
    assert len(results) == number
    for result in results:
        assert result.GetSize() == (40, 44, 5)
        for index in ((1, 1, 0), (18, 1, 4), (2, 20, 1)):
            # the grid of the result holds every pixel of the scan, at its place and with its value
            found = result.TransformPhysicalPointToContinuousIndex(reference.TransformIndexToPhysicalPoint(index))
            nearest = np.rint(found).astype(int).tolist()
            assert np.abs(np.subtract(found, nearest)).max() < TOLERANCE
            assert nearest[2] == index[2]
            assert result.GetPixel(nearest) == pytest.approx(reference.GetPixel(index), rel=0.02)
    for path in sorted((tmp_path / "out").rglob("*.dcm"))[::4]:
        assert dciodvfy_errors(path) == set()


def test_each_echo_of_a_multi_frame_file_stays_in_its_place_and_is_valid(saved, tmp_path):
    dataset, frames, pixels = None, [], b""
    for time in (5.0, 10.0):
        dataset = valid_enhanced(Series(orientation=OBLIQUE, shape=(22, 20, 4), tags=ENHANCED), range(4))
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.MREchoSequence = [item(EffectiveEchoTime=time)]
        frames += dataset.PerFrameFunctionalGroupsSequence
        pixels += dataset.PixelData
    del dataset.SharedFunctionalGroupsSequence[0].MREchoSequence
    dataset.PerFrameFunctionalGroupsSequence, dataset.NumberOfFrames, dataset.PixelData = frames, 8, pixels
    source = save(dataset, tmp_path / "in" / "a.dcm")
    assert dciodvfy_errors(source) == set()
    outcome = infer(saved, tmp_path / "in", tmp_path / "out")
    assert [path.name.rpartition("-")[2] for path in outcome.written] == ["echo1", "echo2"]
    for folder, time in zip(outcome.written, (5.0, 10.0), strict=True):
        (path,) = folder.iterdir()
        result = dcmread(path)
        assert (result.Rows, result.Columns, result.NumberOfFrames) == (44, 40, 4)
        assert {f.MREchoSequence[0].EffectiveEchoTime for f in result.PerFrameFunctionalGroupsSequence} == {time}
        for before, after in zip(frames, result.PerFrameFunctionalGroupsSequence, strict=False):
            moved = np.subtract(*(f.PlanePositionSequence[0].ImagePositionPatient for f in (before, after)))
            row, column = np.reshape(OBLIQUE, (2, 3))
            steps = [moved @ row / 0.625, moved @ column / 0.75, moved @ np.cross(row, column)]
            assert np.abs(np.array(steps) - np.rint(steps)).max() < TOLERANCE
            assert np.rint(steps).tolist() in [[x, y, 0.0] for x in (0.0, 1.0) for y in (0.0, 1.0)]
        assert dciodvfy_errors(path) == set()
