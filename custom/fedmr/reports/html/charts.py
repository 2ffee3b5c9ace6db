"""Geometry of a line chart; the template draws it as SVG, so that one place escapes what comes from a run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 34
_NONE = "\N{EN DASH}"
MEAN = "weighted mean"  # a name that no site can have: FLARE allows no space


@dataclass(frozen=True)
class Line:
    """One line: its name, style class, SVG path, marker positions (x, y), and value per x as text (a dash: none)."""

    name: str
    style: str
    path: str
    dots: list[tuple[float, float]]
    values: list[str]


@dataclass(frozen=True)
class Chart:
    """A chart in a box of WIDTH x HEIGHT. Ticks are pairs (position, text); `columns` the x positions."""

    title: str
    unit: str
    x_name: str
    lines: list[Line]
    x_names: list[str]
    columns: list[float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    best: float | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM

    @property
    def legend(self) -> list[Line]:
        """The lines as people look for them: the mean first."""
        return sorted(self.lines, key=lambda line: line.style != "mean")


def chart(
    title: str,
    series: Mapping[str, Mapping[int, float]],
    *,
    unit: str = "",
    decimals: int = 2,
    x_name: str = "round",
    best: int | None = None,
) -> Chart | None:
    """Lay out lines over whole numbers.

    Args:
        title: stands above it.
        series: y by x for every line; one that is called `MEAN` is drawn on top of the others.
        unit: of y.
        decimals: of the values that the legend shows.
        x_name: what x counts.
        best: x that is marked as the best.

    Returns:
        the chart, or None if there is no finite value.
    """
    finite = {n: {x: y for x, y in line.items() if math.isfinite(y)} for n, line in series.items()}
    xs = sorted({x for line in finite.values() for x in line})
    if not xs:
        return None
    ticks = _ticks([y for line in finite.values() for y in line.values()])
    place = _Place(xs[0], xs[-1], ticks[0][0], ticks[-1][0])
    return Chart(
        title=title,
        unit=unit,
        x_name=x_name,
        lines=_lines(finite, xs, place, decimals),
        x_names=[str(x) for x in xs],
        columns=[place.x(x) for x in xs],
        x_ticks=[(place.x(x), str(x)) for x in _whole_ticks(xs[0], xs[-1])],
        y_ticks=[(place.y(y), text) for y, text in ticks],
        best=place.x(best) if best is not None else None,
    )


@dataclass(frozen=True)
class _Place:
    """The place of values within the box, whose edges stand for these."""

    first: float
    last: float
    low: float
    high: float

    def x(self, value: float) -> float:
        share = (value - self.first) / max(self.last - self.first, 1)
        return round(_LEFT + 8 + share * (WIDTH - _LEFT - _RIGHT - 16), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)


def _lines(series: Mapping[str, Mapping[int, float]], xs: Sequence[int], place: _Place, decimals: int) -> list[Line]:
    """Lines of finite values, the mean last: what is drawn last lies on top."""
    lines, sites = [], [name for name in series if name != MEAN]
    for name in [*sites, *([MEAN] if MEAN in series else [])]:
        points = series[name]
        dots = [(place.x(x), place.y(y)) for x, y in sorted(points.items())]
        values = [_text(points[x], decimals) if x in points else _NONE for x in xs]
        style = "mean" if name == MEAN else f"c{sites.index(name) % 6} d{sites.index(name) // 6 % 3}"
        lines.append(Line(name, style, _path(points, xs, dots), dots, values))
    return lines


def _path(points: Mapping[int, float], xs: Sequence[int], dots: list[tuple[float, float]]) -> str:
    """SVG path through the points; it breaks where a value is missing."""
    steps, remaining, pen_down = [], iter(dots), False
    for x in xs:
        if x in points:
            steps.append(("L{} {}" if pen_down else "M{} {}").format(*next(remaining)))
        pen_down = x in points
    return "".join(steps)


def _ticks(values: Sequence[float]) -> list[tuple[float, str]]:
    """Round numbers that enclose the values, with texts of equal decimals."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = low - max(abs(low), 1e-3) / 20, high + max(abs(high), 1e-3) / 20
    ticks = [float(tick) for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    step = ticks[1] - ticks[0]
    decimals = next((n for n in range(10) if abs(step * 10**n - round(step * 10**n)) < 1e-6), 10)
    return [(tick, _text(tick, decimals)) for tick in ticks]


def _text(value: float, decimals: int) -> str:
    """Of a fixed number of decimals, or of three digits where that would be too long."""
    return f"{value:.{decimals}f}" if abs(value) < 1e5 else f"{value:.3g}"


def _whole_ticks(first: int, last: int) -> range:
    """At most eleven multiples of 1, 2 or 5 times a power of ten."""
    step = next(m * 10**n for n in range(10) for m in (1, 2, 5) if last - first <= 10 * m * 10**n)
    return range(-(-first // step) * step, last + 1, step)
