"""Latents in messages, the filter that lets nothing else pass, and settings of the workflow."""

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import make_reply

from fedmr.algorithms.flmrcm import LATENTS
from fedmr.flare.flmrcm import CrossSiteScatterAndGather, OnlyLatents
from fedmr.flare.messages import latents_message, unpack, with_latents
from fedmr.utils.errors import UnsafeError
from latents_example import ALGORITHM, VECTORS, WIDTH, given


def test_latents_travel_beside_the_weights_and_the_task_stays_what_it_was():
    task = DXO(DataKind.WEIGHTS, data={"w": np.ones(3)}).to_shareable()
    task.set_header("current_round", 7)
    task.add_cookie("x", 1)
    both = with_latents(task, given())
    weights, beside = unpack(both)
    assert np.array_equal(weights["w"], np.ones(3))
    assert np.array_equal(beside[LATENTS], given())
    assert (both.get_header("current_round"), both.get_cookie("x")) == (7, 1)
    assert unpack(task)[1] == {}


@pytest.fixture
def only_latents():
    """The filter of a site that has received weights of a network whose latents have `WIDTH` values."""
    part, context = OnlyLatents({"algorithm": ALGORITHM}), FLContext()
    weights = {"down.0.weight": np.ones((2, 1, 3, 3)), "bottleneck.3.weight": np.ones((WIDTH // 4, 8, 3, 3))}
    context.set_prop(FLContextKey.TASK_NAME, "latents")
    context.set_prop(FLContextKey.TASK_DATA, DXO(DataKind.WEIGHTS, data=weights).to_shareable(), private=True)
    part.handle_event(EventType.BEFORE_TASK_EXECUTION, context)
    return lambda reply: part.process(reply, context)


def test_the_filter_lets_latents_pass_and_drops_what_comes_with_them(only_latents):
    reply = latents_message(given()).to_shareable()
    reply.set_header("note", "patient 7")
    reply["more"] = np.ones((40, 40))
    passed = only_latents(reply)
    assert np.array_equal(from_shareable(passed).data[LATENTS], given())
    assert "note" not in passed["__headers__"]
    assert "more" not in passed
    assert dict(only_latents(make_reply(ReturnCode.EXECUTION_RESULT_ERROR, {"note": "x"}))["__headers__"]) == dict(
        make_reply(ReturnCode.EXECUTION_RESULT_ERROR)["__headers__"]
    )


@pytest.mark.parametrize(
    "reply",
    [
        latents_message(given(VECTORS + 1)),
        latents_message(given(width=WIDTH + 1)),
        latents_message(given()[None]),
        latents_message(given().astype(np.float64)),
        latents_message(given() * np.nan),
        DXO(DataKind.APP_DEFINED, data={LATENTS: given(), "images": np.ones((1, 40, 40))}),
        DXO(DataKind.APP_DEFINED, data={"image": given()}),
        DXO(DataKind.APP_DEFINED, data=[given()]),
        DXO(DataKind.WEIGHTS, data={LATENTS: given()}),
    ],
    ids=["more", "wider", "3-D", "float64", "nan", "image beside", "other name", "list", "weights"],
)
def test_the_filter_blocks_everything_else(only_latents, reply):
    with pytest.raises(UnsafeError):
        only_latents(reply.to_shareable())


def test_a_filter_that_has_seen_no_weights_blocks():
    with pytest.raises(UnsafeError):
        OnlyLatents({"algorithm": ALGORITHM}).process(latents_message(given()).to_shareable(), FLContext())


def test_a_workflow_without_time_for_the_target_is_refused():
    with pytest.raises(ValueError, match="latent_timeout is 0"):
        CrossSiteScatterAndGather({"algorithm": ALGORITHM}, 0)
