"""A real federation, a server and two sites over TLS, driven and damaged as operators do."""

import gc
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from nvflare.fuel.flare_api.flare_api import Session

from federation import federate
from fedmr.data.datalist import DATA_ROOT_FILE
from fedmr.federation.job_bundle import bundle
from fedmr.federation.kits import ConsortiumError, Kits, environment, fill_kit, open_kits, provision, tool
from fedmr.federation.processes import processes, start, stop
from fedmr.federation.render import CLIENT_CONFIG, SERVER_CONFIG
from fedmr.federation.session import COMPLETED, INTERRUPTED, Admin
from fedmr.privacy.policy import POLICY_FILE
from fedmr.reports.html import write_html
from fedmr.runs.resume import resumed_job, unfinished_run
from fedmr.runs.run import Run
from planted import VARIABLE, WORDS, leaks, plant
from poc import free_ports
from simulator import ROOT, SITES, render_tiny_job

pytestmark = pytest.mark.e2e
TWO = SITES[:2]
ROUNDS = 5
PATIENCE = 180  # seconds


def write_project(folder: Path) -> Path:
    """poc/project.yml with two sites, and a member, who may only look."""
    project = yaml.safe_load((ROOT / "poc" / "project.yml").read_text())
    wanted = [p for p in project["participants"] if p["type"] != "client" or p["name"] in TWO]
    project["participants"] = [*wanted, {"name": "member@hub.org", "type": "admin", "org": "hub", "role": "member"}]
    wanted[0] |= dict(zip(("fed_learn_port", "admin_port"), free_ports(), strict=True))
    (folder / "project.yml").write_text(yaml.safe_dump(project))
    return folder / "project.yml"


@pytest.fixture(scope="module")
def kits(tmp_path_factory, hospitals):
    folder = tmp_path_factory.mktemp("poc")
    made, new = provision(write_project(folder), folder / "w", data=hospitals)
    assert new
    try:
        start(made)
        yield made
    finally:
        stop(made)
    assert not [p for name in (made.server["name"], *TWO) for p in processes(made.folder / name)]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return render_tiny_job(tmp_path_factory.mktemp("job"), ROUNDS)


@pytest.fixture(scope="module")
def uninterrupted(job, hospitals, tmp_path_factory):
    """Weights of the job in one process."""
    return weights(federate(job, tmp_path_factory.mktemp("one"), hospitals, sites=TWO).home / "server" / "simulate_job")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "app_server" / "FL_global_model.pt", weights_only=True)["model"]


def until(condition, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.2)


def log(kits: Kits, name: str, number: str) -> str:
    file = kits.folder / name / number / "log.txt"
    return file.read_text() if file.is_file() else ""


def wait_for_round(kits: Kits, number: str, finished: int) -> None:
    until(lambda: f"Round {finished} finished" in log(kits, kits.server["name"], number), f"round {finished}")


def job_process(kits: Kits, name: str) -> psutil.Process:
    """The process of the job that runs at a participant."""
    module = "server.runner_process" if name == kits.server["name"] else "client.worker_process"
    (found,) = [p for p in processes(kits.folder / name) if f"nvflare.private.fed.app.{module}" in p.cmdline()]
    return found


def logins() -> list[Session]:
    """Sessions in which an admin of this test is logged in."""
    return [s for s in gc.get_objects() if isinstance(s, Session) and s.api.server_sess_active]


def same(run: Path, expected: dict[str, torch.Tensor]) -> bool:
    return all(
        torch.allclose(torch.as_tensor(weights(run)[k]), torch.as_tensor(v), atol=1e-6) for k, v in expected.items()
    )


