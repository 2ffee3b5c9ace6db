"""What the guard lets through and what it does not."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmr.aggregation.guard import Limits, Typical, Update, fault_of_claims, judge, norm_of, outliers, poor_metrics
from fedmr.runs.records import REJECTIONS, read_rejections

SHAPES = {"head.weight": (8, 1, 3, 3), "scale": (), "tail": (4,)}
LIMITS = Limits(learning_rate=1e-3)
LAST = Typical(steps=50, paces={"": 0.01})


def values(**changes):
    rng = np.random.default_rng(0)
    right = {name: np.asarray(rng.normal(size=shape) * 1e-3, dtype=np.float32) for name, shape in SHAPES.items()}
    return right | changes


def fault_of_values(parts):
    return judge(Update(parts, 50, None), SHAPES, LIMITS)[0]


def fault_of_steps(steps, last=None):
    return fault_of_claims(Update({}, steps, None), LIMITS, last)


def fault_of_metrics(metrics):
    return fault_of_claims(Update({}, 50, metrics), LIMITS)


def fault_of_norm(norm, steps, last=None, learning_rate=1.0):
    """Of an update in one variable."""
    return judge(Update({"": {"w": np.array([norm])}}, steps, None), {"w": (1,)}, Limits(learning_rate), last)[0]


def one_value(value):
    tail = np.zeros(4, np.float32)
    tail[2] = value
    return tail


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tail": one_value(np.nan)}, "'tail' is not finite in 1 of 4 values"),
        ({"tail": one_value(-np.inf)}, "'tail' is not finite in 1 of 4 values"),
        ({"tail": np.zeros((4, 1))}, r"'tail' has the shape \(4, 1\), the model's has \(4,\)"),
        ({"tail": np.float32(0)}, r"'tail' has the shape \(\)"),
        ({"scale": np.zeros(1)}, r"'scale' has the shape \(1,\)"),
        ({"bias": np.zeros(4)}, "it has a variable 'bias', which is not expected"),
        ({"x" * 500: np.zeros(4)}, r"it has a variable 'x{59}\.\.\., which"),
        ({"tail": [0.0] * 4}, "'tail' holds no real numbers"),
        ({"tail": np.zeros(4, complex)}, "'tail' holds no real numbers"),
        ({"tail": np.array([b"ciphertext"] * 4, object)}, "'tail' holds no real numbers"),
    ],
)
def test_a_wrong_variable_is_named(changes, message):
    assert re.match(message, fault_of_values({"": values(**changes)}))
    assert re.match(message, fault_of_values({"weights": values(), "controls": values(**changes)}))


def test_a_missing_variable_is_named_and_no_dictionary_is_no_update():
    lacking = values()
    del lacking["scale"]
    assert fault_of_values({"": lacking}) == "it lacks the variable 'scale'"
    assert fault_of_values({"": None}) == "it holds no variables"


def test_half_precision_whole_numbers_and_numpy_scalars_are_in_order():
    head = np.full((8, 1, 3, 3), 1e-3, np.float16)
    assert fault_of_values({"": {"tail": np.zeros(4, np.int64), "scale": np.float64(0.1), "head.weight": head}}) is None


def test_variables_that_sites_keep_must_not_come():
    limits = Limits(learning_rate=1e-3, exclude_vars="^tail")
    sent = values()
    assert judge(Update({"": sent}, 50, None), SHAPES, limits)[0] == "it has a variable 'tail', which is not expected"
    del sent["tail"]
    assert judge(Update({"": sent}, 50, None), SHAPES, limits)[0] is None
    alone = Limits(learning_rate=1e-3, exclude_vars=".*")
    assert judge(Update({"": {}}, 50, None), SHAPES, alone) == (None, {"": 0.0})


@pytest.mark.parametrize("steps", [0, -3, 0.5, 100_001, 10**12, 10**400, math.nan, math.inf, None, "50", True, [50]])
def test_absurd_numbers_of_steps(steps):
    assert "(max_steps)" in fault_of_steps(steps)
    assert "(max_steps)" in judge(Update({"": values()}, steps, None), SHAPES, LIMITS, LAST)[0]


def test_steps_are_compared_with_the_last_rounds_median():
    assert fault_of_steps(5000, LAST) is None
    assert "102 times the last round's median" in fault_of_steps(5100, LAST)
    assert fault_of_steps(np.int64(5100)) is None


@pytest.mark.parametrize("psnr", [math.nan, math.inf, 101.0, "30", None, True])
def test_a_metric_that_cannot_be(psnr):
    assert "its psnr is" in fault_of_metrics({"psnr": psnr})


@pytest.mark.parametrize("psnr", [-1.0, -171.9, np.float32(-5)])
def test_a_low_metric_is_of_the_received_model_and_no_fault_of_the_update(psnr):
    assert fault_of_metrics({"psnr": psnr}) is None
    assert poor_metrics({"psnr": psnr, "ssim": -1.0}, LIMITS) == {"psnr": 0.0}


@pytest.mark.parametrize("metrics", [None, 3, "x", {}, {"psnr": 0.0}, {"psnr": "x"}, {"psnr": math.nan}])
def test_other_metrics_say_nothing_about_the_model(metrics):
    assert poor_metrics(metrics, LIMITS) == {}


def test_steps_are_compared_with_the_sites_own_first_ones():
    claim = Update({}, 3600, None)
    assert fault_of_claims(claim, LIMITS, None, 1800) is None
    assert "100 times its own first ones" in fault_of_claims(claim, LIMITS, None, 36)
    assert "own first" in judge(Update({"": values()}, 3600, None), SHAPES, LIMITS, None, 36)[0]


def test_outliers_of_a_round_are_found_by_its_own_median():
    honest = {f"site-{n}": (36.0, {"": 1.0 + 0.1 * n}) for n in range(3)}
    assert outliers(honest, LIMITS) == {}
    assert set(outliers(honest | {"evil": (36.0, {"": 30.0})}, LIMITS)) == {"evil"}
    assert "steps" in outliers(honest | {"evil": (100_000.0, {"": 1.0})}, LIMITS)["evil"]
    assert outliers(dict([*honest.items()][:1]) | {"evil": (36.0, {"": 99.0})}, LIMITS) == {}


def test_sites_of_unequal_size_are_no_outliers():
    """Norms grow with the root of the steps where gradients are noise, linearly where they agree."""
    for power in (0.5, 1.0):
        sites = {str(steps): (float(steps), {"": steps**power}) for steps in (5, 40, 40, 60, 400)}
        assert outliers(sites, LIMITS) == {}


def test_a_sites_own_words_are_one_printable_line():
    hostile = "\nRound 7 finished.\x1b[2J"
    for reason in (
        judge(Update({"": {hostile: np.zeros(1)}}, 5, None), {}, LIMITS)[0],
        judge(Update({"": {}}, 5, {"psnr": hostile}), {}, LIMITS)[0],
        fault_of_steps(hostile),
    ):
        assert reason.isprintable()


def test_metrics_without_a_name_would_be_taken_for_the_one_that_selects_the_model():
    assert fault_of_metrics(99.0) == "its metrics are 99.0, which has no names"


@pytest.mark.parametrize("metrics", [None, {}, {"psnr": np.float32(30)}, {"psnr": 30, "psnr_foreground": math.nan}])
def test_metrics_may_be_kept_back_and_those_that_no_range_names_are_not_looked_at(metrics):
    assert fault_of_metrics(metrics) is None


def optimise(gradients, learning_rate, kind=torch.optim.Adam):
    """What one of torch's optimisers makes of a value's gradients."""
    parameter = torch.zeros(gradients.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = kind([parameter], lr=learning_rate)
    for gradient in gradients:
        parameter.grad = torch.as_tensor(gradient)
        optimizer.step()
    return parameter.detach().numpy()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 40),
    st.sampled_from([1e-4, 1e-2, 1.0]),
    st.sampled_from([torch.optim.Adam, torch.optim.RMSprop]),
)
def test_whatever_the_gradients_an_optimiser_stays_within_its_reach(seed, steps, learning_rate, kind):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(steps, 30)) * 10.0 ** rng.uniform(-4, 4, (steps, 1)) * (rng.random((steps, 30)) < 0.3)
    update = Update({"": {"w": optimise(gradients, learning_rate, kind)}}, steps, None)
    assert judge(update, {"w": (30,)}, Limits(learning_rate))[0] is None


@pytest.mark.parametrize("steps", [1, 100])
def test_an_update_beyond_the_optimisers_reach_is_rejected(steps):
    assert fault_of_norm(9.9 * steps, steps) is None
    assert "(learning_rate)" in fault_of_norm(10.1 * steps, steps)


@pytest.mark.parametrize(("kind", "moved"), [(torch.optim.Adam, 1.0), (torch.optim.RMSprop, 10.0)])
def test_a_first_step_without_warm_up_is_in_order(kind, moved):
    """It moves every value by the whole learning rate, or by ten."""
    values = optimise(np.ones((1, 30)), 0.1, kind)
    assert np.allclose(np.abs(values), moved * 0.1)
    assert judge(Update({"": {"w": values}}, 1, None), {"w": (30,)}, Limits(0.1))[0] is None


def test_norms_are_compared_with_the_last_rounds_median_per_step():
    assert fault_of_norm(4.9, 50, LAST) is None
    assert "10.2 times the last round's median" in fault_of_norm(5.1, 50, LAST)
    assert fault_of_norm(19.6, 200, LAST) is None
    assert "(norm_factor)" in fault_of_norm(20.4, 200, LAST)


@pytest.mark.parametrize("power", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("sizes", [[2, 3, 4, 12, 57, 60, 56], [1, 50, 50, 50], [4, 4, 4, 4, 4, 4, 71, 68]])
def test_no_site_is_left_out_for_its_size(sizes, power):
    """Norms grow with the steps, by their root where steps do not agree: a small site goes furthest in each of them."""
    pairs = [(float(steps), {"": steps**power}) for steps in sizes]
    last = Typical.of(pairs)
    assert [fault_of_norm(norms[""], steps, last) for steps, norms in pairs] == [None] * len(sizes)


def test_few_steps_excuse_no_length():
    assert "(norm_factor)" in fault_of_norm(5.1, 1, LAST)
    assert fault_of_norm(4.9, 1, LAST) is None


def test_each_part_is_compared_with_its_own_median():
    last = Typical(50, {"weights": 1e-4, "controls": 1e-4})
    parts = {"weights": values(), "controls": {name: 20 * value for name, value in values().items()}}
    fault, norms = judge(Update(parts, 50, None), SHAPES, LIMITS, last)
    assert "(norm_factor)" in fault
    assert norms["controls"] == pytest.approx(20 * norms["weights"])


def test_after_a_round_without_any_change_only_the_optimisers_reach_counts():
    assert fault_of_norm(1.0, 50, Typical(50, {"": 0.0})) is None


def test_medians_withstand_a_minority():
    honest = [(40, {"": 0.8}), (50, {"": 1.25}), (60, {"": 1.79})]
    for wrong in [(1, {"": 1e9}), (99_999, {"": 0.0})]:
        result = Typical.of([*honest, wrong, wrong])
        assert 40 <= result.steps <= 60
        assert 0.02 <= result.paces[""] <= 0.03


@given(st.integers(0, 2**31), st.sampled_from(["f2", "f4", "f8"]))
def test_the_norm_is_that_of_all_values_together(seed, dtype):
    rng = np.random.default_rng(seed)
    arrays = {name: np.asarray(rng.normal(size=shape), dtype=dtype) for name, shape in SHAPES.items()}
    together = np.concatenate([np.ravel(v).astype(np.float64) for v in arrays.values()])
    assert norm_of(arrays) == pytest.approx(np.linalg.norm(together), rel=1e-12)


def test_the_norm_of_huge_values_is_infinite_and_half_precision_does_not_overflow():
    assert norm_of({"w": np.full(9, 1e300)}) == math.inf
    assert norm_of({"w": np.full(100, 6e4, np.float16)}) == pytest.approx(6e5, rel=1e-3)
    assert "(learning_rate)" in fault_of_norm(1e300, 50)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "learning_rate is missing; it must be the task's"),
        ({"learning_rate": 0}, "learning_rate is 0; it must be the task's, a number above 0"),
        ({"learning_rate": 1e-3, "norm_factor": -1}, "norm_factor is -1"),
        ({"learning_rate": 1e-3, "factor": 3}, "factor is unknown; known are learning_rate, max_steps"),
        ({"learning_rate": 1e-3, "metric_ranges": {"psnr": [100, 0]}}, r"psnr \[100, 0\]; it must be"),
    ],
)
def test_limits_that_cannot_be_are_refused(entries, message):
    with pytest.raises(ValueError, match=f"guard: .*{message}"):
        Limits.from_dict(entries)


def test_rejections_are_read_in_order_and_none_is_no_file(tmp_path):
    assert read_rejections(tmp_path) == []
    records = [{"round": n, "site": "site-1", "reason": "x", "norm": None} for n in range(2)]
    (tmp_path / REJECTIONS).write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_rejections(tmp_path) == records
