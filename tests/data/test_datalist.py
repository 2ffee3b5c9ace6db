import json

import nibabel as nib
import numpy as np
import pytest
import torch

from fedmr.data.datalist import DATA_ROOT_FILE, DATA_ROOT_VARIABLE, find_site_folder, read_datalist, site_folders
from fedmr.data.volumes import read_volume
from fedmr.physics.degradation import degrade, interpolate, zero_filled
from fedmr.tasks.patches import PatchSampler, load_volumes
from fedmr.tasks.super_resolution import SuperResolutionTask
from fedmr.utils.errors import DataError
from phantoms import phantom, write_site


def first_image(site):
    return site / read_datalist(site)["volumes"][0]["image"]


def replace_image(site, voxels, zooms=(1.0, 1.0, 5.0)):
    nib.save(nib.Nifti1Image(voxels, np.diag([*zooms, 1.0])), first_image(site))


def test_slices_lie_in_the_acquisition_plane(tmp_path):
    voxels = phantom(0)
    for axis in range(3):
        zooms = [1.0, 1.0, 1.0]
        zooms[axis] = 4.0
        path = tmp_path / f"{axis}.nii"
        nib.save(nib.Nifti1Image(np.moveaxis(voxels, 2, axis), np.diag([*zooms, 1.0])), path)
        assert torch.equal(read_volume(path), torch.from_numpy(np.moveaxis(voxels, 2, 0).astype(np.float32)))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "ASL"])
def test_any_orientation_is_read_as_right_anterior_superior(tmp_path, axes):
    original = nib.Nifti1Image(phantom(0), np.diag([1.0, 1.0, 5.0, 1.0]))
    transform = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(original.affine), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(original.as_reoriented(transform), tmp_path / "turned.nii")
    expected = torch.from_numpy(np.moveaxis(phantom(0), 2, 0).astype(np.float32))
    assert torch.equal(read_volume(tmp_path / "turned.nii"), expected)


def test_volumes_are_normalised_and_degraded_once(site, task):
    volumes = load_volumes(site, task)
    assert [v.split for v in volumes] == ["train", "val", "test"]
    for volume in volumes:
        assert torch.allclose(volume.lr, degrade(volume.hr, 2), atol=1e-5)
        assert 0.8 < volume.hr.quantile(0.999) < 1.3
        raw = read_volume(site / volume.name)
        assert torch.allclose(volume.hr * volume.intensity, raw, rtol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: first_image(s).unlink(), "does not exist"),
        (lambda s: first_image(s).write_bytes(first_image(s).read_bytes()[:2000]), "cannot be read"),
        (lambda s: first_image(s).write_bytes(b"not an image"), "cannot be read"),
        (lambda s: replace_image(s, np.full((40, 40, 3), np.nan, np.float32)), "NaN or infinite"),
        (lambda s: replace_image(s, np.full((40, 40, 3), 7, np.int16)), "constant"),
        (lambda s: replace_image(s, phantom(0, (10, 10, 3))), "at least 16"),
        (lambda s: replace_image(s, phantom(0, (20, 20, 3))), "too small for patch_size 12"),
        (lambda s: replace_image(s, np.stack([phantom(0)] * 2, -1)), "3-D volume is needed"),
    ],
)
def test_an_unusable_volume_is_refused_by_name(site, task, spoil, message):
    spoil(site)
    with pytest.raises(DataError, match=message) as error:
        load_volumes(site, task)
    assert first_image(site).name in str(error.value)


def test_a_stated_shape_is_checked(site, task):
    datalist = read_datalist(site)
    datalist["volumes"][0]["shape"] = [48, 45, 6]
    (site / "datalist.json").write_text(json.dumps(datalist))
    with pytest.raises(DataError, match=r"shape \[48, 45, 5\], the datalist says \[48, 45, 6\]"):
        load_volumes(site, task)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "no volumes"),
        ('{"volumes": [{"image": "a.nii"}]}', "has no 'patient'"),
        ('{"volumes": [{"image": "a", "patient": "p", "contrast": "T1w", "split": "hold"}]}', "split 'hold'"),
    ],
)
def test_a_malformed_datalist_is_refused(site, content, message):
    (site / "datalist.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_datalist(site)


def test_a_missing_split_is_refused(site, task):
    datalist = read_datalist(site)
    datalist["volumes"] = datalist["volumes"][:2]
    (site / "datalist.json").write_text(json.dumps(datalist))
    with pytest.raises(DataError, match="no volume of split 'test'"):
        load_volumes(site, task)


class TestDataRoot:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")

    def test_the_variable_wins_over_the_file_and_the_default(self, tmp_path, monkeypatch):
        for name in ("variable", "file", "work/data"):
            write_site(tmp_path / name, "site-1", seed=1)
        local = tmp_path / "local"
        local.mkdir()
        assert find_site_folder("site-1", local) == tmp_path / "work" / "data" / "site-1"
        (local / DATA_ROOT_FILE).write_text(f"{tmp_path / 'file'}\n")
        assert find_site_folder("site-1", local) == tmp_path / "file" / "site-1"
        monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "variable"))
        assert find_site_folder("site-1", local) == tmp_path / "variable" / "site-1"

    def test_data_beside_the_workspace_is_found(self, tmp_path):
        write_site(tmp_path / "data", "site-1", seed=1)
        assert find_site_folder("site-1", near=(tmp_path,)) == tmp_path / "data" / "site-1"

    def test_the_message_says_how_to_name_the_data_root_and_no_path_of_the_site(self, tmp_path):
        with pytest.raises(DataError) as error:
            find_site_folder("site-9", near=(tmp_path,))
        for text in ("site-9/datalist.json", "data/ where the command was typed", DATA_ROOT_VARIABLE, DATA_ROOT_FILE):
            assert text in str(error.value)
        assert str(tmp_path) not in str(error.value)

    def test_a_wrong_variable_is_not_passed_over(self, tmp_path, monkeypatch):
        write_site(tmp_path / "work" / "data", "site-1", seed=1)
        monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "wrong"))
        with pytest.raises(DataError, match="that environment variable FEDMR_DATA_ROOT names"):
            find_site_folder("site-1")


