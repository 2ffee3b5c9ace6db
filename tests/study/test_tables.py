"""Intervals of a study's tables."""

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from fedmr.study.tables import difference

VALUES = st.lists(st.floats(-50, 50), min_size=2, max_size=40)


@given(VALUES)
def test_a_differences_interval_is_students(values):
    rows, others = (
        [{"site": "s", "volume": str(n), "seen": "True", "seed": "0", "psnr": v} for n, v in enumerate(part)]
        for part in (values, [0.0] * len(values))
    )
    found = difference(rows, others, "psnr")
    expected = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    assert found.mean == pytest.approx(fmean(values), abs=1e-12)
    assert found.half == pytest.approx(expected, rel=1e-9, abs=1e-9)
