"""The guards among FLARE's own controller, aggregator, model selection and metrics."""

import json
import math
from functools import partial

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import make_reply
from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import InTimeAccumulateWeightedAggregator
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from fedmr.flare.guard import ServerGuard, SiteGuard
from fedmr.runs.log import read_log
from fedmr.runs.records import evaluating_sites, read_rejections
from guarded import LIMITS, MODEL, SITES, serve, update
from server import Server


def without_meta():
    reply = update("site-2")
    reply["DXO"]["meta"] = [1]
    return reply


def same(a, b):
    return all(np.array_equal(a[name], b[name], equal_nan=True) for name in MODEL)


FAULTS = {
    "not finite": ({"w": np.full((50, 7), np.nan, np.float32)}, "'w' is not finite"),
    "broadcastable": ({"w": np.float32(1)}, "shape"),
    "another name": ({"x": np.zeros(3, np.float32)}, "'x'"),
    "huge": ({"w": np.full((50, 7), 1e3, np.float32)}, "(learning_rate)"),
    "steps": ({"steps": 10**12}, "(max_steps)"),
    "another kind": ({"kind": DataKind.WEIGHTS}, "DataKind.WEIGHTS: 'WEIGHTS'>}; {'': <DataKind.WEIGHT_DIFF"),
    "metric": ({"psnr": math.nan}, "its psnr is nan"),
    "no update": (lambda: make_reply(ReturnCode.OK), "not a valid DXO"),
    "unreadable": (without_meta, "invalid DXO"),
    "its own error": (lambda: make_reply(ReturnCode.EXECUTION_EXCEPTION), "the site reports EXECUTION_EXCEPTION"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_round_is_as_if_the_wrong_site_were_not_there(name, tmp_path):
    fault, reason = FAULTS[name]
    server, model = serve(tmp_path / "a", {"site-2": {0: fault}})
    _, expected = serve(tmp_path / "b", {}, sites=[s for s in SITES if s != "site-2"])
    assert server.panic is None
    assert same(model, expected)
    (record,) = read_rejections(server.run_folder)
    assert (record["round"], record["site"]) == (0, "site-2")
    assert reason in record["reason"]
    (line,) = (server.run_folder / "metrics" / "round_metrics.jsonl").read_text().splitlines()
    assert {s["name"] for s in json.loads(line)["sites"]} == set(SITES) - {"site-2"}


@pytest.mark.parametrize("name", ["not finite", "another name", "huge", "steps"])
def test_without_the_guard_the_wrong_site_spoils_the_model_or_ends_the_job(name, tmp_path):
    plain = InTimeAccumulateWeightedAggregator()
    server, model = serve(tmp_path / "a", {"site-2": {0: FAULTS[name][0]}}, guard=False, aggregator=plain)
    _, expected = serve(tmp_path / "b", {}, sites=[s for s in SITES if s != "site-2"])
    assert server.panic or not all(np.allclose(model[n], expected[n], atol=1e-4) for n in MODEL)


def test_a_run_in_order_is_bitwise_the_same_with_the_guard_and_leaves_no_record(tmp_path):
    (guarded, a), (_, b) = (serve(tmp_path / str(on), {}, guard=on, rounds=3) for on in (True, False))
    assert same(a, b)
    assert read_rejections(guarded.run_folder) == []
    assert list(guarded.run_folder.glob("guard*")) == []


def test_the_metric_of_a_site_that_is_left_out_does_not_select_the_model(tmp_path):
    """Round 1 would be the best with site-2's 90 dB, which comes with an update that is not finite."""
    psnr = {1: 30.0, 2: 31.0}
    faults = {site: {n: {"psnr": value} for n, value in psnr.items()} for site in SITES}
    faults["site-2"][1] = {"psnr": 90.0, **FAULTS["not finite"][0]}
    server, _ = serve(tmp_path, faults, rounds=3)
    assert server.selector.best_val_metric == pytest.approx(31.0)
    unguarded, _ = serve(tmp_path / "without", faults, rounds=3, guard=False)
    assert unguarded.selector.best_val_metric > 70


def test_from_the_second_round_on_an_update_is_compared_with_the_last_rounds_median(tmp_path):
    """Thirty times its usual size is within what Adam could do."""
    factor = {"w": update("site-3", 1)["DXO"]["data"]["w"] * 30}
    server, _ = serve(tmp_path, {"site-3": {1: factor}}, rounds=2)
    (record,) = read_rejections(server.run_folder)
    assert (record["round"], record["site"]) == (1, "site-3")
    assert "times the last round's median" in record["reason"]
    assert record["norm"] == pytest.approx(30 * np.linalg.norm(update("site-3", 1)["DXO"]["data"]["w"]), rel=1e-3)


HOSTILE = {
    "thirty times": {"w": update("site-3")["DXO"]["data"]["w"] * -30},
    "steps": {"steps": 99_999},
    "steps and norm": {"steps": 99_999, "w": update("site-3")["DXO"]["data"]["w"] * -8},
}


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("kind", HOSTILE)
def test_neither_the_first_nor_the_last_round_counts_what_is_far_off_the_others(kind, number, tmp_path):
    server, model = serve(tmp_path, {"site-3": {number: HOSTILE[kind]}}, rounds=3)
    (record,) = read_rejections(server.run_folder)
    assert (record["round"], record["site"]) == (number, "site-3")
    assert server.panic is None
    without, _ = serve(tmp_path / "w", {"site-3": {number: FAULTS["not finite"][0]}}, rounds=3)
    assert same(model, without._global_weights["weights"])


def test_a_site_cannot_buy_weight_by_more_steps_than_it_has_stated_before(tmp_path):
    server, _ = serve(tmp_path, {"site-3": {1: {"steps": 7 * 3}}}, rounds=2)
    (record,) = read_rejections(server.run_folder)
    assert "3 times its own first ones" in record["reason"]


def test_a_bad_model_is_blamed_on_its_makers_and_no_honest_site_is_left_out(tmp_path):
    """What passed in round 0 was nine times the others'; in round 1 the honest sites see what it did."""
    pull = {"w": update("site-3")["DXO"]["data"]["w"] * -9}
    bad = {site: {1: {"psnr": -32.0}} for site in SITES if site != "site-3"}
    server, _ = serve(tmp_path, bad | {"site-3": {0: pull, 1: {"psnr": 60.0}}}, rounds=3)
    assert read_rejections(server.run_folder) == []
    assert "the model of round 1 is bad at 3 of 4 sites" in server.panic
    assert "site-3" in server.panic


def test_one_sites_low_metric_neither_expels_it_nor_ends_the_job(tmp_path):
    server, _ = serve(tmp_path, {"site-3": {n: {"psnr": -1e6} for n in range(3)}}, rounds=3)
    assert server.panic is None
    assert read_rejections(server.run_folder) == []
    assert 0 < server.selector.best_val_metric < 30


INJECTED = "x\n2026-01-01 00:00:00,000 - ScatterAndGather - INFO - Round 99 finished.\n\x1b]0;owned\x07\x1b[2J"


def test_a_sites_reason_adds_no_line_to_the_log_and_no_command_to_a_terminal(tmp_path, caplog):
    fault = partial(make_reply, ReturnCode.TASK_RESULT_FILTER_ERROR, {"fedmr_reason": INJECTED})
    server, _ = serve(tmp_path, {"site-3": {0: fault}})
    (record,) = read_rejections(server.run_folder)
    assert record["reason"].isprintable()
    said = next(r.getMessage() for r in caplog.records if "left out" in r.getMessage())
    assert said.isprintable()
    line = "2026-01-01 00:00:00,000 - {} - {} - [wf=train] - {}\n".format
    log = "".join(line(r.name.rpartition(".")[2], r.levelname, r.getMessage()) for r in caplog.records)
    assert "Round 99 finished." in log
    (server.run_folder / "log.txt").write_text(log)
    assert read_log(server.run_folder).done <= 1


def test_who_is_left_out_does_not_depend_on_who_answers_first(tmp_path):
    factor = {"w": update("site-3", 1)["DXO"]["data"]["w"] * 30}
    models = []
    for order in (SITES, SITES[::-1]):
        server, model = serve(tmp_path / order[0], {"site-3": {1: factor}}, rounds=2, sites=order)
        assert [r["site"] for r in read_rejections(server.run_folder)] == ["site-3"]
        models.append(model)
    assert same(*models)


def test_too_few_sites_end_the_job_with_the_model_of_the_round_before(tmp_path):
    _, last_good = serve(tmp_path / "one", {}, rounds=1)
    wrong = FAULTS["not finite"][0]
    server, model = serve(tmp_path / "two", {"site-1": {1: wrong}, "site-4": {1: wrong}}, rounds=2)
    assert server.panic.startswith("round 1 has at most 2 of 4 updates and needs 3 (min_clients_per_round)")
    assert "left out: site-1, site-4" in server.panic
    assert same(model, last_good)
    assert [r["site"] for r in read_rejections(server.run_folder)] == ["site-1", "site-4"]


def test_by_default_one_wrong_site_ends_the_job(tmp_path):
    server, model = serve(tmp_path, {"site-1": {0: FAULTS["steps"][0]}}, min_sites=1000)
    assert "at most 3 of 4 updates and needs 4" in server.panic
    assert same(model, MODEL)


@pytest.mark.parametrize(("absent", "ends"), [(("site-4",), False), (("site-1", "site-4"), True)])
def test_a_round_closed_by_the_timeout_needs_the_minimum_too(absent, ends, tmp_path):
    """Sites that never answer: FLARE then aggregates what came by `train_timeout`."""
    server, model = serve(tmp_path, {site: {0: lambda: None} for site in absent})
    assert [(r["site"], r["reason"]) for r in read_rejections(server.run_folder)] == [
        (site, "no result in time") for site in absent
    ]
    assert same(model, MODEL) == ends
    assert (server.panic is not None) == ends
    if ends:
        assert "at most 2 of 4 updates and needs 3" in server.panic


def test_a_result_that_comes_after_its_round_is_left_out_and_named(tmp_path):
    server, _ = serve(tmp_path, {})
    late = update("site-2")
    late.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
    server.submit("site-2", late)
    assert read_rejections(server.run_folder)[-1]["reason"] == "a result of round 0, which is over"
    assert server.panic is None
    assert not server.aggregator.accept(late, server._context())
    assert server.aggregator.dxo_aggregators[""].aggregation_helper.get_len() == 0


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("algorithm", [None, "CKKS"])
def test_an_update_must_be_encrypted_where_and_only_where_it_should(encrypted, algorithm, tmp_path):
    guard = ServerGuard(LIMITS, 1, encrypted=encrypted)
    server = Server(tmp_path, {"site-1": lambda _: None}, guard)
    server.train(MODEL)
    guard.handle_event(AppEventType.ROUND_STARTED, server._context())
    reply = update("site-1", **({"w": b"ciphertext"} if encrypted else {}))
    reply["DXO"]["meta"][MetaKey.PROCESSED_ALGORITHM] = algorithm
    assert (guard.process(reply, server._context()) is reply) == (encrypted == (algorithm is not None))


def scaffold(steps=3, **changes):
    """A site's reply by SCAFFOLD, of two parts."""
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: steps}
    values = {name: np.full(value.shape, 1e-3, np.float32) for name, value in MODEL.items()}
    parts = {name: DXO(DataKind.WEIGHT_DIFF, data=dict(values), meta=dict(meta)) for name in ("weights", "controls")}
    parts = {name: part for name, part in (parts | changes).items() if part}
    return DXO(DataKind.COLLECTION, data=parts, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 3}).to_shareable()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (scaffold(), None),
        (scaffold(steps=10**12), "its parts claim different numbers of steps"),
        (scaffold(controls=None), "'controls': <DataKind.WEIGHT_DIFF: 'WEIGHT_DIFF'>} is expected"),
        (scaffold(more=DXO(DataKind.WEIGHT_DIFF, data=MODEL)), "is expected"),
        (update("site-1"), "is expected"),
    ],
)
def test_of_an_algorithm_with_controls_both_parts_are_looked_at(reply, reason, tmp_path):
    guard = ServerGuard(LIMITS, 1, dict.fromkeys(("weights", "controls"), DataKind.WEIGHT_DIFF))
    server = Server(tmp_path, {"site-1": lambda _: None}, guard)
    server.train(MODEL)
    guard.handle_event(AppEventType.ROUND_STARTED, server._context())
    assert (guard.process(reply, server._context()) is reply) == (reason is None)
    assert reason is None or reason in read_rejections(server.run_folder)[-1]["reason"]


