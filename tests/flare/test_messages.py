"""The committed jobs on small federations in one process: what must be equal, and what the server makes of it."""

import dataclasses
import itertools
import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.app_common.app_constant import AlgorithmConstants, AppConstants
from nvflare.fuel.utils import fobs

from federation import federate
from fedmr.checkpoints.model_file import load_model
from fedmr.data.pool import pool
from fedmr.flare.learner import PERSONAL_FILE, STATE_FILE
from fedmr.flare.messages import first_task, pack, unpack
from fedmr.nets import build
from fedmr.reports.cross_site import matrix_of
from fedmr.runs.run import Run
from fedmr.training.standalone import train_pooled
from simulator import render_tiny_job

pytestmark = pytest.mark.e2e  # whole federations, in one process

SITES = ("site-1", "site-2")
ROUNDS = 2
SGD = """
server_step.args.optimizer_args = null
server_step.args.optimizer_args { path = torch.optim.SGD, args { lr = 1.0 }, config_type = dict }
"""


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Run a job made small; a job is rendered once and run once by the same call."""

    @cache
    def tiny(job, overlay):
        return render_tiny_job(tmp_path_factory.mktemp(job), ROUNDS, job=job, overlay=overlay)

    @cache
    def make(job, overlay="", data=data, sites=SITES, restart=False):
        return federate(tiny(job, overlay), tmp_path_factory.mktemp("run") / "w", data, sites=sites, restart=restart)

    return make


def global_model(federation):
    path = federation.home / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    return {name: torch.as_tensor(value) for name, value in torch.load(path, weights_only=True)["model"].items()}


def states(federation):
    return {site: torch.load(federation.state(site) / STATE_FILE, weights_only=True) for site in federation.sites}


def distance(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(
    ("job", "overlay"),
    [
        ("mscan_fedprox", "task.algorithm.mu = 0.0"),
        ("mscan_fedopt", SGD),
        ("mscan_fedavgm", "server_step.args.optimizer_args.args.momentum = 0"),
        ("mscan_ditto", ""),
        ("mscan_cross_site", ""),
    ],
)
def test_what_is_fedavg_by_its_definition_ends_in_the_same_global_model(run, job, overlay):
    """Also FedOpt by SGD with rate 1: -(-d) is d, and both add it to the weights in float32."""
    assert distance(global_model(run(job, overlay)), global_model(run("mscan_fedavg"))) == 0


def test_the_first_round_of_scaffold_is_fedavg(run):
    """All controls are still zero."""
    one = "num_rounds = 1"
    assert distance(global_model(run("mscan_scaffold", one)), global_model(run("mscan_fedavg", one))) == 0


@pytest.mark.parametrize("job", ["mscan_fedprox", "mscan_scaffold", "mscan_fedopt", "mscan_fedavgm", "mscan_local"])
def test_every_other_algorithm_ends_in_another(run, job):
    assert distance(global_model(run(job)), global_model(run("mscan_fedavg"))) > 1e-5


def test_neither_the_order_nor_the_names_of_the_sites_matter(run, data, tmp_path):
    """Of weights and controls: their sums are in float64, so the float32 results do not show the order."""
    expected = global_model(run("mscan_scaffold"))
    assert distance(global_model(run("mscan_scaffold", sites=SITES[::-1])), expected) == 0
    for site, other in zip(SITES, SITES[::-1], strict=True):
        shutil.copytree(data / site, tmp_path / "data" / other)
    assert distance(global_model(run("mscan_scaffold", data=tmp_path / "data")), expected) == 0


@pytest.mark.parametrize("job", ["mscan_scaffold", "mscan_ditto", "mscan_local"])
def test_sites_whose_process_ends_after_every_task_end_in_the_same_figures(run, job):
    restarted, straight = run(job, restart=True), run(job)
    assert Run(restarted.home).figures() == Run(straight.home).figures()
    assert distance(global_model(restarted), global_model(straight)) == 0
    for site in SITES if job != "mscan_scaffold" else ():
        models = [load_model(f.state(site) / PERSONAL_FILE).net.state_dict() for f in (restarted, straight)]
        assert distance(*models) == 0


def test_the_servers_control_is_the_mean_of_the_sites_weighted_as_their_updates(run):
    federation = run("mscan_scaffold")
    own = [state["hooks"][0]["own"] for state in states(federation).values()]
    steps = [site["steps"] for site in Run(federation.home).rounds[0]["sites"].values()]
    assert steps[0] != steps[1]
    servers = federation.server.workflows[0]._global_ctrl_weights
    for name, value in servers.items():
        mean = sum(n * control[name].double() for n, control in zip(steps, own, strict=True)) / sum(steps)
        assert np.abs(value).max() > 0
        assert np.allclose(value, mean.numpy(), rtol=1e-5, atol=1e-9), name


def test_the_server_of_fedavgm_adds_half_of_its_last_step(run):
    """The second round by hand, from the weights that it started from and those that the sites made of them."""
    federation = run("mscan_fedavgm", "num_rounds = 2")
    kept, rounds = states(federation), Run(federation.home).rounds
    steps = {site: rounds[1]["sites"][site]["steps"] for site in SITES}
    sent = [message for site, task, message, _ in federation.messages if (site, task) == ("site-1", "train")]
    start, second = (unpack(fobs.loads(message))[0] for message in sent)
    expected = {
        name: sum(steps[s] * kept[s]["net"][name].double() for s in SITES) / sum(steps.values())
        + 0.5 * torch.as_tensor(second[name].astype("double") - start[name])
        for name in start
    }
    assert distance(global_model(federation), {name: value.float() for name, value in expected.items()}) < 1e-6
    assert max(np.abs(second[name] - start[name]).max() for name in start) > 1e-3


def test_the_server_of_fedopt_steps_by_torch_adam(run):
    """One round by hand from the sites' own weights; eps and betas are those of the job."""
    federation = run("mscan_fedopt", "num_rounds = 1")
    kept, rounds = states(federation), Run(federation.home).rounds
    steps = {site: rounds[0]["sites"][site]["steps"] for site in SITES}
    net = build(**federation.sites["site-1"].components["learner"].task["network"])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    adam = torch.optim.Adam(net.parameters(), lr=3e-3, betas=(0.9, 0.99), eps=1e-3)
    for name, parameter in net.named_parameters():
        mean = sum(steps[s] * (kept[s]["net"][name] - before[name]).double() for s in SITES) / sum(steps.values())
        parameter.grad = -mean.float()
    adam.step()
    assert distance(net.state_dict(), global_model(federation)) < 1e-6


