"""Plan of `fedmr prepare`, before anything is written: every scan with its patient, contrast and split."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fedmr.data.splits import assign, parse_fractions
from fedmr.hospital.conversion import label
from fedmr.hospital.prepare import Options, check_site_name, choose
from fedmr.utils.errors import DataError


@dataclass(frozen=True)
class Row:
    """One scan of the plan: its file, patient and what told it, contrast, and split ("" where none can be given)."""

    file: str
    patient: str
    evidence: str
    contrast: str
    split: str


@dataclass(frozen=True)
class Plan:
    """Plan of a preparation: what would be done.

    Attributes:
        rows: one a scan; the split is that of a first run with this seed if all scans can be used.
        problems: what cannot be used, and why no split can be made.
        left_out: number of files that are no scans for training, by what they are.
    """

    rows: list[Row]
    problems: list[str]
    left_out: Counter[str]


def plan(source: Path, *, site: str, options: Options | None = None) -> Plan:
    """Find the scans below `source` and decide patient, contrast and split; voxels are not read, nothing is written.

    The splits are those of a first run in which every scan can be used; a later run keeps what the first decided.

    Raises:
        DataError: as `prepare`, where nothing can be found.
    """
    options = options or Options()
    check_site_name(site)
    found, _ = choose(source, site, options)
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
            *(scan.contrast, scan.split or splits.get(scan.patient, "")),
        )
        for scan in found.scans
    ]
    return Plan(rows, problems, found.left_out)
