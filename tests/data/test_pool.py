import json
import shutil

import pytest
import torch

from fedmr.data.datalist import site_folders
from fedmr.data.pool import pool
from fedmr.tasks import reconstruction
from fedmr.tasks.patches import load_volumes
from fedmr.utils.errors import DataError
from kspace_site import change_datalist, make_task, write_kspace_site
from phantoms import write_site

SITES = ("site-1", "site-2", "site-10")


@pytest.fixture
def data(tmp_path):
    for number, site in enumerate(SITES, start=1):
        write_site(tmp_path / "data", site, seed=number, shape=(40, 40, 2 + number))
    return tmp_path / "data"


def test_the_pooled_site_holds_the_volumes_of_all_in_the_order_of_the_sites(data, task, tmp_path):
    folder = pool(data, tmp_path / "runs" / "pooled").parent
    assert folder == tmp_path / "runs" / "pooled" / "pooled"
    pooled = load_volumes(folder, task)
    apart = [volume for site in site_folders(data) for volume in load_volumes(site, task)]
    assert len(pooled) == 9
    for one, other in zip(pooled, apart, strict=True):
        assert torch.equal(one.hr, other.hr)
        assert torch.equal(one.lr, other.lr)
        assert one.split == other.split
    assert len({volume.patient for volume in pooled}) == 9, "patients of different sites are different"


def test_the_folders_may_be_given_relative_and_move_together(data, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pool(data.relative_to(tmp_path), data.parent.relative_to(tmp_path) / "p", site="site-1").parent
    expected = load_volumes(folder, task)
    monkeypatch.chdir("/")
    (tmp_path / "elsewhere").mkdir()
    for name in ("data", "p"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    moved = load_volumes(tmp_path / "elsewhere" / "p" / "site-1", task)
    assert all(torch.equal(a.hr, b.hr) for a, b in zip(expected, moved, strict=True))


def test_some_sites_can_be_pooled(data, tmp_path):
    volumes = json.loads(pool(data, tmp_path / "p", sites=("site-10", "site-2")).read_text())["volumes"]
    assert {entry["patient"].split("/")[0] for entry in volumes} == {"site-2", "site-10"}
    with pytest.raises(DataError, match="no site site-3"):
        pool(data, tmp_path / "p", sites=("site-3",))


def test_images_are_shared_only_if_every_site_shares_them(data, tmp_path):
    assert json.loads(pool(data, tmp_path / "p").read_text())["share_images"] is True
    path = data / "site-2" / "datalist.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"share_images": False}))
    assert json.loads(pool(data, tmp_path / "p").read_text())["share_images"] is False


def test_the_data_root_itself_is_refused(data):
    with pytest.raises(ValueError, match="one more"):
        pool(data, data / "site-1" / "..")
    assert not (data / "pooled").exists()


def test_raw_kspace_and_the_masks_of_the_sites_come_along(tmp_path):
    """A pooled volume is measured as it is at its site: by the same raw k-space, under the same mask."""
    data, task = tmp_path / "data", make_task()
    change_datalist(write_kspace_site(data, "site-1"), mask={"acceleration": 2})
    write_kspace_site(data, "site-2")
    write_site(data, "site-3", seed=3, shape=(48, 40, 4))
    change_datalist(data / "site-3", mask={"center_fraction": 0.2})
    pooled = reconstruction.load_volumes(pool(data, tmp_path / "pooled").parent, task)
    apart = [volume for site in site_folders(data) for volume in reconstruction.load_volumes(site, task)]
    assert [v.mask for v in pooled] == [v.mask for v in apart]
    assert len({v.mask for v in pooled}) == 3
    for one, other in zip(pooled, apart, strict=True):
        assert torch.equal(one.reference, other.reference)
        assert torch.equal(one.kspace(0, 2), other.kspace(0, 2))
        assert (one.raw is None) == (other.raw is None)


@pytest.mark.parametrize("mask", ["random", {"acceleration": 0}, {"kind": "none"}, 4])
def test_a_volume_with_a_wrong_mask_is_an_error_that_names_the_datalist(tmp_path, mask):
    folder = write_kspace_site(tmp_path / "data", "site-1")
    volumes = json.loads((folder / "datalist.json").read_text())["volumes"]
    change_datalist(folder, volumes=[{**entry, "mask": mask} for entry in volumes])
    with pytest.raises(DataError, match=r"datalist\.json"):
        reconstruction.load_volumes(folder, make_task())
