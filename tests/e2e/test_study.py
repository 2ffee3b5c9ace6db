"""A study through the simulator, killed half-way."""

import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from fedmr.runs.run import Run
from simulator import ROOT

pytestmark = pytest.mark.e2e
STUDY = """
about: two cells
base: {job: mscan_fedavg, rounds: 2, network: {channels: 8, blocks: 1}, patch_size: 12, sites: [site-1, site-2]}
baseline: shared
axes:
  training:
    pooled: {job: mscan_central, pooled: true}
    shared: {leave_out: [site-2]}
"""
FIRST, SECOND = "pooled__seed-0", "shared__seed-0"


@pytest.fixture
def study(tmp_path, hospitals):
    """Start the command; whatever of it is left after the test is killed."""
    (tmp_path / "tiny.yaml").write_text(STUDY)
    started = []

    def start(out: Path) -> subprocess.Popen[str]:
        command = [Path(sys.executable).parent / "fedmr", "study", tmp_path / "tiny.yaml", "--data", hospitals]
        command += ["--out", out, "--configs", ROOT / "app_configs"]
        started.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in [*started, *processes_in(tmp_path)]:
        process.kill()


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def wait_for(path: Path) -> None:
    end = time.monotonic() + 500  # on a machine that does much else
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.2)


def rows(out: Path) -> list[dict[str, str]]:
    """The table without seconds, and without the commit, since someone may commit meanwhile."""
    with (out / "results.csv").open(newline="") as handle:
        return [
            {k: v for k, v in row.items() if not k.startswith(("seconds", "commit"))} for row in csv.DictReader(handle)
        ]


def processes_in(folder: Path) -> list[psutil.Process]:
    """The simulator's, which work in a cell under the folder."""
    commands = {p: " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])}
    return [p for p, command in commands.items() if "nvflare" in command and f"{folder}/" in command]


def test_a_killed_study_goes_on_and_ends_with_the_table_of_one_that_was_not(study, tmp_path, hospitals):
    """The second cell is killed in its run, and run once more from a table that lacks it as the comparison."""
    out, other = tmp_path / "out", tmp_path / "other"
    process = study(out)
    wait_for(out / "cells" / SECOND / "run" / "server" / "simulate_job")
    process.kill()
    process.wait()
    after_kill = (out / "results.csv").read_bytes()
    assert {row["cell"] for row in rows(out)} == {FIRST}
    other.mkdir()
    shutil.copy(out / "results.csv", other)

    output = finish(study(out))
    assert SECOND in output
    assert FIRST not in output
    assert processes_in(out) == [], "the killed study's simulator is gone"
    assert (out / "results.csv").read_bytes().startswith(after_kill)

    finish(study(other))
    assert rows(out) == rows(other)
    assert {(r["method"], r["site"], r["seen"]) for r in rows(out) if r["cell"] == SECOND and r["model_of"]} == {
        ("global", "site-1", "True"),
        ("global", "site-2", "False"),
    }
    reported = Run(out / "cells" / SECOND / "run").figures()["sites"]["site-1"]["model"]["psnr"]
    tested = [r for r in rows(out) if (r["cell"], r["method"], r["site"]) == (SECOND, "global", "site-1")]
    assert [float(r["psnr"]) for r in tested] == [pytest.approx(reported, abs=1e-3)]

    command = [Path(sys.executable).parent / "fedmr", "report", out]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    text = (out / "report" / "README.md").read_text()
    assert f"({float(rows(out)[-1]['psnr']):.2f})" in text, "an unseen site's figure stands in parentheses"
    for name in ("curves.png", "panels.png"):
        assert Image.open(out / "report" / name).size[0] > 400
