"""`infer` needs no patient, no other plane than the one it uses, and a place of its own for every result."""

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from dicom_files import PATIENT_NAME, Series, enhanced, save, write_classic
from fedmr.checkpoints.model_file import save_model
from fedmr.data.readers.folder import find_scans
from fedmr.inference.infer import infer
from fedmr.inference.resolver import Options
from fedmr.utils.errors import DataError
from landmarks import model
from phantoms import phantom


@pytest.fixture
def saved(tmp_path):
    save_model(tmp_path / "m" / "model.pt", model())
    return tmp_path / "m" / "model.pt"


def write(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1, 4, 1]) if affine is None else affine), path)
    return path


def test_a_series_without_a_patient_is_super_resolved(saved, tmp_path):
    write_classic(tmp_path / "in", Series(tags={"PatientID": "", "PatientName": ""}))
    assert infer(saved, tmp_path / "in", tmp_path / "out").written == [tmp_path / "out"]


def test_two_patients_of_one_series_uid_get_a_folder_each(saved, tmp_path):
    uid = generate_uid()
    for patient in ("1", "2"):
        paths = write_classic(tmp_path / "in" / patient, Series(uid=uid, tags={"PatientID": patient}))
        for path in paths:
            path.rename(tmp_path / "in" / f"{patient}{path.name}")
        (tmp_path / "in" / patient).rmdir()
    for force in (False, True):
        outcome = infer(saved, tmp_path / "in", tmp_path / "out", force=force)
        assert sorted(path.name for path in outcome.written) == [uid, f"{uid}-2"]
        assert outcome.problems == []


def test_thin_slices_are_taken_in_the_plane_that_is_named_or_that_of_the_images(saved, tmp_path):
    thin = write(tmp_path / "thin.nii.gz", phantom(0, (40, 36, 8)), np.diag([1.2, 1.2, 1.0, 1]))
    infer(saved, thin, tmp_path / "sr.nii.gz", options=Options("axial"))
    assert nib.load(tmp_path / "sr.nii.gz").shape == (80, 72, 8)
    write_classic(tmp_path / "in", Series(shape=(40, 36, 8), spacing=(1.2, 1.2, 1.0)))
    assert infer(saved, tmp_path / "in", tmp_path / "out").problems == []


def test_a_background_of_nan_is_read_as_zero_with_a_note(saved, tmp_path):
    voxels = phantom(0, (24, 20, 3)).astype(np.float32)
    voxels[:3] = np.nan
    outcome = infer(saved, write(tmp_path / "a.nii", voxels), tmp_path / "b.nii")
    assert any("180 voxels that are NaN were read as 0" in note for note in outcome.notes)
    assert np.isfinite(nib.load(tmp_path / "b.nii").get_fdata()).all()


def test_suffixes_in_upper_case_are_read_and_written_packed(saved, tmp_path):
    source = write(tmp_path / "a.nii.gz", phantom(0, (24, 20, 3))).rename(tmp_path / "A.NII.GZ")
    infer(saved, source, tmp_path / "SR.NII.GZ")
    (tmp_path / "SR.NII.GZ").rename(tmp_path / "sr.nii.gz")
    assert nib.load(tmp_path / "sr.nii.gz").get_fdata().shape == (48, 40, 3)


def test_index_values_that_no_dimension_explains_are_dropped(saved, tmp_path):
    dataset = enhanced(Series(tags={"PatientID": "1"}))
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        frame.FrameContentSequence[0].DimensionIndexValues = [1, number]
    save(dataset, tmp_path / "in" / "a.dcm")
    assert infer(saved, tmp_path / "in", tmp_path / "out").written == [tmp_path / "out"]


@pytest.mark.parametrize(("code", "word"), [(1, "sheared"), (2, "sheared"), (3, "standard"), (5, "standard")])
def test_the_scanners_qform_is_used_beside_a_sheared_sform_of_any_code(saved, tmp_path, code, word):
    image = nib.Nifti1Image(phantom(0, (40, 36, 12)), None)
    image.set_qform(np.diag([1, 1, 3, 1.0]), 1)
    image.set_sform(np.diag([1.0, 1.0, 3.0, 1.0]) + 0.2 * np.eye(4, k=1) * [[1], [1], [0], [0]], code)
    nib.save(image, tmp_path / "a.nii")
    outcome = infer(saved, tmp_path / "a.nii", tmp_path / "b.nii")
    assert any(word in note and "the qform is used" in note for note in outcome.notes)
    assert np.allclose(nib.load(tmp_path / "b.nii").get_qform()[:3, :3], np.diag([0.5, 0.5, 3.0]))


def test_a_sheared_sform_alone_is_refused(saved, tmp_path):
    image = nib.Nifti1Image(phantom(0, (40, 36, 12)), np.diag([1, 1, 3, 1.0]) + 0.2 * np.eye(4, k=1))
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match="sheared"):
        infer(saved, tmp_path / "a.nii", tmp_path / "b.nii")


