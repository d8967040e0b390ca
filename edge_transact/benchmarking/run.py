"""Executes a plan: one thread for each device, with retries. Each finished repetition is logged at once."""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields, replace
from typing import Any

from edge_transact.benchmarking.drivers.base import (
    CommandTimeout,
    DeviceLost,
    DeviceRefused,
    Driver,
    RunFailed,
    sampled,
)
from edge_transact.benchmarking.estimate import key_of, visit_seconds
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.lines import (
    Agreement,
    CheckLine,
    Loading,
    LoadLine,
    MalformedLine,
    Measurement,
    RepetitionLine,
)
from edge_transact.benchmarking.records.llama_bench import LLAMA_CPP
from edge_transact.benchmarking.records.log import Log
from edge_transact.benchmarking.records.plan import Lengths, Visit
from edge_transact.benchmarking.records.readings import Reading, between, summarize
from edge_transact.benchmarking.records.record import RepetitionRecord, VisitContext, VisitRecord
from edge_transact.errors import EdgeTransactError
from edge_transact.formatting import duration
from edge_transact.progress import Run, Step

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a visit is tried before the plan goes on without it."""

GivenUp = tuple[int, Lengths]
"""A model, by its index, and lengths that couldn't be measured in `ATTEMPTS` attempts."""


class TooHot(EdgeTransactError):
    """The device did not cool down within ``cool_timeout_s``."""


def run_plan(
    drivers: Sequence[Driver],
    models: Sequence[BenchModel],
    conditions: BenchOptions,
    log: Log,
    known: Callable[[Driver, Set[GivenUp]], float] | None = None,
) -> list[str]:
    """Run the plan on all devices at once. Returns a sentence for each visit or device that could not be finished.

    What is in the log isn't measured again. For ``conditions.until``, `known` tells how precisely a device's part is
    known, see `intervals.known_to`. An interrupt is raised after every device has been left clean.
    """
    failures: list[str] = []
    stop = threading.Event()

    def work(driver: Driver) -> None:
        try:
            _Worker(driver, models, conditions, log, stop, failures, known).run()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(len(drivers)) as pool:
        futures = [pool.submit(work, driver) for driver in drivers]
        try:
            # Not Thread.join(): before Python 3.13, an interrupted join takes the thread for ended.
            while wait(futures, timeout=0.2).not_done:
                pass
        except KeyboardInterrupt:
            stop.set()
            wait(futures, timeout=60)
            raise
    for future in futures:
        future.result()
    return failures


@dataclass
class _Run:
    """What a run has said about itself so far, and when it said the latest."""

    load: LoadLine = field(default_factory=lambda: LoadLine(run=""))
    check: CheckLine = field(default_factory=lambda: CheckLine(run=""))
    at_s: float | None = None


