"""Tasks of lm-evaluation-harness and of the user, on checkpoints and on host libraries."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.artifacts.digests import files_digest
from edge_transact.errors import EdgeTransactError, closest

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from edge_transact.runtime.host import HostModel

logger = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]
"""Task to metric to value. Metrics have lm-eval's names: ``acc``, ``acc_stderr``, ``exact_match,strict-match``."""


PAPER = "paper"
"""The name of `PAPER_TASKS`."""

PAPER_TASKS: dict[str, int] = {
    "wikitext": 0,
    "lambada_standard": 0,
    "arc_easy": 0,
    "boolq": 0,
    "logiqa": 0,
    "openbookqa": 0,
    "piqa": 0,
    "truthfulqa_mc1": 0,
    "truthfulqa_mc2": 0,
    "arc_challenge": 25,
    "hellaswag": 10,
    "winogrande": 5,
    "triviaqa": 5,
}
"""The tasks of TransAct's paper (arXiv 2407.05690, section 4.1) in lm-eval's names, and how many examples their prompts
show. What was one task `truthfulqa_mc` there is two today."""


class Tasks:
    """Tasks, whose data is loaded once for any number of models.

    Args:
        names: Names of tasks, groups and tags; ``"paper"`` stands for `PAPER_TASKS`.
        include_path: A directory with the user's own tasks, in YAML files.

    Raises:
        EdgeTransactError: lm-eval isn't installed or doesn't know a name.
    """

    def __init__(self, names: Sequence[str], *, include_path: Path | None = None, limit: int | None = None) -> None:
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise EdgeTransactError(
                f"--tasks needs {error.name}", fix="python -m pip install 'edge-transact[eval]'"
            ) from error
        if include_path and not include_path.is_dir():
            raise EdgeTransactError(
                f"{include_path} is not a directory",
                fix="Set --include-path to the directory of your tasks' YAML files.",
            )
        logger.info(f"tasks {', '.join(names)}")
        self._manager = manager = TaskManager(include_path=include_path)
        self._specs: list[str | dict[str, object]] = []
        self._tasks: list[Task | Group] = []
        for name in names:
            if name == PAPER:
                self._specs += [{"task": task, "num_fewshot": shots} for task, shots in PAPER_TASKS.items()]
                continue
            self._specs.append(name)
            if name not in manager.all_tasks:
                raise EdgeTransactError(
                    f"there is no task {name!r}",
                    fix=closest(name, manager.all_tasks)
                    or "lm-eval ls tasks shows lm-eval's; --include-path adds yours. basics and paper are ours.",
                )
        self._limit = limit
        code = (path for path in include_path.rglob("*") if path.suffix in (".yaml", ".py")) if include_path else ()
        self._asked = {"names": list(names), "own": files_digest(code), "limit": limit}

    def load(self) -> Tasks:
        """Loads the data, if that wasn't done; raises an `EdgeTransactError` if a task or its data can't be."""
        self._tasks = self._tasks or [task for spec in self._specs for task in _loaded(self._manager, spec)]
        return self

    def to_dict(self) -> dict[str, object]:
        return {**self._asked, "lm-eval": version("lm-eval")}

    def scores(self, model: PreTrainedModel | HostModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        """A model's scores, without chat template and with each task's own number of examples in the prompt."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        from edge_transact.evaluation.library_lm import LibraryLM
        from edge_transact.runtime.host import HostModel

        theirs = logging.getLogger(HFLM.__module__)
        theirs.setLevel(logging.ERROR)  # it warns that the model is loaded already
        # Batches of one text: nothing is padded.
        wrapped = (
            LibraryLM(model, tokenizer)
            if isinstance(model, HostModel)
            else HFLM(model, backend="causal", tokenizer=tokenizer, batch_size=1)
        )
        theirs.setLevel(logging.NOTSET)
        # Standard errors that lm-eval samples are sampled here: the pool that it forks from a process with threads may
        # never end. A thousand samples tell an error within 3 %; lm-eval's own default is a hundred times that.
        os.environ["DISABLE_MULTIPROC"] = "1"
        results = simple_evaluate(
            wrapped, tasks=self.load()._tasks, limit=self._limit, bootstrap_iters=1000, log_samples=False
        )
        return {
            task: {
                key.removesuffix(",none"): float(value)
                for key, value in metrics.items()
                # There are names and counts, too; and the standard error of a single answer isn't a number.
                if "," in key and isinstance(value, Real) and math.isfinite(value)
            }
            for task, metrics in results["results"].items()
        }


def _loaded(manager: TaskManager, spec: str | dict[str, object]) -> list[Task | Group]:
    name = spec if isinstance(spec, str) else spec["task"]
    try:
        loaded = manager.load([spec])
    except Exception as error:  # YAML files, loading scripts and a data set's host can raise anything
        reason = f"{type(error).__name__}: {error}"
        if (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)) or "Hub" in reason:
            raise EdgeTransactError(
                f"the data of task {name} can't be reached: {reason}",
                fix="Check the network, and HF_ENDPOINT and HF_HUB_OFFLINE if they are set. Data that was downloaded "
                "once is read from HF_HOME again. --tasks basics needs no network.",
            ) from error
        raise EdgeTransactError(
            f"the task {name} can't be loaded: {reason}",
            fix="Check its YAML file, and whether its data set can be reached.",
        ) from error
    return [*loaded["groups"].values(), *loaded["tasks"].values()]
