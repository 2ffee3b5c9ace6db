"""All commands at once: they name arguments and options alike, and write over nothing unless told to."""

import json
import re
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from fedmr.cli.main import app

PLACES = {"out", "html", "json_file", "picture", "target"}  # parameters that name what a command writes
# Those that replace nothing of another's, and how; all others have --force.
KEEPS = {
    "demo-data": "refuses a site that holds other data",
    "prepare": "goes on where it stopped, in the site's own folder",
    "study": "goes on where it stopped",
}


def walk(command: typer.core.TyperGroup, name: str = "") -> Iterator[tuple[str, typer.core.TyperCommand]]:
    for word, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from walk(inner, f"{name}{word} ")
        else:
            yield f"{name}{word}", inner


COMMANDS = dict(walk(typer.main.get_command(app)))


def test_the_usage_of_every_command_names_its_arguments_in_capitals_without_braces():
    for name, command in COMMANDS.items():
        shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "120"}).output
        usage = re.search(r"Usage: (.*)", shown)[1]
        assert "{" not in usage, usage
        arguments = [p.metavar for p in command.params if p.param_type_name == "argument"]
        assert all(word == word.upper() and word in usage for word in arguments), usage


def test_an_option_is_spelled_the_same_everywhere():
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name == "out":
                assert set(parameter.opts) == {"--out", "-o"}, name
            if parameter.name == "force":
                assert parameter.opts == ["--force"], name


def test_every_command_that_writes_where_it_is_told_has_force():
    writing = {name for name, command in COMMANDS.items() if PLACES & {p.name for p in command.params}}
    with_force = {name for name, command in COMMANDS.items() if "force" in {p.name for p in command.params}}
    assert writing - with_force == set(KEEPS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, scans and every place that a command would write to, taken by somebody's notes."""
    monkeypatch.chdir(tmp_path)
    for name in ("model.pt", "scan.nii", "data/site-1/datalist.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("input")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("train data --out mine", "mine/model.pt"),
        ("train data --out mine", "mine/log.jsonl"),
        ("pool data --out mine", "mine/pooled/datalist.json"),
        ("evaluate model.pt data --json mine", "mine"),
        ("evaluate model.pt data --picture mine", "mine"),
        ("report run --json mine", "mine"),
        ("report run --picture mine", "mine"),
        ("report run --html mine", "mine"),
        ("preflight data --json mine", "mine"),
        ("audit data --out mine", "mine/audit.json"),
        ("audit data --out mine", "mine/audit.png"),
        ("decrypt model.pt --context x --out mine", "mine"),
        ("export mscan-x2 --to pt --out mine", "mine"),
        ("demo --out mine", "mine/notes"),
        ("simulate mscan_fedavg --data data --out mine", "mine/notes"),
    ],
)
def test_what_is_there_is_refused_and_stays(command, place, folder, monkeypatch):
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_text("somebody's notes")
    monkeypatch.setattr("fedmr.federation.simulator.choose_sites", lambda *_: ["site-1"])  # the data are no matter
    result = CliRunner().invoke(app, command.split())
    assert isinstance(result.exception, FileExistsError), result.output
    assert "--force" in str(result.exception)
    assert (folder / place).read_text() == "somebody's notes"


def test_demo_data_replace_no_real_site(folder):
    before = json.dumps({"site": "site-1", "volumes": []})
    (folder / "data" / "site-1" / "datalist.json").write_text(before)
    result = CliRunner().invoke(app, ["demo-data", "data"])
    assert isinstance(result.exception, FileExistsError)
    assert (folder / "data" / "site-1" / "datalist.json").read_text() == before
