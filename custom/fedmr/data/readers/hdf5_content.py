"""Allowed contents of a scan's HDF5 file: data of its own, in kinds and sizes that go with its k-space."""

from pathlib import Path

import h5py

from fedmr.utils.errors import DataError

_COMPANIONS = ("mask", "reconstruction_rss", "reconstruction_esc", "ismrmrd_header")
_LONGEST_HEADER = 2**24  # bytes; fastMRI's have some ten thousand
_REMEDY = "Leave out this file, or copy the data themselves into it"


def check_own(handle: h5py.File, path: Path) -> None:
    """Refuse a file whose data lie in other files, before any of them is opened.

    HDF5 follows links and external storage to wherever the file says, also out of the folder that a site gave.

    Raises:
        DataError: naming the entry.
    """
    for name in ("kspace", *_COMPANIONS, "dataset", "dataset/data", "dataset/xml"):
        if "/" in name and not isinstance(handle.get("dataset"), h5py.Group):
            continue
        link = handle.get(name, getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise DataError(f"{path}: {name} is a link to elsewhere, which is not followed. {_REMEDY}")
        dataset = handle[name] if link is not None else None
        if isinstance(dataset, h5py.Dataset) and (dataset.external or dataset.is_virtual):
            raise DataError(f"{path}: {name} is stored in another file, which is not read. {_REMEDY}")


def check_companions(handle: h5py.File, path: Path) -> None:
    """Refuse entries, apart from the k-space, of another kind or far larger than goes with it, before reading them.

    Raises:
        DataError: naming the entry.
    """
    shape = handle["kspace"].shape
    largest = {"mask": shape[-1], "ismrmrd_header": 1}
    for name in _COMPANIONS:
        if name not in handle:
            continue
        dataset = handle[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise DataError(f"{path}: {name} is no dataset. {_REMEDY}")
        kinds = "SO" if name == "ismrmrd_header" else "biuf"
        if dataset.dtype.kind not in kinds:
            raise DataError(f"{path}: {name} is of type {dataset.dtype}, which it cannot be. {_REMEDY}")
        if (
            dataset.size > largest.get(name, shape[0] * shape[-2] * shape[-1])
            or dataset.dtype.itemsize > _LONGEST_HEADER
        ):
            raise DataError(f"{path}: {name} has shape {dataset.shape}, too much for k-space of {shape}. {_REMEDY}")
