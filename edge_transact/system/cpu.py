"""What a CPU can do, in LLVM's words and in the kernel's: no library runs into an instruction it doesn't have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

FLAGS = {
    # x86-64: what LLVM calls it, and what /proc/cpuinfo does.
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
"""The instruction sets that compiled kernels may use."""


def missing(features: Iterable[str]) -> list[str]:
    """Those of some LLVM features that this machine's CPU doesn't have; none where the system doesn't tell.

    Source: ``flags`` (x86-64) or ``Features`` (aarch64) in ``/proc/cpuinfo``.
    """
    flags = _cpu_info("flags", "Features")
    return sorted(name for name in features if name in FLAGS and FLAGS[name] not in flags) if flags else []


def has_fast_bf16() -> bool:
    """Whether this machine's CPU multiplies bf16 faster than fp32; no where the system doesn't tell.

    AMX does, and so do AVX-512 of AMD's CPUs (twice as fast on Zen 4) and ARM's. Intel's AVX-512 alone takes twice as
    long as for fp32 (Emerald Rapids without AMX).
    """
    flags = _cpu_info("flags", "Features")
    amd = "AuthenticAMD" in _cpu_info("vendor_id")
    return "amx_bf16" in flags or "bf16" in flags or (amd and "avx512_bf16" in flags)


def cpu_name() -> str | None:
    """The CPU's name, from ``/proc/cpuinfo``, which psutil does not read; None if the system doesn't report it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _cpu_info(*keys: str) -> frozenset[str]:
    """The words behind the first of some keys in `CPUINFO`."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":") for line in lines)
    return frozenset(next((value.split() for key, _, value in found if key.strip() in keys), []))
