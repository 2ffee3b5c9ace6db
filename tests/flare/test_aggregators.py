"""The server's mean against the formula, through the objects that FLARE passes."""

import itertools

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey
from nvflare.app_common.app_constant import AppConstants

from fedmr.flare.aggregators import RunningAggregator, WeightedAggregator

RNG = np.random.default_rng(0)
UPDATES = {f"site-{k}": {"w": RNG.normal(size=(50, 7)).astype(np.float32) * 10.0**-k} for k in range(1, 5)}
STEPS = {"site-1": 3, "site-2": 50, "site-3": 7, "site-4": 11}
OPEN = {"weight": 1e9, "norm": 1e9, "far_steps": 1e9, "far_norm": 1e9, "agreement": 2}  # the sites differ by orders


def context() -> FLContext:
    fl_ctx = FLContext()
    fl_ctx.set_prop(AppConstants.CURRENT_ROUND, 0)
    return fl_ctx


def contribution(site, data):
    dxo = DXO(DataKind.WEIGHT_DIFF, data=dict(data), meta={MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS[site]})
    shareable = dxo.to_shareable()
    shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
    shareable.set_header(ReservedHeaderKey.PEER_PROPS, {ReservedKey.IDENTITY_NAME: site})
    return shareable


def aggregate(order):
    aggregator, fl_ctx = WeightedAggregator(bounds=OPEN, expected_data_kind=DataKind.WEIGHT_DIFF), context()
    aggregator.handle_event(EventType.START_RUN, fl_ctx)
    for site in order:
        assert aggregator.accept(contribution(site, UPDATES[site]), fl_ctx)
    return from_shareable(aggregator.aggregate(fl_ctx)).data["w"]


def test_the_mean_is_weighted_by_steps():
    expected = sum(STEPS[s] * UPDATES[s]["w"].astype(np.float64) for s in UPDATES) / sum(STEPS.values())
    result = aggregate(UPDATES)
    assert result.dtype == np.float32
    assert np.array_equal(result, expected.astype(np.float32))


def test_the_order_of_arrival_does_not_show():
    results = [aggregate(order) for order in itertools.permutations(UPDATES)]
    assert all(np.array_equal(results[0], r) for r in results[1:])


def test_one_site_gets_its_own_update_back():
    assert np.array_equal(aggregate(["site-2"]), UPDATES["site-2"]["w"])


@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.METRICS])
def test_another_kind_of_data_is_refused(kind):
    aggregator, fl_ctx = WeightedAggregator(expected_data_kind=DataKind.WEIGHT_DIFF), context()
    fl_ctx.set_prop(FLContextKey.EVENT_ORIGIN, "test")
    aggregator.handle_event(EventType.START_RUN, fl_ctx)
    shareable = contribution("site-1", UPDATES["site-1"])
    DXO(kind, data=UPDATES["site-1"]).update_shareable(shareable)
    assert not aggregator.accept(shareable, fl_ctx)


def test_the_running_sum_is_the_same_mean_and_holds_no_update():
    aggregator, fl_ctx = RunningAggregator(expected_data_kind=DataKind.WEIGHT_DIFF), context()
    aggregator.handle_event(EventType.START_RUN, fl_ctx)
    for site in UPDATES:
        assert aggregator.accept(contribution(site, UPDATES[site]), fl_ctx)
    assert np.array_equal(from_shareable(aggregator.aggregate(fl_ctx)).data["w"], aggregate(UPDATES))
    assert not hasattr(aggregator, "_held")
