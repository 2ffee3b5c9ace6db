"""The `fedmr` command."""

import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TaskID

if TYPE_CHECKING:  # imports torch
    from fedmr.config import Task

from fedmr.consortium.commands import app as poc_app

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
jobs_app = typer.Typer(no_args_is_help=True, help="Render and check the FLARE job folders.")
app.add_typer(jobs_app, name="jobs")
app.add_typer(poc_app, name="poc")
console = Console()

_JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
_Picture = Annotated[Path | None, typer.Option(help="Write the comparison picture (PNG) to this file.")]
_Configs = Annotated[Path, typer.Option(help="Folder with the job sources.")]
_Jobs = Annotated[Path, typer.Option(help="Folder with the rendered jobs.")]


def main() -> None:
    """Entry point: errors that a user can mend are one red line and exit code 1, all others a traceback."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        # escaped: a path or a shape in brackets is no markup
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)


@app.command()
def demo_data(
    out: Annotated[Path, typer.Argument(help="Data root to fill.")],
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 4,
    patients: Annotated[int, typer.Option(help="Patients per hospital, at least 3.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same voxels.")] = 0,
) -> None:
    """Make simulated hospitals from real anatomy, as NIfTI files with datalists."""
    from fedmr.demo import make_hospitals

    with console.status("simulating") as status:
        folders = make_hospitals(out, sites=sites, patients=patients, seed=seed, progress=status.update)
    console.print(f"{len(folders)} hospitals of {patients} patients each in {out}")


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="The hospital's folder of scans; it is only read.")],
    out: Annotated[Path, typer.Option(help="Data root to fill; the site's data go to OUT/SITE.")],
    site: Annotated[str, typer.Option(help="Site name, as FLARE knows it.")] = "",
    layout: Annotated[str, typer.Option("--format", help="auto, bids, nifti, ixi, brats, fastmri or dicom.")] = "auto",
    contrast: Annotated[str, typer.Option(help="Contrasts to take, e.g. T1w,FLAIR; all by default.")] = "",
    split: Annotated[str, typer.Option(help="Shares of the patients for train/val/test.")] = "0.7/0.1/0.2",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    split_file: Annotated[
        Path | None, typer.Option(help="CSV that gives the split: columns patient, split and, if need be, path, site.")
    ] = None,
    by_hospital: Annotated[bool, typer.Option(help="One site per hospital that the file names state (IXI).")] = False,
    workers: Annotated[int, typer.Option(help="Processes; one per core by default.")] = 0,
) -> None:
    """Check a hospital's scans and make its site: cached volumes under pseudonyms and a datalist, split by patient.

    Exit code 0: all scans were prepared; 3: some could not be used, each is named with the reason, and the others were
    prepared; 1: nothing was prepared.
    """
    from fedmr.prepare import Options, hospitals
    from fedmr.prepare import prepare as prepare_site
    from fedmr.summary import show

    if by_hospital == bool(site):
        raise ValueError("give either --site NAME, or --by-hospital for a collection of several hospitals")
    options = Options(layout, tuple(filter(None, contrast.split(","))), split, seed, split_file, "", workers)
    sites = (
        {name: replace(options, hospital=name) for name in hospitals(source, layout)}
        if by_hospital
        else {site: options}
    )
    complete = True
    for name, chosen in sites.items():
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
            advance = partial(_advance, bar, bar.add_task(name, total=None))
            try:
                outcome = prepare_site(source, site=name, out=out, options=chosen, progress=advance)
            except KeyboardInterrupt:
                raise RuntimeError("interrupted; the same command goes on where it stopped") from None
        show(outcome, console)
        complete &= not outcome.problems
    if not complete:
        raise typer.Exit(3)


@app.command()
def preflight(
    data: Annotated[Path, typer.Argument(help="A site's folder, or a data root with several.")],
    job: Annotated[Path, typer.Option(help="Job to come.")] = Path("jobs/mscan_fedavg"),
    workspace: Annotated[Path, typer.Option(help="Folder of the FLARE site, whose disk will hold the run.")] = Path(),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
) -> None:
    """Check a site's data and machine, and train a few steps, before it joins a federation.

    Exit code 0: all passed; 3: some rows warn; 4: some rows fail, the site should not join; 1: could not run.
    """
    from fedmr.config import Task
    from fedmr.flare.dry_run import dry_run
    from fedmr.jobs import read_task
    from fedmr.preflight import EXIT_CODES, table, verdict, worst
    from fedmr.preflight import preflight as look

    task = Task.from_dict(read_task(job))
    with Progress(console=console, transient=True) as bar:
        line = bar.add_task("")

        def advance(what: str, done: int, total: int) -> None:
            bar.update(line, description=what, completed=done, total=total)

        report = look(data, task, try_steps=dry_run, workspace=workspace, progress=advance)
    for name, rows in report.items():
        console.print(table(rows, name))
    console.print(verdict(report))
    if json_file:
        content = {"status": worst(report), "checks": {n: [asdict(row) for row in rows] for n, rows in report.items()}}
        json_file.write_text(json.dumps(content, indent=1) + "\n")
    raise typer.Exit(EXIT_CODES[worst(report)])


def _advance(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Data root or one site's folder; several sites are pooled.")],
    out: Annotated[Path, typer.Option(help="Folder for model.pt and log.jsonl.")],
    job: Annotated[Path, typer.Option(help="Job whose task and rounds to use.")] = Path("jobs/mscan_fedavg"),
    sites: Annotated[str, typer.Option(help="Comma-separated site names; all by default.")] = "",
    rounds: Annotated[int, typer.Option(help="Rounds; the job's by default.")] = 0,
) -> None:
    """Train without FLARE on one site or several pooled: the same task, loop and schedule as the job."""
    from fedmr.local import train_pooled

    train_pooled(data, out, job=job, sites=[s for s in sites.split(",") if s], rounds=rounds, say=console.print)


@app.command("pool")
def pool_sites(
    data: Annotated[Path, typer.Argument(help="Data root with the sites.")],
    out: Annotated[Path, typer.Option(help="Data root to fill; not DATA itself.")],
    site: Annotated[str, typer.Option(help="Name of the pooled site, as FLARE will know it.")] = "pooled",
    sites: Annotated[str, typer.Option(help="Comma-separated site names; all by default.")] = "",
) -> None:
    """Make one site of several, for the baseline job mscan_central; the scans stay where they are."""
    from fedmr.pool import pool

    datalist = pool(data, out, site=site, sites=[s for s in sites.split(",") if s])
    console.print(f"wrote {datalist}", soft_wrap=True)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file of FLARE or of `fedmr train`.")],
    data: Annotated[Path, typer.Argument(help="Data root or one site's folder.")],
    json_file: _JsonFile = None,
    picture: _Picture = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Compare a model with zero-filled and, for super-resolution, bicubic interpolation on every site's volumes."""
    from fedmr.local import comparison_images, evaluate_sites
    from fedmr.models import load_model

    task = load_model(model, job).task
    figures = evaluate_sites(model, data, split=split, job=job)
    _show(figures, f"{model.name} on {split} volumes", json_file, task)
    if picture:
        _draw(comparison_images(model, data, split=split, job=job), figures, picture, task)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Simulator workspace or downloaded job.")],
    json_file: _JsonFile = None,
    picture: _Picture = None,
    html: Annotated[Path | None, typer.Option(help="Page to write; RUN/report.html by default.")] = None,
) -> None:
    """Table, page and picture of a federated run, or of federated statistics, from what the sites reported.

    Of a cross-site evaluation also the matrix of every model on every site, with a heat map in RUN/cross_site.png. Of a
    study: its tables and pictures in RUN/report.
    Fails if a site or a model is missing; the page is written all the same and says so.
    """
    from fedmr import cross_site
    from fedmr.html import write_html
    from fedmr.protection import protection_tables
    from fedmr.report import best_round, personal_table, read_figures, read_images, read_rounds, read_run_task
    from fedmr.statistics import is_statistics, show
    from fedmr.study.report import is_study, write_report

    if is_study(run):
        return console.print(f"wrote {write_report(run)}", soft_wrap=True)
    if is_statistics(run):
        return show(run, console, json_file=json_file, picture=picture)
    page = html or run / "report.html"
    write_html(run, page)  # first: an incomplete run has a page too, which says what is missing
    console.print(f"wrote {page}", soft_wrap=True)
    for view in protection_tables(run):
        console.print(view)
    figures = read_figures(run)
    alone, task = cross_site.trained_alone(run), read_run_task(run)
    _show(figures, f"every site's own model of {run}" if alone else f"final global model of {run}", json_file, task)
    if personal := personal_table(figures):
        console.print(personal)
    best = best_round(read_rounds(run))
    if not alone:  # else the server's files hold the untrained network
        console.print(
            f"best_FL_global_model.pt: as received in round {best['round']}, validation PSNR {best['psnr']:.2f} dB"
        )
    if cross_site.is_cross_site(run):
        cross_site.show(run, console, run / "cross_site.png")
    if picture:
        images = read_images(run)
        if not images:
            raise ValueError(
                'no site of this run shares pictures ("share_images" in its datalist). On a site, '
                "`fedmr evaluate MODEL DATA --picture FILE` draws them from its own data"
            )
        _draw(images, figures, picture, task)


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="Study, as in benchmarks/studies.")],
    data: Annotated[Path, typer.Option(help="Data root with the sites.")] = Path("data"),
    out: Annotated[Path | None, typer.Option(help="The study's folder; runs/studies/NAME by default.")] = None,
    configs: _Configs = Path("app_configs"),
    plan: Annotated[bool, typer.Option("--plan", help="List the runs and which of them are done; run none.")] = False,
) -> None:
    """Run a grid of trainings through the jobs, with one table of results; `fedmr report OUT` makes its tables.

    The same command goes on where it stopped. Exit code 0: all runs are in the table; 3: some failed, each is named
    with the reason; 1: the study cannot be run.
    """
    from fedmr.study.grid import read_study
    from fedmr.study.results import read_rows
    from fedmr.study.runner import run_study

    grid, out = read_study(file, data=data, configs=configs), out or Path("runs") / "studies" / file.stem
    if plan:
        done = {row["cell"] for row in read_rows(out)}
        for cell in grid.cells:
            state = "done" if cell.name in done else "to do"
            console.print(f"{state:6}{cell.name}: {cell.parameters:,} parameters, {cell.rounds} rounds", soft_wrap=True)
        return
    try:
        problems = run_study(grid, out, data=data, configs=configs, say=partial(console.print, soft_wrap=True))
    except KeyboardInterrupt:
        raise RuntimeError("interrupted; the same command goes on where it stopped") from None
    for name, reason in problems.items():
        console.print(f"[bold red]failed:[/] {escape(name)}: {escape(reason)}", soft_wrap=True)
    console.print(f"wrote {out / 'results.csv'}; `fedmr report {out}` makes tables and pictures", soft_wrap=True)
    if problems:
        raise typer.Exit(3)


