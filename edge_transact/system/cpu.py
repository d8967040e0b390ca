"""The features of this machine's CPU, by LLVM's names: no library runs into an instruction that the CPU lacks."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Read by hand, because psutil tells neither a CPU's features nor its name."""

FLAGS = {
    # x86-64
    "sse4.2": "sse4_2",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg",
    "avx512fp16": "avx512_fp16",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avxvnni": "avx_vnni",
    "gfni": "gfni",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
    "amx-tile": "amx_tile",
    "amx-bf16": "amx_bf16",
    "amx-int8": "amx_int8",
    # aarch64
    "neon": "asimd",
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "dotprod": "asimddp",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "lse": "atomics",
    "sve": "sve",
    "sve2": "sve2",
}
"""The instruction sets that compiled kernels may use: LLVM's name to that of ``/proc/cpuinfo``."""


I8MM_AT_RUN_TIME = "i8mm-at-run-time"
"""The key of a TVM target whose kernels use i8mm only where the CPU says that it has it: the target's features allow
it, and its libraries don't need it."""


def missing(features: Iterable[str]) -> list[str]:
    """The LLVM features among `features` that this machine's CPU lacks; none where the system doesn't tell.

    Source: ``flags`` (x86-64) or ``Features`` (aarch64) in ``/proc/cpuinfo``.
    """
    flags = _cpu_info("flags", "Features")
    return sorted(name for name in features if name in FLAGS and FLAGS[name] not in flags) if flags else []


def has_fast_bf16() -> bool:
    """Whether this machine's CPU multiplies bf16 faster than fp32; `False` where the system doesn't tell.

    CPUs with AMX do, and so do AMD's with AVX-512 (twice as fast on Zen 4) and ARM's. Intel's AVX-512 without AMX
    takes twice as long for bf16 as for fp32 (Emerald Rapids).
    """
    flags = _cpu_info("flags", "Features")
    amd = "AuthenticAMD" in _cpu_info("vendor_id")
    return "amx_bf16" in flags or "bf16" in flags or (amd and "avx512_bf16" in flags)


def cpu_name() -> str:
    """The model name of this machine's CPU, or its architecture where the system doesn't tell."""
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