def test_a_site_alone_keeps_its_weights_to_itself(run, data):
    federation = run("mscan_local")
    initial = build(**federation.sites["site-1"].components["learner"].task["network"]).state_dict()
    assert distance(global_model(federation), initial) == 0
    assert federation.up["train"] < 0.05 * run("mscan_fedavg").up["train"]
    site = SITES[1]
    of_one = run("mscan_central", sites=(site,))
    model = load_model(federation.state(site) / PERSONAL_FILE)
    assert model.task.algorithm == {"name": "local"}
    assert distance(model.net.state_dict(), global_model(of_one)) < 1e-6, "a federation of one site"
    expected = Run(of_one.home).figures()["sites"][site]["model"]
    assert Run(federation.home).figures()["sites"][site]["model"] == pytest.approx(expected, rel=1e-5)


def test_the_pooled_site_through_flare_ends_as_training_without_it(data, tmp_path):
    pool(data, tmp_path / "pooled")
    job = render_tiny_job(tmp_path / "job", ROUNDS, job="mscan_central")
    federation = federate(job, tmp_path / "w", tmp_path / "pooled", sites=("pooled",))
    model = load_model(train_pooled(data, tmp_path / "out", job=job, say=lambda _: None))
    assert distance(global_model(federation), model.net.state_dict()) < 1e-6
    assert Run(federation.home).figures()["sites"]["pooled"]["n_volumes"] == len(SITES)


