"""The command as a user types it: exit codes and messages."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from fedmr.cli.main import main

COMMANDS = (
    "demo-data",
    "prepare",
    "preflight",
    "train",
    "pool",
    "study",
    "audit",
    "decrypt",
    "poc",
    "evaluate",
    "report",
    "infer",
    "export",
    "card",
    "jobs",
)


@pytest.fixture
def fedmr(monkeypatch, capsys):
    """Run the command in this process: exit code, standard output and error."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedmr", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


def test_help_lists_every_command():
    command = [Path(sys.executable).parent / "fedmr", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert all(command in result.stdout for command in COMMANDS)


def test_the_version_is_that_of_the_package(fedmr):
    code, output, _ = fedmr("--version")
    assert code == 0
    assert output == f"fedmr {metadata.version('fedmr')}\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_answers_the_short_option_for_help(command, fedmr):
    code, output, _ = fedmr(*command.split(), "-h")
    assert code == 0
    assert f"fedmr {command}".strip() in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "missing.pt", "nowhere"), "missing.pt does not exist"),
        (("preflight", "nowhere"), "nowhere holds no site"),
        (("report", "nowhere"), "nowhere is no run"),
        (("report", "run [old] 1"), "run [old] 1 is no run"),
        (("demo-data", "/dev/null"), "is a file"),
        (("demo-data", "/tmp/none", "--patients", 2), "patients=2"),
        (("train", "nowhere", "--out", "/tmp/none", "--job", "nowhere"), "nowhere is no job: give a job folder"),
        (("export", "missing.pt", "--to", "onnx"), "missing.pt does not exist"),
        (("card", "missing.pt"), "missing.pt does not exist"),
        (("study", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (("pool", "nowhere", "--out", "/tmp/none"), "nowhere holds no site"),
        (("prepare", "nowhere", "--site", "a", "--out", "/tmp/none"), "nowhere does not exist"),
        (("prepare", "nowhere", "--out", "/tmp/none"), "either --site NAME, or --by-hospital"),
    ],
)
def test_a_users_mistake_is_one_line_without_a_traceback(arguments, message, fedmr):
    code, _, error = fedmr(*arguments)
    assert code == 1
    assert message in error
    assert len(error.strip().splitlines()) == 1
