"""`fedmr jobs`: job folders."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedmr.cli.app import App
from fedmr.cli.checks import Force

app = App(no_args_is_help=True, help="Render, check and bundle the FLARE job folders.")
console = Console()

_Configs = Annotated[Path, typer.Option(help="Folder with the job sources.")]
_Jobs = Annotated[Path, typer.Option(help="Folder with the rendered jobs.")]


@app.command()
def render(configs: _Configs = Path("app_configs"), jobs: _Jobs = Path("jobs")) -> None:
    """Write jobs/NAME for every app_configs/NAME.conf."""
    from fedmr.federation.render import render as render_jobs

    console.print(f"rendered {', '.join(render_jobs(configs, jobs))}")


@app.command()
def check(configs: _Configs = Path("app_configs"), jobs: _Jobs = Path("jobs")) -> None:
    """Check that jobs are up to date, components import and their arguments exist."""
    from fedmr.federation.render import check as check_jobs
    from fedmr.federation.render import job_names

    problems = check_jobs(configs, jobs)
    if problems:
        raise ValueError("\n".join(problems))
    console.print(f"{len(job_names(configs))} jobs are up to date and complete")


@app.command()
def bundle(
    job: Annotated[Path, typer.Argument(help="Job folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for OUT/NAME.")] = Path("runs/jobs"),
    code: Annotated[bool, typer.Option(help="Put FedMR's code into the job, for sites that lack it.")] = True,
    force: Force = False,
) -> None:
    """Copy a job for submission: with FedMR's code inside, or for sites that have FedMR installed and forbid code."""
    from fedmr.federation.job_bundle import bundle as copy_job

    console.print(f"wrote {copy_job(job, out, code=code, force=force)}")
