"""Raw k-space in fastMRI's layout, written by h5py."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmri_files import header, kspace_of, write
from fedmr.data.images import canonical, check
from fedmr.data.readers import fastmri
from fedmr.physics.degradation import fft2c, ifft2c
from fedmr.utils.errors import DataError

SAMPLE = Path(__file__).parents[3] / "../shared/data/kspace/brain_8coil_cartesian.npy"
ATTRIBUTES = {"acquisition": "AXT2", "patient_id": "0beb8905d9b7fad304389b9d4263c57d5b069257bea0fdc8b1a6c13d2b3b8f60"}


def pictures_of(kspace, crop):
    """(S, h, w): what fastMRI stores as reconstruction, by the package's own FFT."""
    images = ifft2c(torch.from_numpy(kspace)).abs().square().sum(1).sqrt().numpy()
    top, left = ((n - c) // 2 for n, c in zip(images.shape[1:], crop, strict=True))
    return images[:, top : top + crop[0], left : left + crop[1]]


def complete(kspace=None, crop=(32, 30), **changed):
    """Datasets of a complete multi-coil file."""
    kspace = kspace_of() if kspace is None else kspace
    found = {"kspace": kspace, "ismrmrd_header": header(kspace.shape[-2:], crop)}
    return found | {"reconstruction_rss": pictures_of(kspace, crop)} | changed


def read(path):
    found = fastmri.find([path], path.parent)
    assert found.problems == []
    return fastmri.read(found.scans[0])


def test_a_multi_coil_file_gives_the_stored_reconstruction_and_its_kspace(tmp_path):
    datasets = complete()
    image = read(write(tmp_path / "file1.h5", datasets, **ATTRIBUTES))
    assert (image.voxels.shape, image.voxels.dtype) == ((30, 32, 3), np.float32)
    assert np.allclose(image.voxels.transpose(2, 1, 0), datasets["reconstruction_rss"], rtol=1e-4, atol=1e-3)
    assert np.array_equal(image.kspace, datasets["kspace"])
    assert image.kspace.dtype == np.complex64
    assert (image.spacing, image.slice_axis, image.notes) == ((1.0, 1.0, 5.0), 2, ())
    assert check(image, "image") == []


def test_a_single_coil_file_has_one_coil_and_is_compared_with_its_own_reconstruction(tmp_path):
    kspace = kspace_of(coils=1)
    others = {"reconstruction_esc": pictures_of(kspace, (32, 30)), "reconstruction_rss": np.ones((3, 32, 30))}
    image = read(write(tmp_path / "file1.h5", complete(kspace) | others | {"kspace": kspace[:, 0]}, **ATTRIBUTES))
    assert np.array_equal(image.kspace, kspace)
    assert np.allclose(image.voxels.transpose(2, 1, 0), others["reconstruction_esc"], rtol=1e-4, atol=1e-3)
    assert image.notes == ()


@settings(max_examples=15, deadline=None)
@given(st.integers(16, 41), st.integers(16, 41), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_odd_and_even_sizes_agree_with_the_package_s_fft(tmp_path_factory, height, width, slices, coils, cropped):
    kspace = np.random.default_rng(height).normal(size=(2, slices, coils, height, width)).astype(np.float32)
    kspace = kspace[0] + 1j * kspace[1]
    crop = (height - 3, width - 2) if cropped else (height, width)
    path = tmp_path_factory.mktemp("size") / "a.h5"
    image = read(write(path, {"kspace": kspace, "ismrmrd_header": header((height, width), crop)}, **ATTRIBUTES))
    assert np.allclose(image.voxels.transpose(2, 1, 0), pictures_of(kspace, crop), rtol=1e-4, atol=1e-5)
    assert image.voxels.shape == (crop[1], crop[0], slices)


def test_rows_run_upwards_so_that_the_usual_display_is_upright(tmp_path):
    images = np.random.default_rng(0).normal(0, 0.1, (1, 1, 64, 40)).astype(np.complex64)
    images[0, 0, 10:14, 5:9] = 100  # near the first row and column
    kspace = fft2c(torch.from_numpy(images)).numpy()
    image = canonical(read(write(tmp_path / "a.h5", {"kspace": kspace}, **ATTRIBUTES)))
    x, y, _ = np.argwhere(image.voxels > 50).mean(axis=0)
    assert (x, y) == (6.5, 11.5)
    shown = np.rot90(image.voxels[:, :, 0])  # as `report.draw` shows it
    assert np.argwhere(shown > 50).mean(axis=0).tolist() == [64 - 1 - 11.5, 6.5]


def test_the_voxel_size_follows_kspace_where_the_scanner_interpolates(tmp_path):
    kspace = kspace_of(size=(64, 40))
    # the scanner shows 128 x 128 pixels of 0.5 mm; k-space holds 64 x 40 of 1 mm
    datasets = {"kspace": kspace, "ismrmrd_header": header((64, 40), (128, 128), thickness=3)}
    image = read(write(tmp_path / "a.h5", datasets, **ATTRIBUTES))
    assert image.voxels.shape == (40, 64, 3)
    assert image.spacing == (1.0, 1.0, 3.0)


def test_pixels_need_not_be_square(tmp_path):
    text = header((64, 40), (32, 30)).replace(b"<y>40.0</y>", b"<y>80</y>")
    image = read(write(tmp_path / "a.h5", {"kspace": kspace_of(), "ismrmrd_header": text}, **ATTRIBUTES))
    assert image.spacing == (2.0, 1.0, 5.0)


def test_without_a_header_the_voxel_size_is_unknown_and_slices_stay_slices(tmp_path):
    image = read(write(tmp_path / "a.h5", {"kspace": kspace_of()}, **ATTRIBUTES))
    assert image.voxels.shape == (40, 64, 3)
    assert image.spacing[:2] == (1.0, 1.0)
    assert image.spacing[2] > 1
    assert canonical(image).slice_axis == 2
    assert any("voxel size is not known" in note for note in image.notes)


@pytest.mark.parametrize(
    "text", [header(thickness=0.5), header(pixel=0), header().replace(b"reconSpace", b"space"), header(pixel=np.nan)]
)
def test_a_header_that_makes_no_sense_counts_as_none(tmp_path, text):
    image = read(write(tmp_path / "a.h5", {"kspace": kspace_of(), "ismrmrd_header": text}, **ATTRIBUTES))
    assert any("voxel size is not known" in note for note in image.notes)


def test_a_single_slice_is_fine(tmp_path):
    image = read(write(tmp_path / "a.h5", complete(kspace_of(slices=1)), **ATTRIBUTES))
    assert image.voxels.shape == (30, 32, 1)
    assert check(image, "image") == []


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda stored: 1.01 * stored, r"differs by 1\.0%"),
        (lambda stored: stored[:2], r"has shape \(2, 32, 30\), but k-space gives \(3, 32, 30\)"),
        (lambda stored: np.nan * stored, "differs by nan%"),
        (lambda stored: stored[0], r"has shape \(32, 30\)"),
    ],
)
def test_another_reconstruction_than_that_of_the_kspace_is_remarked(tmp_path, change, note):
    datasets = complete()
    datasets["reconstruction_rss"] = change(datasets["reconstruction_rss"])
    image = read(write(tmp_path / "a.h5", datasets, **ATTRIBUTES))
    (said,) = image.notes
    assert re.search(f"its reconstruction_rss {note}", said)


