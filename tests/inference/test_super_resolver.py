import nibabel as nib
import numpy as np
import pytest
import torch

from fedmr.data.images import Image, canonical
from fedmr.data.volumes import read_volume
from fedmr.inference.resolver import PLANES, Options
from fedmr.inference.super_resolver import SuperResolver, impose
from fedmr.metrics import psnr
from fedmr.physics.degradation import degrade, truncate
from fedmr.tasks.patches import load_volumes
from fedmr.training.trainer import evaluate
from fedmr.utils.errors import DataError
from landmarks import AFFINES, GRIDS, ORIENTATIONS, blob, model, place
from phantoms import phantom


@pytest.mark.release
@pytest.mark.parametrize(("degradation", "scale"), [("truncation", 2), ("bicubic", 3)])
@pytest.mark.parametrize("kind", AFFINES)
def test_a_landmark_stays_at_its_place_in_the_world_in_all_48_orientations(degradation, scale, kind):
    resolver, rng = SuperResolver(model(degradation, scale)), np.random.default_rng(scale)
    assert len(ORIENTATIONS) == 48
    for orientation in ORIENTATIONS:
        shape = (*rng.integers(18, 22, 2), 7)  # odd and even
        affine = AFFINES[kind].copy()
        affine[:3, 3] = rng.uniform(-99, 99, 3)
        stored = nib.Nifti1Image(blob(shape, (*rng.uniform(8.5, 9.5, 2), 3.3)), affine).as_reoriented(orientation)
        image = Image(stored.get_fdata(), stored.affine)
        result, step = resolver(image)
        across = canonical(image).slice_axis
        assert sorted(canonical(result).voxels.shape) == sorted(
            n * (1 if axis == across else scale) for axis, n in enumerate(canonical(image).voxels.shape)
        )
        moved = np.linalg.solve(image.affine[:3, :3], place(result) - place(image))
        assert np.abs(moved).max() < 0.01, orientation
        assert np.allclose(result.affine, image.affine @ step)
        assert nib.aff2axcodes(result.affine) == nib.aff2axcodes(image.affine)


def test_the_test_would_see_the_wrong_grid():
    result, _ = SuperResolver(model("bicubic"))(image := Image(blob((20, 21, 18), (9, 9, 9)), np.eye(4)))
    wrong = Image(result.voxels, image.affine @ np.diag([0.5, 0.5, 1, 1]))
    assert np.abs(place(wrong) - place(image)).max() > 0.2


@pytest.mark.parametrize("degradation", GRIDS)
def test_the_result_does_not_depend_on_how_the_input_is_stored(degradation):
    resolver = SuperResolver(model(degradation, trained=True))
    image = nib.Nifti1Image(phantom(0, (20, 23, 17)), AFFINES["2-D"])
    expected, _ = resolver(Image(image.get_fdata(), image.affine))
    for orientation in ORIENTATIONS:
        stored = image.as_reoriented(orientation)
        result = canonical(resolver(Image(stored.get_fdata(), stored.affine))[0])
        assert np.array_equal(result.voxels, expected.voxels)
        assert np.allclose(result.affine, expected.affine)


@pytest.mark.parametrize("degradation", GRIDS)
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("exact", [True, False])
def test_a_reduced_volume_gets_the_quality_that_evaluation_reports(site, degradation, scale, exact):
    opened = model(degradation, scale, trained=True)
    (volume,) = load_volumes(site, opened.task, ("test",))
    reported = evaluate(opened.net, [volume], opened.task)["model"]["psnr"]
    high = read_volume(site / volume.name)
    low = degrade(high, scale, degradation).numpy()  # (S, H, W), sizes that are no multiple of the scale
    assert high.shape[2] % scale or high.shape[1] % scale
    image = Image(np.moveaxis(low, 0, 2), np.diag([scale, scale, 5.0, 1]))
    result, _ = SuperResolver(opened, Options(exact=exact))(image)
    restored = torch.from_numpy(result.voxels).movedim(2, 0)[:, : high.shape[1], : high.shape[2]]
    assert psnr(restored, high) == pytest.approx(reported, abs=0.01)


