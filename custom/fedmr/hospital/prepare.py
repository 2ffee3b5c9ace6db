"""A hospital's files to a site's data set: read, checked, cached, under pseudonyms, split by patient.

`<out>/<site>/` gets `volumes/`, uncompressed NIfTI files in canonical orientation (and raw k-space as .npy);
`datalist.json`, what training needs; and `private/`, which training does not read.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedmr.data.datalist import FILES
from fedmr.data.readers import Found, Scan
from fedmr.data.readers.folder import DATALIST, PRIVATE, VOLUMES, find_scans
from fedmr.data.readers.patients import called_alike, patient_key
from fedmr.data.splits import assign, parse_fractions, read_split_file
from fedmr.hospital.conversion import Record, convert, label
from fedmr.hospital.identity import apply_pattern, apply_table
from fedmr.hospital.pseudonyms import PrivateFolder
from fedmr.utils.errors import DataError
from fedmr.utils.files import write_atomically


@dataclass(frozen=True)
class Options:
    """How to prepare.

    Attributes:
        layout: format of the folder, a name in `readers.folder.FORMATS`, or "auto".
        contrasts: contrasts to take, e.g. ("T1w",); all if empty.
        split: shares of train/val/test of the patients.
        seed: of the split.
        split_file: CSV with a given split, instead of shares.
        hospital: take the scans of this hospital only, where the folder holds several.
        workers: processes; 0 for one per core.
        patient_pattern: regular expression that finds the patient in a scan's path below the source.
        patients: CSV with the columns path, patient, for scans whose names do not tell.
        keep_grid: leave scans on a grid finer than the acquired as they are.
    """

    layout: str = "auto"
    contrasts: tuple[str, ...] = ()
    split: str = "0.7/0.1/0.2"
    seed: int = 0
    split_file: Path | None = None
    hospital: str = ""
    workers: int = 0
    patient_pattern: str = ""
    patients: Path | None = None
    keep_grid: bool = False


@dataclass
class Outcome:
    """Outcome of a run: entries of the datalist, and for people what was wrong, remarkable, left out and kept."""

    datalist: Path
    volumes: list[dict[str, Any]]
    problems: list[str]
    notes: list[str]
    left_out: Counter[str] = field(default_factory=Counter)
    kept: int = 0


def prepare(
    source: Path,
    *,
    site: str,
    out: Path,
    options: Options | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    scanning: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Make `<out>/<site>` from the scans below `source`.

    A scan that cannot be used is a problem in the outcome; the others are prepared all the same. What an interrupted
    run has done is kept, and the next one ends in the same data set as one that was not interrupted.

    Args:
        source: folder of the hospital, which is only read.
        site: FLARE site name.
        out: data root.
        options: how.
        progress, scanning: receive the numbers of scans done and in all, and before that those of files looked at.

    Raises:
        DataError: nothing can be prepared; the message says why.
        OSError: a file cannot be written.
        RuntimeError: a process that read scans died.
    """
    options, folder = options or Options(), out / site
    check_site_name(site)
    parse_fractions(options.split)
    found, layout = choose(source, site, options, scanning)
    private = _open(folder, source)
    scans = {private.pseudonym("scan", f"{_relative(scan, source)} {scan.key}"): scan for scan in found.scans}
    how: dict[str, Any] = {"layout": layout, "workers": options.workers, "keep_grid": options.keep_grid}
    results, kept = convert(scans, folder, private, **how, progress=progress)
    problems = found.problems + [result for result in results.values() if isinstance(result, str)]
    records = {name: result for name, result in results.items() if not isinstance(result, str)}
    scans, duplicates = _without_duplicates(records, scans)
    problems += duplicates
    try:
        if not scans:
            raise DataError(f"no scan in {source} can be used")
        splits = _decide(scans, private, folder, options)
    except DataError as error:
        raise DataError("\n".join([str(error), *problems])) from None
    volumes = _entries(records, scans, private, splits)
    _write(folder, site, volumes)
    notes = [f"{label(scan)}: {note}" for name, scan in scans.items() for note in records[name]["notes"]]
    if gone := _remove_others(folder, volumes) - set(records):
        notes.append(f"cached volumes of {len(gone)} scans that an earlier run found and this one not were removed")
    return Outcome(folder / DATALIST, volumes, problems, notes, found.left_out, kept)


