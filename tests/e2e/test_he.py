"""Encrypted aggregation in a provisioned federation over TLS: plain, FLARE's own HE, and packed, on the same data."""

import math
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from federation import federate
from fedmr.checkpoints.model_file import load_model
from fedmr.federation.processes import processes
from fedmr.privacy.mechanism import rounded_figure
from fedmr.runs.resume import resumed_job
from fedmr.runs.run import Run
from poc import Consortium, consortium
from simulator import ROUNDS, SITES, render_tiny_job

pytestmark = pytest.mark.e2e
TWO = SITES[:2]
JOBS = ("mscan_fedavg_he", "mscan_fedavg_he_packed")
OPEN = '{"scopes": [{"name": "hospital", "properties": {}}], "default_scope": "hospital"}'


@pytest.fixture(scope="module")
def poc(tmp_path_factory, hospitals):
    with consortium(tmp_path_factory.mktemp("poc"), hospitals, dict.fromkeys(TWO, OPEN)) as running:
        yield running


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return cache(lambda name: render_tiny_job(tmp_path_factory.mktemp(name), job=name))


@pytest.fixture(scope="module")
def plain(job, hospitals, tmp_path_factory):
    """The run without encryption, in one process; over TLS it ends in the same weights: test_poc.py."""
    return federate(job("mscan_fedavg"), tmp_path_factory.mktemp("plain") / "w", hospitals, sites=TWO).home


@pytest.fixture(scope="module")
def run_of(poc, job):
    """Downloaded folder of a finished job, run once."""
    runs: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in runs:
            status, folder = poc.run(job(name))
            assert status == "FINISHED:COMPLETED"
            runs[name] = folder
        return runs[name]

    return run


def context(poc: Consortium, kit: str = TWO[0], name: str = "client_context.tenseal") -> Path:
    return poc.kits / kit / "startup" / name


def decrypt(model: Path, key: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "fedmr", "decrypt", model, "--context", key, "-o", out]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", JOBS)
def test_a_site_decrypts_the_weights_of_the_plain_run(name, run_of, plain, poc, tmp_path):
    result = decrypt(run_of(name), context(poc), tmp_path / "model.pt")
    assert result.returncode == 0, result.stderr
    weights = load_model(tmp_path / "model.pt").net.state_dict()
    expected = load_model(plain).net.state_dict()
    assert max(float((weights[n] - expected[n]).abs().max()) for n in expected) <= 1e-4
    log = (run_of(name) / "workspace" / "log.txt").read_text()
    assert log.count("ACCEPTED by the aggregator") == ROUNDS * len(TWO)


@pytest.mark.parametrize("name", JOBS)
def test_the_figures_are_those_of_the_plain_run(name, run_of, plain):
    """Up to the rounding: every figure of an encrypted job has four digits."""
    figures, expected = (Run(run).figures()["sites"] for run in (run_of(name), plain))
    assert set(figures) == set(expected) == set(TWO)
    for site in TWO:
        found, exact = figures[site]["model"], expected[site]["model"]
        assert set(found) == set(exact)
        for metric, value in found.items():
            assert value == rounded_figure(value)
            digit = 10.0 ** (math.floor(math.log10(abs(exact[metric]))) - 3)
            assert value == pytest.approx(exact[metric], abs=0.5 * digit + 1e-3), (site, metric)


@pytest.mark.parametrize("name", JOBS)
def test_the_server_has_no_weight_that_it_could_read(name, run_of, plain, poc, tmp_path):
    server = context(poc, "localhost", "server_context.tenseal")
    assert not context(poc, "localhost").exists()
    result = decrypt(run_of(name), server, tmp_path / "model.pt")
    assert result.returncode == 1
    assert "holds no secret key" in result.stderr
    assert not (tmp_path / "model.pt").exists()
    weights = load_model(plain).net.state_dict()
    largest = max(weights.values(), key=torch.numel).numpy().astype(np.float32)
    for path in run_of(name).rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert largest.tobytes()[:16] not in content, path
    for file in ("FL_global_model.pt", "best_FL_global_model.pt"):
        with pytest.raises(ValueError, match="is encrypted"):
            load_model(run_of(name) / "workspace" / "app_server" / file)


def test_an_aborted_run_resumes_to_the_weights_of_one_that_was_not(run_of, job, poc, tmp_path):
    name = JOBS[1]  # FLARE's own does too, but takes a minute and a half
    number = poc.submit(job(name))
    server_log, end = poc.kits / "localhost" / number / "log.txt", time.monotonic() + 180
    while not (server_log.is_file() and "Round 0 finished" in server_log.read_text()):
        assert time.monotonic() < end, "the first round did not end"
        time.sleep(0.1)
    (worker,) = (
        p for p in processes(poc.kits / TWO[0]) if "nvflare.private.fed.app.client.worker_process" in p.cmdline()
    )
    worker.suspend()  # else the rounds are over before FLARE aborts them
    poc.admin.abort(number)
    worker.resume()
    status, aborted = poc.result(number)
    assert status == "FINISHED:ABORTED"
    rest = resumed_job(aborted, tmp_path)
    assert (rest / "app" / "custom" / "FL_global_model.pt").stat().st_size > 0
    status, resumed = poc.run(rest)
    assert status == "FINISHED:COMPLETED"
    for run, out in ((resumed, "resumed.pt"), (run_of(name), "whole.pt")):
        result = decrypt(run, context(poc), tmp_path / out)
        assert result.returncode == 0, result.stderr
    weights, expected = (load_model(tmp_path / out).net.state_dict() for out in ("resumed.pt", "whole.pt"))
    assert max(float((weights[n] - expected[n]).abs().max()) for n in expected) <= 1e-6
