"""Thick slices to cubic voxels: where the result lies, what it keeps of the scan, and what is said of the slices."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from pydicom import dcmread

from dicom_files import Series, save, write_classic
from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.model_file import Model
from fedmr.data.images import Image, canonical
from fedmr.data.readers import Scan, dicom
from fedmr.inference.dicom_writer import super_resolve_series
from fedmr.inference.infer import resolver_of
from fedmr.inference.isotropic import IsotropicResolver
from fedmr.inference.nifti_writer import super_resolve_nifti
from fedmr.inference.resolver import Options
from fedmr.nets import build
from fedmr.physics.slice_profile import ThickSlices, acquire
from fedmr.tasks.registry import build_task
from fedmr.utils.errors import DataError
from landmarks import ORIENTATIONS, TURN, blob, model, place
from valid_dicom import valid_enhanced

AFFINES = [np.diag([0.8, 0.8, 4.0, 1.0]), TURN @ np.diag([0.9, 0.9, 3.3, 1.0])]


def through_plane(*, trained=False):
    """A model that is the cubic interpolation or, if trained, something more."""
    network = {"name": "mscan", "scale": 1, "channels": 4, "blocks": 1, "seed": 0}
    profile = {"kind": "gaussian", "thickness": [0.8, 1.0]}
    task = build_task({"network": network, "slice_profile": profile, "factors": [2, 8], "patch_size": 16})
    net = build(**task.network)
    if trained:
        weight = net.tail.weight.data
        weight.copy_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    return Model(net, make_card(task))


def resolver(*, trained=False, **options):
    return IsotropicResolver(through_plane(trained=trained), Options(**options))


def scan(affine=AFFINES[0], shape=(24, 22, 18)):
    return Image(blob(shape, [0.45 * side for side in shape]), affine)


@pytest.mark.parametrize("affine", AFFINES)
def test_a_landmark_stays_where_it_is_in_the_patient_whichever_way_the_axes_run(affine):
    image, worker = scan(affine), resolver()
    for turn in ORIENTATIONS[::5]:
        shape = image.voxels.shape
        turned = Image(nib.apply_orientation(image.voxels, turn), affine @ nib.orientations.inv_ornt_aff(turn, shape))
        result, step = worker(turned)
        side = result.spacing[0]
        assert result.spacing == pytest.approx((side,) * 3)
        assert np.allclose(result.affine, turned.affine @ step)
        assert np.abs(place(result) - place(turned)).max() < 0.01 * side


@pytest.mark.parametrize("side", [0.8, 1.0, 1.3, 0.5])
def test_voxels_have_the_side_that_was_asked_for_and_cover_the_scan(side):
    image = scan()
    result, step = resolver(isotropic=side)(image)
    assert result.spacing == pytest.approx((side,) * 3)
    assert np.abs(place(result) - place(image)).max() < 0.02 * side
    edges = (
        nib.affines.apply_affine(step, [-0.5] * 3),
        nib.affines.apply_affine(step, np.array(result.voxels.shape) - 0.5),
    )
    assert np.allclose(edges[0], -0.5), "the first edges are one"
    beyond = (edges[1] + 0.5 - image.voxels.shape) * image.spacing
    assert (beyond > -1e-6).all()
    assert (beyond < side + 1e-6).all(), "less than a voxel is added at the end"


def test_the_geometry_is_the_one_that_another_program_reads(tmp_path):
    image = scan(TURN @ AFFINES[0])
    nib.save(nib.Nifti1Image(image.voxels.astype(np.int16), image.affine), tmp_path / "a.nii.gz")
    super_resolve_nifti(resolver(trained=True), tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    before, after = (SimpleITK.ReadImage(str(tmp_path / name)) for name in ("a.nii.gz", "b.nii.gz"))
    assert after.GetSpacing() == pytest.approx((0.8,) * 3, abs=1e-6)
    corners = [item.TransformContinuousIndexToPhysicalPoint([-0.5] * 3) for item in (before, after)]
    assert corners[0] == pytest.approx(corners[1], abs=1e-3)
    ends = [
        item.TransformContinuousIndexToPhysicalPoint([side - 0.5 for side in item.GetSize()])
        for item in (before, after)
    ]
    assert ends[0] == pytest.approx(ends[1], abs=1e-3), "18 slices of 4 mm are 90 voxels of 0.8 mm"
    assert nib.load(tmp_path / "b.nii.gz").get_data_dtype() == np.int16
    assert json.loads((tmp_path / "b.fedmr.json").read_text())["slice_profile"] == "gaussian"


@pytest.mark.parametrize("profile", ["", "box", "sinc"])
def test_with_data_consistency_the_result_has_the_slices_that_were_measured(profile):
    rng = np.random.default_rng(0)
    image = Image(rng.random((20, 17, 12)).astype(np.float32), np.diag([1, 1, 3.7, 1]), thickness=3.0)
    free = resolver(trained=True, slice_profile=profile)
    kept = resolver(trained=True, slice_profile=profile, data_consistency=True)
    result, _ = kept(image)
    slices = ThickSlices(3.0, 3.7, profile or "gaussian")
    again = acquire(torch.from_numpy(np.ascontiguousarray(result.voxels)), slices, axis=2).numpy()
    assert np.abs(again - image.voxels).max() < 1e-4
    assert kept.departure(image, result) < 1e-4 < free.departure(image, free(image)[0])


def test_both_passes_count_alike_and_an_axis_is_no_other():
    """A scan mirrored at the diagonal of its slices gives the result mirrored: neither pass has an orientation."""
    rng = np.random.default_rng(0)
    image = Image(rng.random((20, 20, 12)).astype(np.float32), np.diag([1, 1, 4.0, 1]))
    mirrored = replace(image, voxels=np.ascontiguousarray(image.voxels.transpose(1, 0, 2)))
    worker = resolver(trained=True)
    one, two = worker(image)[0].voxels, worker(mirrored)[0].voxels
    assert np.allclose(one, two.transpose(1, 0, 2), atol=1e-5)


def test_intensities_scale_with_the_scan_and_slices_are_counted():
    told = []
    image, worker = scan(), resolver(trained=True)
    one, _ = worker(image, progress=lambda done, total: told.append((done, total)))
    two, _ = worker(replace(image, voxels=image.voxels * 1000))
    assert np.allclose(two.voxels, 1000 * one.voxels, rtol=1e-3, atol=1e-2)
    assert told[-1] == (24 + 22, 24 + 22)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_tiles_leave_no_seams():
    image = scan(shape=(70, 20, 12))
    whole, tiled = (resolver(trained=True, tile=side)(image)[0].voxels for side in (0, 32))
    assert np.abs(whole - tiled).max() < 1e-4 * whole.max()


def test_what_is_not_known_of_the_slices_is_said_and_what_is_known_is_taken(tmp_path):
    image = scan(shape=(24, 22, 18))
    nib.save(nib.Nifti1Image(image.voxels.astype(np.int16), image.affine), tmp_path / "a.nii")
    run = {"source": tmp_path / "a.nii", "target": tmp_path / "b.nii"}
    assert any("4 mm, their distance, is assumed" in note for note in super_resolve_nifti(resolver(), **run))
    assert not any("assumed" in note for note in super_resolve_nifti(resolver(slice_thickness=3.5), **run))
    (tmp_path / "a.json").write_text(json.dumps({"SliceThickness": 1.0}))
    notes = super_resolve_nifti(resolver(), **run)
    assert any("0.25 times as thick as their distance; the model was trained on 0.8 to 1" in note for note in notes)
    for hostile in (
        "[]",
        '{"SliceThickness": "thick"}',
        '{"SliceThickness": -3}',
        '{"SliceThickness": 1e9}',
        "{",
        "NaN",
    ):
        (tmp_path / "a.json").write_text(hostile)
        assert any("is assumed" in note for note in super_resolve_nifti(resolver(), **run))


def test_a_factor_beyond_the_training_is_said():
    assert "the model was trained on 2 to 8" in " ".join(resolver(isotropic=0.3).remarks(scan()))
    assert not any("trained on" in note for note in resolver().remarks(scan()))


def test_slices_that_are_no_thicker_than_the_voxels_are_refused():
    with pytest.raises(DataError, match=r"its slices are 1 mm apart.*nothing to do"):
        resolver()(scan(np.eye(4)))
    with pytest.raises(DataError, match=r"4 mm apart, which is no more than the 5 mm"):
        resolver(isotropic=5.0)(scan())


def test_options_and_models_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="go with a through-plane one"):
        resolver_of(model(), Options(isotropic=1.0))
    with pytest.raises(ValueError, match="only a through-plane model makes isotropic volumes"):
        IsotropicResolver(model())
    assert isinstance(resolver_of(through_plane(), Options()), IsotropicResolver)
    for name, value in (("isotropic", -1.0), ("slice_thickness", float("nan"))):
        with pytest.raises(ValueError, match=f"{name} is {value}; it must be a length in mm"):
            Options(**{name: value})
    with pytest.raises(ValueError, match="gaussian, box, sinc"):
        Options(slice_profile="flat")


@pytest.mark.parametrize("multiframe", [False, True], ids=["classic", "enhanced"])
def test_a_dicom_series_comes_back_with_the_new_distances(tmp_path, multiframe):
    source = Series(shape=(22, 20, 6), scaling=((0.5, 0),))
    folder = tmp_path / "in"
    folder.mkdir()
    if multiframe:
        save(valid_enhanced(source, list(range(6))), folder / "E1.dcm")
    else:
        write_classic(folder, source)
    (found,) = dicom.find(sorted(folder.iterdir()), folder).scans
    before = dicom.read(found)
    side = min(before.spacing)
    super_resolve_series(resolver(trained=True), found, tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    after = dicom.read(Scan(tuple(files), "", ""))
    assert after.spacing == pytest.approx((side,) * 3, rel=1e-4)
    assert after.voxels.shape[2] == 20, "19.2 rounded up"
    dataset = dcmread(files[0])
    measures = dataset.PerFrameFunctionalGroupsSequence[0].PixelMeasuresSequence[0] if multiframe else dataset
    assert float(measures.SliceThickness) == pytest.approx(side, rel=1e-4)
    edge = [nib.affines.apply_affine(canonical(item).affine, [-0.5] * 3) for item in (before, after)]
    assert np.allclose(edge[0], edge[1], atol=0.01 * side)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(files[0])] if multiframe else reader.GetGDCMSeriesFileNames(str(tmp_path / "out")))
    other = reader.Execute()
    assert other.GetSpacing()[:2] == pytest.approx((side,) * 2, rel=1e-4)
    if not multiframe:
        assert other.GetSpacing() == pytest.approx((side,) * 3, rel=1e-4)
        assert "isotropic" in dataset.SeriesDescription
