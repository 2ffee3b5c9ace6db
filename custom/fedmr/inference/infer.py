"""Apply a trained model to a hospital's scans: a NIfTI file, a DICOM series, raw k-space, or a folder of them."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fedmr.checkpoints.model_file import Model, load_model
from fedmr.data.images import load_nifti
from fedmr.data.readers import Scan
from fedmr.data.readers.folder import FORMATS, find_scans
from fedmr.data.readers.nifti import SUFFIXES, is_nifti, is_volume
from fedmr.hospital.conversion import label
from fedmr.inference.isotropic import IsotropicResolver
from fedmr.inference.nifti_writer import super_resolve_nifti
from fedmr.inference.reconstructor import Reconstructor, reconstruct_file
from fedmr.inference.resolver import Options, Resolver
from fedmr.inference.super_resolver import SuperResolver
from fedmr.inference.tiling import TileError
from fedmr.utils.errors import DataError
from fedmr.utils.progress import Progress


@dataclass
class Outcome:
    """Result of a run: files and folders written, messages for people, and the number of results that were there."""

    written: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: int = 0


@dataclass(frozen=True)
class _Work:
    """One scan and where its result goes."""

    scan: Scan
    layout: str
    target: Path

    @property
    def is_series(self) -> bool:
        """Whether the result is a folder of DICOM files."""
        return FORMATS[self.layout] == "dicom" and not is_nifti(self.target)


def infer(
    model: Path,
    source: Path,
    target: Path,
    *,
    options: Options | None = None,
    job: Path | None = None,
    force: bool = False,
    layout: str = "auto",
    progress: Progress = lambda name, done, total: None,
) -> Outcome:
    """Super-resolve or, by a reconstruction model, reconstruct one scan, or every scan below a folder.

    A NIfTI file gives a NIfTI file, a folder of them a folder with the same names (masks skipped), a DICOM series a
    folder of DICOM files (several: a subfolder each) or, where the target is named so, a NIfTI file, k-space NIfTI
    files. An unusable scan among many becomes a problem in the outcome. Every result has a place of its own, checked
    before the first is computed. Results of an earlier run are skipped unless `force`, other files are never replaced;
    no unfinished file has a result's name.

    Args:
        model: model file or run, as `model_file.load_model` takes it.
        source: file or folder; it is only read.
        target: file for a NIfTI or HDF5 file; file or folder for one DICOM series; folder for all else.
        options: how.
        job: job of the model, if a file without a card lies in a folder without a job config.
        force: replace results that are there.
        layout: "auto", "nifti" or "dicom", where a folder holds several kinds.
        progress: receives the name of the scan and the numbers of its slices done and in all; first of files looked at.

    Raises:
        DataError: nothing could be done; the message says why.
        FileExistsError: the only result is there, without `force`.
        FileNotFoundError, ValueError: see `model_file.load_model`.
        OSError: the result cannot be written.
    """
    _check_apart(source, target)
    opened = load_model(model, job)
    takes_kspace = opened.task.takes_kspace
    worker = (Reconstructor if takes_kspace else resolver_of)(opened, options or Options())
    work, outcome = _plan(source, target, layout, partial(progress, "files looked at"), takes_kspace=takes_kspace)
    single = len(work) == 1 and not outcome.problems
    done = [item for item in work if not force and item.target != target and _is_done(item)]
    outcome.skipped = len(done)
    todo = [item for item in work if item not in done]
    for item in [item for item in todo if _tried(partial(_check_target, item, force), item, outcome, single)]:
        if _tried(partial(_process, worker, item, outcome, progress), item, outcome, single):
            outcome.written.append(item.target)
    if not outcome.written and not outcome.skipped:
        raise DataError("\n".join(outcome.problems))
    return outcome


def resolver_of(model: Model, options: Options) -> Resolver:
    """Return what makes finer volumes of images by a model.

    Raises:
        ValueError: a reconstruction model, or options of slices and cubic voxels with one that does not work across
            slices.
    """
    if model.task.across_slices:
        return IsotropicResolver(model, options)
    if options.isotropic is not None or options.slice_thickness or options.slice_profile:
        raise ValueError(
            f"this is a {model.task.purpose} model; isotropic, slice_thickness and slice_profile go with a "
            "through-plane one"
        )
    return SuperResolver(model, options)


def _tried(work: Callable[[], None], item: _Work, outcome: Outcome, single: bool) -> bool:
    """Return whether work on one scan succeeds; whatever goes wrong ends this scan only, and is a problem."""
    try:
        work()
    except (DataError, FileExistsError, TileError) as error:
        if single:
            raise
        outcome.problems.append(str(error))
        return False
    except Exception as error:
        if single:
            raise
        outcome.problems.append(f"{label(item.scan)} could not be done ({type(error).__name__}: {error})")
        return False
    return True


def _check_apart(source: Path, target: Path) -> None:
    """Refuse a target that is the source, holds it or lies in it."""
    inputs, output = source.resolve(), target.resolve()
    if output == inputs or inputs in output.parents or output in inputs.parents:
        raise DataError(f"{target} is the input {source}, holds it or lies in it; name another place for the result")


def _plan(
    source: Path, target: Path, layout: str, scanning: Callable[[int, int], None], *, takes_kspace: bool
) -> tuple[list[_Work], Outcome]:
    """Return the scans to process with their targets, and an outcome with the skipped files."""
    if source.is_file() and is_volume(source) and not takes_kspace:
        return [_Work(Scan((source,), "", ""), "nifti", _nifti_name(target))], Outcome()
    found, layout = find_scans(source, layout, masked=True, progress=scanning)
    if takes_kspace != (FORMATS[layout] == "fastmri"):
        raise DataError(
            f"{source} holds images, but this is a reconstruction model, which takes raw k-space: give a fastMRI HDF5 "
            "file, or a super-resolution model"
            if takes_kspace
            else f"{source} is raw k-space, which takes a reconstruction model; this one super-resolves images: give "
            "NIfTI or DICOM. `fedmr prepare` makes NIfTI of fully sampled k-space"
        )
    if takes_kspace and source.is_file():
        targets = [_nifti_name(target)]
    elif takes_kspace:
        targets = [target / scan.files[0].relative_to(source).with_suffix(".nii.gz") for scan in found.scans]
    elif FORMATS[layout] == "nifti":
        found, layout = find_scans(source, "nifti")  # any NIfTI file will do, whatever the folder's order
        targets = [_as_nifti(target / scan.files[0].relative_to(source)) for scan in found.scans]
    else:
        targets = _series_folders(found.scans, source, target)
    targets = _distinct(_apart(targets))
    outcome = Outcome(problems=found.problems, left_out=found.left_out)
    return [_Work(scan, layout, path) for scan, path in zip(found.scans, targets, strict=True)], outcome


def _apart(targets: list[Path]) -> list[Path]:
    """Return the targets with a subfolder for each that holds another one, which would go when it is replaced."""
    holders = {parent for target in targets for parent in target.parents}
    return [target / "series" if target in holders else target for target in targets]


def _distinct(targets: list[Path]) -> list[Path]:
    """Return the targets with a number behind each that an earlier one has taken, in upper or lower case."""
    taken: set[str] = set()
    distinct = []
    for target in targets:
        number, name = 1, target
        while str(name).lower() in taken:
            number += 1
            stem, dot, suffix = target.name.partition(".nii")
            name = target.with_name(f"{stem}-{number}{dot}{suffix}")
        taken.add(str(name).lower())
        distinct.append(name)
    return distinct


def _as_nifti(path: Path) -> Path:
    """Return the name of a result, which is NIfTI whatever format the scan is in."""
    return path if is_nifti(path) else path.with_suffix(".nii.gz")


def _nifti_name(target: Path) -> Path:
    if not is_nifti(target):
        raise DataError(f"{target} is no name of a NIfTI file; end it in {' or '.join(SUFFIXES)}")
    return target


def _series_folders(scans: Sequence[Scan], source: Path, target: Path) -> list[Path]:
    """A folder per series: as in the source if it has one of its own there, else named by its SeriesInstanceUID."""
    if len(scans) == 1:
        return [target]
    if is_nifti(target):
        raise DataError(
            f"{source} holds {len(scans)} series, and {target} is a file for one: give the folder of one series, or a "
            "folder for the results"
        )
    parents = [scan.files[0].parent for scan in scans]
    root = source if source.is_dir() else source.parent
    return [
        target
        / parent.relative_to(root)
        / ("" if parents.count(parent) == 1 and parent != root else scan.key or "series")
        for scan, parent in zip(scans, parents, strict=True)
    ]


def _check_target(item: _Work, force: bool) -> None:
    """Check before the work that the result has a place and overwrites nothing else."""
    target, folder = item.target, item.is_series
    if target.is_dir() != folder and target.exists():
        raise FileExistsError(f"{target} is a {'file' if folder else 'folder'}; name another place for the result")
    if target.exists() and not (folder and not any(target.iterdir())):
        if not force:
            raise FileExistsError(f"{target} exists; name another place for the result, or replace it by --force")
        if folder and not _is_result(target):
            raise FileExistsError(f"{target} is a folder of something else; name another place for the result")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OSError(f"{target.parent} cannot be written to ({error.strerror}); name another place") from None


def _is_done(item: _Work) -> bool:
    """Return whether the result of a scan is there, made by an earlier run."""
    if item.is_series:
        return item.target.is_dir() and any(item.target.iterdir()) and _is_result(item.target)
    if not item.target.is_file():
        return False
    try:
        return b"FedMR" in bytes(load_nifti(item.target).header["descrip"])
    except Exception:  # nibabel raises whatever a file that is none leads it to
        return False


def _is_result(folder: Path) -> bool:
    from fedmr.inference.dicom_writer import is_series

    return is_series(folder)


def _process(worker: Resolver | Reconstructor, item: _Work, outcome: Outcome, progress: Progress) -> None:
    """Process one scan and note in `outcome` messages for the user."""
    outcome.notes += [f"{label(item.scan)}: {note}" for note in _apply(worker, item, progress)]


def _apply(worker: Resolver | Reconstructor, item: _Work, progress: Progress) -> list[str]:
    """Super-resolve or reconstruct one scan and write the result; return messages for the user."""

    def advance(done: int, total: int) -> None:
        progress(label(item.scan), done, total)

    try:
        if isinstance(worker, Reconstructor):
            return reconstruct_file(worker, item.scan.files[0], item.target, progress=advance)
        if FORMATS[item.layout] == "nifti":
            return super_resolve_nifti(worker, item.scan.files[0], item.target, progress=advance)
        from fedmr.inference.dicom_writer import super_resolve_series

        return super_resolve_series(worker, item.scan, item.target, progress=advance)
    except MemoryError:
        raise DataError(f"{label(item.scan)} needs more memory than there is; split it, or free some") from None