def test_a_job_gives_the_weights_of_the_same_job_in_one_process(kits, job, uninterrupted, tmp_path):
    assert not provision(kits.workspace.parent / "project.yml", kits.workspace)[1]
    start(kits)  # once more changes nothing
    admin = Admin(kits)
    number = admin.submit(job)
    with pytest.raises(ConsortiumError, match=f"is under way as {number}"):
        admin.submit(job)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(admin.wait, number)
        until(logins, "the login")
        logins()[0].api.close()  # it ends, as an expired one does
        assert waiting.result() == COMPLETED
    run = admin.download(number, tmp_path)
    assert set(Run(run).figures()["sites"]) == set(TWO)
    assert same(run / "workspace", uninterrupted)
    with pytest.raises(ConsortiumError, match=f"has all its {ROUNDS} rounds"):
        resumed_job(run, tmp_path / "again")


def test_make_poc_goes_from_provisioning_to_the_table_and_leaves_nothing_running(hospitals, tmp_path):
    """As its readers type it, but a small job and scans, and two sites."""
    job = render_tiny_job(tmp_path, 2, job="mscan_fedavg_he_packed")
    variables = {"BIN": Path(sys.executable).parent, "POC": tmp_path / "w", "POC_JOB": job, "DATA": hospitals}
    variables |= {"PROJECT": write_project(tmp_path)}
    command = ["make", "--old-file=setup", "poc", *(f"{name}={value}" for name, value in variables.items())]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert COMPLETED in result.stdout
    (run,) = (tmp_path / "w" / "collected").iterdir()
    for site, figures in Run(run).figures()["sites"].items():
        assert re.search(rf"{site} .*{figures['model']['psnr']:.2f}", result.stdout)
    assert set(Run(run).figures()["sites"]) == set(TWO)
    assert not [p for kit in open_kits(tmp_path / "w").folder.iterdir() for p in processes(kit)]


def test_a_job_goes_on_after_a_killed_site_and_a_killed_server(kits, job, uninterrupted, tmp_path):
    """One after the other, since every job takes half a minute: it is resumed twice, and ends in the same weights."""
    admin = Admin(kits)
    number = admin.submit(job)
    wait_for_round(kits, number, 1)
    job_process(kits, TWO[1]).kill()
    assert admin.wait(number) == "FINISHED:EXECUTION_EXCEPTION"
    run = admin.download(number, tmp_path)
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in weights(run / "workspace").values())
    number = admin.submit(resumed_job(run, tmp_path / "site"))
    wait_for_round(kits, number, Run(run).rounds[-1]["round"] + 1)
    for process in processes(kits.folder / kits.server["name"]):
        process.kill()
    with pytest.raises(ConsortiumError, match="Could not connect to the FLARE server"):
        admin.registered()
    start(kits)
    assert (admin.jobs()[-1]["job_id"], admin.jobs()[-1]["status"]) == (number, INTERRUPTED)
    again = admin.submit(resumed_job(unfinished_run(kits, number), tmp_path / "server"))
    assert admin.wait(again) == COMPLETED
    assert same(admin.download(again, tmp_path) / "workspace", uninterrupted)


def test_an_aborted_job_keeps_its_model(kits, job, tmp_path):
    admin = Admin(kits)
    number = admin.submit(job)
    wait_for_round(kits, number, 0)
    admin.abort(number)
    assert admin.wait(number) == "FINISHED:ABORTED"
    assert weights(admin.download(number, tmp_path) / "workspace")
    until(lambda: all(len(processes(kits.folder / name)) == 2 for name in TWO), "the end of the job's processes")


def test_a_site_that_never_answers_is_left_out_when_the_time_is_up(kits, tmp_path):
    overlay = "min_clients_per_round = 1\ntrain_timeout = 20"
    job, admin = render_tiny_job(tmp_path, 3, overlay=overlay), Admin(kits)
    number = admin.submit(job)
    wait_for_round(kits, number, 0)
    silent = job_process(kits, TWO[1])
    silent.send_signal(signal.SIGSTOP)
    wait_for_round(kits, number, 1)
    silent.send_signal(signal.SIGCONT)
    assert admin.wait(number) == COMPLETED
    text = (admin.download(number, tmp_path) / "workspace" / "log.txt").read_text()
    assert f"Contribution from {TWO[0]} ACCEPTED by the aggregator at round 1" in text
    assert f"Contribution from {TWO[1]} ACCEPTED by the aggregator at round 1" not in text


