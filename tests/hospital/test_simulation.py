"""Simulated hospitals: signal equations, scanner effects, reproducibility, files."""

import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedmr.hospital import simulation as demo


@pytest.fixture(scope="module")
def anatomy():
    return demo.load_anatomy()


def tiny(k):
    """Protocol k with few, large voxels."""
    return replace(demo.protocol(k), matrix=(61, 70), voxel=3.2, slices=2)


@pytest.fixture
def folder(tmp_path, anatomy, monkeypatch):
    """An empty place for files; what is written there is scanned with the tiny protocol."""
    small = {k: tiny(k) for k in range(1, 6)}
    monkeypatch.setattr(demo, "load_anatomy", lambda: anatomy)
    monkeypatch.setattr(demo, "protocol", small.__getitem__)
    return tmp_path / "data"


def test_signal_equations_by_hand():
    # (1 - 1/e) exp(-1/2), and 1 - 2/e + 1/e^2 = (1 - 1/e)^2 for TR = 2 TI = 2 T1
    spin = demo.spin_echo(pd=2.0, t1=500, t2=80, tr=500, te=40)
    assert spin == pytest.approx(2 * 0.6321206 * 0.6065307, rel=1e-6)
    inverted = demo.inversion_recovery(pd=1.0, t1=1000, t2=100, tr=2000, te=0, ti=1000)
    assert inverted == pytest.approx(0.6321206**2, rel=1e-6)
    assert demo.inversion_recovery(pd=1.0, t1=1000, t2=100, tr=1e9, te=0, ti=1000 * math.log(2)) == pytest.approx(0)


@pytest.mark.parametrize("k", range(1, 17))
def test_contrast_is_the_clinical_one(k):
    site, level = demo.protocol(k), demo.signals(demo.protocol(k))
    white, grey, fluid = level["wm"], level["gm"], level["csf"]
    if site.contrast == "T1w":
        assert level["fat"] > white > grey > fluid > 0
    elif site.contrast == "T2w":
        assert fluid > grey > white
    elif site.contrast == "PDw":
        assert fluid >= grey > white
    else:
        assert grey > white > 0
        assert abs(fluid) < 0.15 * white


def test_protocols_are_clinical_and_differ():
    sites = [demo.protocol(k) for k in range(1, 41)]
    assert [s.contrast for s in sites[:5]] == ["T1w", "T2w", "PDw", "FLAIR", "T1w"]
    assert len({replace(s, name="") for s in sites}) == len(sites)
    assert any(n % 2 for s in sites[:4] for n in s.matrix)
    for s in sites:
        assert 0.9 <= s.voxel <= 1.2
        assert 4 <= s.thickness <= 6
        assert 20 <= s.slices <= 30
        assert all(165 <= n <= 270 for n in s.matrix)
        assert 0.003 <= s.noise <= 0.01
    with pytest.raises(ValueError, match="0"):
        demo.protocol(0)


def test_volume_geometry_scale_and_determinism(anatomy):
    site = replace(tiny(1), thickness=5.0)
    volume, affine = demo.simulate_patient(anatomy, site, rng=np.random.default_rng(3))
    again, _ = demo.simulate_patient(anatomy, site, rng=np.random.default_rng(3))
    other, _ = demo.simulate_patient(anatomy, site, rng=np.random.default_rng(4))
    assert volume.dtype == np.float32
    assert volume.shape == (61, 70, 2)
    assert np.array_equal(volume, again)
    assert np.abs(volume - other).mean() > 0.02 * site.gain
    assert np.percentile(volume, 99.9) == pytest.approx(site.gain, rel=0.03)
    assert np.allclose(np.diag(affine), [3.2, 3.2, 5.0, 1.0])
    centre = affine @ [30, 34.5, 0.5, 1]  # the middle of the stack, which wanders along Z only
    assert np.allclose(centre[:2], [0, -17], atol=0.01)
    assert abs(centre[2] - 22) < 10


def test_background_is_rician(anatomy):
    site = replace(tiny(2), noise=0.01)
    volume, _ = demo.simulate_patient(anatomy, site, rng=np.random.default_rng(0))
    corners = volume[[*range(6), *range(55, 61)]][:, [*range(6), *range(64, 70)]]
    sigma = 0.01 * site.gain
    assert corners.mean() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.1)
    assert corners.std() == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.15)


