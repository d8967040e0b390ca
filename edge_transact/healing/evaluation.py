"""Evaluation during training: perplexity of text that is not trained on, and scores on tasks."""

from __future__ import annotations

from typing import Any

import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import UsageError
from edge_transact.evaluation.answers.basics import ask
from edge_transact.evaluation.answers.basics import scores as basics_scores
from edge_transact.evaluation.options import BASICS
from edge_transact.evaluation.perplexity import perplexity
from edge_transact.evaluation.report_text import TEXT
from edge_transact.evaluation.tables import main_metric
from edge_transact.evaluation.tasks import Scores, Tasks
from edge_transact.healing.options import HealOptions
from edge_transact.healing.processes import Processes
from edge_transact.healing.student import Student, generating
from edge_transact.healing.train import Evaluate
from edge_transact.inputs.texts import read_text

WINDOWS, WINDOW = 8, 512
"""Perplexity is that of this many windows, of so many tokens, of the evaluation part of
`evaluation.report_text.TEXT`."""


def evaluation(source: Checkpoint, options: HealOptions, processes: Processes) -> Evaluate | None:
    """A function that measures the student; `None` if the options don't ask for it.

    Its figures are ``perplexity``, by text, and ``tasks``, the main metric by task.

    Raises:
        EdgeTransactError: Tasks don't exist or have no time, the model can't be asked, or lm-eval isn't installed.
    """
    asked = [name.strip() for name in (options.tasks or "").split(",") if name.strip()]
    others = [name for name in asked if name != BASICS]
    if not options.eval_every:
        if asked:
            raise UsageError("--tasks without --eval-every, which says when", fix="Give --eval-every N, too.")
        return None
    from edge_transact.runtime.text import TextCodec

    document, codec = read_text(TEXT, "evaluation"), TextCodec(source.path)
    tasks = Tasks(others).load() if others else None

    def measure(student: Student) -> dict[str, Any]:
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=processes.dtype == torch.bfloat16):
            found = perplexity(student.model, codec.tokenizer, document, window=WINDOW, max_windows=WINDOWS)
            scores: Scores = {}
            with generating(student.model):
                if BASICS in asked:
                    scores[BASICS] = basics_scores([reply.to_dict() for reply in ask(student.model, codec)])
                if tasks:
                    scores |= tasks.scores(student.model, codec.tokenizer)
        figures: dict[str, Any] = {"perplexity": {TEXT: found.perplexity}}
        if scores:
            figures["tasks"] = {task: metrics[main_metric(metrics)] for task, metrics in scores.items() if metrics}
        return figures

    return measure
