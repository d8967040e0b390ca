"""The report of a training: perplexity next to the dense teacher's, ``metrics.jsonl``, and the loss over tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_transact.artifacts.charts import Axis, Bar, Chart, bars, lines, number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.report import Origin, Report, Section
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.evaluation.models import REPORT_TEXT, REPORT_WINDOWS, evaluate_model
from edge_transact.healing.run import HealResult, teacher_of
from edge_transact.options import written
from edge_transact.reading import read_object
from edge_transact.system.machine import machine_name

TRAINED, HELD_OUT = 0, 1
COLOURS = {"before": 4, "after": 2, "teacher": 6}

POINTS = 120
"""The most points of a curve: neighbours share one."""


def write_report(result: HealResult, directory: Path, text: str, *, force: bool = False) -> dict[str, Any]:
    """Writes ``report.json``, ``metrics.jsonl``, and ``index.html`` with its charts, which are SVG files too.

    Returns the content of ``report.json``. `text` is the result of `prepare_report`.
    """
    output, teacher = result.checkpoint.path, teacher_of(result.source, result.options)[0]
    models = {"teacher": teacher and teacher.path, "before": result.source.path, "after": output}
    evaluated = {
        name: evaluate_model(str(path), text, max_windows=REPORT_WINDOWS)["perplexity"]
        for name, path in models.items()
        if path
    }
    values = result.to_dict() | {"perplexity": evaluated, "source": str(result.source.path)}
    command = written.line(
        "heal", result.source.path, *written.words(result.options), "-o", output, "--report", directory
    )
    versions = read_object(output / PROVENANCE_FILE)["versions"]
    with new_directory(directory, force=force) as fresh:
        result.measures.write(fresh)
        origin = Origin(command, machine_name(), versions, written.rows(result.options))
        page(values, result.summary().facts, result.measures.rows, origin).write(fresh, values)
    return values


def page(
    values: Mapping[str, Any], facts: Mapping[str, str], rows: Sequence[Mapping[str, Any]], origin: Origin
) -> Report:
    """The page, from the content of ``report.json``, the facts of the run, and the rows of ``metrics.jsonl``."""
    known, teacher = values["perplexity"], values["perplexity"].get("teacher")
    before, after = known["before"], known["after"]
    against = f" (teacher {number(teacher)})" if teacher else ""
    losses = [f"{values[name]:.4f}" for name in ("held_out_loss_before", "held_out_loss")]
    columns = ("before", "after", *(["teacher"] if teacher else []))
    compared = Section(
        "comparison",
        "Before and after",
        header=("measure", *columns),
        rows=[
            ["perplexity", *(f"{known[name]:.2f}" for name in columns)],
            ["loss on held-out text, nats a token", *losses, *([""] if teacher else [])],
        ],
        note=f"Perplexity is measured in fp32 on the first {REPORT_WINDOWS} windows of the evaluation part of "
        f"{REPORT_TEXT}; lower is better.",
    )
    perplexity = bars(
        "Perplexity", [Bar(name, number(known[name]), [(known[name], COLOURS[name])]) for name in columns]
    )
    training = Section(
        "training",
        "Training",
        [*_curves(rows), perplexity],
        text="The loss in training is of different text at each step, and therefore rough. The step with the lowest "
        "loss on held-out text is kept.",
        legend={"training": TRAINED, "held-out text": HELD_OUT},
        header=("tokens", "loss on held-out text"),
        rows=[[f"{int(at):,}", number(loss)] for at, loss in _points(rows, "held_out_loss")],
    )
    return Report(
        f"Perplexity {number(before)} → {number(after)}{against}",
        f"{Path(values['source']).name} healed",
        [compared, training, Section("work", "What was done", header=("", ""), rows=list(facts.items()))],
        origin,
        text=[
            f"{values['source']} was trained on {values['tokens']:,} tokens; the result is {values['output']}. "
            "Run `edge-transact eval` to measure other text."
        ],
    )


def _curves(rows: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    """The loss over tokens, and the perplexity and scores that ``--eval-every`` measured."""
    x = Axis(0, max((row["tokens"] for row in rows), default=1) or 1, "tokens")
    losses = {"training": _thinned(_points(rows, "loss")), "held-out text": _points(rows, "held_out_loss")}
    values = [loss for points in losses.values() for _, loss in points]
    yield lines("Loss", losses, x, Axis.over(values, "nats a token"), colours=(TRAINED, HELD_OUT))
    for kind in ("perplexity", "tasks"):
        measured: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            for name, value in row.get(kind, {}).items():
                measured.setdefault(name, []).append((row["tokens"], value))
        for name, points in measured.items():
            y = Axis.over([value for _, value in points], "perplexity" if kind == "perplexity" else "score")
            yield lines(name, {name: points}, x, y, colours=(HELD_OUT,))


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["tokens"], row[name]) for row in rows if name in row]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
