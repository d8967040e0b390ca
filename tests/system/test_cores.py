"""The cores that a machine's ``/sys`` and ``/proc`` tell of, and how many threads follow from them."""

import ctypes
import os
import sys

import pytest

from edge_transact.system import sysctl
from edge_transact.system.cores import allowed_cpus, cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes a machine's files, by path without the root, and says which CPUs the process may use."""

    def pretend(cpus, files, allowed=None):
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(allowed or range(cpus)), raising=False)
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return cores(tmp_path)

    return pretend


def each(cpus, name, text):
    return {f"sys/devices/system/cpu/cpu{cpu}/{name}": text(cpu) for cpu in range(cpus)}


SMT = each(8, "topology/core_cpus_list", lambda cpu: f"{cpu % 4},{cpu % 4 + 4}")
NEIGHBOURS = each(4, "topology/thread_siblings_list", lambda cpu: f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}")
CAPACITY = each(8, "cpu_capacity", lambda cpu: [250, 870, 1024][(cpu > 3) + (cpu == 7)])
CLOCKS = each(8, "cpufreq/cpuinfo_max_freq", lambda cpu: 1_800_000 if cpu < 4 else 2_800_000)
FAVOURED = each(4, "cpufreq/cpuinfo_max_freq", lambda cpu: 5_400_000 if cpu else 5_700_000)
LOW_POWER = {
    f"sys/devices/cpu_{kind}/cpus": cpus for kind, cpus in (("core", "0-1"), ("atom", "2-5"), ("lowpower", "6-7"))
}
HYBRID = SMT | {"sys/devices/cpu_core/cpus": "0-1,4-5", "sys/devices/cpu_atom/cpus": "2-3,6-7"}


@pytest.mark.parametrize(
    ("cpus", "files", "allowed", "big", "words"),
    [
        (2, {}, None, (0, 1), "2 cores"),
        (1, {}, None, (0,), "1 core"),
        (8, SMT, None, (0, 1, 2, 3), "4 cores, 8 hyperthreads"),
        (8, SMT, {1, 5, 6}, (1, 6), "2 cores, 3 hyperthreads"),
        (4, NEIGHBOURS, None, (0, 2), "2 cores, 4 hyperthreads"),
        (8, CAPACITY, None, (4, 5, 6, 7), "8 cores, 4 of them little"),
        (8, CAPACITY, {0, 1, 2}, (0, 1, 2), "3 cores"),
        (8, CLOCKS, None, (4, 5, 6, 7), "8 cores, 4 of them little"),
        (4, FAVOURED, None, (0, 1, 2, 3), "4 cores"),
        (8, HYBRID, None, (0, 1), "4 cores, 8 hyperthreads, 2 of them little"),
        (8, HYBRID, {2, 3}, (2, 3), "2 cores"),
        (8, LOW_POWER, None, (0, 1), "8 cores, 6 of them little"),
        (8, LOW_POWER, {4, 5, 6, 7}, (4, 5), "4 cores, 2 of them little"),
        (8, LOW_POWER, {6, 7}, (6, 7), "2 cores"),
    ],
)
def test_one_thread_for_each_big_core(machine, cpus, files, allowed, big, words):
    found = machine(cpus, files, allowed)
    assert (found.big, found.threads, str(found)) == (big, len(big), words)


@pytest.mark.parametrize(
    ("files", "threads", "quota"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 8, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2, 2.5),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1, 0.5),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "400000 100000",
          "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 4, 4),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/docker/1", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000",
          "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"}, 3, 3),
        ({"proc/self/cgroup": "1:cpu:/\n0::/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 8, None),
    ],
)  # fmt: skip
def test_a_containers_quota_limits_the_threads(machine, files, threads, quota):
    found = machine(8, files)
    assert (found.threads, found.quota) == (threads, quota)
    assert quota is None or f"a quota of {quota:g} CPUs" in str(found)


@pytest.mark.parametrize(("levels", "threads"), [({}, 10), ({"hw.physicalcpu": 8, "hw.perflevel0.physicalcpu": 6}, 6)])
def test_macos_has_no_affinity_and_no_files(monkeypatch, tmp_path, levels, threads):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    monkeypatch.setattr(sys, "platform", "darwin")

    class Library:
        @staticmethod
        def sysctlbyname(name, value, size, _new, _length):
            assert size._obj.value == ctypes.sizeof(ctypes.c_int64)
            value._obj.value = levels.get(name.decode(), 0)
            return 0 if name.decode() in levels else -1

    monkeypatch.setattr(sysctl.ctypes, "CDLL", lambda _name: Library)
    assert allowed_cpus() == set(range(10))
    assert cores(tmp_path).threads == threads
