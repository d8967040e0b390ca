"""The results of an evaluation, which show themselves as a table."""

from __future__ import annotations

from edge_transact.artifacts.summary import Summarized, Summary
from edge_transact.evaluate.models import Evaluation
from edge_transact.evaluate.tables import names, rows


class Evaluations(Summarized, list[Evaluation]):
    """What was measured of each model, in the order in which they were named."""

    def summary(self) -> Summary:
        """A column for each model. Changes are from the first one."""
        if not self:
            return Summary("no models")
        title = f"{self[0]['windows']} windows of {self[0]['window']} tokens of {self[0]['text']}"
        return Summary(title, header=("", *names(self)), rows=rows(self))
