"""What an exported bundle trains on is what FedMR trains on."""

import json

import pytest
import torch
from monai.data import MetaTensor

from fedmr.checkpoints.bundle_transforms import Degrade, FindPatches, RandAlignedPatch, VolumePSNR, cases
from fedmr.data.volumes import normalisation
from fedmr.metrics import FOREGROUND, foreground, psnr
from fedmr.physics.degradation import GRID_OF, degrade
from fedmr.tasks.patches import MIN_FOREGROUND, patch_corners
from fedmr.tasks.super_resolution import SuperResolutionTask
from phantoms import phantom

KINDS = [("truncation", 2), ("truncation", 3), ("bicubic", 2), ("bicubic", 4)]
P = 6


def pair(kind, scale):
    voxels = torch.from_numpy(phantom(1, (47, 52, 3)).astype("float32"))
    scan = MetaTensor(voxels[None], affine=torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0])))
    return voxels, Degrade(degrade, scale, kind, percentile=99.9)({"image": scan})


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_low_resolution_and_intensities_are_those_of_fedmr(kind, scale):
    voxels, made = pair(kind, scale)
    high = voxels.permute(2, 0, 1)
    low = degrade(high, scale, kind)
    divisor = normalisation(low)
    assert torch.allclose(made["label"][0].permute(2, 0, 1), high / divisor, rtol=1e-6, atol=0)
    assert torch.allclose(made["image"][0].permute(2, 0, 1), low / divisor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_patches_are_cut_where_fedmr_cuts_them(kind, scale):
    _, made = pair(kind, scale)
    grid = GRID_OF[kind]
    task = SuperResolutionTask(network={"name": "mscan", "scale": scale, "grid": grid}, degradation=kind, patch_size=P)
    low, (height, width) = made["image"][0].permute(2, 0, 1), made["label"].shape[1:3]
    corners = FindPatches(scale, P)(made)["corners"]
    for number, inside in enumerate(foreground(low)):
        mine = corners[corners[:, 0] == number]
        expected = patch_corners(inside, task, height, width)
        assert torch.equal((mine[:, 1] * low.shape[2] + mine[:, 2]).int(), expected)


@pytest.mark.parametrize("scale", [2, 3, 4, (3, 2)])
def test_a_low_resolution_voxel_keeps_its_place_in_the_patch_whatever_is_flipped(scale):
    """On the pixel0 grid the label holds voxel p of the image at scale*p; on the half grid its block's mean is it."""
    low = torch.rand(1, 14, 12, 2)
    rows, columns = (scale, scale) if isinstance(scale, int) else scale
    blocks = low.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    dots = torch.zeros_like(blocks)
    dots[:, ::rows, ::columns] = low
    corners = torch.tensor([[s, y, x] for s in range(2) for y in range(1, 9) for x in range(1, 7)])
    seen = set()
    for grid, high in (("pixel0", dots), ("half", blocks)):
        cut = RandAlignedPatch(scale, grid, P)
        cut.set_random_state(0)
        for _ in range(60):
            patch = cut({"image": low, "label": high, "corners": corners})
            assert patch["image"].shape == (1, P, P)
            assert patch["label"].shape == (1, rows * P, columns * P)
            assert torch.equal(patch["label"][:, ::rows, ::columns], patch["image"])
            seen.add(tuple(patch["image"].flatten().tolist()))
    assert len(seen) > 40  # of 60 draws


def test_psnr_of_a_volume_is_that_of_fedmr():
    reference, prediction = torch.rand(1, 1, 9, 8, 4) * 3, torch.rand(1, 1, 9, 8, 4)
    found = VolumePSNR()(prediction, reference)
    assert found.item() == pytest.approx(psnr(prediction[0, 0], reference[0, 0]), abs=1e-6)


def test_constants_are_those_of_fedmr():
    from fedmr.checkpoints import bundle_transforms

    assert (bundle_transforms.FOREGROUND, bundle_transforms.MIN_FOREGROUND) == (FOREGROUND, MIN_FOREGROUND)


def test_a_folder_without_scans_of_a_split_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"datalist.json does not exist; .*--dataset_dir"):
        cases(tmp_path, "train")
    (tmp_path / "datalist.json").write_text(json.dumps({"volumes": [{"image": "a.nii", "split": "val"}]}))
    with pytest.raises(ValueError, match="no volume with split 'train'"):
        cases(tmp_path, "train")
    assert cases(tmp_path, "val") == [{"image": str(tmp_path / "a.nii")}]


def test_scans_without_a_patch_are_refused():
    dark = {"image": torch.zeros(1, 14, 12, 1), "label": torch.zeros(1, 28, 24, 1)}
    with pytest.raises(ValueError, match="no patch of 6 x 6"):
        FindPatches(2, P)(dark)
    with pytest.raises(ValueError, match="too small for patch_size 30"):
        FindPatches(2, 30)(dark)
