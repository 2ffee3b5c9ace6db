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

    def make(job: str = "mscan_fedavg", change=lambda client: None, suffix: str = ".conf") -> Path:
        folder = Path(
            shutil.copytree((ROOT / "jobs" / job / CLIENT_CONFIG).parent, tmp_path / "config", dirs_exist_ok=True)
        )
        client = read_hocon(folder / CLIENT_CONFIG.name).as_plain_ordered_dict()
        change(client)
        (folder / CLIENT_CONFIG.name).unlink()
        (folder / CLIENT_CONFIG.name).with_suffix(suffix).write_text(json.dumps(client))  # JSON is HOCON
        return folder

    return make


@pytest.mark.parametrize("job", JOBS)
def test_every_job_of_fedmr_may_run_where_the_owner_limits_nothing(job, tmp_path):
    folder = (ROOT / "jobs" / job / CLIENT_CONFIG).parent
    assert problems_of(folder, Policy()) == []
    assert problems_of(shutil.copytree(folder, tmp_path / "config"), Policy(), code=False) == []


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


def test_training_under_the_name_of_a_test_is_refused(config):
    """The results of a test are metrics, which no filter of a policy need look at."""

    def swap(client):
        args = {"train_task": "validate", "validate_task": "train"}
        client["executors"][0]["executor"]["args"].update(args)
        client["task_result_filters"][0]["tasks"] = ["train", "submit_model"]

    assert (
        "under the name of another" in problems_of(config("mscan_dp", swap, ".json"), Policy(required_filters=(DP,)))[0]
    )


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


def as_json(folder: Path, text: str) -> Path:
    """The job's client config as JSON, with a text of ours for the argument x of its first component."""
    file = folder / "config_fed_client.json"
    client = json.loads(file.read_text())
    client["components"][0]["args"]["x"] = "HERE"
    file.write_text(json.dumps(client).replace('"HERE"', text))
    return folder


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('"\\u007b$HOME}"', "environment"),
        ('"\\u0024{HOME}"', "environment"),
        ('"nvflare.app_common.\\u006cogging.job_log_streamer.JobLog\\u0053treamer"', "log"),
        ('{"p\\u0061th": "subprocess.Popen", "args": {}}', "not on the site's list"),
        ('{"load_weights_\\u006fnly": false}', "load_weights_only"),
        ('1, "x": 2', "cannot be read"),
    ],
)
def test_json_is_read_as_flare_reads_it(config, text, reason):
    assert reason in problems_of(as_json(config(suffix=".json"), text), Policy(), code=False)[0]


@pytest.mark.parametrize(
    "name", ["config_fed_client.json", "below/config_fed_client.json", "a/b/config_fed_server.conf"]
)
def test_two_configs_of_one_name_are_refused_as_flare_might_take_the_other(tmp_path, name):
    folder = (ROOT / "jobs" / "mscan_fedavg_he_packed" / CLIENT_CONFIG).parent
    assert problems_of(folder, Policy(encryption=True)) == []
    folder = Path(shutil.copytree(folder, tmp_path / "config"))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    assert "several configs" in problems_of(folder, Policy(encryption=True))[0]


RUNS = {"path": "subprocess.Popen", "args": {"args": ["sh", "-c", "touch /tmp/was_here"]}}
PERSISTOR = "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"


@pytest.mark.parametrize(
    "args",
    [
        {"model": RUNS | {"config_type": "dict"}},
        {"model": {"config_type": "dict", "class_path": "os.system"}},
        {"model": {"x": [{"y": RUNS}]}},
        {"model": "{shell}"},
        {"source_ckpt_file_full_name": "{WORKSPACE}/{JOB_ID}/app_site-1/config/x.pt"},
        {"source_ckpt_file_full_name": "/etc/passwd"},
        {"source_ckpt_file_full_name": "../config/x.pt"},
        {"source_ckpt_file_full_name": "fedmr_start.pt", "load_weights_only": False},
        {"source_ckpt_file_full_name": "fedmr_start.pt", "load_weights_only": 0},
    ],
)
def test_no_argument_of_a_component_that_is_allowed_runs_a_command(config, args):
    """FLARE's persistor builds its network itself, without its list of classes, and can unpickle whatever it loads."""

    def add(client):
        client["components"].append({"id": "x", "path": PERSISTOR, "args": args})
        client["shell"] = RUNS | {"config_type": "dict"}

    assert problems_of(config(change=add, suffix=".json"), Policy(), code=False)


def test_code_that_a_job_does_not_declare_is_refused(config):
    """FLARE looks for the folder's own entry in the archive, and imports from the folder without."""
    folder = config(suffix=".json")
    assert problems_of(folder, Policy(), code=False) == []
    (folder.parent / "custom").mkdir()
    (folder.parent / "custom" / "sitecustomize.py").write_text("")
    assert "does not declare" in problems_of(folder, Policy(), code=False)[0]
    assert problems_of(folder, Policy(), code=True) == []


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
