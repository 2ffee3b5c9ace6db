"""Jobs of what a run still lacks, from folders as FLARE's server leaves them."""

import json
import shutil
from pathlib import Path

import pytest
from pyhocon import ConfigFactory

from fedmr.federation.kits import ConsortiumError
from fedmr.federation.render import CLIENT_CONFIG, SERVER_CONFIG
from fedmr.runs.log import read_log
from fedmr.runs.resume import MODEL_FILE, resumed_job
from simulator import ROOT

NUMBER = "5b0c"
FINISHED = "2026-11-22 07:09:29,477 - ScatterAndGather - INFO - [wf=train] - Round {} finished.\n"


def write_run(folder: Path, job: str, rounds: int) -> Path:
    """A run that ended after so many rounds, with its config and some bytes for a model."""
    run, app = folder / NUMBER, folder / NUMBER / "app_server"
    shutil.copytree(ROOT / "jobs" / job / "app" / "config", app / "config")
    (app / MODEL_FILE).write_bytes(b"weights")
    (run / "log.txt").write_text("".join(FINISHED.format(number) for number in range(rounds)))
    meta = {"name": job, "job_id": NUMBER, "resource_spec": {}, "min_clients": 1, "deploy_map": {"app": ["@ALL"]}}
    (run / "meta.json").write_text(json.dumps(meta | {"submitter_name": "admin@hub.org"}))
    return run


def parts(job: Path, side: Path) -> dict[str, dict]:
    config = ConfigFactory.parse_file(job / side).as_plain_ordered_dict()
    return {part["id"]: part["args"] for part in [*config["components"], *config.get("workflows", [])]}


@pytest.mark.parametrize("name", ["mscan_fedavg", "mscan_fedavg_he", "mscan_fedavg_he_packed", "unet_flmrcm"])
def test_the_job_has_the_rounds_that_are_left_the_model_and_the_sites_states(name, tmp_path):
    whole = parts(ROOT / "jobs" / name, SERVER_CONFIG)["train"]
    job = resumed_job(write_run(tmp_path, name, rounds=3), tmp_path / "out")
    server = parts(job, SERVER_CONFIG)
    assert server["train"] == whole | {"start_round": 3, "num_rounds": whole["num_rounds"] - 3}
    assert server["persistor"]["source_ckpt_file_full_name"] == MODEL_FILE
    assert parts(job, CLIENT_CONFIG)["learner"]["resume"] == {"job": NUMBER, "round": 3}
    assert (job / "app" / "custom" / MODEL_FILE).read_bytes() == b"weights"
    assert "submitter_name" not in json.loads((job / "meta.conf").read_text())


def test_a_resumed_job_that_stops_too_is_resumed_from_all_rounds(tmp_path):
    first = resumed_job(write_run(tmp_path / "a", "mscan_fedavg", rounds=3), tmp_path / "first")
    run = write_run(tmp_path / "b", "mscan_fedavg", rounds=5)
    shutil.copy(first / SERVER_CONFIG, run / "app_server" / "config")
    train = parts(resumed_job(run, tmp_path / "second"), SERVER_CONFIG)["train"]
    assert (train["start_round"], train["start_round"] + train["num_rounds"]) == (5, 10)


def test_the_folder_of_a_download_is_taken_as_well(tmp_path):
    write_run(tmp_path / "download", "mscan_fedavg", rounds=1).rename(tmp_path / "download" / "workspace")
    assert parts(resumed_job(tmp_path / "download", tmp_path), SERVER_CONFIG)["train"]["start_round"] == 1


@pytest.mark.parametrize(
    ("job", "rounds", "message"),
    [
        ("mscan_fedavg", 0, "has no finished round to go on from"),
        ("mscan_fedavg", 10, "has all its 10 rounds"),
        ("mscan_scaffold", 2, "keeps state on the server"),
        ("mscan_fedopt", 2, "does not save the state of the server's optimiser"),
    ],
)
def test_what_cannot_be_resumed_is_said(job, rounds, message, tmp_path):
    with pytest.raises(ConsortiumError, match=message):
        resumed_job(write_run(tmp_path, job, rounds), tmp_path / "out")


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(ConsortiumError, match=r"meta\.json is missing"):
        resumed_job(tmp_path, tmp_path / "out")


def test_rounds_are_counted_by_the_last_that_finished(tmp_path):
    (tmp_path / "log.txt").write_text("no round\n")
    assert read_log(tmp_path) is None
    (tmp_path / "log.txt").write_text(FINISHED.format(0).replace("finished", "started"))
    assert read_log(tmp_path).done == 0
    (tmp_path / "log.txt").write_text("".join(FINISHED.format(number) for number in (0, 1, 7)) + "Round 8 started.\n")
    assert read_log(tmp_path).done == 8


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "", "..", "a b", 5, "x\n"])
@pytest.mark.parametrize("key", ["name", "job_id"])
def test_a_name_that_could_be_a_path_is_refused(key, name, tmp_path):
    run = write_run(tmp_path / "run", "mscan_fedavg", rounds=2)
    meta = json.loads((run / "meta.json").read_text()) | {key: name}
    (run / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ConsortiumError, match=f"gives the {key}"):
        resumed_job(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_config_that_reaches_out_is_refused(tmp_path):
    run = write_run(tmp_path / "run", "mscan_fedavg", rounds=2)
    config = run / "app_server" / "config" / "config_fed_client.conf"
    config.write_text("leak = ${HOME}\n" + config.read_text())
    with pytest.raises(ValueError, match="asks for variables"):
        resumed_job(run, tmp_path / "out")