@app.command()
def infer(
    model: Annotated[
        Path, typer.Argument(help="Model file of FLARE, `fedmr train` or `fedmr export`, or a whole run.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="NIfTI, DICOM series or raw k-space (HDF5), or a folder of them.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="File for a NIfTI or HDF5 file, folder for all else.")
    ],
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal; the acquisition plane by default.")] = "",
    data_consistency: Annotated[
        bool,
        typer.Option("--data-consistency", help="Put the scan's own k-space back: the result never contradicts it."),
    ] = False,
    fast: Annotated[bool, typer.Option("--fast", help="16-bit arithmetic, where the hardware has it.")] = False,
    tile: Annotated[int, typer.Option(help="Side of tiles in LR pixels; chosen by memory by default.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda; the GPU by default, where there is one.")] = "",
    layout: Annotated[str, typer.Option("--format", help="nifti or dicom, for a folder that holds both.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace results that are there.")] = False,
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Super-resolve scans in the plane of their slices; geometry, intensities and type are those of the input.

    A reconstruction model takes raw k-space with missing columns instead, as fastMRI HDF5, and writes NIfTI.
    Exit code 0: all scans were done; 3: some could not be used, each is named with the reason, and the others were; 1:
    none was.
    """
    from fedmr.infer import infer as infer_scans
    from fedmr.infer_volume import Options
    from fedmr.summary import show_results

    options = Options(plane, data_consistency, tile, not fast, device)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(name: str, done: int, total: int) -> None:
            bar.update(task, description=escape(Path(name).name), completed=done, total=total)

        outcome = infer_scans(
            model, source, target, options=options, job=job, force=force, layout=layout, progress=advance
        )
    show_results(outcome, console)
    if outcome.problems:
        raise typer.Exit(3)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Model file of FLARE or of `fedmr train`, or a whole run.")],
    to: Annotated[str, typer.Option(help="pt, torchscript, onnx or bundle.")],
    out: Annotated[Path | None, typer.Option(help="What to write; by default the model's name, here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    licence: Annotated[str, typer.Option(help="Terms of the weights, for the card.")] = "",
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Write a model, with its card, for use elsewhere: model file, TorchScript, ONNX or MONAI bundle."""
    from fedmr.export import export as export_model

    console.print(f"wrote {export_model(model, to, out=out, force=force, job=job, licence=licence)}")


@app.command()
def decrypt(
    model: Annotated[Path, typer.Argument(help="Encrypted model file of FLARE's server, or a whole run of an HE job.")],
    context: Annotated[Path, typer.Option(help="The site's startup/client_context.tenseal.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Make a usable model of an encrypted one, at a site: only the sites have the key."""
    from fedmr.models import load_model, save_model

    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; name another place by --out, or replace it by --force")
    save_model(out, load_model(model, job, context))
    console.print(f"wrote {out}", soft_wrap=True)


@app.command()
def card(
    model: Annotated[Path, typer.Argument(help="Model file of FLARE or of `fedmr train`, or a whole run.")],
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Show what a model is: network, training, figures, licence."""
    from fedmr.card import describe
    from fedmr.models import load_model

    console.print(describe(load_model(model, job).card), markup=False, highlight=False, soft_wrap=True)


@app.command()
def audit(
    data: Annotated[Path, typer.Argument(help="Data root or one site's folder; the first site is attacked.")],
    out: Annotated[Path, typer.Option(help="Folder for audit.json, audit.md and audit.png, which shows patches.")],
    job: Annotated[Path, typer.Option(help="Job whose site to play.")] = Path("jobs/mscan_fedavg"),
    model: Annotated[
        Path | None, typer.Option(help="Trained on these data; by default the site trains one epoch.")
    ] = None,
    iterations: Annotated[int, typer.Option(help="Of the curious server's attack.")] = 300,
    seed: Annotated[int, typer.Option(help="Which patches are attacked.")] = 0,
) -> None:
    """Attack a site's updates: which patches a server could rebuild from them, and behind which filter no longer."""
    from fedmr.audit import audit as attack
    from fedmr.audit import super_resolution_task
    from fedmr.audit_output import membership_line, table, write
    from fedmr.data import site_folders
    from fedmr.flare.protections import protections
    from fedmr.models import load_model
    from fedmr.nets import build

    task = super_resolution_task(job)
    net = load_model(model).net if model else None
    with Progress(*Progress.get_default_columns(), console=console, transient=True) as bar:
        line = bar.add_task("")
        result = attack(
            site_folders(data)[0],
            task,
            protections=protections({n: p.numel() for n, p in build(**task.network).named_parameters()}),
            net=net,
            iterations=iterations,
            seed=seed,
            progress=lambda what, done, total: bar.update(line, description=what, completed=done, total=total),
        )
    console.print(table(result))
    console.print(membership_line(result), soft_wrap=True)
    for path in write(result, out):
        console.print(f"wrote {path}", soft_wrap=True)


def _show(figures: dict[str, Any], title: str, json_file: Path | None, task: "Task | None") -> None:
    """Print the table and write the same figures to a file, if one is named."""
    from fedmr.report import labels_of, table

    console.print(table(figures, title, labels_of(task)))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def _draw(images: dict[str, Any], figures: dict[str, Any], picture: Path, task: "Task | None") -> None:
    """Write the comparison picture that fits the kind of task."""
    from fedmr.config import ReconstructionTask
    from fedmr.error_maps import draw_errors
    from fedmr.report import draw, labels_of

    if isinstance(task, ReconstructionTask):
        draw_errors(images, figures, picture, labels_of(task))
    else:
        draw(images, figures, picture)
    console.print(f"wrote {picture}")


@jobs_app.command()
def render(configs: _Configs = Path("app_configs"), jobs: _Jobs = Path("jobs")) -> None:
    """Write jobs/NAME for every app_configs/NAME.conf."""
    from fedmr.jobs import render as render_jobs

    console.print(f"rendered {', '.join(render_jobs(configs, jobs))}")


@jobs_app.command()
def check(configs: _Configs = Path("app_configs"), jobs: _Jobs = Path("jobs")) -> None:
    """Check that jobs are up to date, components import and their arguments exist."""
    from fedmr.jobs import check as check_jobs
    from fedmr.jobs import job_names

    problems = check_jobs(configs, jobs)
    if problems:
        raise ValueError("\n".join(problems))
    console.print(f"{len(job_names(configs))} jobs are up to date and complete")


@jobs_app.command()
def bundle(
    job: Annotated[Path, typer.Argument(help="Job folder.")],
    out: Annotated[Path, typer.Option(help="Folder for OUT/NAME.")] = Path("runs/jobs"),
    code: Annotated[bool, typer.Option(help="Put FedMR's code into the job, for sites that lack it.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Copy a job for submission: with FedMR's code inside, or for sites that have FedMR installed and forbid code."""
    from fedmr.job_bundle import bundle as copy_job

    console.print(f"wrote {copy_job(job, out, code=code, force=force)}")
