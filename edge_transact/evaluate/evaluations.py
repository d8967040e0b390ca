"""The results of an evaluation, which show themselves as a table."""

from __future__ import annotations

from edge_transact.artifacts.shown import Shown, Summary
from edge_transact.evaluate.answers.collapse import described
from edge_transact.evaluate.models import Evaluation


class Evaluations(Shown, list[Evaluation]):
    """What was measured of each model, in the order in which they were named."""

    def summary(self) -> Summary:
        """Perplexity, divergence and tasks: the ratio to the first model shows what was lost."""
        if not self:
            return Summary("no models")
        first = self[0]
        columns = {"perplexity": [f"{each['perplexity']:.3f}" for each in self]}
        if len(self) > 1:
            columns["of the first"] = [f"{each['perplexity'] / first['perplexity']:.3f}" for each in self]
        if "reference" in first:
            columns[f"KL to {first['reference']}"] = [f"{each['kl_mean']:.4f}" for each in self]
        for task, metrics in first["tasks"].items():
            for metric in metrics:
                columns[f"{task} {metric}"] = [f"{each['tasks'][task][metric]:.3f}" for each in self]
        if any("degenerate" in each for each in self):
            columns["degenerate answers"] = [
                described(each["degenerate"]) if "degenerate" in each else "not asked" for each in self
            ]
        return Summary(
            f"{first['windows']} windows of {first['window']} tokens of {first['text']}",
            header=("model", *columns),
            rows=list(zip((each["model"] for each in self), *columns.values(), strict=True)),
        )
