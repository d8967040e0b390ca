"""Sensor readings of a device, and what they say about a span of time. What a device doesn't report is None."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

MOST_MILLIAMPERES = 20_000
"""Of a phone at work. So many microamperes are less than one draws that does nothing."""


@dataclass(frozen=True)
class Reading:
    """The sensors of a device at one moment.

    Attributes:
        at_s: Time of the reading on this computer's monotonic clock; the device's own clock is not used.
        temp_c: The temperature that throttling depends on: the skin's, or the battery's if there is no skin sensor.
        temp_source: Which of both it is: ``skin`` or ``battery``.
        cpu_c, gpu_c: Temperatures of the hottest sensors.
        thermal_status: Android's ``ThermalStatus``, 0 (none) to 6 (shutdown).
        cpu_mhz: Clock of the fastest core.
        charge_uah: Battery charge counter, in microampere-hours.
        current_now: The battery's current as the phone says it: in microamperes as Android has it, or in milliamperes,
            and with either sign.
        other_cpu_share: Share of all CPU cores that other processes took since the reading before; hosts only.
    """

    at_s: float
    temp_c: float | None = None
    temp_source: str | None = None
    cpu_c: float | None = None
    gpu_c: float | None = None
    thermal_status: int | None = None
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    battery_percent: int | None = None
    battery_v: float | None = None
    charge_uah: int | None = None
    current_now: int | None = None
    on_battery: bool | None = None
    screen_on: bool | None = None
    other_cpu_share: float | None = None

    @property
    def warmth(self) -> str:
        """`temp_c` for people."""
        return f"{self.temp_c:.1f} C{' of the battery' if self.temp_source == 'battery' else ''}"

    @property
    def watts(self) -> float | None:
        if not (self.current_now and self.battery_v and self.on_battery):
            return None
        current = abs(self.current_now)
        return self.battery_v * current / (1e3 if current <= MOST_MILLIAMPERES else 1e6)


@dataclass(frozen=True, kw_only=True)
class ReadingSummary:
    """The sensors over one repetition: clocks and the others' share are means; of the battery and the screen, the last.

    `temp_source` is as in `Reading`.
    """

    temp_start_c: float | None = None
    temp_end_c: float | None = None
    temp_peak_c: float | None = None
    temp_source: str | None = None
    thermal_status: int | None = None
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    battery_percent: int | None = None
    on_battery: bool | None = None
    screen_on: bool | None = None
    energy_j: float | None = None
    other_cpu_share: float | None = None


def known(readings: Sequence[Reading], name: str) -> list[Any]:
    """What the readings say of something, without those that don't."""
    return [value for reading in readings if (value := getattr(reading, name)) is not None]


def summarize(readings: Sequence[Reading], seconds: float) -> ReadingSummary:
    def mean(name: str) -> float | None:
        values = known(readings, name)
        return fmean(values) if values else None

    def last(name: str) -> Any:
        return (known(readings, name) or [None])[-1]

    temperatures = known(readings, "temp_c") or [None]
    return ReadingSummary(
        temp_start_c=temperatures[0],
        temp_end_c=temperatures[-1],
        temp_peak_c=max(temperatures),
        temp_source=last("temp_source"),
        thermal_status=max(known(readings, "thermal_status"), default=None),
        cpu_mhz=mean("cpu_mhz"),
        gpu_mhz=mean("gpu_mhz"),
        battery_percent=last("battery_percent"),
        on_battery=last("on_battery"),
        screen_on=last("screen_on"),
        energy_j=energy_j(readings, seconds),
        other_cpu_share=mean("other_cpu_share"),
    )


def hottest_of(sensors: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The highest temperature in C that can be, by the kind of sensor that a name tells."""
    hottest: dict[str, float] = {}
    for name, temp_c in sensors:
        kind = next((kind for kind in ("skin", "battery", "cpu", "gpu") if kind in name.lower()), None)
        if kind is not None and -30 < temp_c < 150:
            hottest[kind] = max(temp_c, hottest.get(kind, temp_c))
    return hottest


def energy_j(readings: Sequence[Reading], seconds: float) -> float | None:
    """Joules of `seconds` by the charge counter; None if it did not change, or not from the battery alone."""
    known = [
        (reading.at_s, reading.charge_uah, reading.battery_v)
        for reading in readings
        if reading.charge_uah is not None and reading.battery_v is not None
    ]
    if len(known) < 2 or not all(reading.on_battery for reading in readings):
        return None
    (first_s, first_uah, _), (last_s, last_uah, _) = known[0], known[-1]
    coulombs = (first_uah - last_uah) * 3600e-6
    if coulombs <= 0 or last_s <= first_s:
        return None
    watts = coulombs * fmean(volts for _, _, volts in known) / (last_s - first_s)
    return watts * seconds


def between(readings: Sequence[Reading], start_s: float, end_s: float) -> list[Reading]:
    """The readings in a span of time, and the last one before it, so that a short span has at least one."""
    before = [reading for reading in readings if reading.at_s < start_s][-1:]
    return before + [reading for reading in readings if start_s <= reading.at_s <= end_s]
