"""Options of an evaluation: on which text, compared with what, and which tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from edge_transact.errors import UsageError
from edge_transact.options import COMMAS, Count, Option, Options, Threads

if TYPE_CHECKING:
    from edge_transact.evaluation.tasks import Tasks

TEXT, TASKS, RUN = "Perplexity", "Tasks", "This run"
"""Panels of ``eval --help``."""

BASICS = "basics"
"""The task of short questions that needs no network, see `answers.basics`."""


class EvalOptions(Options):
    """What is measured of each model."""

    text: Annotated[
        str,
        Option(
            "Text: a .txt, .md, .html, .jsonl or .parquet file, a directory of them, a hub data set or demo:sotu.",
            TEXT,
            metavar="TEXT",
        ),
    ] = "demo:sotu"
    window: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Option(
            "Tokens per window; windows don't overlap.",
            TEXT,
            default="512, or the smallest context of the models",
            example=512,
        ),
    ] = None
    max_windows: Annotated[Count | None, Option("Measure only the first windows, at most this many.", TEXT)] = None
    reference: Annotated[
        str | None,
        Option("Also measure how far each model's predictions are from this model's.", TEXT, metavar="MODEL|DIST"),
    ] = None
    tasks: Annotated[
        list[str],
        COMMAS,
        Option(
            "Tasks to score: basics, short questions that need no network; paper, the suite of TransAct's paper; or "
            "any of lm-evaluation-harness.",
            TASKS,
            metavar="NAME[,NAME]",
        ),
    ] = Field([])
    include_path: Annotated[
        Annotated[Path, Field(strict=False)] | None,
        Option("Directory with your own tasks in YAML files.", TASKS, metavar="DIR"),
    ] = None
    limit: Annotated[Count | None, Option("Ask only the first questions of each task, at most this many.", TASKS)] = (
        None
    )
    threads: Annotated[Threads | None, Option("Number of CPU threads.", RUN, default="one for each big core")] = None

    @model_validator(mode="after")
    def _limits_have_tasks(self) -> EvalOptions:
        if (self.include_path or self.limit) and not self.lm_eval_tasks:
            raise UsageError(
                "--include-path and --limit need --tasks of lm-evaluation-harness",
                fix="Name some: --tasks arc_easy,piqa",
            )
        return self

    @property
    def basics(self) -> bool:
        return BASICS in self.tasks

    @property
    def lm_eval_tasks(self) -> list[str]:
        return [name for name in self.tasks if name not in ("", BASICS)]

    def load_tasks(self, *, data: bool = True) -> Tasks | None:
        """lm-eval's tasks, with their data or without, `None` if there are none; raises the errors of `Tasks`."""
        if not self.lm_eval_tasks:
            return None
        from edge_transact.evaluation.tasks import Tasks

        tasks = Tasks(self.lm_eval_tasks, include_path=self.include_path, limit=self.limit)
        return tasks.load() if data else tasks
