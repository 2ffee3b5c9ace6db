"""The statistical tests draw from the system's generator, so they could fail by chance; their bounds are set so that
each does so once in 10^9 runs."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from fedmr.privacy.mechanism import (
    clip,
    compare,
    from_vector,
    gaussian_mechanism,
    public_metrics,
    system_normal,
    to_vector,
)
from fedmr.utils.errors import UnsafeError
from fedmr.utils.validation import require

ONCE_IN_1E9 = 6.2  # two-sided normal quantile
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
WEIGHTS = arrays(np.float32, st.integers(1, 40), elements=FLOATS)


def update(values=(1.0, -2.0, 3.5)) -> dict[str, np.ndarray]:
    return {
        "head": np.array(values, dtype=np.float32).reshape(1, -1),
        "steps": np.array(7, dtype=np.int64),
        "gain": np.array(0.25, dtype=np.float32),
    }


def exact_norm_squared(array: np.ndarray) -> Fraction:
    return sum((Fraction(float(v)) ** 2 for v in array.ravel()), Fraction(0))


def test_an_update_as_a_vector_and_back_keeps_weights_and_empties_counters():
    vector = to_vector(update())
    assert vector.tolist() == [1.0, -2.0, 3.5, 0.25]
    back = from_vector(vector, update())
    assert {k: (v.dtype, v.shape) for k, v in back.items()} == {k: (v.dtype, v.shape) for k, v in update().items()}
    assert np.array_equal(back["head"], update()["head"])
    assert float(back["gain"]) == 0.25
    assert int(back["steps"]) == 0


def test_integer_counters_enter_no_norm():
    large = update() | {"steps": np.array(10**12, dtype=np.int64)}
    assert np.array_equal(clip(to_vector(large), 1.0), clip(to_vector(update()), 1.0))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"steps": np.array(3)},
        {"head": np.zeros(0, np.float32)},
        {"head": [1.0, 2.0]},
        {"head": torch.ones(2)},
        {"head": np.array(["a"])},
        {"head": np.array([1j])},
        {"head": np.array([1.0, None], dtype=object)},
        {"head": np.array([1.0, np.nan])},
        {"head": np.array([1.0]), "tail": np.array([-np.inf])},
    ],
    ids=str,
)
def test_what_is_no_finite_update_is_refused(broken):
    with pytest.raises(UnsafeError):
        to_vector(broken)


@pytest.mark.parametrize("vector", [np.zeros(3), np.array([1.0, 2.0, np.nan, 0.0]), np.zeros((4, 1))])
def test_a_filtered_vector_of_another_size_or_not_finite_is_refused(vector):
    with pytest.raises(UnsafeError):
        from_vector(vector, update())


@settings(deadline=None)
@given(WEIGHTS, st.floats(1e-6, 1e6))
def test_no_clipped_update_is_above_the_bound_after_rounding_to_float32(values, bound):
    sent = from_vector(clip(to_vector({"w": values}), bound), {"w": values})["w"]
    assert sent.dtype == np.float32
    assert exact_norm_squared(sent) <= Fraction(bound) ** 2


@settings(deadline=None)
@given(WEIGHTS, st.floats(1e-3, 1e3))
def test_clipping_keeps_direction_and_short_updates(values, bound):
    vector = to_vector({"w": values})
    clipped = clip(vector, bound)
    norm = np.linalg.norm(vector)
    if norm < 0.999 * bound:
        assert np.array_equal(clipped, vector)
    elif norm > bound:
        assert np.linalg.norm(clipped) == pytest.approx(bound, rel=1e-6)
        assert compare(vector, clipped)["cosine"] == pytest.approx(1.0)


def test_a_large_update_is_clipped_exactly_too():
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    sent = from_vector(clip(to_vector({"w": values}), 4.0), {"w": values})["w"]
    norm = math.sqrt(math.fsum(float(v) ** 2 for v in sent))
    assert 4.0 * (1 - 1e-6) < norm <= 4.0


@settings(deadline=None)
@given(WEIGHTS)
def test_without_clip_and_noise_the_mechanism_is_the_identity(values):
    vector = to_vector({"w": values})
    assert np.array_equal(from_vector(gaussian_mechanism(vector, math.inf, 0), {"w": values})["w"], values)


def test_the_noise_has_the_stated_deviation_and_mean():
    count, bound, multiplier = 200_000, 0.5, 3.0
    normal = np.random.default_rng(1).standard_normal
    noise = gaussian_mechanism(np.full(count, 1e-4), bound, multiplier, normal) - 1e-4
    deviation = bound * multiplier
    assert abs(noise.mean()) < ONCE_IN_1E9 * deviation / math.sqrt(count)
    assert abs(noise.var() / deviation**2 - 1) < ONCE_IN_1E9 * math.sqrt(2 / count)


def test_the_systems_normal_numbers_are_normal_and_independent():
    count = 200_000
    numbers = system_normal(count)
    assert abs(numbers.mean()) < ONCE_IN_1E9 / math.sqrt(count)
    assert abs(numbers.var() - 1) < ONCE_IN_1E9 * math.sqrt(2 / count)
    assert abs(np.mean(numbers[1:] * numbers[:-1])) < ONCE_IN_1E9 / math.sqrt(count - 1)
    assert stats.kstest(numbers, "norm").pvalue > 1e-9


def test_no_seed_repeats_the_noise():
    drawn = []
    for _ in range(2):
        np.random.seed(0)  # what a job's code could do
        torch.manual_seed(0)
        drawn.append(gaussian_mechanism(np.zeros(8), 1.0, 1.0))
    assert not np.any(drawn[0] == drawn[1])


def test_clipping_comes_before_the_noise():
    far, near = np.full(4, 1e6), np.full(4, 0.5)
    same = {"bound": 1.0, "noise_multiplier": 2.0, "normal": lambda n: np.arange(n, dtype=float)}
    assert gaussian_mechanism(far, **same) == pytest.approx(gaussian_mechanism(near, **same))


@pytest.mark.parametrize(
    ("true", "sent", "cosine", "ratio"),
    [([1, 0], [0, 3], 0.0, 3.0), ([1, 1], [2, 2], 1.0, 2.0), ([3, 4], [0, 0], 0.0, 0.0), ([0, 0], [1, 0], 0.0, np.inf)],
)
def test_cosine_and_norm_ratio(true, sent, cosine, ratio):
    figures = compare(np.array(true, float), np.array(sent, float))
    assert figures == pytest.approx({"cosine": cosine, "norm_ratio": ratio})


def test_metrics_leave_with_four_digits():
    metrics = {"n_volumes": 2, "model": {"psnr": 34.123456789, "ssim": 0.9123456, "nmse": 0.00123456}}
    assert public_metrics(metrics) == {"n_volumes": 2, "model": {"psnr": 34.12, "ssim": 0.9123, "nmse": 0.001235}}
    assert public_metrics({"psnr": np.float32(31.98765)}) == {"psnr": 31.99}
    assert public_metrics(public_metrics(metrics)) == public_metrics(metrics)


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        None,
        3.5,
        {"psnr": "patient Doe"},
        {"psnr": float("nan")},
        {"psnr": True},
        {"ages": 41.0},
        {"Doe^Jane": {"psnr": 30.0}},
        {"model": {"psnr": [30.0, 31.0]}},
        {"model": {"model": {"psnr": 30.0}}},
        {"n_volumes": "3", "model": {"psnr": 30.0}},
    ],
    ids=str,
)
def test_what_is_no_known_metric_is_refused(metrics):
    with pytest.raises(UnsafeError):
        public_metrics(metrics)


@pytest.mark.parametrize(("volumes", "leaves"), [({"n_volumes": 5}, True), ({"n_volumes": 4}, False), ({}, False)])
def test_metrics_of_few_volumes_do_not_leave(volumes, leaves):
    metrics = volumes | {"model": {"psnr": 30.0}}
    if leaves:
        assert public_metrics(metrics, min_volumes=5) == metrics
    else:
        with pytest.raises(UnsafeError, match="fewer than 5"):
            public_metrics(metrics, min_volumes=5)


@pytest.mark.parametrize("value", [0, -1, 101, float("nan"), float("inf"), True, "5", None, [1]])
def test_a_parameter_out_of_range_is_named_with_its_range(value):
    with pytest.raises(ValueError, match=r"percentile is .*above 0 and at most 100"):
        require("percentile", value, 0, 100)