@dataclass
class _Worker:
    driver: Driver
    models: Sequence[BenchModel]
    conditions: BenchOptions
    log: Log
    stop: threading.Event
    failures: list[str]
    known: Callable[[Driver, Set[GivenUp]], float] | None

    def __post_init__(self) -> None:
        self.progress = Run()
        self.given_up: set[GivenUp] = set()
        # A model, and how many tokens agreed although its files are intact: the device rounds differently.
        self.intact: set[tuple[int, int | None]] = set()

    def run(self) -> None:
        prepared = False
        try:
            for visit in self._due():
                prepared = prepared or self._prepared()
                if not prepared or self.stop.is_set() or not self._finish(visit):
                    return
        finally:
            try:
                self.driver.close()
            except (DeviceLost, CommandTimeout) as error:
                self.failures.append(f"{self.driver.label}: could not be cleaned up: {error.message}")

    def _due(self) -> Iterator[Visit]:
        """The visits that the log lacks, as long as any are needed."""
        rounds = self.conditions.planned(len(self.models))
        for number, visits in enumerate(rounds):
            if number >= self.conditions.rounds and self._known_well(number):
                return
            # What was given up stays so: a model that can't run would cost its attempts in every round.
            left = [each for later in rounds[number : self.conditions.rounds] for each in later if self._is_due(each)]
            seconds = visit_seconds(left, self.driver, self.models, self.conditions.warmups, self.log.records) or []
            self.progress = Run([Step(str(each), seconds=took_s) for each, took_s in zip(left, seconds, strict=False)])
            for visit in filter(self._is_due, visits):
                step = self.progress.enter(str(visit), None)
                yield visit
                self.progress.leave(step)
        if self.conditions.until is not None:
            self._known_well(len(rounds))

    def _known_well(self, rounds: int) -> bool:
        """Whether what ``until`` asks for is known after so many rounds."""
        assert self.known is not None and self.conditions.until is not None
        width, label = self.known(self.driver, self.given_up), self.driver.label
        if width <= self.conditions.until:
            logger.info(f"{label}: known to ±{width:.1%} after {rounds} rounds")
            return True
        if rounds == self.conditions.most_rounds:
            logger.warning(f"{label}: known to ±{width:.1%} only after {rounds} rounds, the most that --until adds")
        else:
            logger.info(
                f"{label}: known to ±{width:.1%} after {rounds} rounds, going on to ±{self.conditions.until:.1%}"
            )
        return False

    def _is_due(self, visit: Visit) -> bool:
        return self._missing(visit) > 0 and (visit.model, visit.lengths) not in self.given_up

    def _missing(self, visit: Visit) -> int:
        """Repetitions of the visit that the log doesn't hold yet."""
        key = key_of(visit, self.models[visit.model], self.driver.info.serial, self.driver.target)
        return max(0, visit.repetitions - self.log.done(key))

    def _prepared(self) -> bool:
        """Prepare the device; returns whether the plan can go on."""
        for attempt in range(ATTEMPTS):
            try:
                self.driver.prepare(self.models, self.stop)
                return True
            except (DeviceLost, CommandTimeout) as error:
                if attempt + 1 == ATTEMPTS or not self._back(error):
                    return self._give_up(error)
            except EdgeTransactError as error:
                return self._give_up(error)
        return False

    def _finish(self, visit: Visit) -> bool:
        """Try a visit until it is complete; returns whether the plan can go on on this device."""
        error: EdgeTransactError | None = None
        for _attempt in range(ATTEMPTS):
            if self.stop.is_set():
                return False
            try:
                while self._is_due(visit) and not self.stop.is_set():
                    self._wait_until_cool()
                    self._run(visit)
                return not self.stop.is_set()
            except TooHot as failure:
                return self._give_up(failure)
            except DeviceLost as failure:
                error = failure
                if not self._back(failure):
                    return self._give_up(failure)
                self._keep_recovered(visit)
            except (RunFailed, CommandTimeout, DeviceRefused) as failure:
                error = failure
                logger.info(failure.message)
            # A file on the device may be damaged. Checksums find it, and a push repairs it.
            if not self._prepared():
                return False
        assert error is not None
        self._end(visit, [], error.message)
        self._skip(visit, f"given up after {ATTEMPTS} attempts: {error.message}")
        return True

    def _skip(self, visit: Visit, why: str) -> None:
        self.given_up.add((visit.model, visit.lengths))
        self.failures.append(f"{self._title(visit)}: {why}")

    def _run(self, visit: Visit) -> None:
        """Run one process on the device, and log its repetitions as they come."""
        missing = self._missing(visit)
        readings: list[Reading] = []
        error = None
        left_s = self.progress.left_s()
        left = f", about {duration(left_s)} left" if left_s else ""
        logger.info(f"{self._title(visit)}, round {visit.round + 1}{left}")
        try:
            with sampled(self.driver.read, self.conditions.sample_s) as readings:
                self._follow(replace(visit, repetitions=missing), readings)
        except EdgeTransactError as failure:
            error = failure.message
            raise
        finally:
            self._end(visit, readings, error)

    def _follow(self, visit: Visit, readings: list[Reading]) -> None:
        """Read the lines of a run until it ends, the device is too hot, or its files are to be compared."""
        said, began_s = _Run(), None
        lines = self.driver.lines(self.models[visit.model], visit, self.stop)
        try:
            since = time.monotonic()
            for line in lines:
                # Taken first, so that a reading that pauses the visit is one of the repetition's own readings.
                latest, now = readings[-1:], time.monotonic()
                match line:
                    case MalformedLine():
                        self._refuse(visit, line.text)
                    case LoadLine():
                        said.load = line
                    case CheckLine():
                        said.check = line
                        known = (visit.model, line.tokens_agreed) in self.intact
                        if line.tokens_agreed != line.tokens_checked and not known:
                            # The run ends first, so that nothing is measured meanwhile.
                            lines.close()
                            self._check_files(visit, line.tokens_agreed)
                            return
                    case RepetitionLine():
                        said.at_s = now
                        self._keep(visit, line, said, between(readings, since, now))
                        began_s = now - line.e2e_s if began_s is None else began_s
                        if visit.seconds is not None:
                            if now - began_s >= visit.seconds:
                                break
                            if (now - began_s) // 60 > max(0.0, (since - began_s) // 60):
                                logger.info(f"{self.driver.label}: {(now - began_s) // 60:.0f} min")
                since = now
                if latest and (latest[0].temp_c or 0) > self.conditions.ceiling_c:
                    hot = f"{latest[0].warmth}, above the ceiling of {self.conditions.ceiling_c:g} C"
                    if began_s is None:
                        raise RunFailed(f"{self._title(visit)}: {hot} before a repetition has ended")
                    if visit.seconds is not None:
                        self._skip(visit, f"ended after {duration(now - began_s)}: {hot}")
                    else:
                        logger.info(f"{self.driver.label}: {hot}: pausing")
                    break
        finally:
            lines.close()

    def _check_files(self, visit: Visit, agreed: int | None) -> None:
        """The tokens differ from the build's: either the device rounds differently, or its files are damaged."""
        logger.info(f"{self._title(visit)}: tokens differ from the build's; comparing the model's files")
        if self.driver.prepare([self.models[visit.model]], self.stop):
            raise RunFailed(f"{self._title(visit)}: files on the device were damaged, and have been replaced")
        self.intact.add((visit.model, agreed))

    def _refuse(self, visit: Visit, text: str) -> None:
        raise RunFailed(f"{self._title(visit)}: a repetition that makes no sense: {text[:200]}")

    def _keep(self, visit: Visit, line: RepetitionLine, said: _Run, readings: Sequence[Reading]) -> None:
        if not line.has(visit.lengths):
            self._refuse(visit, str(line))
        known = {
            **vars(self._context(visit)),
            **_fields(Measurement, line),
            **_fields(Loading, said.load),
            **_fields(Agreement, said.check),
            **vars(summarize(readings, line.e2e_s)),
        }
        known["weights_mib"] = known["weights_mib"] or self.models[visit.model].manifest.weights_bytes / 2**20
        self.log.append(RepetitionRecord(**known, ended_s=said.at_s))

    def _keep_recovered(self, visit: Visit) -> None:
        """Log what ended after the connection was lost, unless it is lost again. A sustained visit has ended then."""
        try:
            lines = self.driver.recover()
        except (DeviceLost, CommandTimeout) as failure:
            logger.info(failure.message)
            return
        for line in lines if visit.seconds is None else ():
            if isinstance(line, RepetitionLine) and line.has(visit.lengths) and self._missing(visit):
                self._keep(visit, line, _Run(), [])

    def _end(self, visit: Visit, readings: Sequence[Reading], error: str | None) -> None:
        self.log.append(VisitRecord(**vars(self._context(visit)), error=error, trace=tuple(readings)))

    def _context(self, visit: Visit) -> VisitContext:
        model, info = self.models[visit.model], self.driver.info
        return VisitContext(
            model=model.name,
            model_digest=model.digest,
            model_type=model.manifest.model_type,
            parameters=model.manifest.parameters,
            quantization=model.manifest.quantization,
            decode_read_bytes=model.decode_read_bytes(visit.lengths),
            build=dict(model.manifest.versions) if model.peer is None else {},
            serial=info.serial,
            device=info.name,
            soc=info.soc,
            android=info.android,
            device_fingerprint=info.fingerprint,
            cpu="; ".join(map(str, info.clusters)) or None,
            runner=LLAMA_CPP if model.peer else self.driver.runner_kind,
            bandwidth_gb_s=info.bandwidth_gb_s,
            fixed_performance=self.driver.fixed_performance,
            target=model.target_on(self.driver.target),
            prefill_tokens=visit.lengths.prefill_tokens,
            decode_tokens=visit.lengths.decode_tokens,
            batch_size=visit.lengths.batch_size,
            warmups=self.conditions.warmups,
            round=visit.round,
            session=self.log.session,
            sustained_s=visit.seconds,
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def _title(self, visit: Visit) -> str:
        return f"{self.driver.label}: {self.models[visit.model].name} {visit.lengths}"

    def _wait_until_cool(self) -> None:
        deadline = time.monotonic() + self.conditions.cool_timeout_s
        announced = False
        while not self.stop.is_set():
            reading = self.driver.read()
            if reading.temp_c is None or reading.temp_c <= self.conditions.cool_c:
                return
            if time.monotonic() > deadline:
                raise TooHot(
                    f"{self.driver.label} is at {reading.warmth} and does not cool to {self.conditions.cool_c:g} C",
                    fix="Let it cool and run the same command again, or raise --cool-below.",
                )
            if not announced:
                logger.info(f"{self.driver.label}: {reading.warmth}, waiting for {self.conditions.cool_c:g} C")
                announced = True
            self.stop.wait(min(5.0, self.conditions.sample_s))

    def _back(self, error: EdgeTransactError) -> bool:
        """Wait for a lost device; returns whether it is back."""
        logger.info(f"{error.message}; waiting for it to come back")
        return self.driver.wait(self.conditions.reconnect_s, self.stop)

    def _give_up(self, error: EdgeTransactError) -> bool:
        """Record why the device is given up; returns False."""
        if not self.stop.is_set():
            self.failures.append(f"{error.message}. {error.fix}".strip())
        return False


def _fields(of: type, line: object) -> dict[str, Any]:
    return {each.name: getattr(line, each.name) for each in fields(of)}
