"""`fedmr simulate` as a user of the installed wheel types it, in an empty folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simulator import ROOT, write_hospitals

pytestmark = pytest.mark.e2e
SMALL = ("task.network.channels=8", "task.network.blocks=1", "task.batch_size=4", "task.patch_size=12")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    # a copy: setuptools leaves its build folder in the sources
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "source"], check=True)
    subprocess.run([*pip, "--target", folder / "site", folder / "source"], check=True, capture_output=True)
    return folder / "site"


def fedmr(installed, folder, *arguments):
    tools = Path(sys.executable).parent
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", "from fedmr.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def weights(run):
    path = run / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    return torch.load(path, weights_only=True)["model"]


def test_the_wheel_federates_with_settings_and_goes_on_from_a_model(tmp_path, installed):
    data = write_hospitals(tmp_path / "hospitals")
    settings = [part for text in SMALL for part in ("--set", text)]
    common = ["simulate", "mscan_fedavg", "--data", data, "--sites", "2", *settings]
    first = fedmr(installed, tmp_path, *common, "--rounds", "1", "--out", "first")
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    assert "site-2" in first.stdout
    assert (tmp_path / "first" / "report.html").is_file()
    config = tmp_path / "first" / "server" / "simulate_job" / "app_server" / "config" / "fedmr_settings.json"
    assert json.loads(config.read_text())["set"]["task"]["patch_size"] == 12
    # at a rate of almost nothing the second run's model is the first's
    slow = ["--set", "task.learning_rate=1e-12", "--set", "task.final_learning_rate=1e-12"]
    second = fedmr(installed, tmp_path, *common, *slow, "--rounds", "1", "--init-from", "first", "--out", "second")
    assert second.returncode == 0, second.stdout[-2000:] + second.stderr[-2000:]
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
