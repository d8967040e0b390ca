"""A report: PNG figures, and one HTML page that holds them and the table and needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.pages import script_json, write_page
from edge_transact.bench.analysis import figures
from edge_transact.bench.analysis.export import COLUMNS, table_row, to_text
from edge_transact.bench.analysis.published import FIGURE_4, SOURCE
from edge_transact.bench.analysis.results import make_results
from edge_transact.bench.records.plan import Lengths

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    records: Sequence[Mapping[str, Any]],
    directory: Path,
    *,
    perplexities: Mapping[str, float] | None = None,
    published: bool = False,
    force: bool = False,
) -> list[str]:
    """Write ``index.html``, ``results.json`` and the figures as PNGs.

    For each device: latency as in the paper's Figure 4, speed-up over the slowest model, latency against perplexity
    where two models have one, temperature over time where it was told.

    Args:
        records: A log's.
        directory: Made complete or not at all.
        perplexities: By model name.
        published: Draw the paper's own figure beside.
        force: Replace a directory that exists.

    Returns:
        The names of the figures.
    """
    results = make_results(records)
    drawn: dict[str, Figure] = {}
    for number, device in enumerate(dict.fromkeys(result["device"] for result in results), 1):
        mine = [result for result in results if result["device"] == device]
        visits = [record for record in records if record["kind"] == "visit" and record["device"] == device]
        for name, figure in _device_figures(device, mine, visits, perplexities or {}):
            drawn[f"{number}-{name}.png"] = figure
    if published:
        drawn["published.png"] = figures.latency_bars(FIGURE_4, SOURCE)
    with new_directory(directory, force=force) as fresh:
        (fresh / "results.json").write_text(to_text(results, "json"))
        rows = [table_row(result) for result in results]
        write_page(fresh, "bench_report.html.j2", drawn, columns=COLUMNS, rows=rows, data=script_json(results))
    return list(drawn)


def _device_figures(
    device: str,
    results: Sequence[Mapping[str, Any]],
    visits: Sequence[Mapping[str, Any]],
    perplexities: Mapping[str, float],
) -> Iterable[tuple[str, Figure]]:
    latencies: dict[str, dict[Lengths, tuple[float, float]]] = {}
    for result in results:
        name = f"{result['model']} {result['target']}" if _several_targets(results) else result["model"]
        pair = Lengths(result["prefill_tokens"], result["decode_tokens"])
        # The median of the whole and that of its parts are of different repetitions: the parts are scaled to the whole.
        share = result["prefill_s"] / (result["prefill_s"] + result["decode_s"])
        latencies.setdefault(name, {})[pair] = (share * result["e2e_s"], result["e2e_s"])
    yield "latency", figures.latency_bars(latencies, f"End-to-end latency, {device}")
    if len(latencies) > 1:
        yield "speedup", figures.speedup_lines(latencies, f"Speed-up, {device}")
    known = [name for name in latencies if name in perplexities]
    common = set.intersection(*(set(latencies[name]) for name in known)) if len(known) > 1 else set()
    if common:
        pair = max(common)
        points = [(name, latencies[name][pair][1], perplexities[name]) for name in known]
        yield "quality", figures.quality(points, pair, f"Latency against perplexity, {device}")
    traces = [(visit["model"], visit["trace"]) for visit in visits if any("temp_c" in r for r in visit["trace"])]
    if traces:
        yield "temperature", figures.temperature(traces, f"Temperature, {device}")


def _several_targets(results: Sequence[Mapping[str, Any]]) -> bool:
    return len({result["target"] for result in results}) > 1
