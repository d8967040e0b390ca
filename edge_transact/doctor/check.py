"""The results of checks, users' jobs and the checks that each needs, and calls of other programs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """The result of one check: the version and place, or where doctor looked, and what gets a missing thing."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def verdict(name: str, ok: bool, found: str, fix: str) -> Check:
    """A check, with its fix only if something is missing."""
    return Check(name, ok, found, "" if ok else fix)


def output_of(*command: str, timeout_s: float = 20.0) -> str | None:
    """The output of a program on stdout and stderr, or `None` if it is missing, fails, or exceeds the timeout."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


CORE = ("python", "packages")
APP = ("sdk", "ndk", "jdk", "gradle", "rustup", "rust", "rust-target", "cmake", "mlc", "mlc-build", "mlc-tvm")


@dataclass(frozen=True)
class Job:
    """A job: what completes "This machine can ...", and the names of the checks that must be ok."""

    does: str
    needs: tuple[str, ...]


JOBS: dict[str, Job] = {
    "prune": Job("make a checkpoint smaller", CORE),
    "host": Job("build for this machine and run", (*CORE, "llvm-host", "c-compiler")),
    "android": Job("build for Android, with OpenCL", (*CORE, "llvm-aarch64", "opencl", "c-compiler")),
    "android-cpu": Job("build for Android, CPU only", (*CORE, "llvm-aarch64", "c-compiler")),
    "android-x86_64": Job("build for Android on x86-64", (*CORE, "llvm-x86_64", "c-compiler")),
    "iphone": Job("build for iPhone", (*CORE, "llvm-aarch64", "metal", "c-compiler")),
    "demo": Job("run the demo", (*CORE, "demo", "llvm-host", "llvm-aarch64", "opencl", "c-compiler", "memory", "disk")),
    "gguf": Job("read and write .gguf files", (*CORE, "gguf")),
    "plot": Job("plot FLOPs", (*CORE, "plot")),
    "tasks": Job("evaluate on tasks with lm-eval", (*CORE, "eval")),
    "hub": Job("load from the model hub and push to it", (*CORE, "hub")),
    "parquet": Job("read .parquet texts", (*CORE, "parquet")),
    "bench": Job("measure on a phone", (*CORE, "bench", "adb", "device", "runner", "c-compiler")),
    "runner": Job("build the bench's runner with OpenCL", ("ndk", "cmake", "mlc-tvm")),
    "mlc": Job("build with your MLC-LLM (--engine mlc)", (*CORE, "mlc", "mlc-build")),
    "app": Job("build the Android app of a model (bundle --build)", (*CORE, *APP)),
    "install": Job("put a model's weights on a phone", (*CORE, "bench", "adb", "device")),
}


def needed_for(check: str) -> list[str]:
    return [name for name, job in JOBS.items() if check in job.needs]
