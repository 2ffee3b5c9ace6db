"""A hostile site in a federation of four: in one process with every attack, in the simulator with one per round."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import InTimeAccumulateWeightedAggregator
from nvflare.app_common.executors.learner_executor import LearnerExecutor
from pyhocon import ConfigFactory

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.federation.render import CLIENT_CONFIG, read_task
from fedmr.flare.guard import ServerGuard
from fedmr.nets import build
from fedmr.runs.records import read_rejections
from fedmr.tasks.base import Task
from fedmr.tasks.patches import load_volumes
from fedmr.tasks.registry import build_task
from fedmr.training.trainer import evaluate
from hostile import ATTACKS, HostileLearner
from server import Server
from simulator import SITES, render_tiny_job, simulate

pytestmark = pytest.mark.e2e
RUN = Path("server") / "simulate_job"
ROUNDS = 2
HOSTILE = "site-2"


class Site:
    """A site in this process: FLARE's executor and the learner, without the network."""

    def __init__(self, home: Path, task: Task, attacks: list[dict[str, str]]) -> None:
        for folder in ("startup", "local", "job"):
            (home / folder).mkdir(parents=True)
        workspace = Workspace(str(home), site_name=home.name)
        self.learner = HostileLearner(task.to_dict(), attacks, threads=1)
        engine = SimpleNamespace(
            get_workspace=lambda: workspace, get_component=lambda _: self.learner, get_all_components=dict
        )
        self.executor, self.fl_ctx = LearnerExecutor("learner"), FLContext()
        self.fl_ctx.set_prop(ReservedKey.ENGINE, engine, private=True)
        self.fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, home.name)
        self.fl_ctx.set_prop(ReservedKey.RUN_NUM, "job")

    def __call__(self, message):
        return self.executor.execute("train", message, self.fl_ctx, Signal())


@pytest.fixture(scope="module")
def federate(tiny_job, hospitals, tmp_path_factory):
    """Trains, with `HOSTILE` attacking in every round; gives server, weights, and their PSNR at the honest sites."""
    task = build_task(read_task(tiny_job))
    volumes = [v for site in SITES if site != HOSTILE for v in load_volumes(hospitals / site, task, ("test",))]
    initial = {name: value.numpy() for name, value in build(**task.network).state_dict().items()}

    def run(attack=None, *, guard=True, sites=SITES):
        folder = tmp_path_factory.mktemp("federation")
        attacks = [{HOSTILE: attack} if attack else {}] * ROUNDS
        answers = {site: Site(folder / site, task, attacks) for site in sites}
        filters = [ServerGuard({"learning_rate": task.learning_rate}, len(SITES) - 1)] if guard else []
        aggregator = None if guard else InTimeAccumulateWeightedAggregator()
        server = Server(folder / "server", answers, *filters, aggregator=aggregator, rounds=ROUNDS)
        weights = server.train(initial)
        net = build(**task.network)
        net.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
        return server, weights, evaluate(net, volumes, task)["model"]["psnr"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_ROOT_VARIABLE, str(hospitals))
        yield run


@pytest.fixture(scope="module")
def without(federate):
    """The run of the other three sites."""
    return federate(sites=[site for site in SITES if site != HOSTILE])


@pytest.mark.parametrize("attack", ATTACKS)
def test_with_the_guard_the_model_is_that_of_the_run_without_the_hostile_site(attack, federate, without):
    server, weights, psnr = federate(attack)
    assert server.panic is None
    assert [r["site"] for r in read_rejections(server.run_folder)] == [HOSTILE] * ROUNDS
    assert all(np.isfinite(value).all() for value in weights.values())
    assert psnr == pytest.approx(without[2], abs=0.1)
    assert all(np.array_equal(weights[name], value) for name, value in without[1].items())


@pytest.mark.parametrize("attack", ATTACKS)
def test_without_the_guard_the_model_is_spoilt_or_the_job_ends(attack, federate, without):
    server, weights, psnr = federate(attack, guard=False)
    if attack == "wrong_shape":
        assert "could not be broadcast together" in server.panic
    else:
        assert not psnr > without[2] - 0.1
    assert (attack == "not_finite") != all(np.isfinite(value).all() for value in weights.values())


def hostile_job(folder: Path, attacks: list[dict[str, str]], overlay: str) -> Path:
    job = render_tiny_job(folder, len(attacks), overlay=overlay)
    client = ConfigFactory.parse_file(job / CLIENT_CONFIG).as_plain_ordered_dict()
    learner = next(c for c in client["components"] if c["id"] == "learner")
    learner["path"] = "hostile.HostileLearner"
    learner["args"]["attacks"] = attacks
    (job / CLIENT_CONFIG).write_text(json.dumps(client))
    return job


def test_a_federation_goes_on_without_one_hostile_site_and_ends_with_two(hospitals, tmp_path):
    attacks = [dict([pair]) for pair in zip(SITES, ("scaled", "not_finite", "wrong_shape", "many_steps"), strict=True)]
    attacks.append({"site-1": "not_finite", "site-3": "wrong_shape"})
    job = hostile_job(tmp_path, attacks, "min_clients_per_round = 3")
    modules = Path(__file__).parents[1] / "support"
    code = simulate(job, tmp_path / "w", hospitals, sites=4, threads=4, modules=modules).returncode
    log = (tmp_path / "w" / "server" / "log.txt").read_text()
    reasons = ["(learning_rate)", "is not finite", "has the shape", "(max_steps)"]
    records = read_rejections(tmp_path / "w" / RUN)
    for number, (site, reason) in enumerate(zip(SITES, reasons, strict=True)):
        (record,) = [r for r in records if r["round"] == number]
        assert record["site"] == site
        assert reason in record["reason"]
        assert f"{site} | round {number} | left out: {record['reason']}" in log
        accepted = re.findall(rf"Contribution from (\S+) ACCEPTED by the aggregator at round {number}\.", log)
        assert sorted(accepted) == [s for s in SITES if s != site]
    lines = (tmp_path / "w" / RUN / "metrics" / "round_metrics.jsonl").read_text().splitlines()
    for site, line in zip(SITES, lines, strict=True):
        assert sorted(s["name"] for s in json.loads(line)["sites"]) == [s for s in SITES if s != site]
    assert code != 0
    assert "round 4 has at most 2 of 4 updates and needs 3 (min_clients_per_round); left out: site-1, site-3" in log
    assert "Round 3 finished" in log
    assert "Round 4 finished" not in log
    model = torch.load(tmp_path / "w" / RUN / "app_server" / "FL_global_model.pt", weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for value in model.values())
