from pathlib import Path

import pytest

from simulator import render_tiny_job, simulate, write_hospitals


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="session")
def tiny_job(tmp_path_factory) -> Path:
    return render_tiny_job(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="session")
def federation(tmp_path_factory, tiny_job, hospitals) -> Path:
    """Workspace of a finished four-site run, one thread per site."""
    workspace = tmp_path_factory.mktemp("federation") / "w"
    result = simulate(tiny_job, workspace, hospitals, sites=4, threads=4)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return workspace
