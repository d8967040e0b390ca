"""What a bench is about to do, and how long that takes where its log has measured the like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median
from typing import Any

from edge_transact.benchmarking.drivers.base import Driver
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.plan import Visit
from edge_transact.benchmarking.records.record import Key, Record, RepetitionRecord
from edge_transact.benchmarking.records.series import done
from edge_transact.formatting import duration


def visit_seconds(
    visits: Iterable[Visit], driver: Driver, models: Sequence[BenchModel], warmups: int, records: Sequence[Record]
) -> list[float] | None:
    """About how long each visit to a device takes; `None` if the log has no repetition like one of them."""
    serial, known = driver.info.serial, defaultdict(list)
    for record in tuple(records):
        if isinstance(record, RepetitionRecord) and record.serial == serial and record.sustained_s is None:
            known[record.model_digest, record.target, record.lengths].append((record.load_s or 0.0, record.e2e_s))
    seconds = []
    for visit in visits:
        if visit.seconds is not None:
            seconds.append(visit.seconds)
            continue
        model = models[visit.model]
        alike = known.get((model.digest, model.target_on(driver.target), visit.lengths))
        if not alike:
            return None
        load_s, e2e_s = map(median, zip(*alike, strict=True))
        seconds.append(load_s + (warmups + visit.repetitions) * e2e_s)
    return seconds


@dataclass(frozen=True)
class Plan:
    """What a bench is about to do: MODELs to build first, and `visits` up to `rounds` that the log lacks.

    They take about `seconds`, all devices at once, and at most `most_seconds`; `None` if the log doesn't tell.
    """

    models: list[str]
    lengths: list[str]
    devices: list[str]
    rounds: int
    most_rounds: int
    until: float | None
    sustained_s: float | None
    visits: int
    seconds: float | None = None
    most_seconds: float | None = None
    builds: list[str] = field(default_factory=list)

    def line(self) -> str:
        rounds = f"{self.rounds} rounds" if self.until is None else f"{self.rounds} to {self.most_rounds} rounds"
        if self.sustained_s is not None:
            rounds = f"{duration(self.sustained_s)} without a pause"
        about = f"{self.visits} visit{'s' * (self.visits != 1)}"
        if self.seconds is not None:
            about += f", about {duration(self.seconds)}"
        if self.until is not None:
            rounds += f", until ±{self.until:.1%}"
            about += f", at most {duration(self.most_seconds)}" if self.most_seconds is not None else ""
        models = f"{len(self.models)} models, {self.models[0]} the baseline," if self.models[1:] else self.models[0]
        built = f"build {', '.join(self.builds)}, then " if self.builds else ""
        return f"plan: {built}{models} at {', '.join(self.lengths)} on {', '.join(self.devices)}, {rounds}: {about}"


def key_of(visit: Visit, model: BenchModel, serial: str, target: str) -> Key:
    return Key(serial, model.digest, model.target_on(target), visit.lengths, visit.round, visit.seconds)


def make_plan(
    drivers: Sequence[Driver], models: Sequence[BenchModel], conditions: BenchOptions, records: Sequence[Record]
) -> Plan:
    measured, rounds = done(records), conditions.planned(len(models))
    visits, seconds, most_seconds = 0, [], []
    for driver in drivers:
        lacking = [
            visit
            for visit in chain.from_iterable(rounds)
            if measured[key_of(visit, models[visit.model], driver.info.serial, driver.target)] < visit.repetitions
        ]
        due = [visit for visit in lacking if visit.round < conditions.rounds]
        visits += len(due)
        seconds.append(visit_seconds(due, driver, models, conditions.warmups, records))
        most_seconds.append(visit_seconds(lacking, driver, models, conditions.warmups, records))
    known = {"visits": visits, "seconds": _longest(seconds), "most_seconds": _longest(most_seconds)}
    return _plan(drivers, [model.name for model in models], conditions, **known)


def all_of_it(drivers: Sequence[Driver], names: list[str], conditions: BenchOptions, builds: Sequence[str]) -> Plan:
    """What a bench is about to do that builds MODELs first, of which no log knows anything."""
    rounds = conditions.planned(len(names))
    due = sum(visit.round < conditions.rounds for visit in chain.from_iterable(rounds))
    return _plan(drivers, names, conditions, visits=len(drivers) * due, builds=list(builds))


def _plan(drivers: Sequence[Driver], names: list[str], conditions: BenchOptions, **known: Any) -> Plan:
    return Plan(
        models=names,
        lengths=[str(pair) for pair in conditions.measured],
        devices=[driver.label for driver in drivers],
        rounds=conditions.rounds,
        most_rounds=conditions.most_rounds,
        until=conditions.until,
        sustained_s=conditions.sustained_s,
        **known,
    )


def _longest(seconds: Sequence[list[float] | None]) -> float | None:
    known = [sum(each) for each in seconds if each is not None]
    return max(known) if len(known) == len(seconds) else None
