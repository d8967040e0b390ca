"""How long steps took on this machine, so that from the second run on a command says better how long it takes.

Formulas know how the time of a step grows with a model, and the speed of a matrix product now, but not all of a
machine. Here each step's time is kept beside its formula's, at one speed of products for all runs: what is measured of
that in a moment varies more than steps do. Results never depend on it: it is lost with the cache, replaced where it is
damaged, and left alone where it can't be written.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

from filelock import Timeout
from pydantic import Field, RootModel, ValidationError

from edge_transact import cache, progress
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.outputs import new_directory
from edge_transact.cache.keys import code_of
from edge_transact.errors import EdgeTransactError
from edge_transact.progress import Forecast, Step, Taken
from edge_transact.system.machine import machine_name
from edge_transact.system.speed import slowness

logger = logging.getLogger(__name__)

LOADING = Step("load torch and transformers", 4.0)
"""What long commands do before they know their steps."""

CLASSES = "transformers.models.llama.modeling_llama"
"""What takes longest of that."""

KIND = "times"
"""The kind of the entry in the cache."""

RUNS = 5
"""How many times of steps of about the same size are looked at, the last ones. Their median is what is expected."""

ALIKE = 2.0
"""Steps are of about the same size if their formulas say less than this factor apart: a small model's steps take mostly
what doesn't grow with it."""

MOST, MOST_KINDS = 30, 200
"""The most times that are kept of a kind of step, and the most kinds."""

FARTHEST = 20.0
"""A step that took this many times more or less than its formula says was hindered by something."""

LEAST_SHARE = 0.5
"""Of a step that an interrupted run had begun, at least this share tells how long a whole one takes."""

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Times(RootModel[dict[str, list[tuple[_Seconds, _Seconds]]]]):
    """By kind of step: what the formula says where `slowness` is 1, and what it took, in seconds, the last one last."""


@contextmanager
def loading() -> Iterator[None]:
    """A bar while the body imports what a long command needs, torch included."""
    (step,) = _expected([LOADING], _read(_entry()), 1.0)
    is_new, started = "torch" not in sys.modules, time.monotonic()
    with progress.working(step.name, None if step.formula_s is None else step.seconds):
        yield
    if is_new and CLASSES in sys.modules:  # not where only DISTs are evaluated
        _keep([Taken(step, 1.0, time.monotonic() - started)], 1.0)


def expected(forecast: Forecast) -> Forecast:
    """The forecast with the seconds that like steps took in earlier runs, where there were any."""
    return replace(forecast, steps=_expected(forecast.steps, _read(_entry()), slowness()))


@contextmanager
def running(forecast: Forecast) -> Iterator[None]:
    """While the body runs, the bars of the forecast's steps are shown. Afterwards, what they took is kept."""
    with progress.running(forecast.steps) as course:
        try:
            yield
        finally:
            _keep(course.taken, slowness())


def _expected(
    steps: Sequence[Step], times: Mapping[str, Sequence[tuple[float, float]]], slowness_now: float
) -> list[Step]:
    found = []
    for step in steps:
        formula_s = step.seconds / slowness_now
        alike = [
            took_s / then_s * formula_s
            for then_s, took_s in times.get(step.kind or step.name, ())
            if formula_s > 0 and max(then_s / formula_s, formula_s / then_s) < ALIKE
        ]
        seconds = median(alike[-RUNS:]) if alike else 0.0
        known = step.seconds / FARTHEST < seconds < step.seconds * FARTHEST
        found.append(replace(step, seconds=seconds, formula_s=step.seconds) if known else step)
    return found


def _keep(taken: Sequence[Taken], slowness_now: float) -> None:
    """Adds what steps took to the entry, unless another process is writing there."""
    new: dict[str, list[tuple[float, float]]] = {}
    for each in taken:
        formula_s = (each.step.formula_s or each.step.seconds) / slowness_now
        if each.share >= LEAST_SHARE and formula_s > 0 and each.seconds > 0:
            new.setdefault(each.step.kind or each.step.name, []).append((formula_s, each.seconds / each.share))
    if not new:
        return
    entry = _entry()
    try:
        with cache.lock_of(entry).acquire(timeout=1):
            times = _read(entry)
            # The kinds of this run come last, and the first ones are forgotten.
            merged = {kind: each for kind, each in times.items() if kind not in new}
            merged |= {kind: [*times.get(kind, ()), *each][-MOST:] for kind, each in new.items()}
            _write(entry, dict(list(merged.items())[-MOST_KINDS:]))
    except (OSError, Timeout, EdgeTransactError) as error:
        logger.debug(f"how long steps took isn't kept: {error}")


def _entry() -> Path:
    return cache.entry_of(KIND, _ingredients())


def _ingredients() -> dict[str, object]:
    """Formulas that change, and other machines that share a home, start afresh."""
    return {"machine": machine_name(), "code": code_of(slowness)}


def _file(entry: Path) -> Path:
    return entry / "content" / "times.json"


def _read(entry: Path) -> dict[str, list[tuple[float, float]]]:
    try:
        return _Times.model_validate_json(_file(entry).read_bytes()).root
    except (OSError, ValidationError, ValueError):
        return {}


def _write(entry: Path, times: dict[str, list[tuple[float, float]]]) -> None:
    text = _Times({kind: [(round(a, 4), round(b, 4)) for a, b in each] for kind, each in times.items()})
    with new_directory(entry, force=True) as fresh:
        file = _file(fresh)
        file.parent.mkdir()
        file.write_text(text.model_dump_json(indent=1) + "\n")
        files = {file.name: (file.stat().st_size, sha256(file))}
        record = cache.Record(what="how long steps took", ingredients=_ingredients(), files=files)
        (fresh / cache.RECORD).write_text(record.model_dump_json(indent=2) + "\n")
