"""The features of this machine's CPU, by LLVM's names: what libraries are compiled for, and what they must not need."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from edge_transact.system import sysctl

CPUINFO = Path("/proc/cpuinfo")
"""Read by hand, because psutil tells neither a CPU's features nor its name."""

FLAGS = {
    # x86-64
    "sse4.2": "sse4_2", "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c", "bmi": "bmi1", "bmi2": "bmi2",
    "lzcnt": "abm", "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512cd": "avx512cd", "avx512dq": "avx512dq",
    "avx512vl": "avx512vl", "avx512bf16": "avx512_bf16", "avx512bitalg": "avx512_bitalg", "avx512fp16": "avx512_fp16",
    "avx512ifma": "avx512ifma", "avx512vbmi": "avx512vbmi", "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni", "avx512vpopcntdq": "avx512_vpopcntdq", "avxvnni": "avx_vnni", "gfni": "gfni",
    "vaes": "vaes", "vpclmulqdq": "vpclmulqdq", "amx-tile": "amx_tile", "amx-bf16": "amx_bf16",
    "amx-int8": "amx_int8",
    # aarch64
    "neon": "asimd", "fullfp16": "asimdhp", "fp16fml": "asimdfhm", "dotprod": "asimddp", "bf16": "bf16",
    "i8mm": "i8mm", "lse": "atomics", "sve": "sve", "sve2": "sve2",
}  # fmt: skip
"""The instruction sets that compiled kernels may use: LLVM's name to that of ``/proc/cpuinfo``."""

MACOS = {
    "neon": "hw.optional.neon", "fullfp16": "hw.optional.arm.FEAT_FP16", "fp16fml": "hw.optional.arm.FEAT_FHM",
    "dotprod": "hw.optional.arm.FEAT_DotProd", "bf16": "hw.optional.arm.FEAT_BF16",
    "i8mm": "hw.optional.arm.FEAT_I8MM", "lse": "hw.optional.arm.FEAT_LSE", "avx2": "hw.optional.avx2_0",
    "fma": "hw.optional.fma", "f16c": "hw.optional.f16c", "avx512f": "hw.optional.avx512f",
    "avx512bw": "hw.optional.avx512bw", "avx512dq": "hw.optional.avx512dq", "avx512vl": "hw.optional.avx512vl",
    "avx512vnni": "hw.optional.avx512vnni",
}  # fmt: skip
"""LLVM's name to that of macOS's ``sysctl``, whose value is 1 where the CPU has it; of a name that a Mac doesn't know,
nothing is told. Source: Apple's "Determining Instruction Set Characteristics", for Arm."""

I8MM_AT_RUN_TIME = "i8mm-at-run-time"
"""The key of a TVM target whose kernels use i8mm only where the CPU says that it has it: the target's features allow
it, and its libraries don't need it."""


def missing(features: Iterable[str]) -> list[str]:
    """The LLVM features among `features` that this machine's CPU lacks, as far as the system tells."""
    told = _told()
    return sorted(name for name in features if told.get(name) is False)


def present() -> list[str]:
    """The LLVM features that this machine's CPU has, as far as the system tells."""
    return sorted(name for name, has in _told().items() if has)


def _told() -> dict[str, bool]:
    """Which features this machine's CPU has, by LLVM's names; empty where the system doesn't tell.

    Source: ``flags`` (x86-64) or ``Features`` (aarch64) in ``/proc/cpuinfo``; on macOS, ``sysctl``.
    """
    if sys.platform == "darwin":
        values = {name: sysctl.number(key) for name, key in MACOS.items()}
        return {name: value == 1 for name, value in values.items() if value is not None}
    flags = _cpu_info("flags", "Features")
    return {name: flag in flags for name, flag in FLAGS.items()} if flags else {}


def has_fast_bf16() -> bool:
    """Whether this machine's CPU multiplies bf16 faster than fp32; `False` where Linux doesn't tell.

    CPUs with AMX do, and so do AMD's with AVX-512 (twice as fast on Zen 4) and ARM's. Intel's AVX-512 without AMX
    takes twice as long for bf16 as for fp32 (Emerald Rapids).
    """
    flags = _cpu_info("flags", "Features")
    amd = "AuthenticAMD" in _cpu_info("vendor_id")
    return "amx_bf16" in flags or "bf16" in flags or (amd and "avx512_bf16" in flags)


def cpu_name() -> str:
    """The model name of this machine's CPU, or its architecture where the system doesn't tell."""
    if sys.platform == "darwin":
        return sysctl.text("machdep.cpu.brand_string") or platform.machine()
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def _cpu_info(*keys: str) -> frozenset[str]:
    """The words after one of `keys` in `CPUINFO` that all CPUs have: cores of several kinds may differ in features."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":") for line in lines)
    cpus = [frozenset(value.split()) for key, _, value in found if key.strip() in keys]
    return frozenset.intersection(*cpus) if cpus else frozenset()
