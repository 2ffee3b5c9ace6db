"""The filters as FLARE's own client runner and privacy policy call them; only the engine is stood in for."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.fuel.utils import fobs

from fedmr.flare.filters import GaussianPrivacy, StrictExcludeVars, StrictPercentilePrivacy, StrictSVTPrivacy
from fedmr.privacy.accountant import BUDGET_FILE, Budget, BudgetError, gaussian_epsilon
from fedmr.privacy.ledger import LOCAL_RECORD
from fedmr.privacy.mechanism import compare, to_vector
from fedmr.privacy.policy import POLICY_FILE
from fedmr.utils.errors import UnsafeError
from filter_run import STEPS, reply, through_flare, update

GAUSSIAN = {"clip": 1.0, "noise_multiplier": 4.0, "max_epsilon": 6.0}
SVT = {"fraction": 0.5, "epsilon": 0.1, "noise_var": 1.0, "gamma": 0.01, "max_epsilon": 1e6}
MAKERS = {
    "gaussian": lambda: GaussianPrivacy(**GAUSSIAN),
    "percentile": lambda: StrictPercentilePrivacy(90, 0.01),
    "svt": lambda: StrictSVTPrivacy(**SVT),
    "exclude": lambda: StrictExcludeVars(["tail"]),
}


@pytest.fixture(params=MAKERS)
def any_filter(request):
    return MAKERS[request.param]()


def test_only_the_filtered_weights_steps_and_rounded_metrics_leave(any_filter, fl_ctx):
    shareable = reply()
    shareable["note"] = "Doe"
    shareable.set_header("folder", "Doe")
    sent = any_filter.process(shareable, fl_ctx)
    assert b"Doe" not in fobs.dumps(sent)
    dxo = from_shareable(sent)
    assert dxo.meta.pop(MetaKey.FILTER_HISTORY) == [type(any_filter).__name__]
    assert dxo.meta == {
        MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS,
        MetaKey.INITIAL_METRICS: {"psnr": 31.23, "ssim": 0.9123},
    }
    for name, array in dxo.data.items():
        assert (array.dtype, array.shape) == (update()[name].dtype, update()[name].shape)
    assert not np.array_equal(dxo.data.get("tail"), update()["tail"])
    assert dxo.data["batches"] == 0
    if not isinstance(any_filter, (StrictExcludeVars, StrictPercentilePrivacy)):
        assert dxo.data["gain"] != update()["gain"], "FLARE's filters let scalars by"


UNSAFE = {
    "NaN": reply(update() | {"head": np.full((16, 1, 3, 3), np.nan, np.float32)}),
    "all NaN": reply({k: v * np.float32("nan") for k, v in update().items()}),
    "infinite": reply(update() | {"gain": np.array(np.inf, dtype=np.float32)}),
    "a text among the arrays": reply(update() | {"note": "Doe"}),
    "no weights": reply({"batches": np.array(STEPS)}),
    "no steps": reply(**{MetaKey.NUM_STEPS_CURRENT_ROUND: None}),
    "no positive steps": reply(**{MetaKey.NUM_STEPS_CURRENT_ROUND: 0}),
    "half a step": reply(**{MetaKey.NUM_STEPS_CURRENT_ROUND: 0.5}),
    "more than an update": reply(controls=update()),
    "metrics with texts": reply(**{MetaKey.INITIAL_METRICS: {"psnr": "Doe"}}),
    "whole weights": reply(kind=DataKind.WEIGHTS),
    "statistics": reply(kind=DataKind.STATISTICS),
    "unknown data": reply(kind=DataKind.APP_DEFINED),
    "a collection": reply({"model": DXO(DataKind.WEIGHT_DIFF, update())}, kind=DataKind.COLLECTION),
    "unknown metrics": reply({"ages": 41.0}, kind=DataKind.METRICS),
    "no DXO": Shareable({"weights": update()}),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_whatever_is_unexpected_nothing_of_it_reaches_the_server(any_filter, case, fl_ctx, workspace):
    sent = through_flare(UNSAFE[case], [any_filter], fl_ctx)
    assert sent.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert set(sent) == {"__headers__"}
    assert len(fobs.dumps(sent)) < 500
    assert not (Path(workspace.get_site_config_dir()) / BUDGET_FILE).exists()


def test_the_same_path_delivers_what_is_safe(any_filter, fl_ctx):
    sent = through_flare(reply(), [any_filter], fl_ctx)
    assert sent.get_return_code() == ReturnCode.OK
    assert from_shareable(sent).data["head"].shape == (16, 1, 3, 3)


def test_an_error_leaves_without_what_may_hang_on_it(any_filter, fl_ctx):
    shareable = reply()
    shareable.set_return_code(ReturnCode.EXECUTION_EXCEPTION)
    assert any_filter.process(shareable, fl_ctx) == make_reply(ReturnCode.EXECUTION_EXCEPTION)


def test_metrics_of_the_validate_task_leave_rounded(any_filter, fl_ctx):
    metrics = {"n_volumes": 2, "model": {"psnr": 33.333333}, "interpolated": {"psnr": 32.222222}}
    sent = from_shareable(any_filter.process(reply(metrics, DataKind.METRICS, doe="Doe"), fl_ctx))
    assert sent.data == {"n_volumes": 2, "model": {"psnr": 33.33}, "interpolated": {"psnr": 32.22}}
    assert sent.meta == {}


def test_metrics_of_few_or_unknown_volumes_stay_but_the_update_leaves(fl_ctx):
    strict = StrictPercentilePrivacy(90, 0.01, min_volumes=3)
    with pytest.raises(UnsafeError, match="fewer than 3"):
        strict.process(reply({"n_volumes": 2, "model": {"psnr": 33.3}}, DataKind.METRICS), fl_ctx)
    assert MetaKey.INITIAL_METRICS not in from_shareable(strict.process(reply(), fl_ctx)).meta


def test_no_job_lowers_the_sites_own_least_number_of_volumes(any_filter, fl_ctx, workspace):
    (Path(workspace.get_site_config_dir()) / POLICY_FILE).write_text('{"min_volumes": 3}')
    with pytest.raises(UnsafeError, match="fewer than 3"):
        any_filter.process(reply({"n_volumes": 2, "model": {"psnr": 33.3}}, DataKind.METRICS), fl_ctx)
    assert MetaKey.INITIAL_METRICS not in from_shareable(any_filter.process(reply(), fl_ctx)).meta


def test_no_job_raises_the_sites_own_budget(fl_ctx, workspace):
    (Path(workspace.get_site_config_dir()) / POLICY_FILE).write_text('{"max_epsilon": {"site": 1.0}}')
    with pytest.raises(BudgetError, match="max_epsilon is 1"):
        GaussianPrivacy(clip=1.0, noise_multiplier=1.0, max_epsilon=1e12).process(reply(), fl_ctx)


def test_a_site_that_trains_alone_sends_steps_and_metrics_and_pays_nothing(any_filter, fl_ctx, workspace):
    sent = from_shareable(through_flare(reply({}), [any_filter], fl_ctx))
    assert sent.data == {}
    assert set(sent.meta) == {MetaKey.NUM_STEPS_CURRENT_ROUND, MetaKey.INITIAL_METRICS}
    assert not (Path(workspace.get_site_config_dir()) / BUDGET_FILE).exists()


@pytest.mark.parametrize(
    ("make", "bad", "message"),
    [
        (GaussianPrivacy, GAUSSIAN | {"clip": 0}, "clip is 0; it must be a number above 0"),
        (GaussianPrivacy, GAUSSIAN | {"clip": "1"}, "clip is '1'"),
        (GaussianPrivacy, GAUSSIAN | {"noise_multiplier": 0}, "noise_multiplier is 0"),
        (GaussianPrivacy, GAUSSIAN | {"max_epsilon": float("inf")}, "max_epsilon is inf"),
        (GaussianPrivacy, GAUSSIAN | {"delta": 0.5}, "delta is 0.5; .* at most 0.1"),
        (GaussianPrivacy, GAUSSIAN | {"min_volumes": 0}, "min_volumes is 0"),
        (StrictPercentilePrivacy, {"percentile": 101, "gamma": 0.01}, "percentile is 101; .* at most 100"),
        (StrictPercentilePrivacy, {"percentile": 10, "gamma": -1}, "gamma is -1"),
        (
            StrictSVTPrivacy,
            {"fraction": 0, "epsilon": 1, "noise_var": 1, "gamma": 1, "max_epsilon": 1},
            "fraction is 0",
        ),
        (StrictExcludeVars, {"exclude_vars": None}, "exclude_vars is None"),
        (StrictExcludeVars, {"exclude_vars": ["head", 3]}, "exclude_vars is"),
    ],
)
def test_a_bad_parameter_is_named_when_the_filter_is_made(make, bad, message):
    with pytest.raises(ValueError, match=message):
        make(**bad)


def test_gaussian_privacy_charges_the_site_before_it_sends_and_stops_at_the_budget(fl_ctx, workspace, events, caplog):
    account = Path(workspace.get_site_config_dir()) / BUDGET_FILE
    expected = [gaussian_epsilon({4.0: n}, 1e-5) for n in (1, 2, 3, 4, 5, 6, 7, 8)]
    allowed = sum(epsilon <= 6.0 for epsilon in expected)
    assert 3 < allowed < 8
    for number in range(1, allowed + 1):
        GaussianPrivacy(**GAUSSIAN).process(reply(), fl_ctx)  # made anew, as after a restart
        assert Budget(account).read().gaussian == {4.0: number}
    sent = through_flare(reply(), [GaussianPrivacy(**GAUSSIAN)], fl_ctx)
    assert sent.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert "the privacy budget is spent" in caplog.text
    streamed = [AnalyticsData.from_dxo(from_shareable(data)) for kind, data in events if kind == ANALYTIC_EVENT_TYPE]
    assert [point.value for point in streamed] == pytest.approx(expected[:allowed])
    assert [point.step for point in streamed] == list(range(1, allowed + 1))


def test_an_unreadable_account_stops_the_site(fl_ctx, workspace):
    (Path(workspace.get_site_config_dir()) / BUDGET_FILE).write_text("{")
    with pytest.raises(BudgetError, match=f"local/{BUDGET_FILE} cannot be read"):
        GaussianPrivacy(**GAUSSIAN).process(reply(), fl_ctx)


def test_gaussian_and_svt_share_one_account(fl_ctx, workspace):
    GaussianPrivacy(**GAUSSIAN).process(reply(), fl_ctx)
    StrictSVTPrivacy(**SVT).process(reply(), fl_ctx)
    weights = to_vector(update()).size
    spent = Budget(Path(workspace.get_site_config_dir()) / BUDGET_FILE).read()
    assert spent.gaussian == {4.0: 1}
    assert spent.pure == pytest.approx(0.1 + np.ceil(0.5 * weights) * 1.0)
    with pytest.raises(BudgetError):
        GaussianPrivacy(**GAUSSIAN).process(reply(), fl_ctx)


def test_how_far_the_sent_update_is_from_the_true_one_stays_at_the_site(any_filter, fl_ctx, workspace, caplog):
    with caplog.at_level("DEBUG"):
        sent = from_shareable(any_filter.process(reply(), fl_ctx))
    row = json.loads((Path(workspace.get_run_dir("job")) / LOCAL_RECORD).read_text())
    true = to_vector(update())
    kept = to_vector({name: sent.data.get(name, np.zeros_like(array)) for name, array in update().items()})
    assert {name: row[name] for name in ("cosine", "norm_ratio")} == pytest.approx(compare(true, kept), rel=1e-5)
    assert row["filter"] == type(any_filter).__name__
    assert not re.search(r"cosine|norm|abs|tau", caplog.text)


def test_a_filter_that_cannot_keep_its_record_sends_nothing(fl_ctx, workspace):
    (Path(workspace.get_run_dir("job")) / LOCAL_RECORD).mkdir()
    assert through_flare(reply(), [MAKERS["percentile"]()], fl_ctx).get_return_code() != ReturnCode.OK


def test_percentile_privacy_sends_the_largest_changes_clipped_per_step(fl_ctx):
    sent = to_vector(from_shareable(StrictPercentilePrivacy(90, 0.002).process(reply(), fl_ctx)).data)
    true = to_vector(update())
    assert np.mean(sent != 0) == pytest.approx(0.1, abs=0.01)
    assert np.abs(sent).max() == pytest.approx(0.002 * STEPS)
    assert np.abs(true[sent != 0]).min() > np.abs(true[sent == 0]).max()


def test_svt_does_not_take_its_noise_from_a_seed_that_a_job_sets_and_leaves_its_state(fl_ctx):
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        drawn.append(to_vector(from_shareable(MAKERS["svt"]().process(reply(), fl_ctx)).data))
        after = np.random.rand()
        np.random.seed(0)
        assert after == np.random.rand()
    assert not np.array_equal(*drawn)


def test_svt_settings_that_might_never_end_are_refused(fl_ctx):
    with pytest.raises(UnsafeError, match="take a lower tau or epsilon"):
        StrictSVTPrivacy(**SVT | {"epsilon": 1e6, "tau": 1.0}).process(reply(), fl_ctx)


def test_svt_ends_where_no_change_reaches_the_threshold(fl_ctx):
    still = {name: np.zeros_like(array) for name, array in update().items()}
    limit = 2 * SVT["gamma"] * to_vector(still).size / SVT["epsilon"]
    sent = StrictSVTPrivacy(**SVT | {"fraction": 1.0, "tau": limit}).process(reply(still), fl_ctx)
    assert np.all(to_vector(from_shareable(sent).data) != 0)


@pytest.mark.parametrize("names", [["tail"], "^ta", ["head", "tail"]])
def test_excluded_layers_do_not_leave(names, fl_ctx):
    sent = from_shareable(StrictExcludeVars(names).process(reply(), fl_ctx)).data
    assert "tail" not in sent
    assert np.array_equal(sent["gain"], update()["gain"])


@pytest.mark.parametrize("names", [["tails"], ["tail", "tails"], "^tails", "."])
def test_excluding_nothing_or_everything_is_an_error(names, fl_ctx):
    with pytest.raises(UnsafeError):
        StrictExcludeVars(names).process(reply(), fl_ctx)
