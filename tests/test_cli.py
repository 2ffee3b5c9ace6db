"""The command as a user types it: exit codes and messages."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("demo-data", "prepare", "preflight", "train", "evaluate", "report", "export", "card", "jobs")


def fedmr(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "fedmr"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_command():
    result = fedmr("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "missing.pt", "nowhere"), "missing.pt does not exist"),
        (("preflight", "nowhere"), "nowhere holds no site"),
        (("report", "nowhere"), "nowhere is no run"),
        (("report", "run [old] 1"), "run [old] 1 is no run"),
        (("demo-data", "/dev/null"), "is a file"),
        (("demo-data", "/tmp/none", "--patients", 2), "patients=2"),
        (("train", "nowhere", "--out", "/tmp/none", "--job", "nowhere"), "config_fed_client.conf"),
    ],
)
def test_a_users_mistake_is_one_line_without_a_traceback(arguments, message, tmp_path):
    result = fedmr(*arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
