"""Commands whose options are fields of a dataclass read the command line as any other command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from fedmr.cli.grouped import grouped
from fedmr.cli.main import app as fedmr


@dataclass(frozen=True)
class Way:
    speed: Annotated[int, typer.Option(help="Of it.")]
    name: Annotated[str, typer.Option("--called", help="Its name.")] = "x"
    sure: Annotated[bool, typer.Option("--sure")] = False


app = typer.Typer()


@app.command()
@grouped
def go(where: Path, way: Way, times: int = 2) -> None:
    """Go."""
    typer.echo(f"{where} {way} {times}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["here", "--speed", "3"], "here Way(speed=3, name='x', sure=False) 2"),
        (
            ["--called", "y", "--sure", "--speed=4", "there", "--times", "5"],
            "there Way(speed=4, name='y', sure=True) 5",
        ),
    ],
)
def test_fields_are_options_of_the_command(words, said):
    assert CliRunner().invoke(app, words).stdout.strip() == said


@pytest.mark.parametrize("words", [["here"], ["here", "--speed", "fast"], ["here", "--speed", "1", "--slow"]])
def test_what_a_field_cannot_be_is_refused(words):
    assert CliRunner().invoke(app, words).exit_code == 2


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("prepare", ["--format", "--split-file", "--patient-pattern", "--patients", "--dry-run", "--workers"]),
        ("infer", ["--plane", "--data-consistency", "--fast", "--tile", "--device", "--format", "--job"]),
        ("simulate", ["--out", "--threads", "--force", "--set", "--sites"]),
    ],
)
def test_the_help_of_a_command_names_every_option(command, options):
    text = CliRunner().invoke(fedmr, [command, "--help"], env={"COLUMNS": "200"}).stdout
    assert [option for option in options if option not in text] == []