def hospitals(source: Path, layout: str = "auto") -> list[str]:
    """Names of the hospitals whose scans lie together in a folder.

    Raises:
        DataError: as `find_scans`, or the format does not say which hospital a scan is from.
    """
    found, layout = find_scans(source, layout)
    names = sorted({scan.hospital for scan in found.scans} - {""})
    if not names:
        raise DataError(f"{source} is in format {layout}, which names no hospitals; leave out --by-hospital")
    return names


def check_site_name(site: str) -> None:
    """Refuse a name that a folder or FLARE cannot have.

    Raises:
        DataError: the name and one to take.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", site):
        clean = re.sub(r"[^A-Za-z0-9_-]+", "-", site).strip("-_")[:63] or "site-1"
        raise DataError(
            f"site {site!r} is no name for a folder and a FLARE site, which takes letters, digits, - and _; "
            f"give e.g. {clean}"
        )


def choose(
    source: Path, site: str, options: Options, scanning: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Found, str]:
    """Return the scans that the options ask for, with their patients and given splits, and the layout."""
    found, layout = find_scans(source, options.layout, progress=scanning)
    found.scans = [scan for scan in found.scans if options.hospital in ("", scan.hospital)]
    if options.patient_pattern:
        apply_pattern(found, source, options.patient_pattern)
    if options.patients:
        apply_table(found, source, options.patients)
    called = called_alike([scan.patient for scan in found.scans])
    found.scans = [replace(scan, patient=called[scan.patient]) for scan in found.scans]
    if options.split_file:
        _apply_split_file(found, source, options.split_file, site)
    if options.contrasts:
        counts = Counter(scan.contrast for scan in found.scans)
        absent = sorted(set(options.contrasts) - set(counts))
        if absent:
            held = ", ".join(f"{number} {contrast}" for contrast, number in sorted(counts.items()))
            raise DataError(f"{source} has no scan of contrast {', '.join(absent)}; it has {held or 'none'}")
        found.left_out.update(scan.contrast for scan in found.scans if scan.contrast not in options.contrasts)
        found.scans = [scan for scan in found.scans if scan.contrast in options.contrasts]
    found.problems += [f"{label(scan)} {scan.doubt}" for scan in found.scans if scan.doubt]
    found.scans = [scan for scan in found.scans if not scan.doubt]
    return found, layout


def _apply_split_file(found: Found, source: Path, path: Path, site: str) -> None:
    """Replace patient and split by what the file says; its paths start from `source` or from the file's own folder."""
    by_path: dict[Path, dict[str, str]] = {}
    by_patient: dict[str, dict[str, str]] = {}
    by_key: dict[str, list[dict[str, str]]] = defaultdict(list)  # spreadsheets drop leading zeros
    for row in read_split_file(path, site):
        if not row.get("path"):
            by_patient[row["patient"]] = row
            by_key[patient_key(row["patient"])].append(row)
            continue
        places = [folder / row["path"] for folder in (source, path.parent) if (folder / row["path"]).exists()]
        if places:
            by_path[places[0].resolve()] = row
        else:
            found.problems.append(f"{source / row['path']} does not exist; {path} names it")
    chosen = []
    used: set[int] = set()
    for scan in found.scans:
        file = scan.files[0].resolve()
        rows = [by_path[place] for place in (file, *file.parents) if place in by_path]
        alike = by_key.get(patient_key(scan.patient), [])
        rows += [by_patient[scan.patient]] if scan.patient in by_patient else alike if len(alike) == 1 else []
        if rows:
            used.add(id(rows[0]))
            chosen.append(replace(scan, patient=rows[0]["patient"], split=rows[0]["split"], doubt=""))
        else:
            found.left_out["not in the split file"] += 1
    found.problems += [
        f"{path} names patient {row['patient']!r}, who has no scan here; remove the row or add the scan"
        for row in by_patient.values()
        if id(row) not in used
    ]
    found.scans = chosen


