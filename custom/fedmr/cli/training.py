"""Commands that train, test and compare."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fedmr.cli.checks import Force, check_free, check_input, check_model
from fedmr.cli.grouped import grouped
from fedmr.cli.options import Code, InitFrom, Settings, configured_job
from fedmr.cli.reporting import JsonFile, Picture, draw_comparison, show_figures

console = Console()


@dataclass(frozen=True)
class _Place:
    """Options of `train` that say where it writes."""

    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for model.pt and log.jsonl.")]
    force: Force = False


@grouped
def train(
    data: Annotated[Path, typer.Argument(help="Data root or one site's folder; several sites are pooled.")],
    place: _Place,
    job: Annotated[Path, typer.Option(help="Job whose task and rounds to use.")] = Path("jobs/mscan_fedavg"),
    sites: Annotated[str, typer.Option(help="Comma-separated site names; all by default.")] = "",
    rounds: Annotated[int, typer.Option(help="Rounds; the job's by default.")] = 0,
    settings: Settings = None,
    init_from: InitFrom = None,
    code: Code = None,
) -> None:
    """Train without a federation on one site or several POOLED: the same task, loop and schedule as the job."""
    out = place.out
    check_free(out / "model.pt", out / "log.jsonl", force=place.force)
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
    force: Force = False,
) -> None:
    """Make one site of several, for the baseline job mscan_central; the scans stay where they are."""
    check_free(out / site / "datalist.json", force=force)
    from fedmr.data.pool import pool

    datalist = pool(data, out, site=site, sites=[s for s in sites.split(",") if s])
    console.print(f"wrote {datalist}", soft_wrap=True)


def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file of FLARE or of `fedmr train`.")],
    data: Annotated[Path, typer.Argument(help="Data root or one site's folder.")],
    json_file: JsonFile = None,
    picture: Picture = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
    force: Force = False,
) -> None:
    """Compare a model with zero-filled and, for super-resolution, bicubic interpolation on every site's volumes."""
    check_model(model)
    check_input(data)
    check_free(json_file, picture, force=force)
    from fedmr.checkpoints.model_file import load_model
    from fedmr.training.standalone import comparison_images, evaluate_sites

    task = load_model(model, job).task
    figures = evaluate_sites(model, data, split=split, job=job)
    show_figures(figures, f"{model.name} on {split} volumes", json_file, task)
    if picture:
        draw_comparison(comparison_images(model, data, split=split, job=job), figures, picture, task)


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