@pytest.mark.parametrize("plane", PLANES)
def test_the_plane_can_be_chosen(plane):
    image = Image(phantom(0, (20, 23, 17)).astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))
    result, step = SuperResolver(model(), Options(plane))(image)
    scales = [1 if axis == PLANES[plane] else 2 for axis in range(3)]
    assert result.voxels.shape == tuple(s * n for s, n in zip(scales, (20, 23, 17), strict=True))
    assert np.allclose(np.diag(step), [*(1 / s for s in scales), 1])
    assert SuperResolver(model())(image)[0].voxels.shape == (40, 46, 17)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("degradation", GRIDS)
def test_data_consistency_keeps_the_scans_k_space(degradation, scale, trained):
    opened = model(degradation, scale, trained=trained)
    for shape in ((16, 18, 3), (17, 20, 2), (19, 21, 2)):
        image = Image(phantom(3, shape).astype(np.float32) - 5, np.diag([1.0, 1.0, 4.0, 1.0]))
        result, _ = SuperResolver(opened, Options(data_consistency=True))(image)
        high, low = (torch.from_numpy(np.moveaxis(i.voxels, 2, 0).copy()) for i in (result, image))
        kspace = torch.fft.fft2(high.double())
        if degradation == "bicubic":  # sample p lies at scale*p + (scale-1)/2
            y, x = (torch.fft.fftfreq(n) for n in high.shape[-2:])
            kspace = kspace * torch.exp(1j * torch.pi * (scale - 1) * (y[:, None] + x))
        contradiction = truncate(torch.fft.ifft2(kspace), scale) - low
        assert contradiction.abs().square().sum() < 1e-10 * low.square().sum()
        free, _ = SuperResolver(opened)(image)
        assert not np.allclose(free.voxels, result.voxels, rtol=1e-3)


@pytest.mark.parametrize("grid", GRIDS.values())
def test_data_consistency_changes_nothing_that_was_not_measured(grid):
    high, low = torch.rand(2, 32, 36), torch.rand(2, 16, 18)
    once = impose(high, low, 2, grid)
    assert torch.allclose(impose(once, low, 2, grid), once, atol=1e-6)
    change = torch.fft.fft2(once - high).abs()
    assert change[..., 9:-8, :].max() < 1e-4
    assert change[..., 10:-9].max() < 1e-4
    assert change[..., :8, :8].min() > 1e-3


def test_intensities_come_back_in_their_scale():
    opened = model()
    image = Image(phantom(0).astype(np.float32), AFFINES["2-D"])
    result, _ = SuperResolver(opened)(image)
    brighter, _ = SuperResolver(opened)(Image(image.voxels * 1000, image.affine))
    assert result.voxels.mean() == pytest.approx(image.voxels.mean(), rel=0.05)
    assert np.allclose(brighter.voxels, 1000 * result.voxels, rtol=1e-3, atol=1)
    assert result.voxels.min() >= 0


def test_progress_counts_slices():
    told = []
    image = Image(phantom(0, (300, 280, 5)), AFFINES["2-D"])
    SuperResolver(model())(image, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 5) for n in range(1, 6)]


def test_a_result_beyond_the_memory_is_refused_before_the_work():
    image = Image(np.broadcast_to(np.int16(1), (20000, 20000, 2000)), AFFINES["2-D"])
    with pytest.raises(DataError, match=r"40000 x 40000 x 2000 voxels needs \d+\.\d GB"):
        SuperResolver(model())(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"plane": "oblique"}, "known are sagittal, coronal, axial"), ({"device": "tpu"}, "known are cpu")],
)
def test_an_option_that_is_not_known_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no GPU here"):
        SuperResolver(model(), Options(device="cuda"))
