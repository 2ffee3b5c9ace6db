"""HDF5 files that reach out of their folder, or hold what nobody can read, are left out by name and nothing else is."""

import h5py
import numpy as np
import pytest

from fedmr.data.readers import Scan, fastmri
from fedmr.utils.errors import DataError

KSPACE = np.ones((2, 1, 32, 32), np.complex64)


def external_link(handle, secret):
    handle["kspace"] = h5py.ExternalLink(str(secret), "kspace")


def soft_link(handle, secret):
    handle["elsewhere"] = h5py.ExternalLink(str(secret), "/")
    handle["kspace"] = h5py.SoftLink("/elsewhere/kspace")


def external_storage(handle, secret):
    handle.create_dataset("kspace", shape=KSPACE.shape, dtype=KSPACE.dtype, external=[(str(secret), 0, KSPACE.nbytes)])


def virtual(handle, secret):
    layout = h5py.VirtualLayout(KSPACE.shape, KSPACE.dtype)
    layout[...] = h5py.VirtualSource(str(secret), "kspace", KSPACE.shape)
    handle.create_virtual_dataset("kspace", layout)


def linked_header(handle, secret):
    handle["kspace"] = KSPACE
    handle["ismrmrd_header"] = h5py.ExternalLink(str(secret), "kspace")


def beside(name, **arguments):
    """K-space in order, and a dataset of this name."""

    def make(handle, secret):
        handle["kspace"] = KSPACE
        handle.create_dataset(name, **arguments)

    return make


def group(name):
    def make(handle, secret):
        handle["kspace"] = KSPACE
        handle.create_group(name)

    return make


OUTSIDE = {make.__name__: make for make in (external_link, soft_link, external_storage, virtual, linked_header)}
ODD = {
    "a mask of 10 TB": beside("mask", shape=(10**13,), dtype="u1", chunks=(10**6,)),
    "a reconstruction of 40 TB": beside("reconstruction_rss", shape=(10**5, 10**4, 10**4), dtype="f4", chunks=True),
    "many headers": beside("ismrmrd_header", shape=(10**12,), dtype="S100", chunks=(1000,)),
    "a header of numbers": beside("ismrmrd_header", data=np.zeros(5)),
    "a mask of text": beside("mask", data=np.array([b"x"] * 32)),
    "a compound mask": beside("mask", shape=(32,), dtype=[("a", "f4"), ("b", "i4")]),
    "an empty mask": beside("mask", data=h5py.Empty("f4")),
} | {f"a group {name}": group(name) for name in ("mask", "ismrmrd_header", "reconstruction_rss")}


@pytest.fixture
def folder(tmp_path):
    """A folder with one scan in order, and a function that adds one that is not."""
    inside, outside = tmp_path / "share", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    with h5py.File(outside / "secret.h5", "w") as handle:
        handle["kspace"] = KSPACE
    with h5py.File(inside / "good.h5", "w") as handle:
        handle["kspace"] = KSPACE

    def add(make):
        with h5py.File(inside / "bad.h5", "w") as handle:
            make(handle, outside / "secret.h5")
        return inside

    return add


@pytest.mark.parametrize("make", [*OUTSIDE.values(), *ODD.values()], ids=[*OUTSIDE, *ODD])
def test_one_bad_file_is_named_and_the_others_are_read(make, folder):
    inside = folder(make)
    found = fastmri.find(sorted(inside.iterdir()), inside)
    assert [scan.files[0].name for scan in found.scans] == ["good.h5"]
    (problem,) = found.problems
    assert "bad.h5" in problem
    assert fastmri.read(found.scans[0]).kspace.shape == KSPACE.shape
    with pytest.raises(DataError, match="bad"):
        fastmri.read(Scan((inside / "bad.h5",), "p", "T1w"))


def test_a_header_of_bytes_or_text_and_a_full_mask_are_in_order(folder):
    for number, header in enumerate((np.bytes_(b"<h/>"), "<h/>", b"<h/>")):

        def make(handle, secret, header=header):
            handle["kspace"] = KSPACE
            handle["ismrmrd_header"] = header
            handle["mask"] = np.ones(32, np.float32)
            handle["reconstruction_rss"] = np.ones((2, 32, 32), np.float32)

        inside = folder(make)
        assert len(fastmri.find(sorted(inside.iterdir()), inside).scans) == 2, number