def test_a_single_slice_is_super_resolved_and_keeps_its_thickness(saved, tmp_path):
    _, *others = write_classic(tmp_path / "in", Series(shape=(22, 20, 4)))
    for other in others:
        other.unlink()
    infer(saved, tmp_path / "in", tmp_path / "out")
    (result,) = (dcmread(path) for path in (tmp_path / "out").iterdir())
    assert (result.Rows, result.Columns, float(result.SliceThickness)) == (44, 40, 4.0)
    plane = write(tmp_path / "a.nii", phantom(0, (24, 20, 1)))
    infer(saved, plane, tmp_path / "b.nii")
    assert nib.load(tmp_path / "b.nii").shape == (48, 40, 1)


@pytest.mark.parametrize("sform", [np.diag([1.15, 1.1, 0.9, 1]), np.diag([1.15, 1.1, 3.6, 1]) + np.eye(4, k=1) * 0.2])
def test_the_scanners_qform_is_used_beside_a_standard_space(saved, tmp_path, sform):
    sform[3] = [0, 0, 0, 1]
    image = nib.Nifti1Image(phantom(0, (40, 36, 12)), np.diag([1, 1, 3, 1.0]))
    image.set_qform(np.diag([1, 1, 3, 1.0]), 1)
    image.set_sform(sform, 4)
    nib.save(image, tmp_path / "a.nii")
    outcome = infer(saved, tmp_path / "a.nii", tmp_path / "b.nii")
    assert any("the qform is used" in note for note in outcome.notes)
    assert nib.load(tmp_path / "b.nii").shape == (80, 72, 12)


def test_formats_that_are_known_but_not_read_are_named_with_the_remedy(saved, tmp_path):
    write(tmp_path / "in" / "ok.nii.gz", phantom(0, (24, 20, 3)))
    names = {"x.img": ".hdr", "a.PAR": "dcm2niix", "b.zip": "unpack", "c.7z": "unpack", "d+orig.HEAD": "3dAFNI"}
    names |= {"e.mnc": "mnc2nii", "f.nii.bz2": "unpack", "g.img.gz": "unpack"}
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"x")
    outcome = infer(saved, tmp_path / "in", tmp_path / "out")
    assert len(outcome.written) == 1
    assert len(outcome.problems) == len(names)
    assert all(any(name in p and word in p for p in outcome.problems) for name, word in names.items())


