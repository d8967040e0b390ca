"""What tests of bench runs share: short conditions, DISTs under difficult names, and a device of known noise."""

import math
import random
import shutil
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from edge_transact.benchmarking.drivers.base import RunFailed
from edge_transact.benchmarking.drivers.host import host_info
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.lines import Line, LoadLine, RepetitionLine
from edge_transact.benchmarking.records.plan import Lengths, Visit
from edge_transact.benchmarking.records.readings import Reading
from tests.support.dists import edit_json
from tests.support.patience import HANG_S

QUICK = BenchOptions(
    lengths=(Lengths(8, 4),),
    repetitions=2,
    warmups=0,
    timeout_s=HANG_S,
    cool_timeout_s=HANG_S,
    reconnect_s=HANG_S,
    sample_s=1,
)


def copy_dist(dist: Path, to: Path) -> None:
    """Copy a DIST so that it counts as another build: the manifest differs, and so does its digest."""
    shutil.copytree(dist, to)
    edit_json(to / "manifest.json", copy=to.name)


class NoisyDevice:
    """A device without a clock: a repetition takes as long as its model's name says, times noise, times a drift.

    Args:
        seconds: Seconds of a repetition, by name of the model. None crashes.
        noise: Standard deviation of the logarithm of a repetition's noise.
        drift: How much the logarithm of all durations grows from one visit to the next.
        seed: Of the noise.
    """

    target = label = "host"
    runner_kind: str | None = None
    fixed_performance: bool | None = None

    def __init__(self, seconds: Mapping[str, float | None], noise: float = 0.0, drift: float = 0.0, seed: int = 0):
        self.info = host_info()
        self.visited: list[tuple[str, int]] = []
        self._seconds, self._noise, self._drift = seconds, noise, drift
        self._dice = random.Random(seed)

    def prepare(self, models: Sequence[BenchModel], stop: threading.Event) -> bool:
        return False

    def lines(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[Line, None, None]:
        self.visited.append((model.name, visit.round))
        seconds = self._seconds[model.name]
        if seconds is None:
            raise RunFailed(f"{model.name} crashes")
        yield LoadLine(run="", load_s=1.0)
        steps = visit.lengths.decode_tokens - 1
        for index in range(visit.repetitions):
            took = seconds * math.exp(self._drift * len(self.visited) + self._dice.gauss(0, self._noise))
            yield RepetitionLine(
                run="", index=index, ttft_s=took / 4, prefill_s=took / 4, decode_s=took * 3 / 4,
                decode_steps_s=(took * 3 / 4 / max(1, steps),) * steps, e2e_s=took, tokens=None,
                prefill_tokens=visit.lengths.prefill_tokens, decode_tokens=visit.lengths.decode_tokens,
            )  # fmt: skip

    def recover(self) -> list[Line]:
        return []

    def read(self) -> Reading:
        return Reading(at_s=0.0)

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        return True

    def close(self) -> None:
        pass
