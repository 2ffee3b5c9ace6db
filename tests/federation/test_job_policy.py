"""What a site refuses of a job before anything of it runs."""

import json
import shutil
from pathlib import Path

import pytest

from fedmr.federation.job_policy import problems_of
from fedmr.federation.render import CLIENT_CONFIG
from fedmr.privacy.policy import Policy
from fedmr.utils.hocon import read_hocon
from simulator import ROOT

JOBS = sorted(path.name for path in (ROOT / "jobs").iterdir())
DP = "fedmr.flare.filters.GaussianPrivacy"


@pytest.fixture
def config(tmp_path):
    """A job's configs as they lie at the site, changed by a function of the client's."""

    def make(job: str = "mscan_fedavg", change=lambda client: None) -> Path:
        folder = Path(
            shutil.copytree((ROOT / "jobs" / job / CLIENT_CONFIG).parent, tmp_path / "config", dirs_exist_ok=True)
        )
        client = read_hocon(folder / CLIENT_CONFIG.name).as_plain_ordered_dict()
        change(client)
        (folder / CLIENT_CONFIG.name).write_text(json.dumps(client))  # JSON is HOCON
        return folder

    return make


@pytest.mark.parametrize("job", JOBS)
def test_every_job_of_fedmr_may_run_where_the_owner_limits_nothing(job):
    assert problems_of((ROOT / "jobs" / job / CLIENT_CONFIG).parent, Policy()) == []


@pytest.mark.parametrize("job", JOBS)
def test_encrypted_or_nothing(job):
    found = problems_of((ROOT / "jobs" / job / CLIENT_CONFIG).parent, Policy(encryption=True))
    free = "he" in job.split("_") or job in ("mscan_fedavg_he_packed", "federated_stats")
    assert [problem for problem in found if "encrypt" in problem] == ([] if free else found)
    assert bool(found) is not free


def test_a_required_filter_must_cover_all_that_training_sends(config):
    policy = Policy(required_filters=(DP,))
    assert problems_of(config("mscan_dp"), policy) == []

    def spare_submit_model(client):
        client["task_result_filters"][0]["tasks"].remove("submit_model")

    assert "required_filters" in problems_of(config("mscan_dp", spare_submit_model), policy)[0]


def test_a_filter_of_the_other_direction_protects_nothing(config):
    folder = config("mscan_dp", lambda client: client["task_result_filters"][0].update(direction="in"))
    assert problems_of(folder, Policy(required_filters=(DP,)))


def test_statistics_without_their_filter_are_refused(config):
    folder = config("federated_stats", lambda client: client.update(task_result_filters=[]))
    assert problems_of(folder, Policy()) == []
    assert "min_patients" in problems_of(folder, Policy(min_patients=5))[0]


@pytest.mark.parametrize("value", ["{$HOME}", "a{$AWS_SECRET}b", "{ $HOME }"])
def test_a_value_that_asks_for_the_sites_environment_is_refused_and_not_repeated(config, value):
    folder = config(change=lambda client: client["components"][0]["args"].update(x=value))
    (problem,) = problems_of(folder, Policy())
    assert "environment" in problem
    assert value not in problem


@pytest.mark.parametrize("line", ["x = ${HOME}", 'include file("/etc/passwd")', "x = {$HOME"])
def test_a_config_that_reaches_out_or_is_broken_is_refused(config, line):
    folder = config()
    file = folder / CLIENT_CONFIG.name
    file.write_text(f"{line}\n{(ROOT / 'jobs' / 'mscan_fedavg' / CLIENT_CONFIG).read_text()}")
    (problem,) = problems_of(folder, Policy())
    assert "HOME" not in problem
    assert "passwd" not in problem


@pytest.mark.parametrize("key", ["path", "class_path"])
def test_a_job_that_streams_the_sites_log_is_refused(config, key):
    streamer = {key: "nvflare.app_common.logging.job_log_streamer.JobLogStreamer", "id": "x", "args": {}}
    folder = config(change=lambda client: client["components"].append(streamer))
    assert "log" in problems_of(folder, Policy())[0]


def test_a_json_config_is_checked_like_a_hocon_one(config):
    folder = config()
    client = read_hocon(folder / CLIENT_CONFIG.name).as_plain_ordered_dict()
    (folder / CLIENT_CONFIG.name).unlink()
    client["components"][0]["args"]["x"] = "{$HOME}"
    (folder / "config_fed_client.json").write_text(json.dumps(client))
    assert "environment" in problems_of(folder, Policy())[0]


def test_a_config_of_another_format_is_refused(config):
    folder = config()
    (folder / CLIENT_CONFIG.name).rename(folder / "config_fed_client.yml")
    assert "neither" in problems_of(folder, Policy())[0]


def test_a_class_path_that_is_not_allowed_is_refused_with_the_line_to_add(config):
    def other_network(client):
        learner = next(c for c in client["components"] if c["id"] == "learner")
        learner["args"]["task"]["network"] = {"_target_": "stranger.Tiny", "scale": 2}

    folder = config("mscan_fedavg", other_network)
    problem = problems_of(folder, Policy())[0]
    assert "class stranger.Tiny is not allowed" in problem
    assert '"classes": ["stranger.Tiny"] in local/fedmr_policy.json' in problem
    assert problems_of(folder, Policy(classes=("stranger.Tiny",))) == []
    custom = folder.parent / "custom"
    custom.mkdir(exist_ok=True)
    (custom / "stranger.py").write_text("")  # FLARE has let the job's code in
    assert problems_of(folder, Policy()) == []


def test_a_network_of_monai_needs_no_line(config):
    def network(client):
        learner = next(c for c in client["components"] if c["id"] == "learner")
        learner["args"]["task"]["network"] = {"_target_": "monai.networks.nets.SegResNet", "scale": 2}

    assert problems_of(config("mscan_fedavg", network), Policy()) == []
