"""About how long a plan takes: said before it, and while it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from statistics import median

from edge_transact import costs
from edge_transact.bench.drivers.base import DeviceInfo, Driver
from edge_transact.bench.model import BenchModel
from edge_transact.bench.records.conditions import Conditions
from edge_transact.bench.records.plan import Lengths, Visit, make_rounds
from edge_transact.bench.records.record import Key, Record, RepetitionRecord
from edge_transact.progress import roughly


@dataclass(frozen=True)
class Rates:
    """What a device computes and reads.

    Attributes:
        flops_s: Floating-point operations a second of a prefill.
        bytes_s: Bytes a second that decoding reads.
        start_s: Seconds until a process has loaded its libraries.
        load_bytes_s: Bytes a second that loading weights reads.
    """

    flops_s: float
    bytes_s: float
    start_s: float
    load_bytes_s: float


PHONE = Rates(flops_s=135e9, bytes_s=39e9, start_s=2, load_bytes_s=0.5e9)
"""The first two are those of LLaMA-2-7B on a Xiaomi 14: TransAct, Figure 4, 256+64 tokens."""


class VisitTimes:
    """Estimates a device's part of a plan: from repetitions in the log where it has some, from the model otherwise.

    While visits end, their real time corrects what is left.

    Args:
        info: The device.
        target: Target of the libraries.
        models: The plan's models.
        conditions: The plan.
        records: The log so far.
    """

    def __init__(
        self,
        info: DeviceInfo,
        target: str,
        models: Sequence[BenchModel],
        conditions: Conditions,
        records: Iterable[Record],
    ) -> None:
        self._models = models
        self._warmups = conditions.warmups
        self._rates = _host() if info.serial == "host" else PHONE
        self._measured: dict[tuple[str, Lengths], list[float]] = {}
        for record in records:
            if isinstance(record, RepetitionRecord) and (record.serial, record.target) == (info.serial, target):
                self._measured.setdefault((record.model_digest, record.lengths), []).append(record.e2e_s)
        self._started = time.monotonic()
        self._left: list[Visit] = []
        self._done_s = 0.0

    def visit_s(self, visit: Visit) -> float:
        """About how long a visit takes, in seconds."""
        model, rates = self._models[visit.model], self._rates
        measured = self._measured.get((model.digest, visit.lengths))
        e2e_s = median(measured) if measured else self._e2e_s(model, visit.lengths)
        check = model.check()
        check_s = self._e2e_s(model, Lengths(len(check[0]), len(check[1]))) if check else 0.0
        load_s = rates.start_s + model.weights_bytes / rates.load_bytes_s
        return load_s + check_s + (self._warmups + visit.repetitions) * e2e_s

    def _e2e_s(self, model: BenchModel, lengths: Lengths) -> float:
        flops = lengths.batch_size * costs.prefill_flops(model.manifest.plan, lengths.prefill_tokens)
        decoded = lengths.batch_size * lengths.decode_tokens
        decode_s = decoded * model.decode_read_bytes(lengths) / self._rates.bytes_s
        return flops / self._rates.flops_s + decode_s

    def set_left(self, visits: Iterable[Visit]) -> None:
        """Say which visits are still to come."""
        self._left = list(visits)

    def done(self, visit: Visit) -> None:
        """Say that a visit has ended."""
        self._done_s += self.visit_s(visit)
        self._left = [each for each in self._left if each != visit]

    def left(self) -> str:
        """What a line about a visit says of the time left, its own included: ``, about 3 min left``."""
        seconds = sum(map(self.visit_s, self._left))
        if self._done_s:
            seconds *= (time.monotonic() - self._started) / self._done_s
        return f", about {roughly(seconds)} left"


@dataclass(frozen=True)
class Plan:
    """What a bench is about to do.

    Attributes:
        models: Names of the models, the baseline first.
        lengths: Pairs of lengths.
        devices: Labels of the devices.
        rounds: Rounds that are always run.
        most_rounds: Rounds after which it ends in any case.
        until: The half-width that it goes on to, if any.
        visits: Visits that the log lacks, on all devices, up to `rounds`.
        seconds: About how long these take; devices run at once.
        most_seconds: About how long it takes at most.
    """

    models: list[str]
    lengths: list[str]
    devices: list[str]
    rounds: int
    most_rounds: int
    until: float | None
    visits: int
    seconds: float
    most_seconds: float

    def line(self) -> str:
        """The plan for people."""
        rounds = f"{self.rounds} rounds" if self.until is None else f"{self.rounds} to {self.most_rounds} rounds"
        about = roughly(self.seconds)
        if self.until is not None:
            rounds += f", until ±{self.until:.1%}"
            about += f", at most {roughly(self.most_seconds)}"
        models = f"{len(self.models)} models, {self.models[0]} the baseline," if self.models[1:] else self.models[0]
        return f"plan: {models} at {', '.join(self.lengths)} on {', '.join(self.devices)}, {rounds}: about {about}"


def key_of(visit: Visit, model: BenchModel, serial: str, target: str) -> Key:
    """What identifies a visit in a log."""
    return Key(serial, model.digest, target, visit.lengths, visit.round)


def make_plan(
    drivers: Sequence[Driver], models: Sequence[BenchModel], conditions: Conditions, records: Sequence[Record]
) -> Plan:
    """What a bench is about to do, given the records of its log."""
    done = Counter(record.key for record in records if isinstance(record, RepetitionRecord))
    rounds = make_rounds(len(models), conditions.measured, conditions.repetitions_by_round())
    visits, seconds, most_seconds = 0, [0.0], [0.0]
    for driver in drivers:
        times = VisitTimes(driver.info, driver.target, models, conditions, records)
        lacking = [
            visit
            for visit in chain.from_iterable(rounds)
            if done[key_of(visit, models[visit.model], driver.info.serial, driver.target)] < visit.repetitions
        ]
        due = [visit for visit in lacking if visit.round < conditions.rounds]
        visits += len(due)
        seconds.append(sum(map(times.visit_s, due)))
        most_seconds.append(sum(map(times.visit_s, lacking)))
    return Plan(
        models=[model.name for model in models],
        lengths=[str(pair) for pair in conditions.measured],
        devices=[driver.label for driver in drivers],
        rounds=conditions.rounds,
        most_rounds=conditions.most_rounds,
        until=conditions.until,
        visits=visits,
        seconds=max(seconds),
        most_seconds=max(most_seconds),
    )


@cache
def _host() -> Rates:
    """This host's rates, from a matrix product and a copy that take some hundredths of a second."""
    import numpy as np

    matrix, block = np.ones((768, 768), np.float32), np.ones(1 << 24, np.float32)

    def seconds(action: Callable[[], object]) -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    product_s = min(seconds(lambda: matrix @ matrix) for _ in range(3))
    copy_s = min(seconds(block.copy) for _ in range(3))
    return Rates(flops_s=2 * 768**3 / product_s, bytes_s=2 * block.nbytes / copy_s, start_s=2, load_bytes_s=0.5e9)
