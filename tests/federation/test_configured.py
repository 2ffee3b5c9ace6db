"""Jobs with settings of one's own."""

import json
from pathlib import Path

import pytest

from fedmr.federation.configured import SETTINGS, WEIGHTS, configure, needs_keys
from fedmr.federation.render import CLIENT_CONFIG, SERVER_CONFIG, locate_job, read_argument, read_num_rounds, read_task
from fedmr.tasks.overrides import parse_overrides
from fedmr.utils.hocon import read_hocon
from simulator import ROOT

JOBS = sorted(path.parent for path in (ROOT / "jobs").glob("*/meta.conf"))
TRAINING = [job for job in JOBS if job.name != "federated_stats"]


def changed(folder, job, *texts, **more):
    return configure(Path(job), folder, parse_overrides(texts), **more)


@pytest.mark.parametrize("job", TRAINING, ids=lambda job: job.name)
def test_the_task_its_network_and_the_guards_rate_change_together(tmp_path, job):
    before = read_task(job)
    rate = before["learning_rate"] / 3
    target = changed(tmp_path, job, f"task.learning_rate={rate!r}", "task.network.seed=7", "num_rounds=2")
    task = read_task(target)
    assert task == before | {"learning_rate": rate, "network": before["network"] | {"seed": 7}}
    assert read_num_rounds(target) == 2
    server, client = ((target / path).read_text() for path in (SERVER_CONFIG, CLIENT_CONFIG))
    assert read_argument(target, SERVER_CONFIG, "limits")["learning_rate"] == rate
    assert '"seed": 7' in server
    assert client.count(repr(before["learning_rate"])) == 0
    assert json.loads((target / SETTINGS).read_text())["set"]["task"]["learning_rate"] == rate


@pytest.mark.parametrize("job", TRAINING, ids=lambda job: job.name)
def test_a_job_that_is_asked_for_nothing_stays_as_it_is(tmp_path, job):
    target = changed(tmp_path, job)
    for path in (SERVER_CONFIG, CLIENT_CONFIG, Path("meta.conf")):
        assert read_hocon(target / path) == read_hocon(job / path)


def test_rounds_wait_and_number_of_sites_reach_their_components(tmp_path):
    target = changed(tmp_path, "mscan_fedavg", "train_timeout=60", "min_clients_per_round=3")
    assert read_argument(target, SERVER_CONFIG, "train_timeout") == 60
    assert read_argument(target, SERVER_CONFIG, "min_sites") == 3


@pytest.mark.parametrize(
    ("job", "text", "reason"),
    [
        ("mscan_fedavg", "learning_rate=1", "learning_rate is no setting of a job; known are task.NAME"),
        ("mscan_fedavg", "task.batchsize=1", "batchsize"),
        ("mscan_fedavg", "task.learning_rate=-1", "learning_rate"),
        ("mscan_fedavg", "task.network.name=nope", "nope"),
        ("mscan_fedavg", "task=3", "set what is in it"),
        ("mscan_fedavg", "num_rounds=0", "num_rounds is 0"),
        ("mscan_fedavg", "num_rounds=many", "num_rounds is 'many'"),
        ("federated_stats", "task.seed=1", "trains nothing"),
        ("federated_stats", "num_rounds=1", "no use for num_rounds"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_written(tmp_path, job, text, reason):
    with pytest.raises(ValueError, match=reason):
        changed(tmp_path, job, text)
    assert not any(tmp_path.iterdir())


def test_first_weights_lie_where_flare_looks_for_them(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    target = changed(tmp_path / "jobs", "mscan_fedavg", weights=tmp_path / "w.pt", origin="w.pt")
    assert (target / "app" / "custom" / WEIGHTS).read_bytes() == b"weights"
    assert read_argument(target, SERVER_CONFIG, "source_ckpt_file_full_name") == WEIGHTS
    assert json.loads((target / SETTINGS).read_text())["init_from"] == "w.pt"


def test_a_job_is_found_by_its_folder_or_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate_job(ROOT / "jobs" / "mscan_dp") == ROOT / "jobs" / "mscan_dp"
    assert read_task(Path("mscan_fedavg")) == read_task(ROOT / "jobs" / "mscan_fedavg")
    assert locate_job(Path("jobs/mscan_dp")).is_dir()
    for wrong in ("nope", "jobs/nope", "."):
        with pytest.raises(FileNotFoundError, match=r"no job: .* mscan_fedavg, "):
            locate_job(Path(wrong))


def test_jobs_that_encrypt_are_known():
    assert {job.name for job in JOBS if needs_keys(job)} == {"mscan_fedavg_he", "mscan_fedavg_he_packed"}