def _open(folder: Path, source: Path) -> PrivateFolder:
    """The private folder of a site, made if need be; a site that holds something else is refused."""
    if (folder / DATALIST).exists() and not (folder / PRIVATE).is_dir():
        raise DataError(f"{folder / DATALIST} was not made by `fedmr prepare`; give another --out or remove it")
    (folder / VOLUMES).mkdir(parents=True, exist_ok=True)
    # as confidential as the scans; a group may be that of the user who trains
    (folder / VOLUMES).chmod(0o750)
    private = PrivateFolder(folder / PRIVATE)
    earlier = private.claim(str(source.resolve()))
    if earlier != str(source.resolve()):
        raise DataError(f"{folder} was prepared from {earlier}; give another --out or --site, or remove {folder}")
    return private


def _relative(scan: Scan, source: Path) -> Path:
    return scan.files[0].relative_to(source) if scan.files[0] != source else Path(source.name)


def _without_duplicates(records: Mapping[str, Record], scans: Mapping[str, Scan]) -> tuple[dict[str, Scan], list[str]]:
    """The usable scans, each once, and a problem for every copy.

    Patients who share a scan are one person under two names: they become one, so that no split divides them.
    """
    first: dict[str, str] = {}
    person = {scan.patient: scan.patient for scan in scans.values()}
    problems = []
    for name, record in records.items():
        original = scans[first.setdefault(record["digest"], name)]
        copy = scans[name]
        if copy is original:
            continue
        problems.append(
            f"{label(copy)} has the same voxels as {label(original)}"
            + (
                " under another patient; all scans of the two are kept in one split"
                if copy.patient != original.patient
                else ""
            )
            + "; remove one of them"
        )
        one, other = person[original.patient], person[copy.patient]
        person = {patient: one if who == other else who for patient, who in person.items()}
    return {name: replace(scans[name], patient=person[scans[name].patient]) for name in first.values()}, problems


def _decide(scans: Mapping[str, Scan], private: PrivateFolder, folder: Path, options: Options) -> dict[str, str]:
    """Split by patient, of those whose split is not given; decided in an earlier run or now."""
    patients = {scan.patient for scan in scans.values() if not scan.split}
    if not patients:
        return {}
    listed = json.loads((folder / DATALIST).read_text())["volumes"] if (folder / DATALIST).is_file() else []
    earlier = {entry["patient"]: entry["split"] for entry in listed}
    previous = {
        patient: earlier[_number(private, patient)] for patient in patients if _number(private, patient) in earlier
    }
    return assign(patients, parse_fractions(options.split), seed=options.seed, previous=previous)


def _number(private: PrivateFolder, patient: str) -> str:
    return f"p-{private.pseudonym('patient', patient)}"


def _entries(
    records: Mapping[str, Record], scans: Mapping[str, Scan], private: PrivateFolder, splits: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Volumes of the datalist, in the order of the scans: what training needs, and nothing of the hospital's naming."""
    return [
        {
            **records[name]["paths"],
            "patient": _number(private, scan.patient),
            "contrast": scan.contrast,
            "split": scan.split or splits[scan.patient],
            "shape": records[name]["shape"],
            "spacing": records[name]["spacing"],
            **{key: records[name][key] for key in ("grid",) if key in records[name]},
        }
        for name, scan in scans.items()
    ]


def _write(folder: Path, site: str, volumes: list[dict[str, Any]]) -> None:
    """Write the datalist; whether the site shares pictures is its own choice and stays as it was."""
    path = folder / DATALIST
    share = path.is_file() and json.loads(path.read_text()).get("share_images") is True
    text = json.dumps({"site": site, "share_images": share, "volumes": volumes}, indent=1) + "\n"
    write_atomically(path, lambda handle: handle.write(text.encode()))


def _remove_others(folder: Path, volumes: list[dict[str, Any]]) -> set[str]:
    """Remove cached files that the datalist does not name; returns the names of their volumes."""
    named = {folder / entry[key] for entry in volumes for key in FILES if key in entry}
    others = [path for path in (folder / VOLUMES).iterdir() if path not in named]
    for path in others:
        path.unlink()
    return {path.stem for path in others}
