import shutil
from pathlib import Path

import pytest

from fedmr.config import Task
from fedmr.jobs import SERVER_CONFIG, check, job_names, read_num_rounds, read_task, render, rendered

ROOT = Path(__file__).parents[1]
CONFIGS, JOBS = ROOT / "app_configs", ROOT / "jobs"
TRAINING = [name for name in job_names(CONFIGS) if "num_rounds" in (JOBS / name / SERVER_CONFIG).read_text()]


@pytest.fixture
def copies(tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "app_configs")
    shutil.copytree(JOBS, tmp_path / "jobs")
    return tmp_path / "app_configs", tmp_path / "jobs"


def test_committed_jobs_are_what_their_sources_render():
    assert {"federated_stats", "mscan_fedavg", "mscan_fedavg_x4"} <= set(job_names(CONFIGS))
    assert check(CONFIGS, JOBS) == []


@pytest.mark.parametrize("name", TRAINING)
def test_every_training_job_holds_a_valid_task_and_the_same_network_on_server_and_client(name):
    task = Task.from_dict(read_task(JOBS / name))
    server = rendered(CONFIGS, name)[Path("app/config/config_fed_server.conf")]
    for key, value in task.network.items():
        assert f"{key} = {value}" in server.replace('"', "")
    assert read_num_rounds(JOBS / name) > 0


def test_a_job_can_be_read_from_its_folder_its_app_or_the_file():
    expected = read_task(JOBS / "mscan_fedavg")
    app = JOBS / "mscan_fedavg" / "app"
    assert (
        read_task(app) == read_task(app / "config") == read_task(app / "config" / "config_fed_client.conf") == expected
    )
    with pytest.raises(FileNotFoundError, match="config_fed_client"):
        read_task(ROOT / "tests")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_rounds = 10", "num_rounds = 11", "run `fedmr jobs render`"),
        ("learner.SuperResolutionLearner", "learner.Missing", "cannot be imported"),
        ("key_metric = psnr", "key_metrics = psnr", "no argument 'key_metrics'"),
    ],
)
def test_check_finds_a_changed_source(copies, old, new, message):
    configs, jobs = copies
    base = configs / "base.conf"
    assert old in base.read_text()
    base.write_text(base.read_text().replace(old, new))
    assert any(message in problem for problem in check(configs, jobs))


def test_check_finds_a_task_that_no_network_takes(copies):
    configs, jobs = copies
    task = configs / "tasks" / "sr_x2.conf"
    task.write_text(task.read_text().replace("blocks = 4", "block = 4"))
    assert any("network 'mscan' does not take" in problem for problem in check(configs, jobs))


def test_check_finds_an_edited_and_an_orphaned_job(copies):
    configs, jobs = copies
    meta = jobs / "mscan_fedavg" / "meta.conf"
    meta.write_text(meta.read_text() + "# edited\n")
    (jobs / "old_job").mkdir()
    problems = check(configs, jobs)
    assert len(problems) == 2
    render(configs, jobs)
    assert check(configs, jobs) == [f"{jobs / 'old_job'} has no app_configs file"]


def test_an_unknown_job_names_the_known_ones():
    with pytest.raises(ValueError, match="mscan_fedavg"):
        rendered(CONFIGS, "mscan_fedsgd")
