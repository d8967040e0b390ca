"""The reports of a bench and of a comparison of two logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_transact.artifacts.charts import number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.report import Origin, Report, Section, change
from edge_transact.benchmarking.analysis import figures
from edge_transact.benchmarking.analysis.compare import Comparison, Pair, as_fast, cells
from edge_transact.benchmarking.analysis.export import CONDITIONS, RESULTS, columns, short_time, speedup_in_words
from edge_transact.benchmarking.analysis.figures import name_of
from edge_transact.benchmarking.analysis.intervals import CONFIDENCE, WORDS, ratio_in_words
from edge_transact.benchmarking.analysis.results import Result, make_results, named_apart
from edge_transact.benchmarking.analysis.sustained import make_sustained, speeds
from edge_transact.benchmarking.records.plan import Lengths, lengths_of
from edge_transact.benchmarking.records.record import Record, VisitRecord
from edge_transact.system.machine import machine_name

COMPARED = ("model", "device", "tokens", "what", "before, s", "after, s", f"times as long ({CONFIDENCE:.0%})", "result")

ANSWERS = 2
"""The most models that the first line compares with the baseline."""


def write_report(
    records: Sequence[Record],
    directory: Path,
    *,
    command: str,
    baseline: str | None = None,
    perplexities: Mapping[str, float] | None = None,
    force: bool = False,
    tuning: Section | None = None,
) -> list[str]:
    """Write ``index.html``, ``results.json`` and the charts as SVG files. Returns the charts' file names.

    `command` is the line that measures it again, `baseline` is as in `make_results`, and `tuning` is shown first.
    """
    records = named_apart(records)
    results = make_results(records, baseline)
    known = perplexities or {}
    sustained = make_sustained(records)
    found = [*results, *sustained]
    charts: list[Section] = []
    for place, device in enumerate(dict.fromkeys(each["device"] for each in found), 1):
        if own := [each for each in sustained if each["device"] == device]:
            charts.append(figures.sustained(place, device, own))
        ended = [each for each in records if isinstance(each, VisitRecord) and each.sustained_s is None]
        visits = [visit for visit in ended if visit.device == device]
        if on_device := [result for result in results if result["device"] == device]:
            charts += figures.of_device(place, device, on_device, visits, known)
    sections, answers = charts, [f"{each['model']}: {speeds(each)}" for each in sustained[-1:]]
    if results:
        conditions = _table("conditions", "Conditions", columns(results, CONDITIONS), folded=True)
        sections = [*([tuning] if tuning else []), _results(results), *sections, conditions]
        answers.append(answer(results, known))
    origin, warnings = _origin(found, command), _warnings(found)
    page = Report("; ".join(answers), "edge-transact bench", sections, origin, warnings=warnings)
    with new_directory(directory, force=force) as fresh:
        page.write(fresh, found, "results.json")
    return [f"{section.name}.svg" for section in charts]


def write_comparison(
    pairs: Sequence[Pair], rows: Sequence[Comparison], directory: Path, *, names: tuple[str, str], command: str
) -> None:
    """Write a directory, which must not exist: ``index.html``, ``comparison.json`` and the charts as SVG files."""
    charts = []
    for place, device in enumerate(dict.fromkeys(row["device"] for row in rows), 1):
        ratios: dict[str, dict[Lengths, figures.Ratio]] = {}
        for row in rows:
            if row["device"] == device and row["metric"] == "e2e_s":
                ratios.setdefault(name_of(row, rows), {})[lengths_of(row)] = 1 / row["ratio"], as_fast(row)
        title = f"{names[1]} on {device}: times as fast as {names[0]}"
        charts.append(figures.speedups(f"{place}-speedup", title, ratios))
    table = Section(
        "comparisons",
        "All comparisons",
        header=COMPARED,
        rows=[
            [name_of(row, rows), row["device"], str(lengths_of(row)), WORDS[row["metric"]], *cells(row)[4:-1]]
            for row in rows
        ],
        note=f"Before: {names[0]}. After: {names[1]}. Medians of all repetitions; ratios of geometric means, with 95 % "
        "confidence intervals (Welch's t). Models of two logs took no turns, so a machine that has changed in between "
        "counts as a difference.",
    )
    origin = _origin([after for _, after in pairs], command)
    page = Report(
        comparison_answer(rows, names), "edge-transact bench compare", [*charts, table], origin, (), _warnings(rows)
    )
    with new_directory(directory) as fresh:
        page.write(fresh, rows, "comparison.json")


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
        return f"{first['model']}: the first token after {short_time(first['ttft_s'])}{speed}, {where}"
    clauses = []
    for result in compared:
        before = next(each for each in shown if each["model"] == result["baseline"])
        clauses.append(f"{result['model']}: {', '.join(_gains(before, result, perplexities))}")
    return f"{_first(clauses)}, against {compared[0]['baseline']} {where}"


def comparison_answer(rows: Sequence[Comparison], names: tuple[str, str]) -> str:
    """The first line of the page: prompt and answer together, at the longest lengths of the first device."""
    device = rows[0]["device"]
    whole = [row for row in rows if row["device"] == device and row["metric"] == "e2e_s"] or list(rows)
    longest = max(map(lengths_of, whole))
    clauses = []
    for row in whole:
        if lengths_of(row) == longest:
            low, high = as_fast(row) or (None, None)
            clauses.append(f"{name_of(row, rows)}: {ratio_in_words(1 / row['ratio'], low, high, row['verdict'])}")
    return f"{_first(clauses)}, {names[1]} against {names[0]} on {device}"


def _first(clauses: Sequence[str]) -> str:
    return "; ".join(clauses[:ANSWERS]) + (", ..." if len(clauses) > ANSWERS else "")


def _gains(before: Result, after: Result, perplexities: Mapping[str, float]) -> Iterator[str]:
    """What a model has over another, as far as it was measured."""
    size = change(before["weights_mib"], after["weights_mib"])
    if size.startswith("-"):
        yield f"{size[1:]} smaller"
    if before["model"] in perplexities and after["model"] in perplexities:
        yield f"perplexity {number(perplexities[before['model']])} → {number(perplexities[after['model']])}"
    yield speedup_in_words(after)


def _table(name: str, title: str, cells: Mapping[str, Sequence[str]], note: str = "", folded: bool = False) -> Section:
    rows = list(zip(*cells.values(), strict=True))
    return Section(name, title, header=list(cells), rows=rows, note=note, folded=folded)


def _results(results: Sequence[Result]) -> Section:
    return _table(
        "results",
        "Results",
        columns(results, RESULTS),
        note="Medians of all repetitions; ± is half of a 95 % confidence interval. Tokens are of the prompt + of the "
        "answer. Prefill includes the first token; decode speed counts the tokens after it. The whole is prompt and "
        "answer, without loading and kernel compilation.",
    )


def _origin(results: Sequence[Mapping[str, Any]], command: str) -> Origin:
    date = max(result["test_time"] for result in results)[:10]
    runners = (f"runner: {result['runner']}" for result in results if result["runner"])
    machines = dict.fromkeys([*map(_machine_of, results), *runners])
    return Origin(command, "; ".join(machines), results[0]["build"], date=date)


def _machine_of(result: Mapping[str, Any]) -> str:
    if result["serial"] == "host":
        return machine_name()
    known = [f"Android {result['android']}" if result["android"] else None, result["soc"], result["cpu"]]
    details = ", ".join(value for value in known if value)
    return f"{result['device']} ({details})" if details else result["device"]


def _warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        *dict.fromkeys(
            f"{row['model']} at {lengths_of(row)} tokens on {row['device']}: {'; '.join(row['warnings'])}"
            for row in rows
            if row["warnings"]
        )
    ]
