"""Curves of a run's page."""

import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from fedmr.reports.html.charts import MEAN, chart

lines = st.dictionaries(st.integers(0, 300), st.floats(-1e6, 1e6), min_size=1)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", MEAN]), lines, min_size=1))
def test_a_chart_keeps_order_and_stays_in_its_box(series):
    drawn = chart("t", series)
    assert [line.name for line in drawn.lines[-1:]] == ([MEAN] if MEAN in series else [drawn.lines[-1].name])
    assert len(drawn.x_ticks) <= 11
    for line in drawn.lines:
        points = series[line.name]
        assert len(line.dots) == len(points) == len(re.findall(r"[ML]", line.path))
        assert sum(value != "\N{EN DASH}" for value in line.values) == len(points)
        for x, y in line.dots:
            assert drawn.left <= x <= drawn.right
            assert drawn.top - 0.1 <= y <= drawn.bottom + 0.1
        heights = dict(zip(sorted(points), [y for _, y in line.dots], strict=True))
        ordered = sorted(points, key=lambda x: points[x])
        assert all(heights[a] >= heights[b] for a, b in pairwise(ordered))


def test_a_chart_without_finite_values_is_none_and_a_gap_breaks_the_line():
    assert chart("t", {}) is chart("t", {"a": {0: float("nan")}}) is None
    drawn = chart("t", {"a": {0: 1.0, 1: 2.0, 3: 4.0}, "b": {0: float("inf"), 2: 3.0}})
    assert re.sub(r"[\d. ]", "", drawn.lines[0].path) == "MLM"
