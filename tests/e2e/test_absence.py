"""A federation over TLS of three: one site is never there, one's host dies and starts again within seconds."""

import subprocess
import time

import psutil
import pytest
import torch
import yaml
from typer.testing import CliRunner

from federation import federate
from fedmr.cli.main import app
from fedmr.federation.kits import ConsortiumError, environment, provision
from fedmr.federation.processes import processes, stop
from fedmr.federation.session import COMPLETED, Admin
from fedmr.runs.attendance import absences_of
from fedmr.runs.run import Run
from poc import free_ports
from simulator import ROOT, SITES, render_tiny_job

pytestmark = pytest.mark.e2e
THREE = SITES[:3]
PATIENCE = 400  # seconds; FLARE gives a site that is reported a minute in each workflow


def switch_on(kits, name):
    """Start a participant as its host does."""
    with (kits.folder / name / "console.txt").open("ab") as log:
        subprocess.Popen(
            [str(kits.folder.resolve() / name / "startup" / "start.sh")],
            env=environment(kits.workspace),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def switch_off(kits, name):
    """End all of a participant at once, as a host that loses its power."""
    found = processes(kits.folder / name)
    for process in found:
        process.kill()
    psutil.wait_procs(found, timeout=10)
    for flag in ("pid.fl", "daemon_pid.fl"):
        (kits.folder / name / flag).unlink(missing_ok=True)


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.5)


def text(file):
    return file.read_text(errors="replace") if file.is_file() else ""


def weights(run):
    return torch.load(run / "app_server" / "FL_global_model.pt", weights_only=True)["model"]


@pytest.fixture
def kits(tmp_path, hospitals):
    project = yaml.safe_load((ROOT / "poc" / "project.yml").read_text())
    project["participants"] = [p for p in project["participants"] if p["type"] != "client" or p["name"] in THREE]
    project["participants"][0] |= dict(zip(("fed_learn_port", "admin_port"), free_ports(), strict=True))
    (tmp_path / "project.yml").write_text(yaml.safe_dump(project))
    made, _ = provision(tmp_path / "project.yml", tmp_path / "w", data=hospitals)
    try:
        yield made
    finally:
        stop(made)


def registered(kits):
    try:
        return set(Admin(kits).registered())
    except ConsortiumError:
        return set()


def jobs(admin):
    try:
        return [job["job_id"] for job in admin.jobs("tiny")]
    except ConsortiumError:
        return []


def ended(admin, number):
    try:
        return admin.status(number).startswith("FINISHED")
    except ConsortiumError:
        return False


def test_the_job_goes_on_without_the_absent_and_everybody_is_named(kits, hospitals, tmp_path):
    for name in (kits.server["name"], *THREE[:2]):
        switch_on(kits, name)
    until(lambda: registered(kits) == set(THREE[:2]), "the registration of two")
    # rounds of some seconds, else the job is over on a fast machine before a site can be switched off
    job = render_tiny_job(tmp_path, 2, overlay="min_clients_per_round = 1\ntask { patches_per_slice = 1200 }")
    result = CliRunner().invoke(app, ["poc", "submit", str(job), "--workspace", str(kits.workspace)])
    assert "site-3 is not connected: the job starts without it" in result.output
    admin = Admin(kits)
    until(lambda: jobs(admin), "the job")  # on a busy machine FLARE's client gives up before the server has answered
    number = jobs(admin)[0]
    # before its first update, so that the model must be the other site's alone
    until(lambda: "Round 0 started" in text(kits.folder / kits.server["name"] / number / "log.txt"), "the first round")
    switch_off(kits, "site-2")
    time.sleep(2)
    switch_on(kits, "site-2")
    until(lambda: ended(admin, number), "the end of the job")
    assert admin.status(number) == COMPLETED
    run = admin.download(number, tmp_path / "collected")
    found = absences_of(Run(run))
    assert set(found) == {"site-2", "site-3"}
    assert found["site-2"].startswith("has no part in 2 of 2 rounds, the first 0 (no result in time)")
    assert found["site-3"] == "took no part: it was not connected when the job started"
    report = CliRunner().invoke(app, ["report", str(run)])
    assert report.exit_code == 3
    assert "site-1" in report.output
    alone = federate(job, tmp_path / "alone", hospitals, sites=THREE[:1]).home / "server" / "simulate_job"
    expected = weights(alone)
    for name, value in weights(run / "workspace").items():
        assert torch.allclose(torch.as_tensor(value), torch.as_tensor(expected[name]), atol=1e-6)
    assert "has started anew" in text(kits.folder / kits.server["name"] / "log.txt")
    assert "site-2" in registered(kits)
