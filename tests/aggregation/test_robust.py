"""Robust means against numpy's own and against what wrong sites can do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmr.aggregation.robust import trimmed_mean


def sites(n, seed=0):
    rng = np.random.default_rng(seed)
    return [{"w": rng.normal(size=(5, 3)).astype("f4"), "b": rng.normal(size=()).astype("f4")} for _ in range(n)]


def stack(updates, name):
    return np.stack([u[name] for u in updates])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10])
def test_by_default_it_is_the_median_and_without_trim_the_mean(n):
    updates = sites(n)
    for name in ("w", "b"):
        median, mean = trimmed_mean(updates)[name], trimmed_mean(updates, 0)[name]
        assert median.dtype == mean.dtype == np.float32
        assert np.allclose(median, np.median(stack(updates, name), axis=0), atol=1e-7)
        assert np.allclose(mean, stack(updates, name).mean(axis=0), atol=1e-6)


def test_trimmed_values_by_hand():
    updates = [{"w": np.array([v], np.float32)} for v in (1, 100, 2, 4, -50, 6)]
    assert trimmed_mean(updates, 1)["w"] == np.float32((1 + 2 + 4 + 6) / 4)
    assert trimmed_mean(updates, 2)["w"] == trimmed_mean(updates)["w"] == 3


@given(st.integers(0, 2**31), st.integers(1, 3), st.floats(-1e30, 1e30))
def test_up_to_trim_wrong_sites_cannot_leave_the_right_ones_range(seed, trim, wrong):
    honest = sites(trim + 1, seed)
    hostile = [{name: np.full_like(value, wrong) for name, value in honest[0].items()}] * trim
    for name, value in trimmed_mean(hostile + honest, trim).items():
        right = stack(honest, name)
        assert (right.min(axis=0) <= value).all()
        assert (value <= right.max(axis=0)).all()


@given(st.permutations(range(5)), st.sampled_from([None, 0, 1, 2]))
def test_the_order_of_the_sites_does_not_show(order, trim):
    updates = sites(5)
    expected, result = trimmed_mean(updates, trim), trimmed_mean([updates[k] for k in order], trim)
    assert all(np.array_equal(expected[name], result[name]) for name in expected)


@pytest.mark.parametrize(("n", "trim"), [(2, 1), (4, 2), (3, -1), (0, None)])
def test_too_few_sites_are_refused(n, trim):
    with pytest.raises(ValueError, match=f"below half of the {n} sites"):
        trimmed_mean(sites(n), trim)