def test_a_full_disk_at_the_server_ends_the_job_which_keeps_its_model_and_says_why(kits, tmp_path):
    admin = Admin(kits)
    number = admin.submit(render_tiny_job(tmp_path, ROUNDS, overlay="task { network { channels = 32 } }"))
    wait_for_round(kits, number, 0)
    # the kernel lets no file of this process grow as large as its model (several times its log, which must say so):
    # as a full disk, but only for this job
    size = (kits.folder / kits.server["name"] / number / "app_server" / "FL_global_model.pt").stat().st_size - 1
    psutil.Process(job_process(kits, kits.server["name"]).pid).rlimit(psutil.RLIMIT_FSIZE, (size, size))
    assert admin.wait(number) == "FINISHED:EXECUTION_EXCEPTION"
    run = admin.download(number, tmp_path) / "workspace"
    assert "File too large" in (run / "log.txt").read_text()
    assert weights(run)


def test_who_may_not_submit_is_told_so(kits, job):
    with pytest.raises(ConsortiumError, match=r"(?i)authoriz"):
        Admin(kits, "member@hub.org").submit(job, again=True)


def test_a_site_with_another_consortiums_certificate_is_not_let_in(kits, tmp_path):
    shutil.copy(kits.workspace / "project.yml", tmp_path)  # the same server and ports, other keys
    run = partial(subprocess.Popen, env=environment(tmp_path), start_new_session=True, stdout=subprocess.DEVNULL)
    assert run([tool("nvflare"), "provision", "-p", tmp_path / "project.yml", "-w", tmp_path]).wait() == 0
    foreign = Kits(tmp_path, kits.project).folder / TWO[0]
    stranger = run([foreign / "startup" / "sub_start.sh", "--once"], stderr=subprocess.DEVNULL)
    try:
        until(lambda: _read(foreign / "log.txt").count("Not Connected] is closed") > 1, "the refusal")
    finally:
        for process in processes(foreign):
            process.kill()
        stranger.wait()
    assert "created secure channel" in _read(foreign / "log.txt")
    assert "Verified received token" not in _read(foreign / "log.txt")  # as is said of a site that is let in
    assert "Verified received token" in _read(kits.folder / TWO[0] / "log.txt")
    assert set(Admin(kits).registered()) == set(TWO)


def _read(file: Path) -> str:
    return file.read_text(errors="replace") if file.is_file() else ""


def test_a_site_that_forbids_code_runs_the_job_without_and_refuses_it_with(kits, hospitals, tmp_path):
    job = render_tiny_job(tmp_path, 1)
    stop(kits)
    for name in (kits.server["name"], *TWO):
        fill_kit(kits.folder / name, data=hospitals if name in TWO else None, forbid_code=True)
    start(kits)
    admin = Admin(kits)
    with_code = bundle(job, tmp_path / "with")
    assert (with_code / "app" / "custom" / "fedmr" / "__init__.py").is_file()
    number = admin.submit(with_code)
    assert admin.wait(number) == "FINISHED:FAILED_TO_RUN"
    assert "`fedmr jobs bundle --no-code`" in admin.reason(number)
    number = admin.submit(bundle(job, tmp_path / "without", code=False))
    assert admin.wait(number) == COMPLETED


SHELLS = {
    "a command": """
    { id = shell
      path = fedmr.cli.main.app
      args { args = [poc, provision, --project, "{WORKSPACE}/{JOB_ID}/project.yml"] } }
""",
    # FLARE's list allows the persistor, which builds its network itself and without the list
    "a network that is none": """
    { id = shell
      path = nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor
      args { model { config_type = dict, path = subprocess.Popen, args { args = [touch, "MARK"] } } } }
""",
}


