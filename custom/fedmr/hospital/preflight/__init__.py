"""`fedmr preflight`: what a site looks at before it joins a federation. Writes nothing.

A check is a function from what is known of a site to one row. A new check is one function and one line below.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.table import Table
from rich.text import Text

from fedmr.data.datalist import read_datalist, site_folders
from fedmr.hospital.preflight import data, machine, privacy
from fedmr.hospital.preflight.kit import kit_checks
from fedmr.hospital.preflight.machine import Step
from fedmr.hospital.preflight.site import Check, SiteFindings, Status, read_site
from fedmr.tasks.base import Task
from fedmr.utils.progress import Progress

EXIT_CODES: dict[Status, int] = {"pass": 0, "warn": 3, "fail": 4}  # 1 and 2: the command could not run
MACHINE = "this machine"
_LOOKS: dict[Status, tuple[str, str]] = {"pass": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}

# on the datalist alone; on the scans that can be read
_ENTRY_CHECKS: tuple[Callable[[SiteFindings], Check], ...] = (
    *(data.files, data.splits, data.patients),
    *(privacy.pictures, privacy.paths, privacy.pseudonyms, privacy.private_folder, privacy.volumes),
)
_SCAN_CHECKS: tuple[Callable[[SiteFindings], Check], ...] = (
    *(data.duplicates, data.slices, data.patch, data.intensities),
    *(data.contrasts, data.voxel_sizes, data.resolution, data.orientation),
)

Report = dict[str, list[Check]]


def preflight(
    root: Path,
    task: Task,
    *,
    try_steps: Callable[[Path, Task], Step],
    workspace: Path = Path(),
    job: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Check the machine and one or several sites.

    Args:
        root: a site's folder, or a data root with several.
        task: the task of the job to come.
        try_steps: trains a few steps on a site's folder as the job would; raises what the job would fail with.
        workspace: folder on the disk that will hold the FLARE run; of a kit, its policy and keys are looked at too.
        job: job to come, which is held to the kit's policy.
        progress: told what is being done, and how many of how many volumes are read.

    Returns:
        rows by site name, those of the machine under `MACHINE`.

    Raises:
        DataError: `root` holds no site.
        ValueError: no network can be built from the task, or `workspace` does not exist.
    """
    if not workspace.is_dir():
        raise ValueError(f"{workspace} does not exist; give the folder of the FLARE site as --workspace")
    # not resolve(), which would follow a link to a folder of another name
    folders = site_folders(Path(os.path.abspath(root)))  # noqa: PTH100
    rows = [machine.versions(), machine.processor(), machine.disk(task, workspace)]
    report = {MACHINE: [*rows, *kit_checks(workspace, job, folders)]}
    return report | {folder.name: _check_site(folder, task, try_steps, progress) for folder in folders}


def _check_site(folder: Path, task: Task, try_steps: Callable[[Path, Task], Step], progress: Progress) -> list[Check]:
    try:
        datalist = read_datalist(folder)
    except (ValueError, OSError) as error:
        return [Check("datalist", "fail", str(error), "prepare the site again with `fedmr prepare`")]
    site = read_site(folder, task, datalist, progress)
    rows = [data.datalist(site), *(check(site) for check in _ENTRY_CHECKS)]
    if not site.scans:
        return rows
    memory = machine.memory(site)
    rows += [*(check(site) for check in _SCAN_CHECKS), memory]
    if memory.status == "pass":  # else trying would take memory that the machine does not have
        progress("a few training steps", len(site.entries), len(site.entries))
        rows.append(machine.training_steps(site, try_steps))
    return rows


def worst(report: Report) -> Status:
    """The status that decides the exit code, `EXIT_CODES`."""
    return max((row.status for rows in report.values() for row in rows), key=list(EXIT_CODES).index)


def verdict(report: Report) -> str:
    """How many rows passed and how many did not, in words."""
    counts = Counter(row.status for rows in report.values() for row in rows)
    return f"{counts['fail']} to mend, {counts['warn']} to look at, {counts['pass']} passed"


def table(rows: list[Check], title: str) -> Table:
    """One line per check: status, name, what was found and, under it, what to do."""
    view = Table(title=title, title_justify="left", show_header=False, show_lines=False)
    view.add_column("status", no_wrap=True)
    view.add_column("check", no_wrap=True)
    view.add_column("finding", overflow="fold", ratio=1)
    for row in rows:
        symbol, style = _LOOKS[row.status]
        finding = Text(row.finding)  # no markup: names and shapes hold brackets
        if row.remedy:
            finding.append(f"\n→ {row.remedy}", style="italic")
        view.add_row(Text(f"{symbol} {row.status}", style=style), Text(row.name, style=style), finding)
    return view
