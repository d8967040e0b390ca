"""The charts of a bench's report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from edge_transact.artifacts.charts import Axis, Bar, bars, lines, number
from edge_transact.artifacts.report import Section
from edge_transact.benchmarking.analysis.export import short_time
from edge_transact.benchmarking.analysis.results import Result
from edge_transact.benchmarking.analysis.sustained import Sustained, table
from edge_transact.benchmarking.records.plan import Lengths, lengths_of
from edge_transact.benchmarking.records.readings import Reading
from edge_transact.benchmarking.records.record import VisitRecord

PREFILL, DECODE = 0, 4

Interval = tuple[float, float]

Ratio = tuple[float, Interval | None]
"""How many times as fast something is, and the interval if it's known."""


def of_device(
    place: int, device: str, results: Sequence[Result], visits: Sequence[VisitRecord], perplexities: Mapping[str, float]
) -> Iterator[Section]:
    """The charts of a device, whose number begins their names, as far as they were measured."""
    rows: dict[Lengths, list[Bar]] = {}
    ratios: dict[str, dict[Lengths, Ratio]] = {}
    seconds: dict[Lengths, dict[str, float]] = {}
    for result in results:
        name, lengths = name_of(result, results), lengths_of(result)
        # The medians of the parts need not add up to the median of the total, so the parts are scaled to it.
        share = result["prefill_s"] / (result["prefill_s"] + result["decode_s"])
        ends = _interval(result["e2e_s_low"], result["e2e_s_high"])
        written = short_time(result["e2e_s"])
        if ends:
            written += f" ({short_time(ends[0])} to {short_time(ends[1])})"
        parts = [(share * result["e2e_s"], PREFILL), ((1 - share) * result["e2e_s"], DECODE)]
        rows.setdefault(lengths, []).append(Bar(name, written, parts, ends))
        if result["e2e_speedup"] is not None:
            ends = _interval(result["e2e_speedup_low"], result["e2e_speedup_high"])
            ratios.setdefault(name, {})[lengths] = result["e2e_speedup"], ends
        if name in perplexities:
            seconds.setdefault(lengths, {})[name] = result["e2e_s"]
    yield _latency(f"{place}-latency", f"Latency on {device}", rows)
    if ratios:
        baseline = next(result["baseline"] for result in results if result["baseline"])
        yield speedups(f"{place}-speedup", f"Times as fast as {baseline}", ratios)
    models = {name for row in seconds.values() for name in row}
    common = [lengths for lengths, row in seconds.items() if row.keys() == models]
    if len(models) > 1 and common:
        yield _quality(f"{place}-quality", seconds[max(common)], perplexities, max(common))
    traces = [(visit.model, visit.trace) for visit in visits if any(each.temp_c is not None for each in visit.trace)]
    if traces:
        yield _temperature(f"{place}-temperature", device, traces)


def sustained(place: int, device: str, found: Sequence[Sustained]) -> Section:
    """Speed and temperature of each series by minute, with lines where Android's thermal status rose."""
    charts = []
    for each in found:
        pairs = pairwise(each["thermal_changes"])
        rises = [at_s / 60 for (_, before), (at_s, status) in pairs if status > before]
        x = Axis(0, max(each["seconds"], 1e-3) / 60, "minutes")
        for unit, name in (("tokens a second", "tok_s"), ("°C", "temp_peak_c")):
            points = [(one["to_s"] / 60, one[name]) for one in each["minutes"] if one[name] is not None]
            if points:
                values = [value for _, value in points]
                y = Axis(min(values) - 1, max(values) + 1, unit) if name == "temp_peak_c" else Axis.over(values, unit)
                chart = lines(each["model"], {unit: points}, x, y)
                chart.strokes("rule", [[(rise, y.low), (rise, y.high)] for rise in rises])
                charts.append(chart)
    header, *rows = table(found)
    text = "Speed is of decoding. Dashed lines: Android's thermal status rose."
    return Section(f"{place}-sustained", f"Without a pause on {device}", charts, text=text, header=header, rows=rows)


def speedups(name: str, title: str, ratios: Mapping[str, Mapping[Lengths, Ratio]]) -> Section:
    """A chart for each model, with a bar and an interval for each pair of lengths."""
    charts = []
    for model, row in ratios.items():
        rows = []
        for lengths, (ratio, ends) in sorted(row.items()):
            words = f"{ratio:.2f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else "")
            rows.append(Bar(f"{lengths} tokens", words, [(ratio, PREFILL)], ends))
        charts.append(bars(model, rows, "times as fast", rule=1))
    text = "For prompt and answer together. A 95 % interval that crosses 1 shows no difference beyond noise."
    return Section(name, title, charts, text=text)


def name_of(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The name of a result's or comparison's model, with its target if there are several."""
    return f"{row['model']} {row['target']}" if len({each["target"] for each in rows}) > 1 else row["model"]


def _latency(name: str, title: str, rows: Mapping[Lengths, Sequence[Bar]]) -> Section:
    """A chart for each pair of lengths, with a bar for each model: the prompt, then the answer."""
    text = "Seconds for a prompt and an answer of so many tokens. Each pair of lengths has its own scale."
    if any(bar.interval for row in rows.values() for bar in row):
        text += " Whiskers are 95 % confidence intervals."
    ordered = sorted(rows, key=lambda pair: (pair.decode_tokens, pair))
    charts = [bars(f"{lengths} tokens", rows[lengths], "seconds") for lengths in ordered]
    return Section(name, title, charts, text=text, legend={"prompt": PREFILL, "answer": DECODE})


def _quality(name: str, seconds: Mapping[str, float], perplexities: Mapping[str, float], lengths: Lengths) -> Section:
    points = {model: (each, perplexities[model]) for model, each in seconds.items()}
    title = "Latency against perplexity"
    x = Axis(0, 1.1 * max(seconds.values()), f"seconds for {lengths} tokens")
    y = Axis(0, 1.2 * max(value for _, value in points.values()), "perplexity")
    chart = lines(title, {model: [point] for model, point in points.items()}, x, y, size=9)
    return Section(
        name,
        title,
        [chart],
        text="Lower left is better.",
        legend={model: index % 6 for index, model in enumerate(points)},
        header=("model", "seconds", "perplexity"),
        rows=[[model, number(each), number(value)] for model, (each, value) in points.items()],
    )


def _temperature(name: str, device: str, traces: Sequence[tuple[str, Sequence[Reading]]]) -> Section:
    """Temperature over time, a line for each visit and a colour for each model."""
    start_s = min(reading.at_s for _, trace in traces for reading in trace)
    known = [
        [((reading.at_s - start_s) / 60, reading.temp_c) for reading in trace if reading.temp_c is not None]
        for _, trace in traces
    ]
    models = list(dict.fromkeys(model for model, _ in traces))
    minutes, degrees = ([point[index] for points in known for point in points] for index in (0, 1))
    series = {
        f"{model}, visit {number}": points
        for number, ((model, _), points) in enumerate(zip(traces, known, strict=True), 1)
    }
    x, y = Axis(0, max(minutes) or 1, "minutes"), Axis(min(degrees) - 1, max(degrees) + 1, "°C")
    chart = lines("Temperature", series, x, y, colours=[models.index(model) % 6 for model, _ in traces])
    return Section(
        name, f"Temperature of {device}", [chart], legend={model: index % 6 for index, model in enumerate(models)}
    )


def _interval(low: float | None, high: float | None) -> Interval | None:
    return None if low is None or high is None else (low, high)
