"""The job mscan_dpsgd on small federations in one process."""

import json
from functools import cache

import pytest
import torch
from opacus.accountants import RDPAccountant

from federation import federate
from fedmr.flare.learner import STATE_FILE
from fedmr.privacy.accountant import BUDGET_FILE
from fedmr.runs.run import Run
from simulator import render_tiny_job

pytestmark = pytest.mark.e2e  # whole federations, in one process

SITES = ("site-1", "site-2")
ROUNDS = 2
SLICES = {"site-1": 3, "site-2": 6}  # one training patient, two
OVERLAY = "task.dp_sgd { units_per_step = 1.5, patches_per_unit = 2, noise_multiplier = 1.2, max_epsilon = %s }"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    @cache
    def make(restart=False):
        job = render_tiny_job(tmp_path_factory.mktemp("job"), ROUNDS, job="mscan_dpsgd", overlay=OVERLAY % 1e3)
        return federate(job, tmp_path_factory.mktemp("run") / "w", data, sites=SITES, restart=restart)

    return make


def expected_epsilons(slices):
    """After every round, by Opacus' accountant told every step."""
    accountant, rate = RDPAccountant(), 1.5 / slices
    for _ in range(ROUNDS):
        for _ in range(round(1 / rate)):
            accountant.step(noise_multiplier=1.2, sample_rate=rate)
        yield accountant.get_epsilon(1e-5)


@pytest.mark.parametrize("restart", [False, True], ids=["one process", "a process for every task"])
def test_epsilon_is_streamed_every_round_and_kept_by_the_site(restart, run):
    federation = run(restart)
    for site in SITES:
        epsilons = list(expected_epsilons(SLICES[site]))
        assert federation.records[site]["privacy/epsilon_slice"] == pytest.approx(epsilons)
        account = json.loads((federation.home / site / "local" / BUDGET_FILE).read_text())
        assert account["dp_sgd"]["unit"] == "slice"
        ((noise, rate, steps),) = account["dp_sgd"]["steps"]
        assert (noise, rate, steps) == (1.2, 1.5 / SLICES[site], ROUNDS * SLICES[site] / 1.5)
        state = torch.load(federation.state(site) / STATE_FILE, weights_only=True)["dp_sgd"]
        assert sum(n for _, _, n in state["spent"]) == steps


def test_the_federation_trains_and_is_reported_as_any_other(run):
    assert set(Run(run().home).figures()["sites"]) == set(SITES)
    assert [r["sites"][s]["steps"] for r in Run(run().home).rounds for s in SITES] == [2, 4] * ROUNDS


def test_no_loss_of_the_training_data_leaves_the_site(run):
    for site in SITES:
        assert {"train/learning_rate", "val/psnr"} <= set(run().records[site])
        assert "train/loss" not in run().records[site]
