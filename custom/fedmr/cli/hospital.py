"""Commands for a hospital's data."""

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedmr.cli.checks import Force, check_free
from fedmr.cli.grouped import grouped
from fedmr.cli.progress import shown

if TYPE_CHECKING:
    from fedmr.hospital.prepare import Options

console = Console()


def demo_data(
    out: Annotated[Path, typer.Argument(help="Data root to fill.")],
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 4,
    patients: Annotated[int, typer.Option(help="Patients per hospital, at least 3.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same voxels.")] = 0,
) -> None:
    """Make simulated hospitals from real anatomy, as NIfTI files with datalists."""
    from fedmr.hospital.simulation import make_hospitals

    with console.status("simulating") as status:
        folders = make_hospitals(out, sites=sites, patients=patients, seed=seed, progress=status.update)
    console.print(f"{len(folders)} hospitals of {patients} patients each in {out}")


@dataclass(frozen=True)
class _Preparation:
    """Options of `prepare` that say how scans are read and split."""

    layout: Annotated[str, typer.Option("--format", help="auto, bids, nifti, ixi, brats, fastmri or dicom.")] = "auto"
    contrast: Annotated[str, typer.Option(help="Contrasts to take, e.g. T1w,FLAIR; all by default.")] = ""
    split: Annotated[str, typer.Option(help="Shares of the patients for train/val/test.")] = "0.7/0.1/0.2"
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0
    split_file: Annotated[
        Path | None, typer.Option(help="CSV that gives the split: columns patient, split and, if need be, path, site.")
    ] = None
    workers: Annotated[int, typer.Option(help="Processes; one per core by default.")] = 0
    patient_pattern: Annotated[
        str, typer.Option(help="Regular expression that finds the patient in a path, e.g. '(P[0-9]+)'.")
    ] = ""
    patients: Annotated[
        Path | None, typer.Option(help="CSV with the columns path, patient, where names do not tell the patient.")
    ] = None
    keep_grid: Annotated[
        bool, typer.Option("--keep-grid", help="Do not crop scans that the scanner filled up to a finer grid.")
    ] = False


@grouped
def prepare(
    source: Annotated[Path, typer.Argument(help="The hospital's folder of scans; it is only read.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Data root to fill; the site's data go to OUT/SITE.")],
    how: _Preparation,
    site: Annotated[str, typer.Option(help="Site name, as FLARE knows it.")] = "",
    by_hospital: Annotated[bool, typer.Option(help="One site per hospital that the file names state (IXI).")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show every scan's patient, contrast and split; write nothing.")
    ] = False,
) -> None:
    """Check a hospital's scans and make its site: cached volumes under pseudonyms and a datalist, split by patient.

    Exit code 0: all scans were prepared; 3: some could not be used, each is named with the reason, and the others were
    prepared; 1: nothing was prepared.
    """
    from fedmr.cli.summary import show
    from fedmr.hospital.prepare import Options, hospitals
    from fedmr.hospital.prepare import prepare as prepare_site

    if by_hospital == bool(site):
        raise ValueError("give either --site NAME, or --by-hospital for a collection of several hospitals")
    chosen_contrasts = tuple(filter(None, how.contrast.split(",")))
    options = Options(
        *(how.layout, chosen_contrasts, how.split, how.seed, how.split_file, "", how.workers),
        patient_pattern=how.patient_pattern,
        patients=how.patients,
        keep_grid=how.keep_grid,
    )
    sites = (
        {name: replace(options, hospital=name) for name in hospitals(source, how.layout)}
        if by_hospital
        else {site: options}
    )
    if dry_run:
        _show_plans(source, sites)
        return
    complete = True
    for name, chosen in sites.items():
        with shown(console) as tell:
            told = {"progress": partial(tell, name), "scanning": partial(tell, "files looked at")}
            try:
                outcome = prepare_site(source, site=name, out=out, options=chosen, **told)
            except KeyboardInterrupt:
                raise RuntimeError("interrupted; the same command goes on where it stopped") from None
        show(outcome, console)
        complete &= not outcome.problems
    if not complete:
        raise typer.Exit(3)


def _show_plans(source: Path, sites: "dict[str, Options]") -> None:
    """Print what `prepare` would do for each site.

    Raises:
        typer.Exit: 3 if there is a problem.
    """
    from fedmr.cli.summary import show_plan
    from fedmr.hospital.plan import plan

    with shown(console) as tell:
        scanning = partial(tell, "files looked at")
        plans = {name: plan(source, site=name, options=options, scanning=scanning) for name, options in sites.items()}
    for name, made in plans.items():
        show_plan(made, name, console)
    if any(made.problems for made in plans.values()):
        raise typer.Exit(3)


def preflight(
    data: Annotated[Path, typer.Argument(help="A site's folder, or a data root with several.")],
    job: Annotated[Path, typer.Option(help="Job to come.")] = Path("jobs/mscan_fedavg"),
    workspace: Annotated[Path, typer.Option(help="Folder of the FLARE site, whose disk will hold the run.")] = Path(),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
    force: Force = False,
) -> None:
    """Check a site's data and machine, and train a few steps, before it joins a federation.

    Exit code 0: all passed; 3: some rows warn; 4: some rows fail, the site should not join; 1: could not run.
    """
    check_free(json_file, force=force)
    from fedmr.federation.render import read_task
    from fedmr.flare.dry_run import dry_run
    from fedmr.hospital.preflight import EXIT_CODES, table, verdict, worst
    from fedmr.hospital.preflight import preflight as look
    from fedmr.tasks.registry import build_task

    task = build_task(read_task(job))
    with shown(console) as tell:
        report = look(data, task, try_steps=dry_run, workspace=workspace, job=job, progress=tell)
    for name, rows in report.items():
        console.print(table(rows, name))
    console.print(verdict(report))
    if json_file:
        content = {"status": worst(report), "checks": {n: [asdict(row) for row in rows] for n, rows in report.items()}}
        json_file.write_text(json.dumps(content, indent=1) + "\n")
    raise typer.Exit(EXIT_CODES[worst(report)])
