"""Users' jobs, and the checks that each of them needs."""

from __future__ import annotations

from dataclasses import dataclass

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
    "android": Job("build for Android, with OpenCL", (*CORE, "llvm-aarch64", "opencl")),
    "android-cpu": Job("build for Android, CPU only", (*CORE, "llvm-aarch64")),
    "iphone": Job("build for iPhone", (*CORE, "llvm-aarch64", "metal")),
    "demo": Job("run the demo", (*CORE, "demo", "llvm-host", "llvm-aarch64", "opencl", "c-compiler", "memory", "disk")),
    "gguf": Job("read and write .gguf files", (*CORE, "gguf")),
    "plot": Job("plot FLOPs", (*CORE, "plot")),
    "tasks": Job("evaluate on tasks with lm-eval", (*CORE, "eval")),
    "hub": Job("load from the model hub and push to it", (*CORE, "hub")),
    "parquet": Job("read .parquet texts", (*CORE, "parquet")),
    "bench": Job("measure on a phone", (*CORE, "bench", "adb", "device", "linker", "runner")),
    "runner": Job("build the bench's runner for a phone", ("ndk", "cmake", "mlc-tvm")),
    "mlc": Job("build with your MLC-LLM (--engine mlc)", (*CORE, "mlc", "mlc-build")),
    "app": Job("build the Android app of a model (bundle --build)", (*CORE, *APP)),
    "install": Job("put a model's weights on a phone", (*CORE, "bench", "adb", "device")),
}


def needed_for(check: str) -> list[str]:
    """The names of the jobs that need a check."""
    return [name for name, job in JOBS.items() if check in job.needs]
