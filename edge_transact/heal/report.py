"""The report of a training: ``report.json``, ``metrics.jsonl``, and a page with the loss curve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_transact.artifacts.charts import Axis, Chart, Picture, number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.pages import Origin, write_page
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.heal.run import HealResult
from edge_transact.options import written
from edge_transact.system.machine import machine_name

TRAINED, HELD_OUT, PERPLEXITY, TASKS = 0, 1, 2, 3
"""Colours."""

POINTS = 120
"""The most points of a curve: neighbours share one."""


def write_report(result: HealResult, directory: Path, *, force: bool = False) -> dict[str, Any]:
    """Writes ``report.json``, ``metrics.jsonl``, and ``index.html`` with the loss curve, which is an SVG file too.

    Args:
        result: The training.
        directory: Where to write it; it is complete or absent.
        force: Replace a directory that exists.

    Returns:
        The content of ``report.json``.

    Raises:
        EdgeTransactError: `directory` exists.
    """
    values, output = result.to_dict(), result.checkpoint.path
    command = written.line(
        "heal", result.source.path, *written.words(result.options), "-o", output, "--report", directory
    )
    versions = json.loads((output / PROVENANCE_FILE).read_text())["versions"]
    with new_directory(directory, force=force) as fresh:
        (fresh / "report.json").write_text(json.dumps(values, indent=1) + "\n")
        result.measures.write(fresh)
        origin = Origin(command, machine_name(), versions, written.rows(result.options))
        write_heal_page(fresh, result.source.path.name, values, result.summary().facts, result.measures.rows, origin)
    return values


def write_heal_page(
    directory: Path,
    name: str,
    report: Mapping[str, Any],
    facts: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    origin: Origin,
) -> None:
    """Writes the page and its picture.

    Args:
        directory: An existing directory.
        name: Of the model that was trained.
        report: The content of ``report.json``.
        facts: What the training came to, by what it is.
        rows: Those of ``metrics.jsonl``.
        origin: How the figures came about.
    """
    before, after = report["held_out_loss_before"], report["held_out_loss"]
    write_page(
        directory,
        "heal_report.html.j2",
        f"Held-out loss {number(before)} → {number(after)}",
        f"{name} healed",
        [loss_curve(rows)],
        origin,
        json_file="report.json",
        report=report,
        rows=list(facts.items()),
    )


def loss_curve(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """The loss over tokens: of the text that is trained on, and of held-out text. Perplexity and tasks, if
    they were measured.

    Args:
        rows: Those of ``metrics.jsonl``.
    """
    tokens = [row["tokens"] for row in rows] or [1]
    x = Axis(0, max(tokens) or 1, "tokens")
    trained, held_out = _points(rows, "loss"), _points(rows, "held_out_loss")
    measured = [(row["tokens"], value) for row in rows for value in row.get("perplexity", {}).values()]
    losses = [loss for _, loss in (*trained, *held_out)]
    text = "; ".join(
        f"{what} goes from {number(points[0][1])} to {number(points[-1][1])}"
        for what, points in (("the loss in training", trained), ("the loss on held-out text", held_out))
        if points
    )
    chart = Chart("Loss", f"Over tokens, {text}.", x, Axis.over(losses, "nats a token"))
    chart.line(_thinned(trained), TRAINED)
    chart.line(held_out, HELD_OUT)
    chart.dots(held_out, HELD_OUT)
    charts, legend = [chart], {"training": TRAINED, "held-out text": HELD_OUT}
    if measured:
        perplexities = [value for _, value in measured]
        text = f"From {number(perplexities[0])} to {number(perplexities[-1])}."
        second = Chart("Perplexity", text, x, Axis.over(perplexities, "perplexity"))
        second.line(measured, PERPLEXITY)
        second.dots(measured, PERPLEXITY)
        charts.append(second)
        legend["perplexity"] = PERPLEXITY
    for task, scores in _by_task(rows).items():
        text = f"From {number(scores[0][1])} to {number(scores[-1][1])}."
        of_task = Chart(task, text, x, Axis.over([score for _, score in scores], "score"))
        of_task.line(scores, TASKS)
        of_task.dots(scores, TASKS)
        charts.append(of_task)
        legend["tasks"] = TASKS
    table = [[f"{int(at):,}", number(loss)] for at, loss in held_out]
    return Picture(
        "loss",
        "How the loss fell",
        charts,
        text="The training curve is of other text at each step, and therefore rough. The step whose loss on held-out "
        "text is least is kept.",
        legend=legend,
        header=("tokens", "loss on held-out text"),
        rows=table,
    )


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["tokens"], row[name]) for row in rows if name in row]


def _by_task(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Each task's score over tokens."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for task, score in row.get("tasks", {}).items():
            found.setdefault(task, []).append((row["tokens"], score))
    return found


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points, each the mean of its neighbours."""
    size = -(-len(points) // POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
