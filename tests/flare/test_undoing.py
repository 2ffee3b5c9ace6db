"""Bad models are taken back, in FLARE's own controller with the real guard and aggregator."""

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import make_reply

from fedmr.flare.aggregators import WeightedAggregator
from fedmr.flare.guard import ServerGuard
from fedmr.flare.messages import VALIDATION_SPLIT
from fedmr.runs.records import read_rejections
from server import UndoingServer, received

MODEL = {"w": np.zeros((5, 4), np.float32)}
SITES = tuple(f"site-{n}" for n in range(1, 6))
STEP = 1e-2
SPOILT = 30  # steps of STEP: beyond it a model is bad


def psnr_of(weights):
    """Rises with the weights up to a point, beyond which the model is spoilt; so it does below zero."""
    mean = float(np.mean(weights["w"]))
    return 30 + mean / STEP if 0 <= mean <= SPOILT * STEP else 10.0


def site(change=None, psnr=psnr_of):
    """A site that goes up by STEP; `change`, by round, says how far it goes instead."""
    calls = []

    def answer(message):
        weights = received(message)
        metrics = {"psnr": psnr(weights)}
        if message.get_header(VALIDATION_SPLIT):
            return DXO(DataKind.METRICS, data={"model": metrics}).to_shareable()
        step = (change or {}).get(len(calls), 1)
        calls.append(step)
        values = {"w": np.full((5, 4), STEP * step, np.float32)}
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 10, MetaKey.INITIAL_METRICS: metrics}
        return DXO(DataKind.WEIGHT_DIFF, data=values, meta=meta).to_shareable()

    return answer


def train(folder, rounds=4, bounds=None, **answers):
    """A finished server and the mean of its model in steps; sites that are not given are honest."""
    named = {name.replace("_", "-"): answer for name, answer in answers.items()}
    everyone = {name: named.get(name) or site() for name in SITES}
    guard = ServerGuard({"learning_rate": 1e3, "norm_factor": 1e9}, 3)
    server = UndoingServer(folder, everyone, guard, aggregator=WeightedAggregator(bounds=bounds), rounds=rounds)
    weights = server.train(MODEL)
    return server, float(weights["w"].mean()) / STEP


OPEN = {"weight": 1e9, "norm": 1e9, "far_steps": 1e9, "far_norm": 1e9, "agreement": 2}  # everything passes


def test_an_honest_federation_is_not_touched(tmp_path):
    server, model = train(tmp_path)
    assert server.panic is None
    assert model == pytest.approx(4)


@pytest.mark.parametrize("step", [-1000, 1000])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_model_that_is_bad_at_most_sites_is_undone_in_every_round_the_last_one_too(number, step, tmp_path):
    """The aggregator lets it pass here; without it every later round would go on from the spoilt model."""
    server, model = train(tmp_path, bounds=OPEN, site_3=site({number: step}))
    assert server.panic is None
    assert read_rejections(server.run_folder) == []  # no site is left out for a model that it received
    last = number == 3
    assert model == pytest.approx(3 if last else 2)  # the spoilt round is lost, and the one that started from it


def test_the_log_names_where_the_bad_model_came_from(tmp_path, caplog):
    train(tmp_path, bounds=OPEN, site_3=site({3: 1000}))
    said = next(r.getMessage() for r in caplog.records if "is bad at" in r.getMessage())
    assert "the model after the last round is bad at 5 of 5 sites" in said
    assert "came from site-3" in said
    assert any("The final model is the best one before the last round" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("psnr", [-1e6, 0.0, float("inf"), "x", None])
def test_one_site_cannot_have_a_good_model_undone(psnr, tmp_path):
    server, model = train(tmp_path, site_3=site(psnr=lambda _: psnr))
    assert server.panic is None
    assert model == pytest.approx(4)


def test_sites_that_fail_or_reply_nonsense_at_the_end_do_not_decide(tmp_path):
    def broken(message):
        if message.get_header(VALIDATION_SPLIT):
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        return site()(message)

    def odd(message):
        if message.get_header(VALIDATION_SPLIT):
            return DXO(DataKind.METRICS, data={"model": [1]}).to_shareable()
        return site()(message)

    server, model = train(tmp_path, site_1=broken, site_2=odd)
    assert server.panic is None
    assert model == pytest.approx(4)


@pytest.mark.parametrize("step", [-1, -6, -8, -9, -30, -1000, 300])
@pytest.mark.parametrize("rounds", [(0,), (3,), (0, 1, 2, 3)])
def test_by_default_the_aggregator_leaves_a_hostile_site_out_and_the_model_is_that_of_the_others(
    rounds, step, tmp_path
):
    server, model = train(tmp_path, site_3=site(dict.fromkeys(rounds, step)))
    assert server.panic is None
    assert model == pytest.approx(4)
    assert [(r["round"], r["site"]) for r in read_rejections(server.run_folder)] == [(n, "site-3") for n in rounds]
