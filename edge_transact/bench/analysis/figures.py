"""The figures of a report: functions from numbers to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edge_transact.artifacts.pages import COLOURS, new_figure
from edge_transact.bench.records.plan import Lengths
from edge_transact.bench.records.readings import Reading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Latencies = Mapping[str, Mapping[Lengths, tuple[float, float]]]
"""For each model and pair of lengths: seconds of the prefill, and seconds in total."""

Interval = tuple[float, float]
"""The ends of a 95 % confidence interval."""

Intervals = Mapping[str, Mapping[Lengths, Sequence[Interval]]]
"""For each model and pair of lengths: the intervals of what is drawn, as far as they are known."""


def latency_bars(latencies: Latencies, title: str, intervals: Intervals | None = None) -> Figure:
    """Stacked bars by lengths, one for each model: the prompt below, the answer above. As in the paper's Figure 4.

    Args:
        latencies: The bars.
        title: The figure's title.
        intervals: Drawn as whiskers, of the prefill and of the total.
    """
    lengths = _all_lengths(latencies)
    figure, axes = new_figure(max(6.0, 0.32 * len(lengths) * len(latencies) + 2), 4)
    width = 0.8 / len(latencies)
    for index, (model, row) in enumerate(latencies.items()):
        positions = [position + (index - (len(latencies) - 1) / 2) * width for position in range(len(lengths))]
        known = [(position, row[pair]) for position, pair in zip(positions, lengths, strict=True) if pair in row]
        colour = COLOURS[index % len(COLOURS)]
        at = [position for position, _ in known]
        prefill = [seconds[0] for _, seconds in known]
        decode = [seconds[1] - seconds[0] for _, seconds in known]
        axes.bar(at, prefill, width * 0.92, color=colour, label=f"{model}, prefix")
        axes.bar(at, decode, width * 0.92, bottom=prefill, color=colour, alpha=0.45, label=f"{model}, decode")
        for position, pair in zip(positions, lengths, strict=True):
            ends = (intervals or {}).get(model, {}).get(pair, ())
            _whiskers(axes, [(position, interval) for interval in ends])
            if pair in row:
                top = max([row[pair][1], *(high for _, high in ends)])
                axes.annotate(f"{row[pair][1]:.3g}", (position, top), ha="center", va="bottom", fontsize=6)
    axes.set_xticks(range(len(lengths)), [str(pair) for pair in lengths])
    axes.set_xlabel("prefix + decode tokens")
    axes.set_ylabel("seconds")
    axes.set_title(title)
    axes.legend(fontsize=7)
    return figure


def speedups(ratios: Mapping[str, Mapping[Lengths, float]], intervals: Intervals, baseline: str, title: str) -> Figure:
    """How many times as fast as the baseline each other model is, by lengths, with its interval."""
    lengths = _all_lengths(ratios)
    figure, axes = new_figure(max(6.0, 0.7 * len(lengths) + 2), 3.2)
    axes.axhline(1, color=COLOURS[0], label=baseline)
    for index, (model, row) in enumerate(ratios.items(), 1):
        # Beside each other, so that whiskers don't overlap.
        shift = 0.1 * (index - (len(ratios) + 1) / 2)
        known = [(position + shift, pair) for position, pair in enumerate(lengths) if pair in row]
        at = [position for position, _ in known]
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(at, [row[pair] for _, pair in known], "o", color=colour, label=model)
        ends = [(position, interval) for position, pair in known for interval in intervals.get(model, {}).get(pair, ())]
        _whiskers(axes, ends, colour)
    axes.set_xticks(range(len(lengths)), [str(pair) for pair in lengths])
    axes.set_xlabel("prefix + decode tokens")
    axes.set_ylabel(f"times as fast as {baseline}")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend(fontsize=7)
    return figure


def quality(
    points: Sequence[tuple[str, float, float]], lengths: Lengths, title: str, intervals: Intervals | None = None
) -> Figure:
    """Latency against perplexity, one point (name, seconds, perplexity) for each model."""
    figure, axes = new_figure(6, 4)
    for index, (model, seconds, perplexity) in enumerate(points):
        colour = COLOURS[index % len(COLOURS)]
        for low, high in (intervals or {}).get(model, {}).get(lengths, ())[1:]:
            axes.hlines(perplexity, low, high, color=colour)
        axes.scatter([seconds], [perplexity], color=colour, s=50)
        axes.annotate(f" {model}", (seconds, perplexity), fontsize=8)
    axes.set_xlabel(f"seconds for {lengths} tokens")
    axes.set_ylabel("perplexity")
    axes.set_title(title)
    axes.margins(0.2)
    return figure


def temperature(traces: Sequence[tuple[str, Sequence[Reading]]], title: str) -> Figure:
    """Temperature over time, one colour for each model. A trace is a model's name and the readings of one visit."""
    figure, axes = new_figure(8, 3.2)
    start_s = min(reading.at_s for _, trace in traces for reading in trace)
    colours: dict[str, str] = {}
    for model, trace in traces:
        label = None if model in colours else model
        colour = colours.setdefault(model, COLOURS[len(colours) % len(COLOURS)])
        known = [((reading.at_s - start_s) / 60, reading.temp_c) for reading in trace if reading.temp_c is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, label=label)
    axes.set_xlabel("minutes")
    axes.set_ylabel("°C")
    axes.set_title(title)
    axes.legend(fontsize=7)
    return figure


def _whiskers(axes: Axes, ends: Sequence[tuple[float, Interval]], colour: str = "#333333") -> None:
    """Draw intervals; each is a position and the interval's ends."""
    if ends:
        middle = [(low + high) / 2 for _, (low, high) in ends]
        half = [(high - low) / 2 for _, (low, high) in ends]
        axes.errorbar([at for at, _ in ends], middle, half, fmt="none", ecolor=colour, elinewidth=0.9, capsize=2)


def _all_lengths(rows: Mapping[str, Mapping[Lengths, object]]) -> list[Lengths]:
    return sorted({pair for row in rows.values() for pair in row}, key=lambda pair: (pair.decode_tokens, pair))
