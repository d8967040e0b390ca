"""What differs on macOS, pretended: no ``/proc``, no affinity, libraries in Mach-O, sensors that are missing."""

import os
import resource
import struct
import sys

import psutil
import pytest

from edge_transact.benchmarking.drivers.host import HostDriver, host_info, read_sensors
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.compiler.archive import LIBRARY_SYMBOL, MACHO_64, check_library
from edge_transact.compiler.targets import get_target
from edge_transact.doctor import system as checks
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.runtime.threads import Threads
from edge_transact.system import cpu, memory, sysctl
from edge_transact.system.machine import machine_name


@pytest.fixture
def macos(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    for name in ("sensors_temperatures", "cpu_freq"):
        monkeypatch.delattr(psutil, name, raising=False)
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "none")
    return monkeypatch


def test_the_machine_is_described_without_proc(macos):
    assert cpu.missing(["neon", "avx2"]) == [] and not cpu.has_fast_bf16()
    assert cpu.cpu_name() and machine_name() and host_info().abis
    reading = read_sensors()
    assert reading.temp_c is None and reading.cpu_mhz is None
    assert all(check.ok for check in checks.python())


def test_what_an_apple_cpu_lacks(macos):
    """As an M1 tells: a library for an M4 is refused there, and not run to compare it."""
    told = {f"hw.optional.arm.FEAT_{name}": 1 for name in ("FP16", "FHM", "DotProd", "LSE")} | {"hw.optional.neon": 1}
    told |= {"hw.optional.arm.FEAT_BF16": 0, "hw.optional.arm.FEAT_I8MM": 0}
    macos.setattr(sysctl, "number", told.get)
    macos.setattr(sysctl, "text", {"machdep.cpu.brand_string": "Apple M1"}.get)
    assert cpu.missing(["neon", "dotprod", "bf16", "i8mm", "sme"]) == ["bf16", "i8mm"]
    assert cpu.present() == ["dotprod", "fp16fml", "fullfp16", "lse", "neon"]
    assert cpu.cpu_name() == "Apple M1"


def test_bench_starts_there_and_cannot_bind_itself_to_cores(macos):
    reading = HostDriver(BenchOptions()).read()
    assert reading.other_cpu_share is None or 0 <= reading.other_cpu_share <= 1
    with pytest.raises(UsageError, match="binds no process to cores"):
        HostDriver(BenchOptions(cores="0"))


def test_threads_and_the_targets_parts_are_the_cores(macos):
    count = Threads(None).count
    assert count >= 1
    assert int(get_target("host").tvm_target().attrs["num-cores"]) >= 1


def test_peak_memory_is_in_bytes_there(macos):
    """``ru_maxrss`` is in KiB on Linux."""

    class Nowhere:
        def __init__(self, _path):
            pass

        def exists(self):
            return False

    macos.setattr(memory, "Path", Nowhere)
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert memory.peak_rss_mib() == pytest.approx(here / 2**20, rel=0.1)


@pytest.mark.parametrize("symbol", [LIBRARY_SYMBOL, "another"])
def test_a_host_library_is_mach_o(macos, tmp_path, symbol):
    path = tmp_path / "model-host.so"
    path.write_bytes(struct.pack("<I", MACHO_64) + bytes(28) + b"\0_" + symbol.encode() + b"\0")
    if symbol == LIBRARY_SYMBOL:
        check_library(path, get_target("host"), "model")
    else:
        with pytest.raises(EdgeTransactError, match="has no symbol"):
            check_library(path, get_target("host"), "model")


def test_an_elf_library_from_linux_is_refused(macos, tmp_path):
    path = tmp_path / "model-host.so"
    path.write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(EdgeTransactError, match="is not a 64-bit Mach-O object"):
        check_library(path, get_target("host"), "model")
