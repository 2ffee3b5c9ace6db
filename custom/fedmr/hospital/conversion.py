"""Scans to cached volumes, in several processes, going on where an interrupted run stopped."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedmr.data.acquired_grid import find_acquired_grid, to_acquired_grid
from fedmr.data.images import Image, canonical, check, check_anatomy, save_nifti
from fedmr.data.readers import Scan
from fedmr.data.readers.folder import VOLUMES, read_scan
from fedmr.hospital.pseudonyms import PrivateFolder
from fedmr.utils.errors import DataError
from fedmr.utils.files import write_atomically

Record = dict[str, Any]


def convert(
    scans: Mapping[str, Scan],
    folder: Path,
    private: PrivateFolder,
    *,
    layout: str,
    workers: int = 0,
    keep_grid: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Record | str], int]:
    """Read, check and cache scans.

    Args:
        scans: scans by the name that their volume gets.
        folder: site folder; the files go to its `volumes/`.
        private: its journal gets a record per volume as soon as that is written.
        layout: format of the scans.
        workers: processes; 0 for one per core.
        keep_grid: leave a scan on its stored grid, also where the acquired one is coarser.
        progress: receives the numbers of scans done and in all.

    Returns:
        per scan, in their order, its record or what is wrong with it; and the number of those done by an earlier run.

    Raises:
        OSError: a volume cannot be written.
        RuntimeError: a process died.
    """
    for passing in (folder / VOLUMES).glob(".*"):
        passing.unlink()  # an interrupted run was writing it
    prints = {name: _fingerprint(scan, keep_grid) for name, scan in scans.items()}
    earlier = {n: r for n, r in private.read().items() if r["print"] == prints.get(n) and _is_cached(r, folder)}
    private.rewrite(list(earlier.values()))
    results: dict[str, Record | str] = dict(earlier)
    progress(len(results), len(scans))
    todo = [(name, scan) for name, scan in scans.items() if name not in earlier]
    for name, result in _run(partial(_convert_one, folder=folder, layout=layout, keep_grid=keep_grid), todo, workers):
        if not isinstance(result, str):
            result |= {"print": prints[name], "sources": [str(path) for path in scans[name].files]}
            private.append(result)
        results[name] = result
        progress(len(results), len(scans))
    return {name: results[name] for name in scans}, len(earlier)


def label(scan: Scan) -> str:
    """Return what messages at the site call a scan."""
    many = f" and {len(scan.files) - 1} more files" if len(scan.files) > 1 else ""
    return f"{scan.files[0]}{many}"


def _run(
    task: Callable[[tuple[str, Scan]], tuple[str, Record | str]], todo: list[tuple[str, Scan]], workers: int
) -> Iterator[tuple[str, Record | str]]:
    workers = min(workers or os.cpu_count() or 1, len(todo))
    if workers <= 1:
        yield from map(task, todo)
        return
    # spawned, not forked: a fork would copy the locks of threads that draw the progress bar
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        with _interrupts_held():  # processes that start now are deaf to Ctrl-C, which this one answers for all of them
            results = pool.map(task, todo)
        yield from results
    except BrokenProcessPool:
        raise RuntimeError(
            "a process that read scans died, most likely for want of memory; run again with --workers 1. "
            "What is done is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the end; processes that are started meanwhile never see it, from their first line on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _convert_one(item: tuple[str, Scan], *, folder: Path, layout: str, keep_grid: bool) -> tuple[str, Record | str]:
    """Cache one scan as `volumes/<name>.nii`, with raw k-space as `volumes/<name>.npy`."""
    name, scan = item
    try:
        image = read_scan(scan, layout)
        notes = check(image, label(scan))
        check_anatomy(image, label(scan))
    except DataError as error:
        return name, str(error)
    except MemoryError:
        return name, f"{label(scan)} needs more memory than there is; run with --workers 1, or leave it out"
    image, grid, more = _acquired(canonical(image), keep_grid)
    paths = {"image": f"{VOLUMES}/{name}.nii"}
    save_nifti(image, folder / paths["image"])
    if image.kspace is not None:
        paths["kspace"] = f"{VOLUMES}/{name}.npy"
        write_atomically(folder / paths["kspace"], partial(np.save, arr=image.kspace))
    sizes = [(folder / path).stat().st_size for path in paths.values()]
    return name, {"volume": name, "paths": paths, "sizes": sizes, "notes": notes + more} | grid | _describe(image)


def _acquired(image: Image, keep_grid: bool) -> tuple[Image, Record, list[str]]:
    """Return a scan on the acquired grid and, if the stored one was finer, what the datalist and people are told."""
    found = find_acquired_grid(image)
    if found is None:
        return image, {}, []
    stored = image.voxels.shape
    grid = {"stored": list(stored), "acquired": list(found.shape), "evidence": found.evidence, "kept": keep_grid}
    done = "it was kept, as --keep-grid says" if keep_grid else "its k-space was cropped to that"
    image = image if keep_grid else to_acquired_grid(image, found.shape)
    return image, {"grid": grid}, [f"{found.describe(stored)}; {done}"]


def _describe(image: Image) -> Record:
    voxels = np.ascontiguousarray(np.maximum(image.voxels, 0), dtype=np.float32)
    return {
        "shape": list(voxels.shape),
        "spacing": [round(size, 4) for size in image.spacing],
        "digest": hashlib.sha256(repr(voxels.shape).encode() + voxels.tobytes()).hexdigest(),
    }


def _fingerprint(scan: Scan, keep_grid: bool) -> str:
    """Changes when a file of the scan does, or what is asked for."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in scan.files]
    return hashlib.sha256(repr((scan.key, scan.images, keep_grid, stats)).encode()).hexdigest()


def _is_cached(record: Record, folder: Path) -> bool:
    files = [folder / path for path in record["paths"].values()]
    return all(f.is_file() and f.stat().st_size == size for f, size in zip(files, record["sizes"], strict=True))
