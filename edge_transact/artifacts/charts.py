"""Charts as SVG, for pages, notebooks and files: bars, lines and columns by layer.

They are drawn here rather than by a plotting library because of what a page needs: words for screen readers, figures
under the pointer, colours that follow a dark screen and turn light on paper, letters that stay legible on a phone, and
few bytes with a hundred layers. Each chart is small; a section of a page is a grid of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from edge_transact.artifacts.templates import template

WIDTH, HEIGHT = 360, 170
"""Of a chart, in its own units; letters have 11 of them."""

TICKS = 5
"""At most so many along an axis."""

DOTS = 40

ROW, LETTERS = 34, 52
"""Of `bars`: the height of a bar with its label, and the letters that fit above it."""

Points = Iterable[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    label: str = ""
    log: bool = False
    names: Mapping[float, str] | None = None

    @classmethod
    def over(cls, values: Iterable[float], label: str = "", *, log: bool = False) -> Axis:
        """The axis that shows `values`: from 0, or logarithmic if `log` and all are above 0."""
        known = list(values) or [1.0]
        if log and min(known) > 0:
            low, high = min(known), max(known)
            return cls(low / 1.2, high * 1.2, f"{label}, logarithmic", log=True)
        return cls(0, 1.05 * max(known) or 1, label)

    def share(self, value: float) -> float:
        """Where a value is between `low` (0) and `high` (1)."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> dict[float, str]:
        if self.names is not None:
            step = max(1, math.ceil(len(self.names) / (2 * TICKS)))
            return dict(list(self.names.items())[::step])
        values = self._decades() if self.log and self.high >= 10 * self.low else self._steps()
        return {value: number(value) for value in values}

    def _steps(self) -> list[float]:
        least = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
        return [count * step for count in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def _decades(self) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1, 2, 5), (1, 3), (1,)):
            values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
            shown = [value for value in values if self.low <= value <= self.high]
            if len(shown) <= TICKS:
                break
        return shown[:: math.ceil(len(shown) / TICKS)]


class Chart:
    """One chart: a title, axes, and marks that are added one kind after the other, in the axes' values."""

    def __init__(self, title: str, text: str, x: Axis, y: Axis, *, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.title, self.text, self.width, self.height = title, text, width, height
        self.x, self.y = x, y
        ticks = y.ticks()
        self._left = 8 + 6.5 * max(map(len, ticks.values()), default=0)
        self._top = 38 if y.label else 24
        # Half of a name below the end.
        over = max((3.25 * len(name) for value, name in x.ticks().items() if x.share(value) > 0.95), default=0)
        self._right, self._bottom = width - max(8, over), height - (34 if x.label else 18 if x.ticks() else 4)
        self._marks: list[str] = []
        self._text(0, 12, _short(title, round(LETTERS * width / WIDTH)), "title")
        self._text(0, 27, y.label, "quiet")
        for value, name in ticks.items():
            self._text(self._left - 5, self._at(x.low, value)[1] + 4, name, "quiet", "end")
            self.strokes("grid", [[(x.low, value), (x.high, value)]])
        for value, name in x.ticks().items():
            self._text(self._at(value, y.low)[0], self._bottom + 13, name, "quiet", "middle")
        self._text((self._left + self._right) / 2, height - 5, x.label, "quiet", "middle")

    def boxes(self, boxes: Iterable[tuple[float, float, float, float]], colour: int) -> None:
        """Rectangles: left, bottom, right and top."""
        parts = []
        for left, bottom, right, top in boxes:
            if bottom != top:
                (x, y), (x_end, y_end) = self._at(left, bottom), self._at(right, top)
                parts.append(f"M{_n(x)} {_n(y)}V{_n(y_end)}h{_n(x_end - x)}V{_n(y)}z")
        self._marks.append(f'<path class="f c{colour}" d="{"".join(parts)}"/>')

    def strokes(self, kind: str, lines: Iterable[Points]) -> None:
        """Lines through points; ``l c0`` is one in the first colour."""
        runs = ("L".join(f"{_n(x)} {_n(y)}" for x, y in (self._at(*point) for point in line)) for line in lines)
        self._marks.append(f'<path class="{kind}" d="{"".join(f"M{run}" for run in runs)}"/>')

    def dots(self, points: Points, colour: int, size: float = 5) -> None:
        parts = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in (self._at(*point) for point in points))
        self._marks.append(f'<path class="l c{colour}" d="{parts}" style="stroke-width:{size:g}"/>')

    def words(self, x: float, y: float, text: str) -> None:
        """Words that begin at a point, on which they stand."""
        self._text(*self._at(x, y), text)

    def hover(self, texts: Sequence[str]) -> None:
        """What the pointer shows over 0, 1, 2, ..., from the bottom of the chart to its top."""
        for index, text in enumerate(texts):
            left, right = (self._at(index + side, 0)[0] for side in (-0.5, 0.5))
            self._marks.append(
                f'<rect class="hit" x="{_n(left)}" y="{self._top}" width="{_n(right - left)}" '
                f'height="{_n(self._bottom - self._top)}"><title>{escape(text)}</title></rect>'
            )

    def svg(self, identity: str, place: str = "") -> str:
        """The element. `identity` is the chart's own on its page; `place` are further attributes."""
        title, text = f"{identity}-title", f"{identity}-text"
        return (
            f'<svg class="et-chart" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-labelledby="{title} {text}"{place}><title id="{title}">{escape(self.title)}</title>'
            f'<desc id="{text}">{escape(self.text)}</desc>{"".join(self._marks)}</svg>'
        )

    def _text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        if text:
            attributes = f' class="{kind}"' * bool(kind) + f' text-anchor="{anchor}"' * (anchor != "start")
            self._marks.append(f'<text x="{_n(x)}" y="{_n(y)}"{attributes}>{escape(text)}</text>')

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (
            self._left + self.x.share(x) * (self._right - self._left),
            self._bottom - self.y.share(y) * (self._bottom - self._top),
        )