def test_sites_are_listed_by_number(tmp_path):
    for number in (10, 2, 1):
        write_site(tmp_path, f"site-{number}", seed=number)
    assert [f.name for f in site_folders(tmp_path)] == ["site-1", "site-2", "site-10"]
    assert site_folders(tmp_path / "site-2") == [tmp_path / "site-2"]
    with pytest.raises(DataError, match="holds no site"):
        site_folders(tmp_path / "nothing")


def smooth_volumes(task):
    """Volumes of two sizes whose LR partner interpolates back well, so that misalignment shows."""
    from fedmr.tasks.patches import Volume

    volumes = []
    for number, (height, width) in enumerate([(60, 72), (84, 60)]):
        y, x = torch.arange(height)[:, None] * 2 * torch.pi / height, torch.arange(width) * 2 * torch.pi / width
        hr = 2 + torch.sin(2 * y + number) * torch.cos(x) + 0.5 * torch.sin(2 * x + y)
        hr = (hr / hr.max())[None].expand(3, -1, -1)
        lr = degrade(hr, task.scale, task.degradation)
        volumes.append(Volume("v", "p", "T1w", "train", hr, lr, 1.0))
    return volumes


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("degradation", ["truncation", "bicubic"])
@pytest.mark.parametrize("flip", range(8))
def test_flipped_and_turned_patches_stay_on_the_grid(scale, degradation, flip):
    grid = {"truncation": "pixel0", "bicubic": "half"}[degradation]
    network = {"name": "mscan", "scale": scale, "grid": grid}
    task = SuperResolutionTask(network=network, degradation=degradation, patch_size=9, batch_size=8)
    sampler = PatchSampler(smooth_volumes(task), task)
    flips = torch.tensor([[flip & 1], [flip >> 1 & 1], [flip >> 2 & 1]]).bool().expand(3, 8)
    generator = torch.Generator().manual_seed(flip)
    chosen = torch.randint(0, sampler.n_slices, (8,), generator=generator)
    lr, hr = sampler.gather(chosen, torch.rand(8, generator=generator, dtype=torch.float64), flips)
    inner = slice(3 * scale, -3 * scale)
    aligned = (interpolate(lr, scale, grid) - hr)[..., inner, inner].abs().mean()
    for shift in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        shifted = hr.roll(shift, dims=(-2, -1))
        assert aligned < 0.5 * (interpolate(lr, scale, grid) - shifted)[..., inner, inner].abs().mean()


def test_unflipped_patches_are_cut_from_the_volume(task):
    volumes = smooth_volumes(task)
    sampler = PatchSampler(volumes, task)
    lr, hr = sampler.gather(torch.tensor([0]), torch.tensor([0.0], dtype=torch.float64), torch.zeros(3, 1).bool())
    p = task.patch_size
    assert torch.equal(lr[0, 0], volumes[0].lr[0, 1 : 1 + p, 1 : 1 + p])
    assert torch.equal(hr[0, 0], volumes[0].hr[0, 2 : 2 + 2 * p, 2 : 2 + 2 * p])


def test_an_epoch_visits_every_slice_equally_and_repeats_with_its_number(site, task):
    sampler = PatchSampler([v for v in load_volumes(site, task) if v.split == "train"], task)
    seen = []
    original = sampler.gather
    sampler.gather = lambda chosen, where, flips: seen.append(chosen) or original(chosen, where, flips)
    batches = list(sampler.epoch(3))
    assert len(batches) == sampler.steps_per_epoch
    assert torch.cat(seen).bincount().tolist() == [task.patches_per_slice] * sampler.n_slices
    again, other = list(sampler.epoch(3)), list(sampler.epoch(4))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(batches, again, strict=True))
    assert not torch.equal(batches[0][0], other[0][0])


def test_background_is_left_out(task):
    volumes = smooth_volumes(task)
    empty = torch.zeros_like(volumes[0].hr[:1])
    hr = torch.cat([volumes[0].hr[:1], empty])
    hr[0, :, 25:] = 0
    from fedmr.tasks.patches import Volume

    sampler = PatchSampler([Volume("v", "p", "T1w", "train", hr, degrade(hr, 2), 1.0)], task)
    assert sampler.n_slices == 1
    where = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    lr, _ = sampler.gather(torch.zeros(50, dtype=torch.long), where, torch.zeros(3, 50).bool())
    assert ((lr > 0.05).float().mean(dim=(1, 2, 3)) >= 0.2).all()
    with pytest.raises(DataError, match="foreground"):
        PatchSampler([Volume("v", "p", "T1w", "train", empty, degrade(empty, 2), 1.0)], task)


def test_zero_filling_matches_the_grid_of_loaded_volumes(site, task):
    volume = load_volumes(site, task, ("test",))[0]
    size = tuple(volume.hr.shape[1:])
    right = (zero_filled(volume.lr, 2, size) - volume.hr).square().mean()
    wrong = (zero_filled(volume.lr, 2, size, "half") - volume.hr).square().mean()
    assert right < wrong
