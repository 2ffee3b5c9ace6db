"""The names that `import fedmr` offers: models, inference, training, tests, federations and their runs, from Python.

Every place of a file or folder may be a string. The names are loaded on first use, since torch takes its time.
"""

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from fedmr.checkpoints.model_file import Model as Model
from fedmr.checkpoints.model_file import load_model as _load_model
from fedmr.cli.checks import check_free
from fedmr.data.images import Image, check
from fedmr.federation.configured import configure
from fedmr.federation.render import locate_job
from fedmr.federation.simulator import choose_sites
from fedmr.federation.simulator import simulate as run_job
from fedmr.inference.infer import infer as _infer_files
from fedmr.inference.infer import resolver_of
from fedmr.inference.resolver import Options, Resolver
from fedmr.runs.run import Run as Run
from fedmr.training.standalone import evaluate_sites, train_pooled

AnyPath = str | os.PathLike[str]


def load_model(model: AnyPath, *, job: AnyPath | None = None) -> Model:
    """Load a network with its card; nothing in a file is executed.

    Args:
        model: name of a model that comes with FedMR, a model file, or a run.
        job: job folder, if a file without a card lies elsewhere.

    Returns:
        `net`, a torch module from slices (N, 1, h, w), about [0, 1], to (N, 1, scale*h, scale*w), and `card`.

    Raises:
        FileNotFoundError, ValueError: there is none, or it cannot be used; the message says why.
    """
    return _load_model(Path(model), Path(job) if job else None)


def infer(
    model: AnyPath | Model,
    source: Any,
    target: AnyPath | None = None,
    *,
    affine: ArrayLike | None = None,
    force: bool = False,
    **options: Any,
) -> list[Path] | nib.Nifti1Image | tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Super-resolve scans in the plane of their slices, in memory or from file to file.

    Args:
        model: as `load_model` takes it, or its result.
        source: a file or folder, as `fedmr infer` takes it; a nibabel image; or an array (X, Y, Z), values >= 0.
        target: with a file or folder: file or folder for the result.
        affine: with an array: (4, 4), from voxel indices to right-anterior-superior millimetres.
        force: replace results that are there.
        options: of `inference.resolver.Options`: plane, data_consistency, tile, exact, device, isotropic and the like.

    Returns:
        the paths that were written; of a nibabel image another, float32; of an array the voxels, float32, and their
        affine. All in the intensities of the input.

    Raises:
        DataError: the scan cannot be used; among many files such a one is warned of, and the others are done.
        TypeError: `target` or `affine` is missing or does not go with `source`.
    """
    chosen = Options(**options)
    if isinstance(source, str | os.PathLike):
        if target is None or affine is not None:
            raise TypeError("infer of a path takes a target to write to, and no affine")
        outcome = _infer_files(_path_of(model), Path(source), Path(target), options=chosen, force=force)
        for text in (*outcome.problems, *outcome.notes):
            warnings.warn(text, stacklevel=2)
        return outcome.written
    if target is not None:
        raise TypeError("infer of an image or array returns the result; a target goes with a path")
    opened = model if isinstance(model, Model) else load_model(model)
    resolver = resolver_of(opened, chosen)
    if isinstance(source, SpatialImage):
        result = _resolve(resolver, np.asanyarray(source.dataobj), source.affine)
        return nib.Nifti1Image(result.voxels, result.affine)
    if affine is None:
        raise TypeError("infer of an array takes its affine, a 4 x 4 matrix; np.eye(4) for voxels of 1 mm")
    result = _resolve(resolver, np.asarray(source), affine)
    return result.voxels, result.affine


def train(
    data: AnyPath,
    out: AnyPath,
    *,
    job: AnyPath = "mscan_fedavg",
    sites: Sequence[str] = (),
    rounds: int = 0,
    force: bool = False,
) -> Path:
    """Train without FLARE on one site or several pooled; see `training.standalone.train_pooled`.

    Args:
        data: data root or one site's folder.
        out: folder for the model and its log.
        job: job whose task and rounds to use; a folder, or the name of one that comes with FedMR.
        sites: names; all by default.
        rounds: instead of the job's.
        force: replace a model and log that are there.

    Returns:
        the model file.

    Raises:
        FileExistsError: they are, without `force`.
    """
    check_free(Path(out) / "model.pt", Path(out) / "log.jsonl", force=force)
    return train_pooled(Path(data), Path(out), job=locate_job(Path(job)), sites=sites, rounds=rounds, say=_quiet)


def evaluate(model: AnyPath, data: AnyPath, *, split: str = "test", job: AnyPath | None = None) -> dict[str, Any]:
    """Compare a model with the interpolations on every site's volumes.

    Args:
        model: as `load_model` takes it.
        data: data root or one site's folder.
        split: "train", "val" or "test".
        job: as in `load_model`.

    Returns:
        ``{"sites": {SITE: {"n_volumes": N, METHOD: {"psnr": dB, "ssim": ..}}}, "mean": {METHOD: ..}}``.
    """
    return evaluate_sites(_path_of(model), Path(data), split=split, job=Path(job) if job else None)


def simulate(
    job: AnyPath = "mscan_fedavg",
    *,
    data: AnyPath,
    out: AnyPath,
    sites: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    threads: int = 0,
) -> Path:
    """Federate on this machine in FLARE's simulator, one process per site, as `fedmr simulate`.

    Args:
        job: job folder, or the name of one that comes with FedMR.
        data: data root with the sites.
        out: folder of the run, which must not be there.
        sites: names; all by default.
        settings: what to change, e.g. ``{"num_rounds": 3, "task": {"learning_rate": 1e-3}}``.
        threads: sites at work at once; all by default.

    Returns:
        the run's folder, a model for `load_model` too.

    Raises:
        FileExistsError: `out` is there.
        RuntimeError: FLARE says that the run failed, or a site or a model is missing.
    """
    run, root = Path(out), Path(data)
    names = choose_sites(root, ",".join(sites))
    with tempfile.TemporaryDirectory(prefix="fedmr-job-") as folder:
        changed = configure(Path(job), Path(folder), dict(settings or {}))
        run_job(changed, run, data=root, sites=names, threads=threads)
    Run(run).figures()  # FLARE ends with success even where every site failed
    return run


def _resolve(resolver: Resolver, voxels: NDArray[Any], affine: ArrayLike) -> Image:
    image = Image(voxels, np.asarray(affine, dtype=np.float64))
    for note in check(image, "the image", least_side=resolver.least_side):
        warnings.warn(note, stacklevel=3)
    return resolver(image)[0]


def _path_of(model: AnyPath | Model) -> Path:
    if isinstance(model, Model):
        raise TypeError("files take a model by its name or path, not one that is loaded")
    return Path(model)


def _quiet(line: str) -> None:
    """Say nothing; the log of a training is in its folder."""
