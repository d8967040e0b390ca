"""The clusters of a phone's cores: which cores are alike, and which are fast.

Linux says it of a core by ``cpu_capacity`` (0 to 1024), its highest clock, and the part number of its design. The first
of these that tells the cores apart counts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from edge_transact.benchmarking.drivers.base import Cluster

# Cores that are off are left out, and what isn't there is a dash. Shell built-ins read sysfs.
CPUS = r"""
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    on=1 capacity=- clock=-
    { read -r on < "$cpu/online"; } 2>/dev/null
    { read -r capacity < "$cpu/cpu_capacity"; } 2>/dev/null
    { read -r clock < "$cpu/cpufreq/cpuinfo_max_freq"; } 2>/dev/null
    [ "$on" = 0 ] || echo "core ${cpu##*/cpu} $capacity $clock"
done
grep Cpus_allowed_list: /proc/self/status
cat /proc/cpuinfo
"""

_NAMES = {1: ("cores",), 2: ("big", "little"), 3: ("prime", "big", "little"), 4: ("prime", "big", "middle", "little")}

_PART = r"^processor\s*:\s*(\d{1,4})$(?:(?!^processor).)*?^CPU part\s*:\s*0x([0-9a-f]+)$"
_SMALL, _LARGE = ("d03", "d04", "d05", "d46", "d80", "803", "805"), ("d44", "d48", "d4c", "d4e", "d82", "d85")
"""Arm's Cortex-A3x, A5xx and Qualcomm's Silver cores; Arm's Cortex-X."""


def parse_clusters(text: str) -> tuple[Cluster, ...]:
    """The clusters in the output of `CPUS`, the fastest first, of cores that are on and that adb's programs may use."""

    def found(pattern: str) -> list[Any]:
        return re.findall(pattern, text, re.MULTILINE | re.ASCII | re.DOTALL)

    cores = set(map(int, found(r"^core (\d{1,4}) ") or found(r"^processor\s*: (\d{1,4})$")))
    for allowed in found(r"^Cpus_allowed_list:\s*(\d[\d,-]*)$"):
        spans = re.findall(r"(\d{1,4})(?:-(\d{1,4}))?", allowed)
        cores &= {core for first, last in spans for core in range(int(first), int(last or first) + 1)}
    clocks = {int(core): int(clock) for core, clock in found(r"^core (\d{1,4}) \S+ ([1-9]\d{0,8})$")}
    sources: list[Mapping[int, float]] = [
        {int(core): int(capacity) for core, capacity in found(r"^core (\d{1,4}) ([1-9]\d{0,8}) ")},
        clocks,
        {int(core): 1 if part in _SMALL else 3 if part in _LARGE else 2 for core, part in found(_PART)},
    ]
    figures = next(
        (each for each in sources if cores <= set(each) and len({each[core] for core in cores}) > 1),
        dict.fromkeys(cores, 1),
    )
    alike: dict[float, list[int]] = defaultdict(list)
    for core in sorted(cores):
        alike[figures[core]].append(core)
    fastest = sorted(alike, reverse=True)
    names = _NAMES.get(len(fastest)) or [f"cluster {number}" for number in range(1, len(fastest) + 1)]
    return tuple(
        Cluster(
            name,
            tuple(alike[figure]),
            max((clocks[core] / 1000 for core in alike[figure] if core in clocks), default=None),
            figure / fastest[0],
        )
        for name, figure in zip(names, fastest, strict=True)
    )