@pytest.mark.parametrize("side", [CLIENT_CONFIG, SERVER_CONFIG])
@pytest.mark.parametrize("name", SHELLS)
def test_a_job_without_code_that_names_a_command_is_built_by_nobody(name, side, kits, tmp_path):
    """After the test above, so that both sites and the server forbid code."""
    job = bundle(render_tiny_job(tmp_path, 1), tmp_path / "without", code=False)
    config = job / side
    text = config.read_text()
    assert "components = [" in text
    mark = tmp_path / "mark"
    shell = SHELLS[name].replace("MARK", str(mark))
    config.write_text(text.replace("components = [", f"components = [{shell}", 1))
    admin = Admin(kits)
    before = {site: len(_read(kits.folder / site / "log.txt")) for site in (*TWO, kits.server["name"])}
    number = admin.submit(job)
    assert admin.wait(number) != COMPLETED
    collected = admin.download(number, tmp_path)  # the server keeps no folder of a job that has ended
    logs = "".join(_read(kits.folder / site / "log.txt")[length:] for site, length in before.items())
    logs += "".join(_read(kits.folder / site / number / "log.txt") for site in TWO)
    logs += "".join(_read(file) for file in collected.rglob("*log*.txt"))
    assert "is not in allow_list" in logs or "a class is not on the site's list" in logs
    assert not mark.exists()


def test_a_site_whose_owner_asks_for_encryption_starts_no_other_job(kits, tmp_path):
    policies = [kits.folder / name / "local" / POLICY_FILE for name in TWO]
    before = [policy.read_text() for policy in policies]
    try:
        for policy in policies:
            policy.write_text(json.dumps({"encryption": True}))
        admin = Admin(kits)
        number = admin.submit(bundle(render_tiny_job(tmp_path, 1), tmp_path / "without", code=False))
        assert admin.wait(number) != COMPLETED
        for name in TWO:
            assert "not all that it sends is encrypted" in _read(kits.folder / name / "log.txt")
            assert "Start the training" not in log(kits, name, number)
    finally:
        for policy, text in zip(policies, before, strict=True):
            policy.write_text(text)


@pytest.fixture
def planted(kits, hospitals, tmp_path, monkeypatch):
    """The federation anew, with names at the first site that nobody else may learn. Code is forbidden by now."""
    monkeypatch.setenv(VARIABLE, WORDS["variable"])
    kit = kits.folder / TWO[0]
    before = (kit / "local" / DATA_ROOT_FILE).read_text()
    stop(kits)
    site = plant(hospitals / TWO[0], tmp_path)
    fill_kit(kit, data=site.parent)
    start(kits)
    yield site
    (kit / "local" / DATA_ROOT_FILE).write_text(before)


def test_nothing_of_a_site_but_figures_reaches_the_server_also_when_jobs_fail(planted, kits, tmp_path):
    job, admin = bundle(render_tiny_job(tmp_path, 1), tmp_path / "whole", code=False), Admin(kits)
    states, runs = [], []

    def run(line: str = "") -> None:
        copy = Path(shutil.copytree(job, tmp_path / f"job-{len(states)}"))
        text = (copy / CLIENT_CONFIG).read_text()
        (copy / CLIENT_CONFIG).write_text(text.replace("task {", f"{line}\n task {{", 1))
        number = admin.submit(copy, again=True)
        states.append(admin.wait(number))
        runs.append(admin.download(number, tmp_path / "runs"))

    run()
    run("unknown = 1")  # the site's learner cannot be built
    run(f'threads = "{{${VARIABLE}}}"')
    for scan in planted.glob("*.nii.gz"):
        scan.write_bytes(scan.read_bytes()[:1000])
    run()
    assert [state == COMPLETED for state in states] == [True, False, False, False]
    write_html(Run(runs[0]), tmp_path / "runs" / "page.html")
    words = [*WORDS.values(), f"{kits.folder / TWO[0]}/"]
    assert leaks([kits.folder / TWO[0]], [WORDS["file"]])  # at the site itself the reason is told
    assert leaks([kits.folder / kits.server["name"], kits.folder / TWO[1], tmp_path / "runs"], words) == []
    assert "cannot take part" in "".join(_read(file) for file in runs[-1].rglob("log.txt"))
