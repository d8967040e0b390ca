"""What the steps of a command took in its last run here, so that the next one says how long it takes.

Results never depend on it: it is lost with the cache, replaced where it is damaged, and left alone where it can't be
written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, RootModel

from edge_transact import cache, progress
from edge_transact.artifacts.outputs import new_directory
from edge_transact.errors import EdgeTransactError
from edge_transact.progress import Step
from edge_transact.system.machine import machine_name

if TYPE_CHECKING:
    from edge_transact.options import Options

logger = logging.getLogger(__name__)

LOADING = "load torch and transformers"
"""The first step of long commands."""

KIND, FILE = "times", "times.json"
"""The kind of the entry in the cache, and its file."""

_OUTPUT = " OUTPUT"

MOST_RUNS = 100
"""How many commands are remembered, the last ones."""


class _Step(BaseModel):
    name: str
    makes: str = ""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Runs(RootModel[dict[str, list[_Step]]]):
    """The steps of the last run by command, the last command last."""


class History:
    """The last run of a command.

    Args:
        command: The command's name.
        models: Its MODELs or DISTs.
        options: What its time depends on. Budgets and seeds are left out.
        output: The directory that it writes, whose name is a part of some steps' names.
        more: Whatever else its time depends on.
    """

    def __init__(
        self,
        command: str,
        models: Sequence[str],
        options: Sequence[Options] = (),
        output: Path | None = None,
        **more: object,
    ) -> None:
        from edge_transact.prune.options import BUDGET_KEYS

        names = [str(Path(model).absolute()) if Path(model).exists() else model for model in models]
        values = [each.model_dump(mode="json", exclude={*BUDGET_KEYS, "seed"}) for each in options]
        self._output = f" {output.name}" if output else _OUTPUT
        self._key = json.dumps([command, *names, *values, more], default=str)

    def steps(self) -> list[Step]:
        """Its steps, without those that made what the cache has now."""
        found = [each for each in _read().get(self._key, []) if not _is_cached(each.makes)]
        return [Step(_renamed(each.name, _OUTPUT, self._output), each.makes, each.seconds) for each in found]

    @contextmanager
    def running(self, *, keep: bool = True) -> Iterator[None]:
        """The body is a run of the command. Its times are kept if it ends well and wasn't a part of a run.

        Args:
            keep: Whether they are kept at all.
        """
        with progress.running(self.steps(), cache.making.get) as run:
            yield
        if keep and not any(step.first for step in run.steps):
            self._keep(run.steps)

    def _keep(self, steps: Sequence[Step]) -> None:
        """Replaces the last run's steps. Where another process writes at the same time, one of both is lost."""
        new = [
            _Step(name=_renamed(each.name, self._output, _OUTPUT), makes=each.makes, seconds=round(each.seconds, 3))
            for each in steps
        ]
        runs = _read()
        runs[self._key] = _with_cached(new, runs.pop(self._key, []))
        try:
            _write(dict(list(runs.items())[-MOST_RUNS:]))
        except (OSError, EdgeTransactError) as error:
            logger.debug(f"how long steps took isn't kept: {error}")


def _with_cached(steps: Sequence[_Step], before: Sequence[_Step]) -> list[_Step]:
    """The steps of a run and, among them, those of the run before that the cache made unnecessary."""
    merged, rest = [], list(before)
    for step in steps:
        place = next((number for number, each in enumerate(rest) if each.name == step.name), None)
        if place is not None:
            merged += [each for each in rest[:place] if _is_cached(each.makes)]
            rest = rest[place + 1 :]
        merged.append(step)
    return merged + [each for each in rest if _is_cached(each.makes)]


def _renamed(step: str, old: str, new: str) -> str:
    return step.removesuffix(old) + new if step.endswith(old) else step


def _is_cached(makes: str) -> bool:
    return bool(makes) and cache.enabled and (cache.cache_directory() / makes / cache.RECORD).is_file()


def _entry() -> Path:
    """Other machines that share a home have times of their own."""
    return cache.entry_of(KIND, {"machine": machine_name()})


def _read() -> dict[str, list[_Step]]:
    try:
        return _Runs.model_validate_json((_entry() / FILE).read_bytes()).root
    except (OSError, ValueError):
        return {}


def _write(runs: dict[str, list[_Step]]) -> None:
    with new_directory(_entry(), force=True) as fresh:
        (fresh / FILE).write_text(_Runs(runs).model_dump_json(indent=1) + "\n")
        record = cache.Record(what="how long steps took", ingredients={"machine": machine_name()}, files={})
        (fresh / cache.RECORD).write_text(record.model_dump_json(indent=2) + "\n")
