"""The report of an evaluation: ``report.json``, and a page with models side by side, the first one as the baseline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from edge_transact.artifacts.charts import Axis, Chart, Picture, number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.pages import Origin, write_page
from edge_transact.evaluate.models import Evaluation
from edge_transact.evaluate.options import BASICS
from edge_transact.evaluate.tables import error_of, main_metrics, measures, names, rows
from edge_transact.system.machine import machine_name

BASELINE, OTHERS = 6, range(6)
"""Colours of the first model, and of the others, which share them if they are many."""

BAR, MARGIN = 16, 52
"""Heights in a chart: of a model's bar, and of all that isn't one."""


def write_report(results: Sequence[Evaluation], directory: Path, command: str, *, force: bool = False) -> None:
    """Writes ``report.json``, and ``index.html`` with its pictures, which are SVG files too.

    Args:
        results: What was measured of each model; the first one is the baseline.
        directory: Where to write it; it is complete or absent.
        command: The line that makes the figures again.
        force: Replace a directory that exists.

    Raises:
        EdgeTransactError: `directory` exists.
    """
    first = results[0]
    versions = {name: version(name) for name in ("edge-transact", "apache-tvm", "torch", "transformers")}
    with new_directory(directory, force=force) as fresh:
        (fresh / "report.json").write_text(json.dumps({"models": results}, indent=1) + "\n")
        write_page(
            fresh,
            "eval_report.html.j2",
            answer(results),
            "edge-transact eval",
            list(_pictures(results)),
            Origin(command, machine_name(), versions),
            json_file="report.json",
            first=first,
            header=["measure", *names(results)],
            rows=rows(results),
            answers=_answers(results),
        )


def answer(results: Sequence[Evaluation]) -> str:
    """The first line of the page: perplexity, and the share of right answers if ``basics`` was asked."""
    first, last = results[0], results[-1]
    parts = [_step("perplexity", number(first["perplexity"]), number(last["perplexity"]), len(results))]
    if BASICS in first["tasks"]:
        before, after = (f"{each['tasks'][BASICS]['acc']:.0%}" for each in (first, last))
        parts.append(_step("right answers", before, after, len(results)))
    if len(results) == 1:
        return ", ".join(parts)
    return f"{names(results)[-1]} against {names(results)[0]}: {', '.join(parts)}"


def _step(what: str, before: str, after: str, models: int) -> str:
    return f"{what} {before} → {after}" if models > 1 else f"{what} {before}"


def _pictures(results: Sequence[Evaluation]) -> Iterator[Picture]:
    legend = {name: _colour(index) for index, name in enumerate(names(results))}
    charts = [_bars(name, values, None) for name, values in measures(results)]
    yield Picture("quality", "Quality", charts, legend=legend, text="Less is better, except for right answers.")
    others = {task: metric for task, metric in main_metrics(results).items() if task != BASICS}
    if others:
        charts = [
            _bars(
                f"{task}, {metric}",
                [each["tasks"][task][metric] for each in results],
                [error_of(each["tasks"][task], metric) for each in results],
            )
            for task, metric in others.items()
        ]
        text = "Whiskers are one standard error to both sides."
        yield Picture("tasks", "Tasks", charts, legend=legend, text=text)
    if BASICS in results[0]["tasks"]:
        kinds = [metric for metric in results[0]["tasks"][BASICS] if "," in metric]
        charts = [
            _bars(metric.partition(",")[2], [each["tasks"][BASICS][metric] for each in results], None)
            for metric in kinds
        ]
        text = "The share of short questions that is answered rightly, by kind."
        yield Picture("basics", "Answers to short questions", charts, legend=legend, text=text)


def _colour(index: int) -> int:
    return OTHERS[(index - 1) % len(OTHERS)] if index else BASELINE


def _bars(title: str, values: Sequence[float], errors: Sequence[float | None] | None) -> Chart:
    """A horizontal bar for each model, from the first at the top."""
    count = len(values)
    text = f"From the first model to the last: {', '.join(map(number, values))}."
    ends = [value + (error or 0) for value, error in zip(values, errors or [None] * count, strict=True)]
    x = Axis(0, 1.25 * max(ends) or 1)
    chart = Chart(title, text, x, Axis(-0.6, count - 0.4, names={}), height=MARGIN + BAR * count)
    for index, value in enumerate(values):
        y = count - 1 - index
        chart.bar(y, 0, value, _colour(index))
        error = errors[index] if errors else None
        if error:
            chart.interval(y, value - error, value + error)
        chart.words(ends[index] + 0.02 * x.high, y - 0.25, number(value))
    return chart


def _answers(results: Sequence[Evaluation]) -> list[list[str]]:
    """Each question with every model's answer, and a mark for a right one."""
    asked = [each.get("answers", []) for each in results]
    return [
        [of_question[0]["question"], *(f"{_mark(row['right'])} {row['answer']}" for row in of_question)]
        for of_question in zip(*asked, strict=True)
    ]


def _mark(right: bool) -> str:
    return "✓" if right else "✗"
