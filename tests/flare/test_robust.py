"""The robust aggregator among FLARE's own components; the mean itself is tested in tests/test_robust.py."""

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.app_common.app_constant import AppConstants

from fedmr.flare.robust import RobustAggregator
from server import Server

MODEL = {"w": np.ones((5, 3), np.float32)}


def answer(value, kind=DataKind.WEIGHT_DIFF, steps=1):
    def reply(_):
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: steps, MetaKey.INITIAL_METRICS: {"psnr": 30.0}}
        return DXO(kind, data={"w": np.full((5, 3), value, np.float32)}, meta=meta).to_shareable()

    return reply


def train(folder, trim, *answers, rounds=1):
    answers = {f"site-{k}": one for k, one in enumerate(answers)}
    server = Server(folder, answers, aggregator=RobustAggregator(trim), rounds=rounds)
    return server, server.train(MODEL)["w"]


@pytest.mark.parametrize(("trim", "expected"), [(None, 3), (1, 3), (0, 202)])
def test_steps_do_not_weigh_and_one_site_moves_only_the_plain_mean(trim, expected, tmp_path):
    answers = [answer(v) for v in (1, 2, 3, 4)] + [answer(1000, steps=10**12)]
    server, model = train(tmp_path, trim, *answers)
    assert server.panic is None
    assert model.dtype == np.float32
    assert np.array_equal(model, np.full((5, 3), 1 + expected, np.float32))


def test_every_round_starts_anew(tmp_path):
    _, model = train(tmp_path, None, answer(1), answer(2), answer(3), rounds=3)
    assert np.array_equal(model, np.full((5, 3), 7, np.float32))


def test_another_kind_of_data_is_refused(tmp_path):
    _, model = train(tmp_path, None, answer(1), answer(9, kind=DataKind.WEIGHTS), answer(1))
    assert np.array_equal(model, MODEL["w"] + 1)


def test_a_site_counts_once_and_only_in_its_round(tmp_path):
    server, _ = train(tmp_path, None, answer(1))
    for number, accepted in [(0, False), (1, True), (1, False)]:
        reply = answer(2)(None)
        reply.add_cookie(AppConstants.CONTRIBUTION_ROUND, number)
        assert server.aggregator.accept(reply, server._context()) is accepted  # after round 0 it is round 1


def test_scaffolds_two_parts_are_not_for_it():
    with pytest.raises(ValueError, match="takes WEIGHT_DIFF, not"):
        RobustAggregator(expected_data_kind={"weights": "WEIGHT_DIFF", "controls": "WEIGHT_DIFF"})


def test_too_few_sites_end_the_job(tmp_path):
    server, model = train(tmp_path, 1, answer(1), answer(2))
    assert "half of the 2 sites" in server.panic
    assert np.array_equal(model, MODEL["w"])
