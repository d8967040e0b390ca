"""The figures of several models side by side, for the terminal, notebooks and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_transact.artifacts.report import change
from edge_transact.artifacts.summary import Summarized, Summary
from edge_transact.evaluation.answers.collapse import described
from edge_transact.evaluation.models import Evaluation
from edge_transact.formatting import megabytes

MAIN_METRICS = ("acc", "exact_match", "em", "f1", "word_perplexity", "perplexity")
"""The main metric of a task is the first of these that it has, or else its own first."""

DIVERGENCES = {"kl_mean": "mean KL", "kl_median": "median KL", "kl_p99": "99th percentile of KL"}


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
    """The main metric of each task."""
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
