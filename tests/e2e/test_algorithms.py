"""Golden numbers of every algorithm on the tiny federation, and the simulator against the same jobs in one process.

What must be equal among the algorithms is in tests/flare/test_algorithms.py.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from federation import federate
from fedmr.checkpoints.model_file import load_model
from fedmr.flare.learner import STATE_FILE
from fedmr.reports.cross_site import matrix_of
from fedmr.runs.records import read_rejections
from fedmr.runs.run import PERSONAL_FILE, Run
from simulator import ROUNDS, SITES, render_tiny_job, simulate

pytestmark = pytest.mark.e2e
RUN = Path("server") / "simulate_job"
GOLDEN = Path(__file__).parent / "golden_algorithms.json"
# The job's own would move no figure by more than the tolerance.
PAIR = SITES[:2]  # enough to compare two ways to run a job
SETTINGS = {"mscan_fedprox": "task.algorithm.mu = 0.01"}
CROSS_SITE = "test_workflow.path = nvflare.app_common.workflows.cross_site_model_eval.CrossSiteModelEval"
FEDOPT = """
server_step {
  path = nvflare.app_opt.pt.fedopt.PTFedOptModelShareableGenerator
  args {
    source_model { path = fedmr.nets.build, args = ${task.network} }
    optimizer_args {
      path = torch.optim.SGD, args { lr = 1.0, momentum = 0.5 }, config_type = dict } } }
