"""Commands in README and docs can be typed: programs, subcommands, arguments, options, targets and files are there."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from nvflare.cli import parse_args

from fedmr.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "studies" / "README.md",
    *sorted((ROOT / "examples").rglob("*.md")),
]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.S | re.M)
INLINE = re.compile(r"`((?:\.venv/bin/)?(?:fedmr|nvflare|make|pytest) [^`]*)`")
# What the shell has; nothing of ours to check.
SHELL = {"git", "cp", "cd", "export", "pip", "docker", "source", "."}


def commands(text: str) -> list[tuple[list[str], bool]]:
    """Return the words of every command of a page, and whether it is complete, as all in blocks are."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    parts = [(part, True) for line in lines for part in line.split("&&")]
    parts += [(" ".join(part.split()), False) for part in INLINE.findall(text)]
    return [(words, whole) for part, whole in parts if (words := shlex.split(part, comments=True))]


def fedmr_error(words: list[str], whole: bool) -> str:
    """Return what is wrong with `fedmr WORDS`: unknown command or option, or arguments that do not fit."""
    found = typer.main.get_command(app)
    while words and hasattr(found, "commands"):
        if words[0].startswith("-"):
            break
        if words[0] not in found.commands:
            return f"no command {words[0]}"
        found, words = found.commands[words[0]], words[1:]
    options = {option for parameter in found.params for option in parameter.opts} | {"--help", "-h"}
    if unknown := [word for word in words if word.startswith("-") and word.partition("=")[0] not in options]:
        return f"no option {unknown[0]}"
    if whole:
        try:
            found.make_context(found.name, list(words))
        except Exception as error:  # of typer's own click
            return str(error) or type(error).__name__
    return ""


def nvflare_error(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what FLARE's own parser says against `nvflare WORDS`."""
    monkeypatch.setattr(sys, "argv", ["nvflare", *words])
    try:
        parse_args("nvflare")
    except SystemExit:
        return capsys.readouterr().err[-300:] or "refused"
    return ""


def make_error(words: list[str]) -> str:
    text = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        if not re.search(rf"^{name} \?=" if is_variable else rf"^{name}:", text, re.M):
            return f"the Makefile has no {name}"
    return ""


def file_error(words: list[str]) -> str:
    """Return which file or folder of the repository that a word names is not there."""
    named = [word for word in words if re.match(r"(tests|benchmarks|app_configs|jobs|examples|custom|poc)/", word)]
    own = [word for word in named if not re.search(r"[A-Z]{3,}", word)]
    return next((f"{word} is not there" for word in own if not (ROOT / word).exists()), "")


def wrong_commands(text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the commands of a page that cannot be typed, with the reason."""
    wrong = []
    for words, whole in commands(text):
        program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
        if program == "fedmr":
            error = fedmr_error(rest, whole)
        elif program == "nvflare":
            error = nvflare_error(rest, monkeypatch, capsys)
        elif program == "make":
            error = make_error(rest)
        elif program in {"python", "python3", "pytest"}:
            error = ""
        else:
            error = "" if program in SHELL else f"{program} is unknown"
        if error := error or file_error(rest):
            wrong.append(f"{shlex.join(words)}: {error}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_can_be_typed(page, monkeypatch, capsys):
    assert wrong_commands(page.read_text(), monkeypatch, capsys) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```bash\nfedmr prepaer x\n```", "no command prepaer"),
        ("```bash\nfedmr infer model.pt scan.nii.gz\n```", "Missing parameter: target"),
        ("```bash\nfedmr report run --jsn x\n```", "no option --jsn"),
        ("see `fedmr report RUN --jsn x`", "no option --jsn"),
        ("```bash\nfedmr study benchmarks/studies/nothing.yaml\n```", "is not there"),
        ("```bash\nmake damo\n```", "no damo"),
        ("`make sim JOBB=x`", "no JOBB"),
        ("```bash\nnvflare simulator jobs/mscan_fedavg -w x --nn 4\n```", "unrecognized"),
        ("`nvflare jib list`", "jib"),
        ("```bash\nfedmrr x\n```", "fedmrr is unknown"),
    ],
)
def test_a_command_that_cannot_be_typed_is_found(text, message, monkeypatch, capsys):
    (wrong,) = wrong_commands(text, monkeypatch, capsys)
    assert message in wrong
