"""The report: PNG figures, and one self-contained HTML page with the figures and the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.pages import script_json, write_page
from edge_transact.bench.analysis import figures
from edge_transact.bench.analysis.export import COLUMNS, sentence, table_row, to_text
from edge_transact.bench.analysis.published import FIGURE_4, SOURCE
from edge_transact.bench.analysis.results import make_results
from edge_transact.bench.records.plan import Lengths
from edge_transact.bench.records.record import Record, VisitRecord
from edge_transact.bench.records.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    records: Sequence[Record],
    directory: Path,
    *,
    baseline: str | None = None,
    perplexities: Mapping[str, float] | None = None,
    published: bool = False,
    force: bool = False,
) -> list[str]:
    """Write ``index.html``, ``results.json`` and the figures as PNGs.

    For each device the report shows latency as in the paper's Figure 4, speed-up over the baseline, latency against
    perplexity if two models have one, and temperature over time if the device reports it.

    Args:
        records: Records of a log.
        directory: Output directory; it is complete or absent.
        baseline: As in `make_results`.
        perplexities: Perplexity of each model, by name.
        published: Draw the paper's own figure too.
        force: Replace an existing directory.

    Returns:
        File names of the figures.
    """
    results = make_results(records, baseline)
    drawn: dict[str, Figure] = {}
    for number, device in enumerate(dict.fromkeys(result["device"] for result in results), 1):
        on_device = [result for result in results if result["device"] == device]
        visits = [record for record in records if isinstance(record, VisitRecord) and record.device == device]
        for name, figure in _device_figures(device, on_device, visits, perplexities or {}):
            drawn[f"{number}-{name}.png"] = figure
    if published:
        drawn["published.png"] = figures.latency_bars(FIGURE_4, SOURCE)
    with new_directory(directory, force=force) as fresh:
        (fresh / "results.json").write_text(to_text(results, "json"))
        rows = [table_row(result) for result in results]
        said = [text for result in results if (text := sentence(result))]
        doubtful = [f"{_subject(result)}: {'; '.join(result['warnings'])}" for result in results if result["warnings"]]
        write_page(
            fresh,
            "bench_report.html.j2",
            drawn,
            sentences=said,
            warnings=doubtful,
            columns=COLUMNS,
            rows=rows,
            data=script_json(results),
        )
    return list(drawn)


def _device_figures(
    device: str, results: Sequence[Result], visits: Sequence[VisitRecord], perplexities: Mapping[str, float]
) -> Iterable[tuple[str, Figure]]:
    latencies = _latencies(results)
    intervals = _intervals(results, ("prefill_s", "e2e_s"))
    yield "latency", figures.latency_bars(latencies, f"End-to-end latency, {device}", intervals)
    ratios: dict[str, dict[Lengths, float]] = {}
    for result, ratio in ((result, result["e2e_speedup"]) for result in results):
        if ratio is not None:
            ratios.setdefault(_name(result, results), {})[_lengths(result)] = ratio
    if ratios:
        baseline = next(result["baseline"] for result in results if result["baseline"])
        spans = _intervals(results, ("e2e_speedup",))
        yield "speedup", figures.speedups(ratios, spans, baseline, f"Speed-up, {device}")
    known = [name for name in latencies if name in perplexities]
    common = set.intersection(*(set(latencies[name]) for name in known)) if len(known) > 1 else set()
    if common:
        pair = max(common)
        points = [(name, latencies[name][pair][1], perplexities[name]) for name in known]
        yield "quality", figures.quality(points, pair, f"Latency against perplexity, {device}", intervals)
    traces = [
        (visit.model, visit.trace)
        for visit in visits
        if any(reading.temp_c is not None for reading in visit.trace)
    ]  # fmt: skip
    if traces:
        yield "temperature", figures.temperature(traces, f"Temperature, {device}")


def _latencies(results: Sequence[Result]) -> dict[str, dict[Lengths, tuple[float, float]]]:
    latencies: dict[str, dict[Lengths, tuple[float, float]]] = {}
    for result in results:
        # The medians of the parts need not add up to the median of the total, so the parts are scaled to it.
        share = result["prefill_s"] / (result["prefill_s"] + result["decode_s"])
        latencies.setdefault(_name(result, results), {})[_lengths(result)] = (share * result["e2e_s"], result["e2e_s"])
    return latencies


def _intervals(results: Sequence[Result], fields: Sequence[str]) -> dict[str, dict[Lengths, list[figures.Interval]]]:
    """The intervals of some fields; none for a result whose repetitions give none."""
    intervals: dict[str, dict[Lengths, list[figures.Interval]]] = {}
    for result in results:
        ends = [(result.get(f"{name}_low"), result.get(f"{name}_high")) for name in fields]
        known = [(low, high) for low, high in ends if isinstance(low, float) and isinstance(high, float)]
        intervals.setdefault(_name(result, results), {})[_lengths(result)] = known
    return intervals


def _name(result: Result, results: Sequence[Result]) -> str:
    """A model's name in figures, with its target if there are several."""
    several_targets = len({each["target"] for each in results}) > 1
    return f"{result['model']} {result['target']}" if several_targets else result["model"]


def _lengths(result: Result) -> Lengths:
    return Lengths(result["prefill_tokens"], result["decode_tokens"])


def _subject(result: Result) -> str:
    return f"{result['model']} at {_lengths(result)} tokens on {result['device']}"