@pytest.mark.parametrize(
    ("acquisition", "contrast"),
    [
        ("AXT2", "T2w"),
        ("AXFLAIR", "FLAIR"),
        ("AXT1", "T1w"),
        ("AXT1PRE", "T1w"),
        ("AXT1POST", "T1ce"),
        ("CORPD_FBK", "PDw"),
        ("CORPDFS_FBK", "PDw"),
        (b"AXT2", "T2w"),
        ("Jane Doe", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_contrast_is_that_of_the_acquisition(tmp_path, acquisition, contrast):
    attributes = {} if acquisition is None else {"acquisition": acquisition}
    path = write(tmp_path / "file1000277.h5", {"kspace": kspace_of(slices=1)}, **attributes)
    (scan,) = fastmri.find([path], tmp_path).scans
    assert (scan.contrast, scan.patient) == (contrast, "file1000277")
    assert any("patient_id" in note for note in fastmri.read(scan).notes)


def test_files_of_one_patient_belong_together_and_other_files_are_passed_over(tmp_path):
    for name in ("b.h5", "a.hdf5"):
        write(tmp_path / name, {"kspace": kspace_of(slices=1)}, **ATTRIBUTES)
    (tmp_path / "notes.txt").write_text("")
    found = fastmri.find(list(tmp_path.iterdir()), tmp_path)
    assert [scan.files[0].name for scan in found.scans] == ["a.hdf5", "b.h5"]
    assert {scan.patient for scan in found.scans} == {ATTRIBUTES["patient_id"]}


# ---- what counts as fully sampled


def _columns(keep):
    mask = np.zeros(40, bool)
    mask[keep] = True
    return mask & np.ones((64, 40), bool)


def _random(share):
    mask = np.random.default_rng(0).random(40) < share
    mask[17:23] = True
    return mask & np.ones((64, 40), bool)


def _ellipse():
    y, x = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 40), indexing="ij")
    return x**2 + y**2 <= 1


def _points(share):
    return np.random.default_rng(0).random((64, 40)) < share


FULL = {
    "all": np.ones((64, 40), bool),
    "zero padding": _columns(np.r_[3:36]),
    "partial Fourier": _columns(np.r_[0:25]),
    "partial echo": _columns(np.r_[0:40]) & (np.arange(64) > 20)[:, None],
    "ellipse": _ellipse(),
    "a zero here and there": _points(0.995),
}
UNDER = {
    "every fourth column": _columns(np.r_[0:40:4, 17:23]),
    "every second column": _columns(np.r_[0:40:2]),
    "random columns": _random(0.3),
    "two columns lost": _columns(np.r_[0:10, 11:30, 31:40]),
    "every fourth row": np.ones((64, 40), bool) & (np.arange(64) % 4 == 0)[:, None],
    "random points": _points(0.5),
    "the centre only": _columns(np.r_[16:26]),
    "random points of an ellipse": _ellipse() & _points(0.9),
}


@pytest.mark.parametrize("mask", FULL.values(), ids=FULL)
def test_edges_without_data_are_no_under_sampling(tmp_path, mask):
    path = write(tmp_path / "a.h5", {"kspace": kspace_of() * mask}, **ATTRIBUTES)
    assert read(path).voxels.shape == (40, 64, 3)


@pytest.mark.parametrize("mask", UNDER.values(), ids=UNDER)
def test_under_sampling_is_seen_without_a_mask_even_in_one_slice(tmp_path, mask):
    kspace = kspace_of()
    kspace[1] *= mask
    path = write(tmp_path / "a.h5", {"kspace": kspace}, **ATTRIBUTES)
    note = next(note for note in read(path).notes if "sampled" in note)
    assert "the k-space of 1 of its 3 slices is under-sampled (slice 1: " in note
    assert "Give fully sampled data" in note


def test_a_mask_that_keeps_everything_is_no_under_sampling(tmp_path):
    assert read(write(tmp_path / "a.h5", complete(mask=np.ones(40)), **ATTRIBUTES)).notes == ()


# ---- errors


def _not_hdf5(path):
    path.write_text("kspace")


def _truncated(path):
    write(path, complete())
    path.write_bytes(path.read_bytes()[:-2000])


def _huge(path):
    with h5py.File(path, "w") as handle:  # takes no space until it is written
        handle.create_dataset("kspace", (10_000, 20, 640, 320), "c8", chunks=(1, 1, 64, 32))


def _datasets(**datasets):
    return lambda path: write(path, datasets, **ATTRIBUTES)


def _group(path):
    with h5py.File(path, "w") as handle:
        handle.create_group("kspace")


LAYOUT = {
    "no HDF5": (_not_hdf5, "is no HDF5 file; it is truncated or of another kind. Copy it again"),
    "empty": (Path.touch, "is no HDF5 file"),
    "truncated": (_truncated, r"cannot be read \(.*truncated"),
    "images only": (_datasets(reconstruction_rss=np.ones((2, 8, 8))), "has no dataset kspace, only reconstruction_rss"),
    "another file": (_datasets(), "has no dataset kspace, only nothing"),
    "a group": (_group, "has no dataset kspace, only kspace"),
    "real numbers": (_datasets(kspace=np.ones((2, 64, 40, 2), np.float32)), "kspace is float32, not complex"),
    "2-D": (_datasets(kspace=np.ones((64, 40), np.complex64)), r"kspace has shape \(64, 40\); \(slices, coils"),
    "5-D": (_datasets(kspace=np.ones((1, 1, 1, 64, 40), np.complex64)), r"kspace has shape \(1, 1, 1, 64, 40\)"),
    "no slice": (_datasets(kspace=np.ones((0, 2, 64, 40), np.complex64)), r"kspace has shape \(0, 2, 64, 40\)"),
    "test file": (
        _datasets(kspace=np.ones((1, 2, 64, 40), np.complex64), mask=np.arange(40) % 4 == 0),
        "is under-sampled: it has a mask, as fastMRI's test files do. Give fully sampled data",
    ),
    "huge": (_huge, "305 GiB, too much for this machine's memory. Split it by slices"),
}


@pytest.mark.parametrize(("make", "message"), LAYOUT.values(), ids=LAYOUT)
def test_another_layout_is_a_problem_when_found_and_an_error_when_read(tmp_path, make, message):
    path = tmp_path / "file1.h5"
    make(path)
    found = fastmri.find([path], tmp_path)
    assert found.scans == []
    (problem,) = found.problems
    with pytest.raises(DataError, match=message) as error:
        fastmri.read(fastmri.Scan((path,), "1", "T1w"))
    assert str(error.value) == problem
    assert str(path) in problem


def _one_value(value):
    kspace = kspace_of()
    kspace[2, 1, 30, 20] = value
    return {"kspace": kspace}


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        (_one_value(np.nan), "slice 2, holds values that are NaN or infinite"),
        (_one_value(np.inf * 1j), "slice 2, holds values that are NaN or infinite"),
        ({"kspace": kspace_of(), "ismrmrd_header": b"<a><b></a>"}, "its ismrmrd_header is no XML"),
    ],
)
def test_damaged_contents_are_an_error(tmp_path, datasets, message):
    path = write(tmp_path / "a.h5", datasets, **ATTRIBUTES)
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_file_that_went_away_is_an_error(tmp_path):
    path = write(tmp_path / "a.h5", {"kspace": kspace_of(slices=1)}, **ATTRIBUTES)
    (scan,) = fastmri.find([path], tmp_path).scans
    path.unlink()
    with pytest.raises(DataError, match=r"a\.h5 cannot be read"):
        fastmri.read(scan)


