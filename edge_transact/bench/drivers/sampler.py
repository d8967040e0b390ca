"""Samples a device's sensors while a visit runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_transact.bench.drivers.base import CommandTimeout, DeviceLost
from edge_transact.bench.records.readings import Reading


class Sampler:
    """Takes a reading every `interval_s` in a thread of its own while the body of the ``with`` statement runs.

    Sampling ends silently if the device goes away, because the run itself finds that out and reports it.
    """

    def __init__(self, read: Callable[[], Reading], interval_s: float = 2.0) -> None:
        self.readings: list[Reading] = []
        self._read = read
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(timeout=20)

    def latest(self) -> Reading | None:
        """The newest reading."""
        return self.readings[-1] if self.readings else None

    def _sample(self) -> None:
        while not self._stop.is_set():
            try:
                self.readings.append(self._read())
            except (DeviceLost, CommandTimeout):
                return
            self._stop.wait(self._interval_s)
