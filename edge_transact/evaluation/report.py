"""The figures of several models side by side, the first one as the baseline: tables, and an evaluation's report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from edge_transact.artifacts.charts import Bar, Chart, bars, number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.report import Origin, Report, Section, change
from edge_transact.artifacts.summary import Summarized, Summary
from edge_transact.evaluation.answers.collapse import described
from edge_transact.evaluation.models import Evaluation
from edge_transact.evaluation.options import BASICS
from edge_transact.formatting import megabytes
from edge_transact.system.machine import machine_name

MAIN_METRICS = ("acc", "exact_match", "em", "f1", "word_perplexity", "perplexity")
"""The main metric of a task is the first of these that it has, or else its own first."""

DIVERGENCES = {"kl_mean": "mean KL", "kl_median": "median KL", "kl_p99": "99th percentile of KL"}


BASELINE, OTHERS = 6, range(6)
"""Colours of the first model, and of the others, which share them if they are many."""


class Evaluations(Summarized, list[Evaluation]):
    """What was measured of each model, in the order in which they were named. Changes are from the first one."""

    def summary(self) -> Summary:
        """A column for each model."""
        if not self:
            return Summary("no models")
        title = f"{self[0]['windows']} windows of {self[0]['window']} tokens of {self[0]['text']}"
        return Summary(title, header=("", *names(self)), rows=rows(self))


def names(results: Sequence[Evaluation]) -> list[str]:
    """What to call the models: the last parts of their paths, or the whole where two would be the same."""
    short = [Path(each["model"]).name for each in results]
    return [each["model"] if short.count(name) > 1 else name for each, name in zip(results, short, strict=True)]


def main_metrics(results: Sequence[Evaluation]) -> dict[str, str]:
    return {task: main_metric(metrics) for task, metrics in results[0]["tasks"].items() if metrics}


def main_metric(metrics: Mapping[str, float]) -> str:
    """The main metric of a task, of those that it has."""
    return next((name for name in MAIN_METRICS if name in metrics), next(iter(metrics)))


def error_of(metrics: Mapping[str, float], metric: str) -> float | None:
    """A metric's standard error: lm-eval calls it ``acc_stderr`` and ``acc_stderr,FILTER``."""
    name, comma, of_filter = metric.partition(",")
    return metrics.get(f"{name}_stderr{comma}{of_filter}")


def rows(results: Sequence[Evaluation]) -> list[list[str]]:
    """A row for each figure, with a cell for each model; others than the first have their change from it."""
    first = results[0]
    perplexities = [each["perplexity"] for each in results]
    changed = (f"{each:.2f} ({change(perplexities[0], each)})" for each in perplexities[1:])
    table = [["perplexity", f"{perplexities[0]:.2f}", *changed]]
    if all("weights_bytes" in each for each in results):
        table.append(["weights", *(megabytes(each["weights_bytes"]) for each in results)])
    if "reference" in first:
        for key, label in DIVERGENCES.items():
            table.append([f"{label} to {first['reference']}, nats", *(f"{each[key]:.4f}" for each in results)])  # type: ignore[literal-required]
        table.append(["same top token", *(f"{each['same_top']:.1%}" for each in results)])
    if any("degenerate" in each for each in results):
        answers = [described(each["degenerate"]) if "degenerate" in each else "not asked" for each in results]
        table.append(["unusable answers", *answers])
    return table + [
        [f"{task} {metric.replace(',', ' ')}", *(_with_error(each["tasks"][task], metric) for each in results)]
        for task, metrics in first["tasks"].items()
        for metric in metrics
        if "_stderr" not in metric
    ]


def _with_error(metrics: Mapping[str, float], metric: str) -> str:
    error = error_of(metrics, metric)
    return f"{metrics[metric]:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def write_report(results: Sequence[Evaluation], directory: Path, command: str, *, force: bool = False) -> None:
    """Writes ``report.json``, and ``index.html`` with its charts, which are SVG files too."""
    versions = {name: version(name) for name in ("edge-transact", "apache-tvm", "torch", "transformers")}
    with new_directory(directory, force=force) as fresh:
        page(results, Origin(command, machine_name(), versions)).write(fresh, {"models": results})


def page(results: Sequence[Evaluation], origin: Origin) -> Report:
    """The page: all figures, charts of them, and every question with all answers."""
    first, columns = results[0], names(results)
    asked = "degenerate" in first
    table = Section(
        "models",
        "Models side by side",
        header=("measure", *columns),
        rows=rows(results),
        note=f"Perplexity on the first {first['windows']} windows of {first['window']} tokens of {first['text']}, "
        f"sha256 {first['text_sha256'][:12]}…; changes are from {columns[0]}. "
        + "Sizes of checkpoints are in 16 bits. " * all("weights_bytes" in each for each in results)
        + "Unusable answers are loops, copies of the prompt, endless and empty ones." * asked,
    )
    answers = Section("answers", "Every question", header=("question", *columns), rows=_answers(results), folded=True)
    return Report(
        answer(results), "edge-transact eval", [table, *_charts(results), *([answers] if answers.rows else [])], origin
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


def _charts(results: Sequence[Evaluation]) -> Iterator[Section]:
    first = results[0]
    quality = [_bars("Perplexity", results, [each["perplexity"] for each in results])]
    if "reference" in first:
        kl = [each["kl_mean"] for each in results]
        quality.append(_bars(f"Mean KL to {first['reference']}, nats", results, kl))
    if all("degenerate" in each for each in results):
        figures = [each["degenerate"] for each in results]
        unusable = [round(each["share"] * each["questions"]) for each in figures]
        quality.append(_bars(f"Unusable answers of {figures[0]['questions']}", results, unusable))
    yield Section("quality", "Quality", quality, text="Less is better.")
    tasks = []
    for task, metric in main_metrics(results).items():
        of_task = [each["tasks"][task] for each in results]
        tasks.append(
            _bars(
                f"{task}, {metric}",
                results,
                [each[metric] for each in of_task],
                [error_of(each, metric) for each in of_task],
            )
        )
    if tasks:
        yield Section("tasks", "Tasks", tasks, text="Whiskers are one standard error to both sides.")


def _bars(
    title: str, results: Sequence[Evaluation], values: Sequence[float], errors: Sequence[float | None] | None = None
) -> Chart:
    rows = []
    for index, (name, value, error) in enumerate(
        zip(names(results), values, errors or [None] * len(values), strict=True)
    ):
        colour = OTHERS[(index - 1) % len(OTHERS)] if index else BASELINE
        ends = (value - error, value + error) if error else None
        rows.append(Bar(name, number(value), [(value, colour)], ends))
    return bars(title, rows)


def _answers(results: Sequence[Evaluation]) -> list[list[str]]:
    """Each question with every model's answer, and a mark for a right one."""
    asked = [each.get("answers", []) for each in results]
    return [
        [of_question[0]["question"], *(f"{'✓' if row['right'] else '✗'} {row['answer']}" for row in of_question)]
        for of_question in zip(*asked, strict=True)
    ]