# ---- a real scan


@pytest.fixture(scope="module")
def brain():
    """(1, 8, 230, 180) k-space of a brain, anterior at the last rows."""
    if not SAMPLE.is_file():
        pytest.skip(f"{SAMPLE} is not there")
    return np.load(SAMPLE)[None]


def test_a_real_multi_coil_slice_reconstructs_to_the_brain_it_shows(tmp_path, brain):
    image = read(write(tmp_path / "brain.h5", {"kspace": brain}, **ATTRIBUTES))
    expected = ifft2c(torch.from_numpy(brain)).abs().square().sum(1).sqrt().numpy()
    assert image.voxels.shape == (180, 230, 1)
    assert np.allclose(image.voxels.transpose(2, 1, 0), expected, atol=1e-5 * expected.max())
    assert np.array_equal(image.kspace, brain)
    # a bright rim of fat around the brain, a dark one of bone between, air outside
    row = image.voxels[:, 115, 0]
    scalp, bone, inside, air = row[15:30].max(), row[22:35].min(), np.median(row[40:140]), row[:10].mean()
    assert scalp > inside > 2 * bone
    assert inside > 5 * air


def test_a_poisson_disc_scan_is_remarked(tmp_path, brain):
    # every column and every row but the first holds some points
    notes = read(write(tmp_path / "brain.h5", {"kspace": brain}, **ATTRIBUTES)).notes
    assert re.search(r"slice 0: 8\d% of the points between measured ones are zero", " ".join(notes))
