"""`fedmr report` and `fedmr evaluate`: what a run or a model reached, as table, page and picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from fedmr.cli.checks import Force, check_empty, check_free, check_input
from fedmr.cli.grouped import grouped

if TYPE_CHECKING:  # imports torch
    from fedmr.runs.run import Run
    from fedmr.tasks.base import Task

console = Console()

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
Picture = Annotated[Path | None, typer.Option(help="Write the comparison picture (PNG) to this file.")]


def report(
    run: Annotated[Path, typer.Argument(help="Simulator workspace, downloaded job, or a study's folder.")],
    others: Annotated[list[Path] | None, typer.Argument(help="More runs, to be compared with the first one.")] = None,
    json_file: JsonFile = None,
    picture: Picture = None,
    html: Annotated[Path | None, typer.Option(help="Page to write; RUN/report.html by default.")] = None,
    force: Force = False,
) -> None:
    """Table, page and picture of a federated run, or of federated statistics, from what the sites reported.

    Of a cross-site evaluation also the matrix of every model on every site, with a heat map in RUN/cross_site.png. Of a
    study: its tables and pictures in RUN/report.
    Fails if a model is missing. Exit code 3: a site that was meant to take part was missing, in whole or in part; each
    is named, also on the page, and the figures are the others'.
    """
    check_free(json_file, picture, html, force=force)
    if others:
        return _compare([run, *others], json_file)
    from fedmr.reports.cross_site import show_matrix
    from fedmr.reports.html import write_html
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
    for line in opened.refused.lines():
        console.print(f"[yellow]refused:[/] {escape(line)}", soft_wrap=True)
    absent = absences_of(opened)
    for name, words in absent.items():
        console.print(f"[bold red]{escape(name)}[/] {escape(words)}", soft_wrap=True)
    figures, alone = opened.figures(complete=False), opened.trained_alone
    whose = f"every site's own model of {run}" if alone else f"final global model of {run}"
    show_figures(figures, whose, json_file, opened.task)
    _show_more(opened, figures, alone=alone)
    if not absent and opened.is_cross_site:
        show_matrix(opened, console, run / "cross_site.png")
    if picture:
        draw_comparison(_shared_pictures(opened, figures), figures, picture, opened.task)
    if absent:
        raise typer.Exit(3)


def _show_more(opened: "Run", figures: dict[str, Any], *, alone: bool) -> None:
    """Print what filters did, personal models, who has no part in what, and which round's model is the best."""
    from fedmr.reports.protection import protection_tables
    from fedmr.reports.table import personal_table

    for view in protection_tables(opened):
        console.print(view)
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


@dataclass(frozen=True)
class _Choice:
    """Options of `figures` that say what is shown, and how."""

    format: Annotated[str, typer.Option(help="pdf, svg or png.")] = "pdf"
    dpi: Annotated[int, typer.Option(help="Dots per inch of bitmaps, 50 to 1200.")] = 300
    methods: Annotated[str, typer.Option(help="Labels as the report has them, with commas; all by default.")] = ""
    contrast: Annotated[str, typer.Option(help="Test volumes that count, e.g. T2w; all by default.")] = ""
    data: Annotated[Path | None, typer.Option(help="Data root, whose datalists tell the contrasts.")] = None


@grouped
def figures(
    run: Annotated[Path, typer.Argument(help="A run, or the folder of a study.")],
    choice: _Choice,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; RUN/figures by default.")] = None,
    force: Force = False,
) -> None:
    """Figures and tables for a paper: PDF, SVG or PNG, LaTeX and CSV.

    Of a run: curves, methods by site, details of shared slices. Of a study: its arms in groups beside the baseline.
    --contrast counts, of a study, single volumes; of a run the sites whose test volumes are all of it, for a site
    reports only its mean.
    """
    check_input(run)
    target = out or run / "figures"
    if not force:
        check_empty(target)
    from fedmr.reports.paper import Look
    from fedmr.reports.run_figures import run_figures
    from fedmr.runs.run import Run
    from fedmr.study.figures import sites_of_contrast, study_figures
    from fedmr.study.results import FILE

    look, methods = Look(choice.format, choice.dpi), [name for name in choice.methods.split(",") if name]
    if (run / FILE).is_file():
        written = study_figures(run, target, look, methods=methods, contrast=choice.contrast, data=choice.data)
    else:
        sites = sites_of_contrast(choice.contrast, choice.data)
        written = run_figures(Run(run), target, look, methods=methods, sites=sites)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)


def _compare(runs: Sequence[Path], json_file: Path | None) -> None:
    """Print one table of several runs, and write its figures to a file, if one is named."""
    for run in runs:
        check_input(run)
    from fedmr.reports.comparison import compare, comparison_table
    from fedmr.runs.run import Run

    comparison = compare([Run(run) for run in runs])
    console.print(comparison_table(comparison))
    if json_file:
        json_file.write_text(json.dumps(comparison.figures, indent=1) + "\n")


def show_figures(figures: dict[str, Any], title: str, json_file: Path | None, task: "Task | None") -> None:
    """Print the table and write the same figures to a file, if one is named."""
    from fedmr.reports.table import figures_table, labels_of

    console.print(figures_table(figures, title, labels_of(task)))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def draw_comparison(images: dict[str, Any], figures: dict[str, Any], picture: Path, task: "Task | None") -> None:
    """Write the comparison picture that fits the kind of task."""
    from fedmr.reports.error_maps import draw_errors
    from fedmr.reports.pictures import draw_details
    from fedmr.reports.table import labels_of

    if task and task.shows_errors:
        draw_errors(images, figures, picture, labels_of(task))
    else:
        draw_details(images, figures, picture, labels_of(task))
    console.print(f"wrote {picture}")