def test_of_many_one_that_fails_in_any_way_ends_itself_only_and_no_other_file_is_replaced(saved, tmp_path):
    for seed in range(4):
        write(tmp_path / "in" / f"p{seed}.nii.gz", phantom(seed, (24, 20, 3)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p1.nii.gz").write_bytes(b"a letter")
    (tmp_path / "out" / "p2.nii.gz").mkdir()
    outcome = infer(saved, tmp_path / "in", tmp_path / "out")
    assert [path.name for path in outcome.written] == ["p0.nii.gz", "p3.nii.gz"]
    assert [("p1" in problem, "p2" in problem) for problem in outcome.problems] == [(True, False), (False, True)]
    assert (tmp_path / "out" / "p1.nii.gz").read_bytes() == b"a letter"


def test_a_series_beside_folders_of_series_gets_a_folder_that_holds_no_other_result(saved, tmp_path):
    for folder in ("a", "a/b", "a/b/c"):
        write_classic(tmp_path / "in" / folder, Series(shape=(20, 18, 3)))
    for force in (False, True):
        outcome = infer(saved, tmp_path / "in", tmp_path / "out", force=force)
        assert (len(set(outcome.written)), outcome.problems) == (3, [])
        assert not any(one in other.parents for one in outcome.written for other in outcome.written)
        assert all(len(list(path.glob("IM*.dcm"))) == 3 for path in outcome.written)
    again = infer(saved, tmp_path / "in", tmp_path / "out")
    assert (again.written, again.skipped) == ([], 3)


def test_a_header_that_cannot_be_written_is_refused_before_anything_is_computed(saved, tmp_path):
    dataset = enhanced(Series())
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.FrameContentSequence[0].DimensionIndexValues = [1]
    dataset.DimensionIndexSequence = [Dataset()]
    dataset.SourceImageEvidenceSequence = []
    del dataset.StudyInstanceUID
    save(dataset, tmp_path / "in" / "a.dcm")
    steps = []
    with pytest.raises(DataError, match=r"a\.dcm has a header that cannot be written"):
        infer(saved, tmp_path / "in", tmp_path / "out", progress=lambda *values: steps.append(values))
    assert steps == []
    assert not (tmp_path / "out").exists()


def test_an_empty_volume_of_a_series_stays_empty_and_the_others_are_done(saved, tmp_path):
    voxels = np.stack([phantom(n, (24, 20, 3)) * (n not in (0, 2)) for n in range(4)], axis=-1)
    outcome = infer(saved, write(tmp_path / "a.nii", voxels), tmp_path / "b.nii")
    result = nib.load(tmp_path / "b.nii").get_fdata()
    assert [bool(result[..., n].any()) for n in range(4)] == [False, True, False, True]
    assert any("2 of its 4 volumes hold nothing but 0" in note for note in outcome.notes)
    single = infer(saved, write(tmp_path / "c.nii", voxels[..., 1]), tmp_path / "d.nii")
    assert np.array_equal(nib.load(tmp_path / "d.nii").get_fdata(), result[..., 1])
    assert single.problems == []
    with pytest.raises(DataError, match="constant or has no positive"):
        infer(saved, write(tmp_path / "e.nii", 0 * voxels), tmp_path / "f.nii")


@pytest.mark.parametrize("sizes", [(-1, -1, -1), (1, 1, -1), (-1, 1, 4)])
def test_a_voxel_size_that_is_left_open_is_that_of_the_sform(saved, tmp_path, sizes):
    path = write(tmp_path / "a.nii", phantom(0, (24, 20, 3)))
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array(sizes, "<f4").tobytes()  # pixdim[1:4]
    path.write_bytes(raw)
    infer(saved, path, tmp_path / "b.nii")
    assert np.allclose(np.linalg.norm(nib.load(tmp_path / "b.nii").affine[:3, :3], axis=0), (0.5, 0.5, 4))
    raw[254:256] = bytes(2)  # no sform
    path.write_bytes(raw)
    with pytest.raises(DataError, match="voxel sizes"):
        infer(saved, path, tmp_path / "c.nii")


SECRETS = ("Doe", "Jane", "4711", "0815", "19700101", "20240131", "Elsewhere", "Main Street", "House", "Ratched", "MR1")


@pytest.mark.parametrize("multiframe", [False, True])
def test_a_result_without_its_person_holds_the_image_and_nothing_of_the_person(saved, tmp_path, multiframe):
    series = Series(shape=(20, 18, 3), tags={"ImageComments": "Jane Doe", "ProtocolName": "Doe", "StudyID": "4711"})
    if multiframe:
        dataset = enhanced(series)
        item = Dataset()
        item.PatientName, item.PerformedProcedureStepDescription = PATIENT_NAME, "Jane Doe"
        dataset.ReferencedPerformedProcedureStepSequence = [item]
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].add_new(0x00091001, "LO", "Jane Doe")
        save(dataset, tmp_path / "in" / "a.dcm")
    else:
        write_classic(tmp_path / "in", series)
    infer(saved, tmp_path / "in", tmp_path / "whole")
    infer(saved, tmp_path / "in", tmp_path / "clean", options=Options(deidentify=True))
    for path in sorted((tmp_path / "clean").iterdir()):
        clean, whole = dcmread(path), dcmread(tmp_path / "whole" / path.name)
        text = path.read_bytes().decode("latin-1")
        assert [word for word in SECRETS if word in text.replace("FedMR1", "")] == []
        assert [uid for uid in (series.uid, str(whole.StudyInstanceUID)) if uid in text] == []
        assert np.array_equal(clean.pixel_array, whole.pixel_array)
        assert clean.PatientIdentityRemoved == "YES"
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime", "Rows"):
            assert clean.get(name) == whole.get(name)
    found = infer(saved, tmp_path / "clean", tmp_path / "again")
    assert found.problems == []


def test_burned_in_text_is_noted_and_refused_where_the_person_must_go(saved, tmp_path):
    tags = {"BurnedInAnnotation": "YES", "RecognizableVisualFeatures": "YES"}
    write_classic(tmp_path / "in", Series(shape=(20, 18, 3), tags=tags))
    notes = infer(saved, tmp_path / "in", tmp_path / "out").notes
    assert [any(word in note for note in notes) for word in ("burned into", "face can be recognised")] == [True, True]
    with pytest.raises(DataError, match="text burned into its pixels"):
        infer(saved, tmp_path / "in", tmp_path / "clean", options=Options(deidentify=True))
    assert not (tmp_path / "clean").exists()


def test_the_texts_of_a_nifti_header_go(saved, tmp_path):
    path = write(tmp_path / "a.nii", phantom(0, (24, 20, 3)))
    image = nib.load(path)
    image.header["descrip"], image.header["db_name"] = b"Jane Doe", b"Doe"
    image.header["aux_file"], image.header["intent_name"] = b"Doe.txt", b"Doe"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "b.nii")
    infer(saved, tmp_path / "b.nii", tmp_path / "c.nii", options=Options(deidentify=True))
    assert b"Doe" not in (tmp_path / "c.nii").read_bytes()
    assert b"FedMR" in bytes(nib.load(tmp_path / "c.nii").header["descrip"])


def test_a_reformatted_image_is_a_scan_to_infer_and_none_to_train_on(saved, tmp_path):
    write_classic(tmp_path / "in", Series(tags={"ImageType": ["DERIVED", "PRIMARY", "MPR"]}))
    assert infer(saved, tmp_path / "in", tmp_path / "out").problems == []
    with pytest.raises(DataError, match="DICOM reformatted image"):
        find_scans(tmp_path / "in")
