"""Who the patient of a scan is where the person at the site says it: by a pattern or by a table."""

import re
from dataclasses import replace
from pathlib import Path

from fedmr.data.readers import Found, Scan
from fedmr.data.tables import read_table
from fedmr.utils.errors import DataError


def apply_pattern(found: Found, source: Path, pattern: str) -> None:
    """Take the patient of every scan from its path below the source.

    Args:
        found: its scans are changed; one whose path the pattern does not match becomes a doubt.
        source: the hospital's folder.
        pattern: regular expression; its first group, or else all that it matches, is the patient.

    Raises:
        DataError: not a regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"--patient-pattern {pattern!r} is no regular expression ({error}); write e.g. '(P[0-9]+)'"
        ) from None
    root = source if source.is_dir() else source.parent

    def named(scan: Scan) -> Scan:
        match = compiled.search(scan.files[0].relative_to(root).as_posix())
        patient = (match[1] if compiled.groups else match[0]) if match else ""
        if not patient:
            return replace(scan, patient="", doubt=f"is not matched by --patient-pattern {pattern!r}; extend it")
        return replace(scan, patient=patient, evidence="pattern", doubt="")

    found.scans = [named(scan) for scan in found.scans]


def apply_table(found: Found, source: Path, path: Path) -> None:
    """Take patients from a CSV with the columns path and patient.

    A path is a file or folder, relative to the source or to the CSV; the longest one that holds a scan counts. Scans
    that no row names keep their patient. A row that matches nothing is a problem.

    Raises:
        DataError: the table cannot be read, or a row names no patient.
    """
    root = source if source.is_dir() else source.parent
    rows = read_table(path, ("path", "patient"))
    places: dict[Path, tuple[int, str]] = {}
    for line, row in rows:
        if not row.get("patient"):
            raise DataError(f"{path}, line {line}, names no patient; fill in the column patient")
        inside = next((f / row["path"] for f in (root, path.parent) if (f / row["path"]).exists()), None)
        if inside is None:
            found.problems.append(f"{root / row['path']} does not exist; {path}, line {line}, names it")
        else:
            places[inside.resolve()] = line, row["patient"]
    used = set()
    scans = []
    for scan in found.scans:
        file = scan.files[0].resolve()
        place = next((folder for folder in (file, *file.parents) if folder in places), None)
        if place is None:
            scans.append(scan)
            continue
        used.add(place)
        scans.append(replace(scan, patient=places[place][1], evidence=path.name, doubt=""))
    found.scans = scans
    found.problems += [
        f"{path}, line {line}, names {place}, which holds no scan; remove the row"
        for place, (line, _) in places.items()
        if place not in used
    ]
