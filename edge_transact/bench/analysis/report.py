"""The report: an HTML page with the results, and its pictures, which are SVG files beside it too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edge_transact.artifacts.charts import Picture, number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.pages import Origin, change, write_page
from edge_transact.bench.analysis import figures
from edge_transact.bench.analysis.export import COLUMNS, notes, sentence, table_row, to_text
from edge_transact.bench.analysis.figures import Bar, Interval
from edge_transact.bench.analysis.intervals import NO_DIFFERENCE
from edge_transact.bench.analysis.published import FIGURE_4, SOURCE
from edge_transact.bench.analysis.results import make_results, named_apart
from edge_transact.bench.records.plan import Lengths, lengths_of
from edge_transact.bench.records.record import Record, VisitRecord
from edge_transact.bench.records.results import Result
from edge_transact.system.machine import machine_name

ANSWERS = 2
"""The most models that the first line compares with the baseline."""


def write_report(
    records: Sequence[Record],
    directory: Path,
    *,
    command: str,
    baseline: str | None = None,
    perplexities: Mapping[str, float] | None = None,
    published: bool = False,
    force: bool = False,
) -> list[str]:
    """Write ``index.html``, ``results.json`` and the pictures as SVG files.

    For each device the report shows latency as in the paper's Figure 4, speed-up over the baseline, latency against
    perplexity if two models have one, and temperature over time if the device reports it.

    Args:
        records: Records of a log.
        directory: Output directory; it is complete or absent.
        command: The line that measures it again.
        baseline: As in `make_results`.
        perplexities: Perplexity of each model, by name.
        published: Draw the paper's own figure too.
        force: Replace an existing directory.

    Returns:
        File names of the pictures.
    """
    records = named_apart(records)
    results = make_results(records, baseline)
    known = perplexities or {}
    pictures: list[Picture] = []
    for place, device in enumerate(_devices(results), 1):
        on_device = [result for result in results if result["device"] == device]
        visits = [record for record in records if isinstance(record, VisitRecord) and record.device == device]
        pictures += _pictures(place, device, on_device, visits, known)
    if published:
        pictures.append(_published())
    common, columns, rows = _table(results)
    machines = dict.fromkeys(machine_of(result) for result in results)
    date = max(result["test_time"] for result in results)[:10]
    with new_directory(directory, force=force) as fresh:
        (fresh / "results.json").write_text(to_text(results, "json"))
        write_page(
            fresh,
            "bench_report.html.j2",
            answer(results, known),
            "edge-transact bench",
            pictures,
            Origin(command, "; ".join(machines), results[0]["build"], date=date),
            json_file="results.json",
            sentences=[text for result in results if (text := sentence(result))],
            warnings=[f"{_subject(each)}: {'; '.join(each['warnings'])}" for each in results if each["warnings"]],
            common=common,
            columns=columns,
            rows=rows,
        )
    return [f"{picture.name}.svg" for picture in pictures]


def is_report(directory: Path) -> bool:
    """Whether a directory holds what `write_report` writes, and nothing else."""
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    files = {"index.html", "results.json"}
    return files <= names and all(name.endswith(".svg") for name in names - files)


def answer(results: Sequence[Result], perplexities: Mapping[str, float]) -> str:
    """The first line of the page: what was found at the longest lengths of the first device."""
    longest = max(lengths_of(result) for result in results if result["device"] == results[0]["device"])
    shown = [each for each in results if lengths_of(each) == longest and each["device"] == results[0]["device"]]
    where = "on this host" if results[0]["serial"] == "host" else f"on {results[0]['device']}"
    if longest.batch_size > 1:
        where = f"with {longest.batch_size} prompts at once {where}"
    compared = [each for each in shown if each["e2e_speedup"] is not None]
    if not compared:
        first = shown[0]
        speed = f", then {number(first['decode_tok_s'])} tokens a second" if first["decode_tok_s"] else ""
        return f"{first['model']}: the first token after {number(first['ttft_s'])} s{speed}, {where}"
    clauses = []
    for result in compared[:ANSWERS]:
        before = next(each for each in shown if each["model"] == result["baseline"])
        clauses.append(f"{result['model']}: {', '.join(_gains(before, result, perplexities))}")
    more = ", ..." if len(compared) > ANSWERS else ""
    return f"{'; '.join(clauses)}{more}, against {compared[0]['baseline']} {where}"


def _gains(before: Result, after: Result, perplexities: Mapping[str, float]) -> Iterator[str]:
    """What a model has over another, as far as it was measured."""
    size = change(before["weights_mib"], after["weights_mib"])
    if size.startswith("-"):
        yield f"{size[1:]} smaller"
    if before["model"] in perplexities and after["model"] in perplexities:
        yield f"perplexity {number(perplexities[before['model']])} → {number(perplexities[after['model']])}"
    yield NO_DIFFERENCE if after["verdict"] == "noise" else f"{after['e2e_speedup']:.2f} times as fast"


def _table(results: Sequence[Result]) -> tuple[list[tuple[str, str]], list[str], list[list[str]]]:
    """Columns in which all results agree, with their value; the other columns; and their cells."""
    # Warnings have sentences of their own on the page.
    rows = [
        [*table_row(result)[:-1], "; ".join(note for note in notes(result) if note not in result["warnings"])]
        for result in results
    ]
    values = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    common = [name for name, cells in values.items() if len(set(cells)) == 1 and name != "model" and len(rows) > 1]
    others = [name for name in COLUMNS if name not in common and set(values[name]) != {""}]
    cells = [[row[COLUMNS.index(name)] for name in others] for row in rows]
    return [(name, values[name][0]) for name in common if values[name][0] not in ("-", "")], others, cells


def _pictures(
    place: int, device: str, results: Sequence[Result], visits: Sequence[VisitRecord], perplexities: Mapping[str, float]
) -> Iterator[Picture]:
    bars: dict[Lengths, list[Bar]] = {}
    ratios: dict[str, dict[Lengths, tuple[float, Interval | None]]] = {}
    for result in results:
        name, lengths = _name(result, results), lengths_of(result)
        # The medians of the parts need not add up to the median of the total, so the parts are scaled to it.
        share = result["prefill_s"] / (result["prefill_s"] + result["decode_s"])
        total = result["e2e_s"]
        bars.setdefault(lengths, []).append(
            Bar(name, share * total, total, _interval(result["e2e_s_low"], result["e2e_s_high"]))
        )
        if result["e2e_speedup"] is not None:
            interval = _interval(result["e2e_speedup_low"], result["e2e_speedup_high"])
            ratios.setdefault(name, {})[lengths] = result["e2e_speedup"], interval
    yield figures.latency(f"{place}-latency", f"Latency on {device}", bars)
    if ratios:
        baseline = next(result["baseline"] for result in results if result["baseline"])
        yield figures.speedups(f"{place}-speedup", baseline, ratios)
    seconds = {
        lengths: {bar.label: bar.total_s for bar in row if bar.label in perplexities} for lengths, row in bars.items()
    }
    models = {name for row in seconds.values() for name in row}
    common = [lengths for lengths, row in seconds.items() if row.keys() == models]
    if len(models) > 1 and common:
        points = [(name, total, perplexities[name]) for name, total in seconds[max(common)].items()]
        yield figures.quality(f"{place}-quality", points, max(common))
    traces = [(visit.model, visit.trace) for visit in visits if any(each.temp_c is not None for each in visit.trace)]
    if traces:
        yield figures.temperature(f"{place}-temperature", device, traces)


def _published() -> Picture:
    bars: dict[Lengths, list[Bar]] = {}
    for model, row in FIGURE_4.items():
        for lengths, (prefill_s, total_s) in row.items():
            bars.setdefault(lengths, []).append(Bar(model, prefill_s, total_s))
    return figures.latency("published", SOURCE, bars)


def _devices(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result["device"] for result in results))


def machine_of(result: Result) -> str:
    """Where a result was measured, in a few words."""
    if result["serial"] == "host":
        return machine_name()
    known = [f"Android {result['android']}" if result["android"] else None, result["soc"]]
    details = ", ".join(value for value in known if value)
    return f"{result['device']} ({details})" if details else result["device"]


def _interval(low: float | None, high: float | None) -> Interval | None:
    return None if low is None or high is None else (low, high)


def _name(result: Result, results: Sequence[Result]) -> str:
    """A model's name in pictures, with its target if there are several."""
    several_targets = len({each["target"] for each in results}) > 1
    return f"{result['model']} {result['target']}" if several_targets else result["model"]


def _subject(result: Result) -> str:
    return f"{result['model']} at {lengths_of(result)} tokens on {result['device']}"