def site_context(weights):
    fl_ctx = FLContext()
    fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, "site-1")
    fl_ctx.set_prop(FLContextKey.TASK_NAME, "train")
    fl_ctx.set_prop(FLContextKey.TASK_DATA, DXO(DataKind.WEIGHTS, data=weights).to_shareable(), private=True)
    return fl_ctx


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("name", ["not finite", "another name", "huge", "steps", "another kind", "metric"])
def test_a_site_withholds_what_the_server_would_reject_and_tells_it_why(name, flat, tmp_path):
    """`flat`: the model came through FLARE's HE decryptor."""
    fault, reason = FAULTS[name]
    guard, fl_ctx = SiteGuard(LIMITS), site_context({n: v.ravel().tolist() if flat else v for n, v in MODEL.items()})
    guard.handle_event(EventType.BEFORE_TASK_EXECUTION, fl_ctx)
    right = update("site-1")
    assert guard.process(right, fl_ctx) is right
    withheld = guard.process(update("site-1", **fault), fl_ctx)
    assert withheld.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    server, _ = serve(tmp_path, {"site-1": {0: lambda: withheld}})
    (record,) = read_rejections(server.run_folder)
    assert record["reason"].startswith("withheld by the site: ")
    assert reason in record["reason"]


def test_a_sites_own_failure_passes_its_guard():
    failed = make_reply(ReturnCode.EXECUTION_RESULT_ERROR)
    assert SiteGuard(LIMITS).process(failed, FLContext()) is failed


