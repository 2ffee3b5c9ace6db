"""The example of the recipe, run as a user types it, in each of FLARE's environments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.runs.run import Run
from phantoms import write_site
from poc import consortium
from simulator import ROOT

pytestmark = pytest.mark.e2e
SITES = ("site-1", "site-2")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES, start=1):
        write_site(root, site, seed=number, patients=3, shape=(64, 60, 3))
    return root


def run_example(folder: Path, data: Path, *where: str) -> Path:
    """The folder of results that the example names last."""
    environment = os.environ | {
        DATA_ROOT_VARIABLE: str(data),
        "HOME": str(folder),
        "NVFLARE_POC_WORKSPACE": str(folder / "poc"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, ROOT / "examples" / "recipe.py", *where]
    result = subprocess.run(
        list(map(str, command)), env=environment, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder / result.stdout.splitlines()[-1]


def check_run(run: Path) -> None:
    """Both sites trained the recipe's network in both rounds, and tested the result."""
    assert [set(record["sites"]) for record in Run(run).rounds] == [set(SITES)] * 2
    assert set(Run(run).figures()["sites"]) == set(SITES)
    assert Run(run).task.network["name"] == "srcnn"


def test_in_the_simulator(tmp_path, data):
    check_run(run_example(tmp_path, data))


def test_in_flares_proof_of_concept(tmp_path, data):
    try:
        check_run(run_example(tmp_path, data, "poc"))
    finally:
        subprocess.run(
            [Path(sys.executable).parent / "nvflare", "poc", "stop"],
            env=os.environ | {"NVFLARE_POC_WORKSPACE": str(tmp_path / "poc")},
            check=False,
            capture_output=True,
        )


def test_over_tls_with_the_kit_of_an_admin(tmp_path, data):
    with consortium(tmp_path, data, dict.fromkeys(SITES, '{"scopes": []}')) as poc:
        check_run(run_example(tmp_path, data, str(poc.kits / "admin@hub.org")))
