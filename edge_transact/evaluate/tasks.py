"""Tasks of lm-evaluation-harness: its own and those of the user, on checkpoints and on host libraries."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edge_transact.errors import EdgeTransactError, closest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from edge_transact.runtime.host import HostModel

logger = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]
"""Task to metric to value. A metric is named as lm-eval does: ``acc``, ``acc_stderr``, ``exact_match,strict-match``."""


class Tasks:
    """Tasks with their data, loaded once for any number of models.

    Args:
        names: Of tasks, groups and tags.
        include_path: A directory of the user's own tasks, in YAML files.
        limit: Only the first so many questions of each task.

    Raises:
        EdgeTransactError: lm-eval isn't installed, it doesn't know a name, or a task or its data can't be loaded.
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
                f"{include_path} is no directory", fix="Give --include-path the directory of your tasks' YAML files."
            )
        logger.info(f"tasks {', '.join(names)}")
        manager = TaskManager(include_path=include_path)
        for name in names:
            if name not in manager.all_tasks:
                raise EdgeTransactError(
                    f"there is no task {name!r}",
                    fix=closest(name, manager.all_tasks)
                    or "lm-eval ls tasks shows lm-eval's; --include-path adds yours.",
                )
        try:
            loaded = manager.load(list(names))
        except Exception as error:  # whatever a YAML file, a loading script or a data set's host can do
            raise EdgeTransactError(
                f"the tasks can't be loaded: {type(error).__name__}: {error}",
                fix="Check their YAML files, and whether their data sets can be reached.",
            ) from error
        self._tasks = [*loaded["groups"].values(), *loaded["tasks"].values()]
        self._limit = limit

    def scores(self, model: PreTrainedModel | HostModel, tokenizer: Any) -> Scores:
        """What a model scores, without chat template, each task with as many examples in its prompt as it says itself.

        Args:
            model: Of transformers, or a host library.
            tokenizer: transformers' tokenizer of that model.
        """
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        from edge_transact.runtime.host import HostModel

        network: Any = LibraryNetwork(model) if isinstance(model, HostModel) else model
        context = model.context_window_size if isinstance(model, HostModel) else None
        theirs = logging.getLogger(HFLM.__module__)
        theirs.setLevel(logging.ERROR)  # it warns of a model that is loaded already
        # One text at a time: a library takes no more, and nothing is padded.
        wrapped = HFLM(network, backend="causal", tokenizer=tokenizer, max_length=context, batch_size=1)
        theirs.setLevel(logging.NOTSET)
        results = simple_evaluate(wrapped, tasks=self._tasks, limit=self._limit, log_samples=False)
        return {
            task: {
                key.removesuffix(",none"): float(value)
                for key, value in metrics.items()
                # Beside metrics there are names and counts; a standard error of one answer is no number.
                if "," in key and isinstance(value, Real) and math.isfinite(value)
            }
            for task, metrics in results["results"].items()
        }


class LibraryNetwork:
    """A host library with as much of a transformers model as `HFLM` calls, for one text at a time."""

    config = None

    def __init__(self, library: HostModel) -> None:
        import torch

        self._library = library
        self.device = torch.device("cpu")

    def __call__(self, ids: torch.Tensor) -> SimpleNamespace:
        """``logits``, float32 ``[1, n, vocab_size]``, of token ids ``[1, n]``."""
        import torch

        return SimpleNamespace(logits=torch.from_numpy(self._library.window_logits(ids[0].tolist()))[None])

    def generate(
        self,
        input_ids: torch.Tensor,
        *,
        max_length: int,
        stopping_criteria: Any,
        do_sample: bool = False,
        **_: Any,
    ) -> torch.Tensor:
        """The prompt's ids ``[1, n]`` and what the library adds, up to `max_length` ids in all."""
        import torch

        if do_sample:
            raise EdgeTransactError(
                "the task samples its answers, and a DIST takes the likeliest token",
                fix="Set do_sample: false in the task's generation_kwargs, or evaluate the checkpoint.",
            )
        ids = input_ids
        self._library.reset()
        for token in self._library.generate(ids[0].tolist(), max_length - ids.shape[1]):
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
            if stopping_criteria(ids, None).all():
                break
        return ids
