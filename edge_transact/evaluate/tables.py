"""What was measured of several models, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edge_transact.artifacts.pages import change
from edge_transact.evaluate.answers.basics import NAME as BASICS
from edge_transact.evaluate.answers.collapse import described
from edge_transact.evaluate.models import Evaluation

MAIN_METRICS = ("acc", "exact_match", "em", "f1", "word_perplexity", "perplexity")
"""The metric that stands for a task: the first of these that it has, or else its own first."""


def measures(results: Sequence[Evaluation]) -> Iterator[tuple[str, list[float]]]:
    """What was measured without lm-eval, and the value of each model."""
    first = results[0]
    yield "perplexity", [each["perplexity"] for each in results]
    if "reference" in first:
        yield f"mean KL to {first['reference']}, nats", [each["kl_mean"] for each in results]
    if BASICS in first["tasks"]:
        yield "right answers", [each["tasks"][BASICS]["acc"] for each in results]
    if all("degenerate" in each for each in results):
        yield "degenerate answers", [each["degenerate"]["share"] for each in results]


def main_metrics(results: Sequence[Evaluation]) -> dict[str, str]:
    """The metric that stands for each task."""
    return {task: main_metric(metrics) for task, metrics in results[0]["tasks"].items() if metrics}


def main_metric(metrics: Mapping[str, float]) -> str:
    """The metric that stands for a task, of those that it has."""
    return next((name for name in MAIN_METRICS if name in metrics), next(iter(metrics)))


def error_of(metrics: Mapping[str, float], metric: str) -> float | None:
    """A metric's standard error: lm-eval calls it ``acc_stderr`` and ``acc_stderr,FILTER``."""
    name, comma, of_filter = metric.partition(",")
    return metrics.get(f"{name}_stderr{comma}{of_filter}")


def rows(results: Sequence[Evaluation]) -> list[list[str]]:
    """A row for each figure, with a cell for each model; others than the first have their change from it."""
    table = [["perplexity", *_against_first([each["perplexity"] for each in results])]]
    if "reference" in results[0]:
        table.append([f"mean KL to {results[0]['reference']}", *(f"{each['kl_mean']:.4f}" for each in results)])
        table.append(["same top token", *(f"{each['same_top']:.1%}" for each in results)])
    return table + answer_rows(results) + task_rows(results)


def answer_rows(results: Sequence[Evaluation]) -> list[list[str]]:
    """A row with the degenerate answers, if any model was asked."""
    if not any("degenerate" in each for each in results):
        return []
    shown = [described(each["degenerate"]) if "degenerate" in each else "not asked" for each in results]
    return [["degenerate answers", *shown]]


def task_rows(results: Sequence[Evaluation]) -> list[list[str]]:
    """A row for each metric of each task, with its standard error where lm-eval tells one."""
    return [
        [f"{task} {metric.replace(',', ' ')}", *(_with_error(each["tasks"][task], metric) for each in results)]
        for task, metrics in results[0]["tasks"].items()
        for metric in metrics
        if "_stderr" not in metric
    ]


def _with_error(metrics: Mapping[str, float], metric: str) -> str:
    error = error_of(metrics, metric)
    return f"{metrics[metric]:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def _against_first(values: Sequence[float]) -> list[str]:
    first, *others = values
    return [f"{first:.2f}", *(f"{value:.2f} ({change(first, value)})" for value in others)]
