"""The `fedmr` command."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fedmr import __version__
from fedmr.cli import hospital, models, reporting, simulation, training
from fedmr.cli.app import App
from fedmr.cli.doctor import doctor
from fedmr.cli.jobs import app as jobs_app
from fedmr.cli.poc import app as poc_app
from fedmr.cli.summary import printable

app = App(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedmr {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated MR image super-resolution and reconstruction on NVIDIA FLARE."""


app.command()(hospital.demo_data)
app.command()(hospital.prepare)
app.command()(hospital.preflight)
app.command()(simulation.demo)
app.command()(simulation.simulate)
app.command()(training.train)
app.command("pool")(training.pool_sites)
app.command()(training.evaluate)
app.command()(reporting.report)
app.command()(reporting.figures)
app.command()(training.study)
app.command()(models.infer)
app.command()(models.export)
app.command()(models.decrypt)
app.command()(models.card)
app.command()(models.models)
app.command()(doctor)
app.command()(models.audit)
app.add_typer(jobs_app, name="jobs")
app.add_typer(poc_app, name="poc")


def main() -> None:
    """Entry point: errors that a user can mend are one red line and exit code 1, all others a traceback."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        # escaped: a path or a shape in brackets is not markup
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]error:[/] {escape(printable(str(error)))}", highlight=False
        )
        sys.exit(1)
