import importlib
import shutil
import sys
from pathlib import Path

import pytest
from pyhocon import ConfigFactory

from fedmr.federation.job_bundle import bundle
from fedmr.federation.old_paths import OLD_PATHS, new_path
from fedmr.federation.render import (
    CLIENT_CONFIG,
    SERVER_CONFIG,
    check,
    job_names,
    read_num_rounds,
    read_task,
    render,
    rendered,
)
from fedmr.flare.robust import RobustAggregator
from fedmr.tasks.registry import build_task
from fedmr.utils import class_path

ROOT = Path(__file__).parents[2]
CONFIGS, JOBS = ROOT / "app_configs", ROOT / "jobs"
TRAINING = [name for name in job_names(CONFIGS) if "num_rounds" in (JOBS / name / SERVER_CONFIG).read_text()]


@pytest.fixture
def copies(tmp_path):
    """One job, since rendering takes its time."""
    others = shutil.ignore_patterns(*(f"{name}*" for name in job_names(CONFIGS) if name != "mscan_fedavg"))
    shutil.copytree(CONFIGS, tmp_path / "app_configs", ignore=others)
    shutil.copytree(JOBS / "mscan_fedavg", tmp_path / "jobs" / "mscan_fedavg")
    return tmp_path / "app_configs", tmp_path / "jobs"


@pytest.mark.e2e
def test_committed_jobs_are_what_their_sources_render():
    assert {"federated_stats", "mscan_fedavg", "mscan_fedavg_x4"} <= set(job_names(CONFIGS))
    assert check(CONFIGS, JOBS) == []


def test_a_job_can_be_read_from_its_folder_its_app_or_the_file():
    expected = read_task(JOBS / "mscan_fedavg")
    app = JOBS / "mscan_fedavg" / "app"
    assert (
        read_task(app) == read_task(app / "config") == read_task(app / "config" / "config_fed_client.conf") == expected
    )
    assert read_num_rounds(app) == 10
    with pytest.raises(FileNotFoundError, match="config_fed_client"):
        read_task(ROOT / "tests")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_rounds = 10", "num_rounds = 11", "run `fedmr jobs render`"),
        ("learner.SiteLearner", "learner.Missing", "cannot be imported"),
        ("key_metric = psnr", "key_metrics = psnr", "no argument 'key_metrics'"),
        (
            "encrypted = false",
            "encrypted = false\nguard.norm_facter = 5",
            "norm_facter is unknown; known are learning_rate",
        ),
    ],
)
def test_check_finds_a_changed_source(copies, old, new, message):
    configs, jobs = copies
    base = configs / "base.conf"
    assert old in base.read_text()
    base.write_text(base.read_text().replace(old, new))
    assert any(message in problem for problem in check(configs, jobs))


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("fedmr.flare.learner.SiteLearner", "fedmr.flare.learner.SuperResolutionLearner"),
        ("fedmr.flare.guard.ServerGuard", "fedmr.flare.cross_site_modelling.CrossSiteScatterAndGather"),
    ],
)
def test_a_job_of_old_class_paths_is_refused_with_the_new_ones(copies, new, old):
    configs, jobs = copies
    base = configs / "base.conf"
    assert new in base.read_text()
    base.write_text(base.read_text().replace(new, old))
    assert any(f"{old} is now {new_path(old)}" in problem for problem in check(configs, jobs))
    for path, text in rendered(configs, "mscan_fedavg").items():
        (jobs / "old" / path).parent.mkdir(parents=True, exist_ok=True)
        (jobs / "old" / path).write_text(text)
    with pytest.raises(ValueError, match=rf"{old} is now {new_path(old)}"):
        bundle(jobs / "old", jobs.parent / "out")


def test_check_names_the_new_path_for_a_job_folder_of_an_earlier_version(copies):
    client = copies[1] / "mscan_fedavg" / CLIENT_CONFIG
    client.write_text(client.read_text().replace("SiteLearner", "SuperResolutionLearner"))
    assert any("is now fedmr.flare.learner.SiteLearner" in problem for problem in check(*copies))


def test_every_new_path_exists():
    for path in OLD_PATHS.values():
        try:
            importlib.import_module(path)
        except ModuleNotFoundError:
            module, _, name = path.rpartition(".")
            assert hasattr(importlib.import_module(module), name), path
    assert new_path("fedmr.guard.Limits") == "fedmr.aggregation.guard.Limits"
    assert new_path("fedmr.guardian") is None
    assert new_path("fedmr.flare.guard.ServerGuard") is None


