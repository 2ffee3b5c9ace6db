"""Commands that train, test and compare."""

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from fedmr.cli.checks import check_input, check_model
from fedmr.cli.options import Code, InitFrom, Settings, configured_job

if TYPE_CHECKING:  # imports torch
    from fedmr.runs.run import Run
    from fedmr.tasks.base import Task

console = Console()

_JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
_Picture = Annotated[Path | None, typer.Option(help="Write the comparison picture (PNG) to this file.")]


def train(
    data: Annotated[Path, typer.Argument(help="Data root or one site's folder; several sites are pooled.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for model.pt and log.jsonl.")],
    job: Annotated[Path, typer.Option(help="Job whose task and rounds to use.")] = Path("jobs/mscan_fedavg"),
    sites: Annotated[str, typer.Option(help="Comma-separated site names; all by default.")] = "",
    rounds: Annotated[int, typer.Option(help="Rounds; the job's by default.")] = 0,
    settings: Settings = None,
    init_from: InitFrom = None,
    code: Code = None,
) -> None:
    """Train without a federation on one site or several POOLED: the same task, loop and schedule as the job."""
    from fedmr.training.standalone import train_pooled

    console.print("no federation: the volumes of all sites are pooled in this process; `fedmr simulate` federates")
    chosen = [s for s in sites.split(",") if s]
    with TemporaryDirectory(prefix="fedmr-job-") as folder:
        changed = configured_job(job, Path(folder), settings=settings, init_from=None, code=code)
        train_pooled(data, out, job=changed, sites=chosen, rounds=rounds, init_from=init_from, say=console.print)


def pool_sites(
    data: Annotated[Path, typer.Argument(help="Data root with the sites.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Data root to fill; not DATA itself.")],
    site: Annotated[str, typer.Option(help="Name of the pooled site, as FLARE will know it.")] = "pooled",
    sites: Annotated[str, typer.Option(help="Comma-separated site names; all by default.")] = "",
) -> None:
    """Make one site of several, for the baseline job mscan_central; the scans stay where they are."""
    from fedmr.data.pool import pool

    datalist = pool(data, out, site=site, sites=[s for s in sites.split(",") if s])
    console.print(f"wrote {datalist}", soft_wrap=True)


def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file of FLARE or of `fedmr train`.")],
    data: Annotated[Path, typer.Argument(help="Data root or one site's folder.")],
    json_file: _JsonFile = None,
    picture: _Picture = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Compare a model with zero-filled and, for super-resolution, bicubic interpolation on every site's volumes."""
    check_model(model)
    check_input(data)
    from fedmr.checkpoints.model_file import load_model
    from fedmr.training.standalone import comparison_images, evaluate_sites

    task = load_model(model, job).task
    figures = evaluate_sites(model, data, split=split, job=job)
    _show(figures, f"{model.name} on {split} volumes", json_file, task)
    if picture:
        _draw(comparison_images(model, data, split=split, job=job), figures, picture, task)


def report(
    run: Annotated[Path, typer.Argument(help="Simulator workspace or downloaded job.")],
    json_file: _JsonFile = None,
    picture: _Picture = None,
    html: Annotated[Path | None, typer.Option(help="Page to write; RUN/report.html by default.")] = None,
) -> None:
    """Table, page and picture of a federated run, or of federated statistics, from what the sites reported.

    Of a cross-site evaluation also the matrix of every model on every site, with a heat map in RUN/cross_site.png. Of a
    study: its tables and pictures in RUN/report.
    Fails if a model is missing. Exit code 3: a site that was meant to take part was missing, in whole or in part; each
    is named, also on the page, and the figures are the others'.
    """
    from fedmr.reports.cross_site import show_matrix
    from fedmr.reports.html import write_html
    from fedmr.reports.protection import protection_tables
    from fedmr.reports.statistics import show_statistics
    from fedmr.runs.attendance import absences_of
    from fedmr.runs.run import Run
    from fedmr.study.report import is_study, write_report

    if is_study(run):
        return console.print(f"wrote {write_report(run)}", soft_wrap=True)
    opened = Run(run)
    if opened.is_statistics:
        return show_statistics(opened, console, json_file=json_file, picture=picture)
    page = html or run / "report.html"
    write_html(opened, page)  # first: an incomplete run has a page too, which says what is missing
    console.print(f"wrote {page}", soft_wrap=True)
    for view in protection_tables(opened):
        console.print(view)
    for line in opened.refused.lines():
        console.print(f"[yellow]refused:[/] {escape(line)}", soft_wrap=True)
    absent = absences_of(opened)
    for name, words in absent.items():
        console.print(f"[bold red]{escape(name)}[/] {escape(words)}", soft_wrap=True)
    figures, alone = opened.figures(complete=False), opened.trained_alone
    whose = f"every site's own model of {run}" if alone else f"final global model of {run}"
    _show(figures, whose, json_file, opened.task)
    _show_more(opened, figures, alone=alone)
    if not absent and opened.is_cross_site:
        show_matrix(opened, console, run / "cross_site.png")
    if picture:
        _draw(_shared_pictures(opened, figures), figures, picture, opened.task)
    if absent:
        raise typer.Exit(3)


def _show_more(opened: "Run", figures: dict[str, Any], *, alone: bool) -> None:
    """Print personal models, who has no part in what, and which round's model is the best."""
    from fedmr.reports.table import personal_table

    if personal := personal_table(figures):
        console.print(personal)
    for name, words in opened.parts.items():
        console.print(f"{escape(name)} {words}", soft_wrap=True)
    best = opened.best
    if best and not alone:  # else the server's files hold the untrained network
        console.print(
            f"best_FL_global_model.pt: as received in round {best['round']}, validation PSNR {best['psnr']:.2f} dB"
        )


def _shared_pictures(run: "Run", figures: dict[str, Any]) -> dict[str, Any]:
    """Comparison images of the final model by site, (H, 4*W) uint8, of sites in the figures.

    Raises:
        ValueError: no site shares any.
    """
    from fedmr.runs.records import FINAL_MODEL
    from fedmr.runs.streams import latest_pictures

    streams = {site: stream for site, stream in run.streams.items() if site in figures["sites"]}
    images = latest_pictures(streams, f"test/{FINAL_MODEL}")
    if not images:
        raise ValueError(
            'no site of this run shares pictures ("share_images" in its datalist). On a site, '
            "`fedmr evaluate MODEL DATA --picture FILE` draws them from its own data"
        )
    return images


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="Study, as in benchmarks/studies.")],
    data: Annotated[Path, typer.Option(help="Data root with the sites.")] = Path("data"),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The study's folder; runs/studies/NAME by default.")
    ] = None,
    configs: Annotated[Path, typer.Option(help="Folder with the job sources.")] = Path("app_configs"),
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


def _show(figures: dict[str, Any], title: str, json_file: Path | None, task: "Task | None") -> None:
    """Print the table and write the same figures to a file, if one is named."""
    from fedmr.reports.table import figures_table, labels_of

    console.print(figures_table(figures, title, labels_of(task)))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def _draw(images: dict[str, Any], figures: dict[str, Any], picture: Path, task: "Task | None") -> None:
    """Write the comparison picture that fits the kind of task."""
    from fedmr.reports.error_maps import draw_errors
    from fedmr.reports.pictures import draw_details
    from fedmr.reports.table import labels_of

    if task and task.shows_errors:
        draw_errors(images, figures, picture, labels_of(task))
    else:
        draw_details(images, figures, picture, labels_of(task))
    console.print(f"wrote {picture}")