JUNK = {
    "meta": lambda reply: reply["DXO"]["meta"].update(junk=b"x" * 100_000_000),
    "metrics": lambda reply: reply["DXO"]["meta"].update({MetaKey.INITIAL_METRICS: {"psnr": 30.0, "a": ["x"] * 10**6}}),
    "header": lambda reply: reply.set_header("junk", "x" * 10_000_000),
    "message": lambda reply: reply.update(junk=np.zeros(10**6)),
    "DXO": lambda reply: reply["DXO"].update(junk=dict.fromkeys(range(10000), "x" * 1000)),
}


@pytest.mark.parametrize("place", JUNK)
def test_an_update_that_carries_junk_is_left_out_by_name(place, tmp_path):
    def full():
        reply = update("site-2")
        JUNK[place](reply)
        return reply

    server, _ = serve(tmp_path, {"site-2": {0: full}})
    (record,) = read_rejections(server.run_folder)
    assert record["site"] == "site-2"
    assert "bytes beside its values" in record["reason"]


@pytest.mark.parametrize("arguments", [({}, 3), ({"learning_rate": 1e-3, "factor": 2}, 3), (LIMITS, 0)])
def test_a_guard_that_cannot_be_is_refused_when_the_job_starts(arguments):
    with pytest.raises(ValueError, match="guard: "):
        ServerGuard(*arguments)


