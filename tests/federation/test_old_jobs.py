"""A job or model of an earlier version is read, or refused with the new name in the message."""

import shutil
from pathlib import Path

import pytest

from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.model_file import Model, load_model, save_model
from fedmr.federation.job_bundle import bundle
from fedmr.federation.kits import Kits
from fedmr.federation.render import CLIENT_CONFIG, read_task
from fedmr.federation.session import Admin
from fedmr.federation.simulator import simulate
from fedmr.nets import build
from fedmr.tasks.registry import build_task

JOB = Path(__file__).resolve().parents[2] / "jobs" / "mscan_fedavg"
NEW, OLD = "fedmr.flare.learner.SiteLearner", "fedmr.flare.learner.SuperResolutionLearner"


@pytest.fixture
def old_job(tmp_path):
    job = Path(shutil.copytree(JOB, tmp_path / "old" / "mscan_fedavg"))
    client = job / CLIENT_CONFIG
    assert NEW in client.read_text()
    client.write_text(client.read_text().replace(NEW, OLD))
    return job


def submit(job, tmp_path):
    (tmp_path / "w" / "p" / "prod_00" / "lead").mkdir(parents=True)
    project = {"name": "p", "participants": [{"name": "lead", "type": "admin"}]}
    Admin(Kits(tmp_path / "w", project)).submit(job)


WAYS = {
    "fedmr simulate": lambda job, tmp_path: simulate(job, tmp_path / "run", data=tmp_path, sites=["site-1"]),
    "fedmr poc submit": submit,
    "fedmr jobs bundle": lambda job, tmp_path: bundle(job, tmp_path / "bundle"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_job_of_old_class_paths_is_refused_before_it_runs(way, old_job, tmp_path):
    with pytest.raises(ValueError, match=rf"client.conf is from an earlier version: {OLD} is now {NEW}"):
        WAYS[way](old_job, tmp_path)
    assert not (tmp_path / "run").exists()


def test_task_and_model_of_an_old_job_are_read(old_job, tmp_path):
    """They say what was trained, whatever the classes were called that trained it."""
    assert read_task(old_job) == read_task(JOB)
    task = build_task(read_task(old_job))
    net = build(**task.network)
    save_model(tmp_path / "model.pt", Model(net, make_card(task)))
    loaded = load_model(tmp_path / "model.pt", old_job)
    assert loaded.task == task
