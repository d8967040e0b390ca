"""The pictures of a report, from numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_transact.artifacts.charts import Axis, Chart, Picture, number
from edge_transact.bench.records.plan import Lengths
from edge_transact.bench.records.readings import Reading

PREFILL, DECODE = 0, 4

ROW = 34
"""Height of a bar with its label above, in a chart's units."""

LABEL = 48
"""The most letters of a label; longer ones lose their end."""

Interval = tuple[float, float]
"""The ends of a 95 % confidence interval."""


@dataclass(frozen=True)
class Bar:
    """A bar of `latency`.

    Attributes:
        label: The model.
        prefill_s: Seconds of the prompt, the first part of `total_s`.
        total_s: Seconds of prompt and answer.
        interval: That of the total, if it's known.
    """

    label: str
    prefill_s: float
    total_s: float
    interval: Interval | None = None


def latency(name: str, title: str, bars: Mapping[Lengths, Sequence[Bar]]) -> Picture:
    """A chart for each pair of lengths, with a bar for each model: the prompt, then the answer.

    Args:
        name: Of the picture's file.
        title: Of the picture.
        bars: By lengths.
    """
    text = "Seconds for a prompt of so many + an answer of so many tokens. Each pair of lengths has its own scale."
    if any(bar.interval for row in bars.values() for bar in row):
        text += " Whiskers are 95 % confidence intervals."
    charts = []
    for lengths in sorted(bars, key=lambda pair: (pair.decode_tokens, pair)):
        row = bars[lengths]
        shown = "; ".join(f"{bar.label}: {_seconds(bar.total_s, bar.interval)}" for bar in row)
        # Figures stand behind their bar.
        longest = 1.25 * max(bar.interval[1] if bar.interval else bar.total_s for bar in row)
        chart = _rows(f"{lengths} tokens", f"{shown}.", Axis(0, longest, "seconds"), len(row))
        for place, bar in enumerate(row):
            middle = place + 0.65
            chart.words(0, place + 0.3, _short(bar.label))
            chart.bar(middle, 0, bar.prefill_s, PREFILL)
            chart.bar(middle, bar.prefill_s, bar.total_s, DECODE)
            if bar.interval:
                chart.interval(middle, *bar.interval)
            end = max(bar.total_s, bar.interval[1] if bar.interval else 0)
            chart.words(end + 0.02 * longest, middle + 0.12, f"{number(bar.total_s)} s")
        charts.append(chart)
    return Picture(
        name,
        title,
        charts,
        text=text,
        legend={"prompt": PREFILL, "answer": DECODE},
    )


def speedups(
    name: str,
    baseline: str,
    ratios: Mapping[str, Mapping[Lengths, tuple[float, Interval | None]]],
    compared: str = "",
) -> Picture:
    """A chart for each model, with a dot and an interval for each pair of lengths.

    Args:
        name: Of the picture's file.
        baseline: The model that the others are compared with.
        ratios: How many times as fast as it, and the interval if it's known; by model and lengths.
        compared: What the title says before that, if anything.
    """
    ends = [end for row in ratios.values() for ratio, interval in row.values() for end in (ratio, *(interval or ()))]
    x = Axis(min(0.9, 0.95 * min(ends)), max(1.1, 1.05 * max(ends)), f"times as fast as {_short(baseline)}")
    charts = []
    for model, row in ratios.items():
        text = "; ".join(f"{lengths} tokens: {_times(*row[lengths])}" for lengths in sorted(row))
        chart = _rows(_short(model), f"{model} against {baseline}: {text}.", x, len(row))
        for place, lengths in enumerate(sorted(row)):
            ratio, interval = row[lengths]
            chart.rule(1, (place + 0.4, place + 0.9))
            chart.words(x.low, place + 0.3, f"{lengths} tokens: {_times(ratio, interval)}")
            if interval:
                chart.interval(place + 0.65, *interval)
            chart.dots([(ratio, place + 0.65)], PREFILL, size=8)
        charts.append(chart)
    return Picture(
        name,
        f"{compared}: times as fast as {baseline}" if compared else f"Times as fast as {baseline}",
        charts,
        text="For prompt and answer together. Whiskers are 95 % confidence intervals: one that crosses the line at 1 "
        "shows no difference beyond noise.",
    )


def quality(name: str, points: Sequence[tuple[str, float, float]], lengths: Lengths) -> Picture:
    """Latency against perplexity, one point (model, seconds, perplexity) for each model."""
    longest, highest = max(seconds for _, seconds, _ in points), max(perplexity for _, _, perplexity in points)
    text = "; ".join(f"{model}: {number(each)} s, perplexity {number(value)}" for model, each, value in points)
    axes = Axis(0, 1.3 * longest, f"seconds for {lengths} tokens"), Axis(0, 1.2 * highest, "perplexity")
    chart = Chart("Latency against perplexity", f"{text}.", *axes, height=220)
    for colour, (model, each, value) in enumerate(points):
        chart.dots([(each, value)], colour % 6, size=8)
        chart.words(each, value + 0.05 * highest, _short(model), anchor="start" if each < axes[0].high / 2 else "end")
    return Picture(
        name,
        "Latency against perplexity",
        [chart],
        text="Lower left is better.",
        header=("model", "seconds", "perplexity"),
        rows=[[model, number(each), number(value)] for model, each, value in points],
    )


def temperature(name: str, device: str, traces: Sequence[tuple[str, Sequence[Reading]]]) -> Picture:
    """Temperature over time, one colour for each model. A trace is a model's name and the readings of one visit."""
    start_s = min(reading.at_s for _, trace in traces for reading in trace)
    known = [
        (model, [((reading.at_s - start_s) / 60, reading.temp_c) for reading in trace if reading.temp_c is not None])
        for model, trace in traces
    ]
    minutes, degrees = ([point[index] for _, points in known for point in points] for index in (0, 1))
    low, high = min(degrees), max(degrees)
    text = f"From {low:.0f} to {high:.0f} °C in {max(minutes):.0f} minutes."
    chart = Chart("Temperature", text, Axis(0, max(minutes) or 1, "minutes"), Axis(low - 1, high + 1, "°C"))
    colours: dict[str, int] = {}
    for model, points in known:
        colour = colours.setdefault(_short(model), len(colours) % 6)
        if points:
            chart.line(points, colour)
    return Picture(name, f"Temperature of {device}", [chart], legend=colours)


def _rows(title: str, text: str, x: Axis, count: int) -> Chart:
    """A chart of `count` rows, the first of them on top; row 0 is from height 0 to 1."""
    return Chart(title, text, x, Axis(count, 0, names={}), height=24 + ROW * count + 34)


def _seconds(seconds: float, interval: Interval | None) -> str:
    return f"{number(seconds)} s" + (f" ({number(interval[0])} to {number(interval[1])})" if interval else "")


def _times(ratio: float, interval: Interval | None) -> str:
    return f"{ratio:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _short(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"