def evaluates():
    return make_reply(ReturnCode.TASK_UNSUPPORTED)


@pytest.mark.parametrize("min_sites", [3, 1000])
def test_a_site_that_only_evaluates_is_no_fault_and_is_named_once(tmp_path, min_sites):
    alone = {"site-2": dict.fromkeys(range(3), evaluates)}
    server, model = serve(tmp_path / "a", alone, rounds=3, min_sites=min_sites)
    others = [site for site in SITES if site != "site-2"]
    _, expected = serve(tmp_path / "b", {}, rounds=3, sites=others)
    assert server.panic is None
    assert same(model, expected)
    (record,) = read_rejections(server.run_folder)
    assert (record["round"], record["site"]) == (0, "site-2")
    assert evaluating_sites([record]) == {"site-2"}


def test_sites_that_say_that_they_only_evaluate_leave_no_model_to_a_single_one(tmp_path):
    alone = {site: {0: evaluates} for site in SITES[1:]}
    server, _ = serve(tmp_path, alone, min_sites=2)
    assert "needs 2" in server.panic


def test_the_round_goes_by_the_validation_of_the_sites_that_have_it(tmp_path):
    def no_validation():
        reply = update("site-2", 1)
        reply["DXO"]["meta"][MetaKey.INITIAL_METRICS] = {"n_volumes": 0}
        return reply

    server, _ = serve(tmp_path, {"site-2": {1: no_validation}}, rounds=2)
    assert server.panic is None
    lines = (server.run_folder / "metrics" / "round_metrics.jsonl").read_text().splitlines()
    (row,) = [site for site in json.loads(lines[1])["sites"] if site["name"] == "site-2"]
    assert row["metrics"] == [{"name": "n_volumes", "value": 0}]