def test_check_finds_a_task_that_no_network_takes(copies):
    configs, jobs = copies
    task = configs / "tasks" / "sr_x2.conf"
    task.write_text(task.read_text().replace("blocks = 4", "block = 4"))
    assert any("network 'mscan' does not take" in problem for problem in check(configs, jobs))


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_job_has_a_valid_task_its_network_on_the_server_and_the_guard(name):
    """It decides when a round has too few updates; the workflow waits for every site and leaves errors to it."""
    task = build_task(read_task(JOBS / name))
    server = ConfigFactory.parse_file(JOBS / name / SERVER_CONFIG)
    parts = {part["id"]: part["args"] for part in [*server["components"], *server["workflows"]]}
    assert parts["persistor"]["model"]["args"] == task.network
    (chain,) = server["task_result_filters"]
    (guard,) = chain["filters"]
    assert (chain["tasks"], guard["path"]) == (["train"], "fedmr.flare.guard.ServerGuard")
    assert guard["args"]["limits"]["learning_rate"] == task.learning_rate
    assert guard["args"]["expected_data_kind"] == parts["aggregator"]["expected_data_kind"]
    assert (parts["train"]["min_clients"], parts["train"]["ignore_result_error"]) == (1000, True)
    assert parts["train"]["num_rounds"] > 0


def test_a_job_sets_the_guard_line_by_line(copies):
    source = copies[0] / "mscan_fedavg.conf"
    lines = "guard.norm_factor = 5\nguard.metric_ranges.psnr = [10, 60]\nencrypted = true\nmin_clients_per_round = 3\n"
    source.write_text(source.read_text() + lines)
    server = ConfigFactory.parse_string(rendered(copies[0], "mscan_fedavg")[SERVER_CONFIG])
    args = server["task_result_filters"][0]["filters"][0]["args"].as_plain_ordered_dict()
    assert args["limits"] == {"learning_rate": 2e-3, "norm_factor": 5, "metric_ranges": {"psnr": [10, 60]}}
    assert (args["min_sites"], args["encrypted"]) == (3, True)
    assert check(*copies) == [
        f"{copies[1] / 'mscan_fedavg' / name} is not what app_configs/mscan_fedavg.conf renders; "
        "run `fedmr jobs render`"
        for name in ("meta.conf", SERVER_CONFIG)
    ]


@pytest.mark.parametrize("lines", ["", "aggregator.args.trim = 1\n"])
def test_a_job_takes_a_robust_aggregator_by_the_lines_of_the_operators_page(lines, copies):
    source = copies[0] / "mscan_fedavg.conf"
    robust = "aggregator.path = fedmr.flare.robust.RobustAggregator\n"
    assert robust.strip() in (ROOT / "docs" / "operator.md").read_text()
    source.write_text(source.read_text() + robust + lines)
    render(*copies)
    assert check(*copies) == []
    server = ConfigFactory.parse_file(copies[1] / "mscan_fedavg" / SERVER_CONFIG)
    arguments = next(c for c in server["components"] if c["id"] == "aggregator")["args"]
    assert RobustAggregator(**arguments).trim == (1 if lines else None)


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


OWN = "from torch import nn\nclass Own(nn.Conv2d):\n    def __init__(self): super().__init__(1, 1, 3, padding=1)\n"
OWN_JOB = """
name = own_job
include required("tasks/sr_x2.conf")
task.network = null
task.network { _target_ = render_own.Own, scale = 2, grid = pixel0 }
include required("base.conf")
"""


def test_a_job_takes_along_the_users_file_beside_its_source(tmp_path, monkeypatch):
    monkeypatch.setattr(class_path, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    configs, jobs = tmp_path / "configs", tmp_path / "jobs"
    shutil.copytree(CONFIGS, configs)
    for other in configs.glob("*.conf"):
        if other.stem != "base":
            other.unlink()
    (configs / "own_job.conf").write_text(OWN_JOB)
    (configs / "render_own.py").write_text(OWN)
    (configs / "unused.py").write_text("raise RuntimeError")
    assert render(configs, jobs) == ["own_job"]
    custom = jobs / "own_job" / "app" / "custom"
    assert sorted(file.name for file in custom.iterdir()) == ["README.md", "render_own.py"]
    assert (custom / "render_own.py").read_text() == OWN
    assert check(configs, jobs) == []
    (configs / "render_own.py").write_text(OWN.replace("padding=1", "padding=2"))
    assert any("render_own.py is not what" in problem for problem in check(configs, jobs))


def test_a_changed_include_is_read_again_and_no_job_changes_another(copies):
    """Sources are parsed once for the same texts."""
    configs, _ = copies
    before = rendered(configs, "mscan_fedavg")
    assert rendered(configs, "mscan_fedavg") == before
    task = configs / "tasks" / "sr_x2.conf"
    assert "patch_size = 24" in task.read_text()
    task.write_text(task.read_text().replace("patch_size = 24", "patch_size = 33"))
    after = rendered(configs, "mscan_fedavg")
    assert "patch_size = 33" in after[CLIENT_CONFIG]
    assert "patch_size = 24" in before[CLIENT_CONFIG]
