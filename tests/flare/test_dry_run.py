"""A dry run is the learner's own work on the site's folder."""

import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.federation.render import read_task
from fedmr.flare.dry_run import STEPS, dry_run, take_steps
from fedmr.nets import build
from fedmr.tasks.base import Task
from fedmr.tasks.patches import PatchSampler, load_volumes
from fedmr.tasks.registry import build_task
from fedmr.training.trainer import evaluate

JOBS = Path(__file__).parents[2] / "jobs"
NOT_TRAINING = ("federated_stats",)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "/nowhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_learner_evaluates_and_takes_its_steps(site, task):
    stepped = []
    handle = register_optimizer_step_post_hook(lambda *_: stepped.append(1))
    found = take_steps(site, replace(task, local_epochs=2))
    handle.remove()
    assert len(stepped) == STEPS
    volumes = load_volumes(site, task, ("train", "val"))
    expected = evaluate(build(**task.network), [v for v in volumes if v.split == "val"], task)["model"]["psnr"]
    assert found.psnr == pytest.approx(expected, abs=1e-6)
    assert found.per_round == 2 * PatchSampler([v for v in volumes if v.split == "train"], task).steps_per_epoch
    assert found.seconds > 0
    assert 2**27 < found.memory < 2**34


def test_an_epoch_of_a_single_step_is_timed_too(site, task):
    found = take_steps(site, replace(task, batch_size=64))
    assert found.per_round == 1
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patch_size": 40}, "too small for patch_size 40"),
        ({"learning_rate": 1e12}, "lower learning_rate"),
        ({"clip_norm": 0.0}, "changed no weight"),
        ({"network": {"name": "none", "scale": 2}}, "'none' is unknown"),
    ],
)
def test_a_task_that_cannot_run_fails_with_the_learners_reason(site, task, changes, reason):
    with pytest.raises((RuntimeError, ValueError), match=reason):
        take_steps(site, replace(task, **changes))


def small(task: Task) -> Task:
    """The task with a network, patches and units that a phantom of 48 x 45 voxels can train in a second."""
    network = {**task.network, "channels": 4} | ({"pools": 2} if task.network["name"] == "unet" else {"blocks": 1})
    changes = {"network": network, "batch_size": 4}
    if "mask" in task.to_dict():
        return replace(task, size=40, **changes)
    patch = 16 // network["scale"]
    if privacy := getattr(task, "dp_sgd", None):
        changes["dp_sgd"] = {**privacy, "units_per_step": 2}
    return replace(task, patch_size=patch, **changes)


@pytest.mark.parametrize("job", [path.parents[2].name for path in sorted(JOBS.glob("*/app/config/*client*"))])
def test_a_healthy_site_passes_the_dry_run_of_every_training_job(site, job):
    if job in NOT_TRAINING:
        with pytest.raises(ValueError, match="no component has task"):
            read_task(JOBS / job)
        return
    task = small(build_task(read_task(JOBS / job)))
    found = take_steps(site, task)
    assert found.per_round > 0
    assert 5 < found.psnr < 60


@pytest.mark.e2e
def test_a_process_of_its_own_finds_the_same_and_leaves_this_one_alone(site, task, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    found = dry_run(site, task)
    assert found.psnr == pytest.approx(take_steps(site, task).psnr, abs=1e-6)
    assert not list((tmp_path / "tmp").iterdir())


def test_a_process_that_is_ended_is_an_error_of_the_site(site, task):
    killer = threading.Thread(target=kill_the_first_child, daemon=True)
    killer.start()
    with pytest.raises(RuntimeError, match="most likely because memory ran out"):
        dry_run(site, task)
    killer.join()


def kill_the_first_child():
    """What the system does when memory runs out."""
    while True:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if any("spawn_main" in word for word in child.cmdline()):
                    return child.kill()
        time.sleep(0.01)