@dataclass(frozen=True)
class Bar:
    """A row of `bars`; `parts` are lengths and colours, one behind the other."""

    label: str
    text: str
    parts: Sequence[tuple[float, int]]
    interval: tuple[float, float] | None = None

    @property
    def end(self) -> float:
        return max(sum(length for length, _ in self.parts), *(self.interval or (0,)))


def bars(title: str, rows: Sequence[Bar], label: str = "", *, rule: float | None = None) -> Chart:
    """Horizontal bars from 0, each under its label and value; the axis is drawn if its unit, `label`, is given."""
    x = Axis(0, 1.05 * max(rule or 0, *(row.end for row in rows)) or 1, label, names=None if label else {})
    text = "; ".join(f"{row.label}: {row.text}" for row in rows)
    height = 28 + ROW * len(rows) + (34 if label else 0)
    chart = Chart(title, f"{text}.", x, Axis(len(rows), 0, names={}), height=height)
    for place, row in enumerate(rows):
        middle, end = place + 0.65, 0.0
        for length, colour in row.parts:
            chart.boxes([(end, middle + 0.18, end + length, middle - 0.18)], colour)
            end += length
        if rule is not None:
            chart.strokes("rule", [[(rule, middle - 0.25), (rule, middle + 0.25)]])
        if row.interval:
            ends = [[(each, middle - 0.12), (each, middle + 0.12)] for each in row.interval]
            chart.strokes("whisker", [[(each, middle) for each in row.interval], *ends])
        chart.words(0, place + 0.32, f"{_short(row.label, LETTERS - len(row.text))}: {row.text}")
    return chart


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: Axis,
    y: Axis,
    *,
    colours: Sequence[int] = range(6),
    joined: bool = True,
    size: float = 5,
    height: int = HEIGHT,
) -> Chart:
    """A line for each series of points, with dots unless they are too many to tell apart."""
    known = {name: points for name, points in series.items() if points}
    chart = Chart(title, f"{'; '.join(f'{name}: {_course(of)}' for name, of in known.items())}.", x, y, height=height)
    for index, points in enumerate(series.values()):
        colour = colours[index % len(colours)]
        if joined and points:
            chart.strokes(f"l c{colour}", [points])
        if not joined or len(points) <= DOTS:
            chart.dots(points, colour, size)
    return chart


def by_layer(title: str, series: Mapping[str, Sequence[float]], y: Axis, *, colours: Sequence[int]) -> Chart:
    """A column for each layer, those of later series in front of earlier ones."""
    texts = [f"{name + ': ' if name else ''}{spread(values)}" for name, values in series.items()]
    count = len(next(iter(series.values())))
    layers = Axis(-0.6, count - 0.4, "layer", names={index: str(index) for index in range(count)})
    chart = Chart(title, f"{'; '.join(texts)}.", layers, y)
    for values, colour in zip(series.values(), colours, strict=True):
        chart.boxes(((index - 0.4, y.low, index + 0.4, value) for index, value in enumerate(values)), colour)
    chart.hover(
        [
            f"layer {index}: "
            + ", ".join(f"{number(values[index])} {name}".rstrip() for name, values in series.items())
            for index in range(count)
        ]
    )
    return chart


def spread(values: Sequence[float]) -> str:
    """Least, most and mean of the values of all layers, with the layers where they are."""
    low, high = min(values), max(values)
    if low == high:
        return f"{number(low)} in every layer"
    ends = f"from {number(low)} (layer {values.index(low)}) to {number(high)} (layer {values.index(high)})"
    return f"{ends}, {number(sum(values) / len(values))} on average"


def _course(points: Sequence[tuple[float, float]]) -> str:
    """Where a series begins and ends, and its least and most in between."""
    values = [value for _, value in points]
    if len(values) == 1:
        return f"{number(values[0])} at {number(points[0][0])}"
    ends = f"from {number(values[0])} to {number(values[-1])}"
    return f"{ends}, at least {number(min(values))}, at most {number(max(values))}"


def style() -> str:
    """The style sheet of charts: the one place that names their colours."""
    return template("chart.css").render()


def number(value: float) -> str:
    """A figure as people write it: with three digits, and thousands with commas."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _n(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