@pytest.mark.parametrize("matrix", [(8, 6), (9, 7)])
def test_acquisition_keeps_positions_and_low_frequencies(matrix):
    n, m = matrix
    x, y = np.meshgrid(np.arange(2 * n) / 2, np.arange(2 * m) / 2, indexing="ij")
    fine = (3 + np.cos(2 * np.pi * 2 * x / n + 0.3) + np.sin(2 * np.pi * y / m))[None]
    fast = np.cos(2 * np.pi * (n - 1) * x / n)[None]  # beyond the acquired k-space
    image = demo._acquire((fine + fast).astype(np.float32), matrix)
    assert image.shape == (1, n, m)
    assert np.allclose(image, fine[:, ::2, ::2], atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_detail_beyond_half_resolution(anatomy, k):
    site = replace(demo.protocol(k), slices=1, noise=0.0)
    volume, _ = demo.simulate_patient(anatomy, site, rng=np.random.default_rng(k))
    plane = volume[:, :, 0]
    spectrum = np.fft.fftshift(np.fft.fft2(plane))
    low = np.zeros_like(spectrum)
    box = tuple(slice(n // 2 - n // 4, n // 2 - n // 4 + n // 2) for n in plane.shape)
    low[box] = spectrum[box]
    lost = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum - low)))
    psnr = 10 * np.log10(plane.max() ** 2 / np.mean(lost**2))
    assert 24 < psnr < 38  # without the central quarter of k-space, and without any noise
    assert (plane > 0.1 * plane.max()).mean() > 0.3  # there is a head


def test_more_sites_or_patients_change_nothing(folder):
    few = demo.make_hospitals(folder / "few", sites=1, patients=3, seed=5)
    many = demo.make_hospitals(folder / "many", sites=2, patients=4, seed=5)
    other = demo.make_hospitals(folder / "other", sites=1, patients=3, seed=6)
    scans = sorted(path.relative_to(few[0]) for path in few[0].rglob("*.nii.gz"))
    assert len(scans) == 3
    content = [(few[0] / scan).read_bytes() for scan in scans]
    assert content == [(many[0] / scan).read_bytes() for scan in scans]
    assert len({*content, *((other[0] / scan).read_bytes() for scan in scans)}) == 6
    assert [path.name for path in many] == ["site-1", "site-2"]


def test_files_and_datalist(folder):
    (folder / "site-1").mkdir(parents=True)
    (folder / "site-1" / "notes.txt").write_text("mine")
    (folder / "site-1" / "datalist.json").write_text('{"simulated": true}')
    said: list[str] = []
    (site,) = demo.make_hospitals(folder, sites=1, patients=3, progress=said.append)
    listed = json.loads((site / "datalist.json").read_text())
    assert (site / "notes.txt").read_text() == "mine"
    assert listed["site"] == "site-1"
    assert listed["share_images"] is True
    assert listed["volumes"][0] == {
        "image": "sub-001/anat/sub-001_T1w.nii.gz",
        "patient": "sub-001",
        "contrast": "T1w",
        "split": "train",
    }
    assert [v["split"] for v in listed["volumes"]] == ["train", "val", "test"]
    assert len(said) == 3
    for entry in listed["volumes"]:
        image = nib.load(site / entry["image"])
        assert image.get_data_dtype() == np.int16
        assert image.header.get_zooms() == pytest.approx((3.2, 3.2, 5.0))
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert 500 < np.asarray(image.dataobj).max() < 3000


@pytest.mark.parametrize("patients", [3, 4, 6, 9, 10, 15, 25, 100])
def test_split(patients):
    splits = [demo.split_of(p, patients) for p in range(1, patients + 1)]
    count = {name: splits.count(name) for name in ("train", "val", "test")}
    assert sum(count.values()) == patients
    assert splits == ["train"] * count["train"] + ["val"] * count["val"] + ["test"] * count["test"]
    assert min(count.values()) >= 1
    if patients < 10:
        assert (count["val"], count["test"]) == (1, 1)
    else:
        assert abs(count["val"] - 0.1 * patients) <= 1
        assert abs(count["test"] - 0.2 * patients) <= 1


@pytest.mark.parametrize(("wrong", "least"), [({"sites": 0}, 1), ({"patients": 2}, 3), ({"seed": -1}, 0)])
def test_wrong_numbers_are_named(tmp_path, wrong, least):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"{name}={value} .*use {least} or more"):
        demo.make_hospitals(tmp_path / "data", **wrong)
    assert not (tmp_path / "data").exists()


def test_out_may_not_be_a_file(tmp_path):
    path: Path = tmp_path / "data"
    path.write_text("something")
    with pytest.raises(FileExistsError, match="name another folder"):
        demo.make_hospitals(path)
    assert path.read_text() == "something"


def test_a_hospitals_own_datalist_is_never_overwritten(folder):
    (folder / "site-2").mkdir(parents=True)
    (folder / "site-2" / "datalist.json").write_text('{"site": "site-2", "volumes": []}')
    with pytest.raises(FileExistsError, match=r"site-2.datalist\.json is not of simulated data"):
        demo.make_hospitals(folder, sites=2, patients=3)
    assert not (folder / "site-1").exists()
