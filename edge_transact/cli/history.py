"""The time of each step of a command's last run on this machine, from which the next run estimates its own.

A history that is damaged or can't be written is no error: results never depend on it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter

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

MOST_RUNS = 100
"""How many commands are remembered, the last ones."""

_OUTPUT = " OUTPUT"
"""Replaces the name of the output at the end of a step's name."""

_Kept = tuple[str, str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
"""A step's name, what it makes, and its seconds."""

_RUNS = TypeAdapter(dict[str, list[_Kept]])
"""The last run by command; the command that ran last is the last one."""


class History:
    """The last run of a command with these models and options; budgets, seeds and the output may differ."""

    def __init__(
        self,
        command: str,
        models: Sequence[str],
        options: Sequence[Options] = (),
        output: Path | None = None,
        report: bool = False,
    ) -> None:
        from edge_transact.pruning.options import BUDGET_KEYS

        names = [str(Path(model).absolute()) if Path(model).exists() else model for model in models]
        values = [each.model_dump(mode="json", exclude={*BUDGET_KEYS, "seed"}) for each in options]
        self._key = json.dumps([command, *names, *values, report])
        self._output = f" {output.name}" if output else _OUTPUT

    def steps(self) -> list[Step]:
        """Its steps, without those that made what the cache has now."""
        kept = [each for each in _read().get(self._key, []) if not _is_cached(each)]
        return [Step(_renamed(name, _OUTPUT, self._output), makes, seconds) for name, makes, seconds in kept]

    @contextmanager
    def running(self, *, keep: bool = True) -> Iterator[None]:
        """The body is a run of the command. With `keep`, its times are kept if it does all the work and ends well."""
        if keep:
            cache.locks()  # or what the work ends with couldn't be kept
        with progress.running(self.steps(), cache.making.get) as run:
            yield
        if keep and not any(step.first for step in run.steps):
            self._keep(run.steps)

    def _keep(self, steps: Sequence[Step]) -> None:
        """Replaces the last run. Steps that the cache made unnecessary stay; of two processes that write, one wins."""
        runs = _read()
        merged: list[_Kept] = []
        before = runs.pop(self._key, [])
        for step in steps:
            name = _renamed(step.name, self._output, _OUTPUT)
            place = next((number for number, each in enumerate(before) if each[0] == name), -1)
            merged += filter(_is_cached, before[: max(place, 0)])
            merged.append((name, step.makes, round(step.seconds, 3)))
            before = before[place + 1 :]
        runs[self._key] = [*merged, *filter(_is_cached, before)]
        record = cache.Record(what="how long steps took", ingredients={"machine": machine_name()}, files={})
        try:
            with new_directory(_entry(), own=True) as fresh:
                (fresh / FILE).write_bytes(_RUNS.dump_json(dict(list(runs.items())[-MOST_RUNS:]), indent=1))
                (fresh / cache.RECORD).write_text(record.model_dump_json(indent=2) + "\n")
        except (OSError, EdgeTransactError) as error:
            logger.debug(f"how long steps took isn't kept: {error}")


def _renamed(step: str, old: str, new: str) -> str:
    return step.removesuffix(old) + new if step.endswith(old) else step


def _is_cached(step: _Kept) -> bool:
    return bool(step[1]) and cache.enabled and (cache.cache_directory() / step[1] / cache.RECORD).is_file()


def _entry() -> Path:
    return cache.entry_of(KIND, {"machine": machine_name()})


def _read() -> dict[str, list[_Kept]]:
    try:
        return _RUNS.validate_json((_entry() / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
