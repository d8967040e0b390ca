"""Executes a plan: a thread a device, retries where one can help, every finished repetition in the log at once."""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Protocol

from edge_transact.bench.drivers.adb import CommandTimeout, DeviceLost, DeviceRefused
from edge_transact.bench.drivers.devices import DeviceInfo
from edge_transact.bench.drivers.sensors import Reading, Sampler, between
from edge_transact.bench.model import BenchModel
from edge_transact.bench.records.lines import number, parse_repetition, positive
from edge_transact.bench.records.log import Key, Log
from edge_transact.bench.records.plan import Lengths, Visit, make_visits
from edge_transact.errors import EdgeTransactError

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a visit is tried before the plan goes on without it."""


class RunFailed(EdgeTransactError):
    """A run ended without its final line: it crashed, was killed, or said why it could not go on."""


class TooHot(EdgeTransactError):
    """The device did not cool down in the time that it was given."""


@dataclass(frozen=True)
class Conditions:
    """Under which conditions a plan is run.

    Attributes:
        lengths, repetitions: What to measure.
        warmups: Full repetitions at the start of each visit that don't count.
        threads, cores: Of the device's CPU; 0 and empty leave the choice to the runtime.
        timeout_s: The longest that one visit may take.
        cool_c: A visit starts at this temperature or below.
        ceiling_c: Above it a visit is interrupted until the device has cooled.
        cool_timeout_s: The longest wait for that.
        reconnect_s: The longest wait for a lost device.
        sample_s: Seconds between sensor readings.
    """

    lengths: tuple[Lengths, ...]
    repetitions: int = 5
    warmups: int = 1
    threads: int = 0
    cores: str = ""
    timeout_s: float = 1800
    cool_c: float = 37
    ceiling_c: float = 46
    cool_timeout_s: float = 900
    reconnect_s: float = 120
    sample_s: float = 2


class Bench(Protocol):
    """A device that can execute visits."""

    info: DeviceInfo
    target: str
    label: str
    fixed_performance: bool | None

    def prepare(self, models: Sequence[BenchModel], stop: threading.Event) -> bool:
        """Bring models and whatever runs them onto the device, or repair what was damaged; whether anything was."""

    def lines(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[dict[str, Any], None, None]:
        """Run a visit; its lines as they come. Closing the iterator ends the run on the device."""

    def recover(self) -> list[dict[str, Any]]:
        """Lines that a run wrote after the connection to it was lost."""

    def read(self) -> Reading:
        """The sensors."""

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        """Wait until a lost device is back; whether it is."""

    def close(self) -> None:
        """Leave nothing running and no settings changed."""


@dataclass
class Outcome:
    """What went wrong on the way: one sentence a visit or device that could not be finished."""

    failures: list[str] = field(default_factory=list)


def run_plan(benches: Sequence[Bench], models: Sequence[BenchModel], conditions: Conditions, log: Log) -> Outcome:
    """Run the plan on all devices at once; returns when every device is done or has given up.

    Raises:
        KeyboardInterrupt: After every device has been left clean.
        EdgeTransactError: The log cannot be written.
    """
    outcome = Outcome()
    stop = threading.Event()

    def work(bench: Bench) -> None:
        try:
            _Worker(bench, models, conditions, log, stop, outcome).run()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(len(benches)) as pool:
        futures = [pool.submit(work, bench) for bench in benches]
        try:
            # Not Thread.join(): interrupted, it takes the thread for ended before Python 3.13.
            while wait(futures, timeout=0.2).not_done:
                pass
        except KeyboardInterrupt:
            stop.set()
            wait(futures, timeout=60)
            raise
    for future in futures:
        future.result()
    return outcome


class _Worker:
    """The plan on one device."""

    def __init__(self, bench: Bench, models: Sequence[BenchModel], conditions: Conditions, log: Log,
                 stop: threading.Event, outcome: Outcome) -> None:  # fmt: skip
        self.bench = bench
        self.models = models
        self.conditions = conditions
        self.log = log
        self.stop = stop
        self.outcome = outcome

    def run(self) -> None:
        try:
            visits = [visit for visit in self._visits() if self._missing(visit)]
            if not visits:
                return
            if not self._prepared():
                return
            for visit in visits:
                if self.stop.is_set() or not self._finish(visit):
                    return
        finally:
            try:
                self.bench.close()
            except (DeviceLost, CommandTimeout) as error:
                self.outcome.failures.append(f"{self.bench.label}: could not be cleaned up: {error.message}")

    def _visits(self) -> list[Visit]:
        return make_visits(len(self.models), self.conditions.lengths, self.conditions.repetitions)

    def _key(self, visit: Visit) -> Key:
        model = self.models[visit.model]
        return self.bench.info.serial, model.digest, self.bench.target, str(visit.lengths), visit.round

    def _missing(self, visit: Visit) -> int:
        return max(0, visit.repetitions - self.log.done(self._key(visit)))

    def _prepared(self) -> bool:
        for attempt in range(ATTEMPTS):
            try:
                self.bench.prepare(self.models, self.stop)
                return True
            except (DeviceLost, CommandTimeout) as error:
                if attempt + 1 == ATTEMPTS or not self._back(error):
                    return self._give_up(error)
            except EdgeTransactError as error:
                return self._give_up(error)
        return False

    def _finish(self, visit: Visit) -> bool:
        """Try a visit until it is whole; whether the plan can go on on this device."""
        error: EdgeTransactError | None = None
        for _attempt in range(ATTEMPTS):
            if self.stop.is_set():
                return False
            try:
                while self._missing(visit) and not self.stop.is_set():
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
                if not self._prepared():
                    return False
            except (RunFailed, CommandTimeout, DeviceRefused) as failure:
                error = failure
                logger.info(failure.message)
                # A file may have been damaged on the device: checksums find it, and a push mends it.
                if not self._prepared():
                    return False
        assert error is not None
        self._end(visit, [], error.message)
        self.outcome.failures.append(f"{self._title(visit)}: given up after {ATTEMPTS} attempts: {error.message}")
        return True

    def _run(self, visit: Visit) -> None:
        """One process on the device: its repetitions go to the log as they come."""
        model = self.models[visit.model]
        missing = self._missing(visit)
        run = Visit(visit.model, visit.lengths, visit.round, missing)
        facts: dict[str, Any] = {}
        readings: list[Reading] = []
        error = None
        logger.info(f"{self._title(visit)}: {missing} repetitions")
        try:
            with Sampler(self.bench.read, self.conditions.sample_s) as sampler:
                readings = sampler.readings
                lines = self.bench.lines(model, run, self.stop)
                try:
                    since = time.monotonic()
                    for line in lines:
                        # Before the time is taken: what pauses the visit is in the repetition's own readings.
                        latest, now = sampler.latest(), time.monotonic()
                        if line["kind"] in ("load", "check"):
                            facts |= line
                        if line["kind"] == "check" and line.get("tokens_agreed") != line.get("tokens_checked"):
                            self._blame_files(visit)
                        if line["kind"] == "repetition":
                            self._keep(visit, line, facts, between(readings, since, now))
                        since = now
                        if latest and latest.temp_c is not None and latest.temp_c > self.conditions.ceiling_c:
                            logger.info(f"{self.bench.label}: {latest.temp_c:.1f} C, above the ceiling: pausing")
                            break
                finally:
                    lines.close()
        except EdgeTransactError as failure:
            error = failure.message
            raise
        finally:
            self._end(visit, readings, error)

    def _blame_files(self, visit: Visit) -> None:
        """Tokens other than the build's: either the device rounds otherwise, or its files are damaged."""
        if self.bench.prepare(self.models, self.stop):
            raise RunFailed(f"{self._title(visit)}: files on the device were damaged, and have been replaced")

    def _keep(self, visit: Visit, line: dict[str, Any], facts: dict[str, Any], readings: Sequence[Reading]) -> None:
        repetition = parse_repetition(line, visit.lengths)
        if repetition is None:
            raise RunFailed(f"{self._title(visit)}: a repetition that makes no sense: {str(line)[:200]}")
        self.log.append(
            {
                "kind": "repetition",
                **self._context(visit),
                **asdict(repetition),
                "load_s": number(facts.get("load_s")),
                "kernel_build_s": number(facts.get("kernel_build_s")),
                "kernels_restored": bool(facts.get("kernels_restored")),
                "threads": facts.get("threads"),
                "kv_mib": positive(facts.get("kv_mib")),
                "weights_mib": positive(facts.get("weights_mib")) or model_mib(self.models[visit.model]),
                "tokens_checked": facts.get("tokens_checked"),
                "tokens_agreed": facts.get("tokens_agreed"),
                **summarize(readings),
                "energy_j": energy_j(readings, repetition.e2e_s),
            }
        )

    def _keep_recovered(self, visit: Visit) -> None:
        for line in self.bench.recover():
            if line["kind"] == "repetition" and self._missing(visit):
                self._keep(visit, line, {}, [])

    def _end(self, visit: Visit, readings: Sequence[Reading], error: str | None) -> None:
        trace = [{name: value for name, value in asdict(reading).items() if value is not None} for reading in readings]
        self.log.append({"kind": "visit", **self._context(visit), "error": error, "trace": trace})

    def _context(self, visit: Visit) -> dict[str, Any]:
        model, info = self.models[visit.model], self.bench.info
        return {
            "model": model.name,
            "model_digest": model.digest,
            "model_type": model.model_type,
            "parameters": model.parameters,
            "quantization": model.quantization,
            "decode_read_bytes": model.decode_read_bytes(visit.lengths),
            "build": model.build,
            "serial": info.serial,
            "device": self.bench.label,
            "soc": info.soc,
            "android": info.android,
            "device_fingerprint": info.fingerprint,
            "bandwidth_gb_s": info.bandwidth_gb_s,
            "fixed_performance": self.bench.fixed_performance,
            "target": self.bench.target,
            "prefill_tokens": visit.lengths.prefill_tokens,
            "decode_tokens": visit.lengths.decode_tokens,
            "warmups": self.conditions.warmups,
            "round": visit.round,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _title(self, visit: Visit) -> str:
        return f"{self.bench.label}: {self.models[visit.model].name} {visit.lengths}"

    def _wait_until_cool(self) -> None:
        deadline = time.monotonic() + self.conditions.cool_timeout_s
        said = False
        while not self.stop.is_set():
            temperature = self.bench.read().temp_c
            if temperature is None or temperature <= self.conditions.cool_c:
                return
            if time.monotonic() > deadline:
                raise TooHot(
                    f"{self.bench.label} is at {temperature:.1f} C and does not cool to {self.conditions.cool_c:g} C",
                    fix="Let it cool and use --resume, or raise --cool-below.",
                )
            if not said:
                logger.info(f"{self.bench.label}: {temperature:.1f} C, waiting for {self.conditions.cool_c:g} C")
                said = True
            self.stop.wait(min(5.0, self.conditions.sample_s))

    def _back(self, error: EdgeTransactError) -> bool:
        logger.info(f"{error.message}; waiting for it to come back")
        return self.bench.wait(self.conditions.reconnect_s, self.stop)

    def _give_up(self, error: EdgeTransactError) -> bool:
        if not self.stop.is_set():
            self.outcome.failures.append(f"{error.message}. {error.fix}".strip())
        return False


def model_mib(model: BenchModel) -> float:
    """The weights as they lie on disk."""
    return model.weights_bytes / 2**20


def summarize(readings: Sequence[Reading]) -> dict[str, Any]:
    """Temperature, clocks and throttling over a span of readings."""
    heat = [reading.temp_c for reading in readings if reading.temp_c is not None]
    status = [reading.thermal_status for reading in readings if reading.thermal_status is not None]
    cpu = [reading.cpu_mhz for reading in readings if reading.cpu_mhz is not None]
    gpu = [reading.gpu_mhz for reading in readings if reading.gpu_mhz is not None]
    battery = [reading.battery_percent for reading in readings if reading.battery_percent is not None]
    return {
        "temp_start_c": heat[0] if heat else None,
        "temp_end_c": heat[-1] if heat else None,
        "temp_peak_c": max(heat) if heat else None,
        "thermal_status": max(status) if status else None,
        "cpu_mhz": fmean(cpu) if cpu else None,
        "gpu_mhz": fmean(gpu) if gpu else None,
        "battery_percent": battery[-1] if battery else None,
    }


def energy_j(readings: Sequence[Reading], seconds: float) -> float | None:
    """Energy of a repetition while the phone ran from its battery alone: the charge counter's rate times the voltage.

    The counter of Android's battery service is in uAh and coarse: without a change in the span there is no figure.
    """
    known = [reading for reading in readings if reading.charge_uah is not None and reading.battery_v is not None]
    if len(known) < 2 or not all(reading.on_battery for reading in readings):
        return None
    first, last = known[0], known[-1]
    coulombs = (first.charge_uah - last.charge_uah) * 3600e-6  # type: ignore[operator]
    if coulombs <= 0 or last.at_s <= first.at_s:
        return None
    watts = coulombs * fmean(reading.battery_v or 0 for reading in known) / (last.at_s - first.at_s)
    return watts * seconds