"""


@pytest.fixture(scope="session")
def job(tmp_path_factory):
    return cache(lambda name, overlay="": render_tiny_job(tmp_path_factory.mktemp(name), job=name, overlay=overlay))


@pytest.fixture(scope="session")
def in_process(job, hospitals, tmp_path_factory):
    return cache(
        lambda name, overlay="", sites=SITES: federate(
            job(name, overlay), tmp_path_factory.mktemp(name) / "w", hospitals, sites=sites
        )
    )


@pytest.fixture(scope="session")
def simulated(job, hospitals, tmp_path_factory):
    """Workspace of a finished run of two sites in the simulator."""

    @cache
    def run(name, overlay=""):
        workspace = tmp_path_factory.mktemp(name) / "w"
        result = simulate(job(name, overlay), workspace, hospitals, sites=len(PAIR), threads=len(PAIR))
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return workspace

    return run


def numbers(run):
    """PSNR by round and site as received, and of the final models on test volumes."""
    tested = Run(run).figures()["sites"]
    return {
        "rounds": [{s: round(row["psnr"], 4) for s, row in sorted(r["sites"].items())} for r in Run(run).rounds],
        "test": {s: round(row["model"]["psnr"], 4) for s, row in tested.items()},
        "personal": {s: round(row["personal"]["psnr"], 4) for s, row in tested.items() if "personal" in row},
    }


def approximately(expected):
    rounds = [pytest.approx(row, abs=0.001) for row in expected["rounds"]]
    return {"rounds": rounds} | {key: pytest.approx(expected[key], abs=0.001) for key in ("test", "personal")}


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()))
def test_the_numbers_of_an_algorithm_are_the_golden_ones(name, in_process):
    """A change of any of these numbers is a change of the method; the tolerance is for other processors.

    It is narrower than FedAvg's, since in three rounds SCAFFOLD moves the figures by 0.003 dB only.
    """
    run = in_process(name, SETTINGS.get(name, ""))
    assert numbers(run.home) == approximately(json.loads(GOLDEN.read_text())[name])


@pytest.mark.parametrize(
    ("name", "overlay"),
    [
        ("mscan_scaffold", CROSS_SITE),
        ("mscan_ditto", FEDOPT),
        ("mscan_local", ""),
    ],
    ids=["scaffold, tested across sites", "ditto, with FedAvgM on the server", "every site alone"],
)
def test_the_simulator_gives_the_numbers_of_one_process(name, overlay, simulated, in_process):
    """Parts that do not depend on each other are run together, since a run takes half a minute."""
    run, expected = simulated(name, overlay), in_process(name, overlay, PAIR)
    assert numbers(run) == approximately(numbers(expected.home))
    models = [torch.load(w / RUN / "app_server" / "FL_global_model.pt")["model"] for w in (run, expected.home)]
    assert max(float((models[0][key] - models[1][key]).abs().max()) for key in models[0]) < 1e-6
    if Run(expected.home).is_cross_site:
        matrices = matrix_of(Run(run)), matrix_of(Run(expected.home))
        assert matrices[0].models == matrices[1].models == [*PAIR, "global, final", "global, best round"]
        assert matrices[0].psnr == pytest.approx(matrices[1].psnr, abs=1e-4)


def test_the_simulator_gives_the_weights_of_one_process_for_cross_site_modelling(hospitals, tmp_path):
    """Two sources and a target that does not train: the server takes its latents to them."""
    target = "task.algorithm { target_sites = [site-3], train_target = false, vectors = 8 }"
    job = render_tiny_job(tmp_path, 2, job="unet_flmrcm", overlay=target)
    assert simulate(job, tmp_path / "w", hospitals, sites=3, threads=3).returncode == 0
    assert (tmp_path / "w" / "server" / "log.txt").read_text().count("target site site-3 | 8 latents of") == 2
    expected = federate(job, tmp_path / "one", hospitals, sites=SITES[:3])
    models = [
        torch.load(w / RUN / "app_server" / "FL_global_model.pt")["model"] for w in (tmp_path / "w", expected.home)
    ]
    assert max(float((models[0][key] - models[1][key]).abs().max()) for key in models[0]) < 1e-6


def test_the_personal_model_is_streamed_and_saved_on_its_site(simulated):
    run = simulated("mscan_ditto", FEDOPT)
    for site, stream in Run(run).streams.items():
        assert len(stream.scalars["val/personal_psnr"]) == ROUNDS - 1
        assert load_model(run / site / "simulate_job" / PERSONAL_FILE).task.algorithm["name"] == "ditto"
    assert set(Run(run).streams) == set(PAIR)
    assert not list((run / "server").rglob(PERSONAL_FILE))


def test_scaffold_doubles_what_crosses_the_wire_and_sites_alone_send_next_to_nothing(simulated):
    """Of the server's log in the last round: arrays, and pictures, of which FedAvg's federation has the same."""
    runs = simulated("mscan_fedavg"), simulated("mscan_scaffold", CROSS_SITE), simulated("mscan_local", "")
    plain, scaffold, local = (Run(run).log.rounds[ROUNDS - 1] for run in runs)
    weights = len(PAIR) * 13_000
    assert scaffold.up - plain.up > weights
    assert scaffold.down == pytest.approx(2 * plain.down, rel=0.05)
    assert local.up < plain.up - weights
    assert local.down == pytest.approx(plain.down, rel=0.05)


def test_the_pooled_baseline_refuses_more_than_one_site(hospitals, tmp_path):
    job = render_tiny_job(tmp_path / "job", job="mscan_central")
    result = simulate(job, tmp_path / "w", hospitals, sites=2, threads=2)
    log = (tmp_path / "w" / "server" / "log.txt").read_text()
    assert "takes one site, not 2 (site-1, site-2)" in log
    assert "fedmr pool" in log
    assert result.returncode != 0
    assert not (tmp_path / "w" / RUN / "app_server" / "FL_global_model.pt").exists()


def test_the_federations_model_is_the_mean_of_the_sites_averages(job, hospitals, tmp_path):
    """The guard takes the last round's updates, which go from the received weights to the averaged ones."""
    run = federate(job("mscan_fedavg", "task { ema_decay = 0.9 }"), tmp_path / "w", hospitals)
    states = [torch.load(run.home / site / "simulate_job" / STATE_FILE, weights_only=True) for site in SITES]
    steps = [record["steps"] for record in Run(run.home).rounds[-1]["sites"].values()]
    model = torch.load(run.home / RUN / "app_server" / "FL_global_model.pt")["model"]
    assert not read_rejections(run.home / RUN)
    for name, value in model.items():
        averages = [state["averaged"][f"module.{name}"] * n for state, n in zip(states, steps, strict=True)]
        assert torch.allclose(torch.as_tensor(value), sum(averages) / sum(steps), atol=1e-6)
        assert not torch.equal(states[0]["averaged"][f"module.{name}"], states[0]["net"][name])
