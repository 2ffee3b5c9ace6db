"""Plan of `fedmr prepare`, before anything is written: every scan with its patient, contrast and split."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedmr.data.contrasts import UNKNOWN
from fedmr.data.readers import Found, Scan
from fedmr.data.splits import assign, parse_fractions
from fedmr.hospital.conversion import label
from fedmr.hospital.prepare import Options, check_site_name, choose
from fedmr.utils.errors import DataError


@dataclass(frozen=True)
class Row:
    """One scan of the plan, or an image that is left out by its name or header.

    Attributes:
        file: its file, or the first of them with their number.
        patient, evidence: whose it is and what told that, "" if it is left out.
        contrast, told: its contrast and what told that, "" if it is left out.
        kind: "image", or what it is that it is left out.
        split: "" if none can be given.
    """

    file: str
    patient: str
    evidence: str
    contrast: str
    told: str
    kind: str
    split: str


@dataclass(frozen=True)
class Plan:
    """Plan of a preparation: what would be done.

    Attributes:
        rows: one a scan; the split is that of a first run with this seed if all scans can be used.
        others: one for the images of a kind in a folder that are left out.
        problems: what cannot be used, and why no split can be made.
        left_out: number of files that are no scans for training, by what they are.
    """

    rows: list[Row]
    others: list[Row]
    problems: list[str]
    left_out: Counter[str]


def plan(
    source: Path,
    *,
    site: str,
    options: Options | None = None,
    scanning: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Find the scans below `source` and decide patient, contrast and split; voxels are not read, nothing is written.

    The splits are those of a first run in which every scan can be used; a later run keeps what the first decided.

    Raises:
        DataError: as `prepare`, where nothing can be found.
    """
    options = options or Options()
    check_site_name(site)
    found, _ = choose(source, site, options, scanning)
    problems = list(found.problems)
    undecided = {scan.patient for scan in found.scans if not scan.split}
    splits: dict[str, str] = {}
    if undecided:
        try:
            splits = assign(undecided, parse_fractions(options.split), seed=options.seed, previous={})
        except DataError as error:
            problems.insert(0, str(error))
    rows = [
        Row(
            *(label(scan), scan.patient, scan.evidence or "header"),
            *(scan.contrast, "" if scan.contrast == UNKNOWN else scan.told, "image"),
            scan.split or splits.get(scan.patient, ""),
        )
        for scan in found.scans
    ]
    return Plan(rows, _others(found), problems, found.left_out)


def _others(found: Found) -> list[Row]:
    """Return a row for the images of each kind in each folder that are left out."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path, kind in found.kinds.items():
        groups[path.parent, kind].append(path)
    return [Row(label(Scan(tuple(files), "", "")), "", "", "", "", kind, "") for (_, kind), files in groups.items()]
