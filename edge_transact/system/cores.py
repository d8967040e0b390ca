"""The cores that this process may compute on, as the system tells them.

Kernels wait for their slowest thread: threads that share a core, run on a slower one, or exceed a container's quota.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from edge_transact.system import sysctl

BIG_CAPACITY, BIG_CLOCK = 0.5, 0.7
"""Shares of the fastest core's capacity, or of its highest clock, from which on a core is a big one.

The little cores of ARM's CPUs have 0.2 to 0.45 of the capacity, and clocks of 0.6 to 0.65; the middle ones at least 0.6
and 0.8. Favoured cores of desktop CPUs have a few per cent more than the others.
"""


@dataclass(frozen=True)
class Cores:
    """The cores that this process may run on.

    Attributes:
        cpus: How many of the system's CPUs it may use: hyperthreads count.
        big: A CPU of each core that isn't a little one; empty where the system numbers no CPUs.
        fast: How many of the cores aren't little ones.
        quota: The CPUs' worth of time that a container has; `None` without a limit.
    """

    cpus: int
    physical: int
    big: tuple[int, ...]
    fast: int
    quota: float | None = None

    @property
    def threads(self) -> int:
        """How many threads compute fastest: one for each big core, as far as the quota keeps them running."""
        return max(1, self.fast if self.quota is None else min(self.fast, int(self.quota)))

    @property
    def has_little(self) -> bool:
        return self.fast < self.physical

    def __str__(self) -> str:
        words = [f"{self.physical} core{'s' * (self.physical != 1)}"]
        if self.cpus != self.physical:
            words.append(f"{self.cpus} hyperthreads")
        if self.has_little:
            words.append(f"{self.physical - self.fast} of them little")
        if self.quota is not None:
            words.append(f"a quota of {self.quota:g} CPUs")
        return ", ".join(words)


def cores(root: Path = Path("/")) -> Cores:
    """The cores of this process. Where the system doesn't tell which CPUs share one, each counts as a big core."""
    allowed = sorted(allowed_cpus())
    if sys.platform == "darwin":
        return _on_macos(len(allowed))
    directory = root / "sys/devices/system/cpu"
    # A core's first CPU that this process may use stands for the core.
    first = {_siblings(directory, cpu): cpu for cpu in reversed(allowed)}
    physical = sorted(first.values())
    # Where a process may use little cores alone, the fastest kind of them counts as big.
    kinds = (tuple(cpu for cpu in physical if cpu not in slow) for slow in _slow(directory, physical, root))
    big = next(filter(None, kinds), tuple(physical))
    # The CPUs' worth of time that this process's control groups leave it, version 1 or 2.
    quotas = [quota for path in _cpu_groups(root) if (quota := _group_quota(path)) is not None]
    return Cores(len(allowed), len(physical), big, len(big), min(quotas, default=None))


def allowed_cpus() -> Set[int]:
    """The CPUs that this process may run on; all of them where the system has no such limit."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _on_macos(cpus: int) -> Cores:
    """Apple's CPUs call their big cores performance level 0."""
    physical = sysctl.number("hw.physicalcpu") or cpus
    return Cores(cpus, physical, (), min(physical, sysctl.number("hw.perflevel0.physicalcpu") or physical))


def _siblings(directory: Path, cpu: int) -> frozenset[int]:
    topology = directory / f"cpu{cpu}" / "topology"
    text = _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list")
    return frozenset(_listed(text)) | {cpu}


def _slow(directory: Path, cpus: Sequence[int], root: Path) -> Iterator[Set[int]]:
    """Those of `cpus` that aren't big cores; then, where there are several kinds of little ones, the slowest."""
    # Intel's hybrid CPUs have a directory of events for each kind of core. Those of low power are slowest.
    atoms, low_power = (set(_listed(_read(root / f"sys/devices/{kind}/cpus"))) for kind in ("cpu_atom", "cpu_lowpower"))
    if atoms or low_power:
        yield atoms | low_power
        yield low_power
        return
    for name, share in (("cpu_capacity", BIG_CAPACITY), ("cpufreq/cpuinfo_max_freq", BIG_CLOCK)):
        speeds = {cpu: _number(directory / f"cpu{cpu}" / name) for cpu in cpus}
        known = {cpu: speed for cpu, speed in speeds.items() if speed is not None}
        if len(known) == len(cpus) and len(set(known.values())) > 1:
            yield {cpu for cpu, speed in known.items() if speed < share * max(known.values())}
            return


def _cpu_groups(root: Path) -> Iterator[Path]:
    """The control groups that this process is in, up to the mount point, which is a container's own group."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0":
            tops = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [mounts / controllers, mounts / "cpu"]
        else:
            continue
        for top in tops:
            group = top / path.strip("/")
            yield from (each for each in (group, *group.parents) if each == top or top in each.parents)


def _group_quota(group: Path) -> float | None:
    words = _read(group / "cpu.max").split()  # version 2: "QUOTA PERIOD", or "max PERIOD"
    if not words:
        # Version 1, where -1 is no limit.
        words = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        return int(words[0]) / int(words[1])
    return None


def _listed(text: str) -> Iterator[int]:
    """The numbers of ``0-3,8``."""
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        yield from range(int(first), int(last or first) + 1)


def _number(path: Path) -> float | None:
    text = _read(path).strip()
    return float(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