def test_the_personal_model_is_reported_and_stays(run):
    federation, plain = run("mscan_ditto"), run("mscan_fedavg")
    assert federation.up["train"] == plain.up["train"]
    for site in SITES:
        figures = Run(federation.home).figures()["sites"][site]
        assert figures["model"] == Run(plain.home).figures()["sites"][site]["model"]
        assert figures["personal"]["psnr"] != figures["model"]["psnr"]
        streamed = federation.records[site]
        assert len(streamed["val/personal_psnr"]) == len(streamed["val/personal_ssim"]) == ROUNDS - 1
        personal = load_model(federation.state(site) / PERSONAL_FILE).net.state_dict()
        assert distance(personal, global_model(federation)) > 1e-5
        assert distance(personal, states(federation)[site]["net"]) > 1e-5
    assert not list((plain.home).rglob(PERSONAL_FILE))


def test_all_models_meet_all_test_sets(run):
    """A site's own model comes from its last round; with sites alone, everyone still tests everyone's."""
    for overlay in ("", "task.algorithm { name = local }"):
        federation = run("mscan_cross_site", overlay)
        path = federation.home / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json"
        results = json.loads(path.read_text())
        names = {*SITES, "SRV_FL_global_model.pt", "SRV_best_FL_global_model.pt"}
        assert all(set(results[site]) == names for site in SITES)
        for site, other in itertools.permutations(SITES):
            assert results[site][site]["model"] != results[site][other]["model"]
    for site in SITES:
        assert results[site][site]["model"] == results[site]["SRV_FL_global_model.pt"]["model"], "its own, being alone"
    assert matrix_of(Run(federation.home)).models == list(SITES)
    assert matrix_of(Run(run("mscan_cross_site").home)).models == [*SITES, "global, final", "global, best round"]


def test_what_the_jobs_cost_in_bytes(run):
    """Relative to FedAvg, up and down; all messages of training, as FLARE serialises them."""
    plain, cost = run("mscan_fedavg"), {}
    for job in ("mscan_fedprox", "mscan_scaffold", "mscan_fedopt", "mscan_ditto", "mscan_local"):
        federation = run(job)
        cost[job] = tuple(getattr(federation, way)["train"] / getattr(plain, way)["train"] for way in ("up", "down"))
    assert cost["mscan_fedprox"] == cost["mscan_ditto"] == (1, 1)
    assert cost["mscan_scaffold"] == pytest.approx((2, 2), rel=0.03)
    assert cost["mscan_fedopt"] == pytest.approx((1, 1), rel=0.1)
    assert cost["mscan_local"] == pytest.approx((0, 1), abs=0.05)
    crossed = run("mscan_cross_site")
    assert crossed.up["train"] == plain.up["train"]
    model = plain.down["train"] / (ROUNDS * len(SITES))
    assert crossed.up["submit_model"] == pytest.approx(len(SITES) * model, rel=0.05)
    assert crossed.down["validate"] == pytest.approx(len(SITES) * (len(SITES) + 2) * model, rel=0.05)


@pytest.mark.parametrize("controls", [{}, {"w": np.ones(2, np.float32)}])
def test_messages_are_those_of_the_workflow(controls):
    dxo = pack({"w": np.zeros(2, np.float32)}, 7, controls)
    assert dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND) == 7
    assert dxo.data_kind == (DataKind.COLLECTION if controls else DataKind.WEIGHT_DIFF)
    for part in dxo.data.values() if controls else []:
        assert (part.data_kind, part.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)) == (DataKind.WEIGHT_DIFF, 7)
    weights = DXO(DataKind.WEIGHTS, data={"w": np.zeros(2)})
    parts = {
        AppConstants.MODEL_WEIGHTS: weights,
        AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL: DXO(DataKind.WEIGHT_DIFF, data=controls),
    }
    task = DXO(DataKind.COLLECTION, data=parts) if controls else weights
    assert unpack(task.to_shareable()) == (weights.data, controls)


@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
def test_the_first_task_is_what_the_workflow_sends_first(task, name):
    weights = {"w": np.ones(2, np.float32)}
    task = dataclasses.replace(task, algorithm={"name": name})
    received, controls = unpack(first_task(task, weights).to_shareable())
    assert np.array_equal(received["w"], weights["w"])
    assert {key: value.tolist() for key, value in controls.items()} == ({"w": [0, 0]} if name == "scaffold" else {})
