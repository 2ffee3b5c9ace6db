"""The `fedmr` command."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
jobs_app = typer.Typer(no_args_is_help=True, help="Render and check the FLARE job folders.")
app.add_typer(jobs_app, name="jobs")
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
    source: Annotated[Path, typer.Argument(help="Folder that the paths of the split file start from.")],
    site: Annotated[str, typer.Option(help="Site name, as FLARE knows it.")],
    out: Annotated[Path, typer.Option(help="Data root to fill.")],
    split_file: Annotated[Path, typer.Option(help="CSV with the columns site, patient, split, path.")],
) -> None:
    """Check a hospital's NIfTI files and write its datalist; the files stay where they are."""
    from fedmr.prepare import prepare as prepare_site

    console.print(f"wrote {prepare_site(source, site=site, out=out, split_file=split_file)}")


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


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file of FLARE or of `fedmr train`.")],
    data: Annotated[Path, typer.Argument(help="Data root or one site's folder.")],
    json_file: _JsonFile = None,
    picture: _Picture = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Compare a model with zero-filled and bicubic interpolation on every site's volumes."""
    from fedmr.local import comparison_images, evaluate_sites
    from fedmr.report import draw

    figures = evaluate_sites(model, data, split=split, job=job)
    _show(figures, f"{model.name} on {split} volumes", json_file)
    if picture:
        draw(comparison_images(model, data, split=split, job=job), figures, picture)
        console.print(f"wrote {picture}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Simulator workspace or downloaded job.")],
    json_file: _JsonFile = None,
    picture: _Picture = None,
) -> None:
    """Table and picture of a federated run, from what the sites reported; fails if a site or a model is missing."""
    from fedmr.report import best_round, draw, read_figures, read_images, read_rounds

    figures = read_figures(run)
    _show(figures, f"final global model of {run}", json_file)
    best = best_round(read_rounds(run))
    console.print(
        f"best_FL_global_model.pt: as received in round {best['round']}, validation PSNR {best['psnr']:.2f} dB"
    )
    if picture:
        images = read_images(run)
        if not images:
            raise ValueError(
                'no site of this run shares pictures ("share_images" in its datalist). On a site, '
                "`fedmr evaluate MODEL DATA --picture FILE` draws them from its own data"
            )
        draw(images, figures, picture)
        console.print(f"wrote {picture}")


def _show(figures: dict[str, Any], title: str, json_file: Path | None) -> None:
    """Print the table and write the same figures to a file, if one is named."""
    from fedmr.report import table

    console.print(table(figures, title))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


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
