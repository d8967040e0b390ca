"""The targets that a library can be built for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge_transact.compiler.gpu.devices import DEVICES, GENERIC, Device
from edge_transact.errors import UsageError, closest, did_you_mean
from edge_transact.system import cpu as features
from edge_transact.system.cores import cores

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class BuildTarget:
    """One of the values of ``--target``.

    Attributes:
        device: TVM's kind of the device that runs the kernels: ``opencl``, ``metal`` or ``llvm``.
        suffix: ``.tar`` for an archive of objects that an app links, ``.so`` for a library to load on this machine.
        spec: TVM's target with its host. `tvm_target` fills in this machine's CPU and the profile's limits.
        profile: The GPUs that the library must run on; `None` for no limits.
        cpu: The CPU that a host library is for, by LLVM's name; `None` for this machine's.
    """

    name: str
    description: str
    device: str
    suffix: str
    spec: dict[str, object]
    profile: Device | None = None
    cpu: str | None = None

    @property
    def is_system_lib(self) -> bool:
        """Whether the library, linked into a program, registers itself under its prefix, as MLC's apps expect."""
        return self.suffix == ".tar"

    def runs_here(self) -> bool:
        """Whether this is a host target whose CPU features this machine has."""
        from tvm.target import codegen

        return self.spec == _HOST and not features.missing(codegen.llvm_get_cpu_features(self.tvm_target()))

    def tvm_target(self) -> tvm.target.Target:
        import tvm

        spec = dict(self.spec)
        if spec == _HOST:
            triple = tvm.get_global_func("tvm.codegen.llvm.GetDefaultTargetTriple")()
            spec |= {"mtriple": triple, "mcpu": self.cpu or tvm.target.codegen.llvm_get_system_cpu()}
            # Decode is divided into as many parts as it has threads by default.
            spec["num-cores"] = cores().threads
            if self.cpu is None:
                # A virtual machine may hide features that the CPU's name implies, or hide the name of a better CPU.
                promised = list(tvm.target.codegen.llvm_get_cpu_features(tvm.target.Target(spec)))
                more = [f"+{name}" for name in features.present() if name not in promised]
                spec["mattr"] = more + [f"-{name}" for name in features.missing(promised)]
        if self.profile is not None:
            # Limits of TVM's schedules, no higher than its defaults: with more threads in a work group, a thread has
            # fewer registers.
            threads = min(self.profile.max_threads, GENERIC.max_threads)
            spec |= {"max_num_threads": threads, "max_threads_per_block": threads}
            spec["max_shared_memory_per_block"] = min(self.profile.local_bytes, TVM_LOCAL_BYTES)
        return tvm.target.Target(spec)


TVM_LOCAL_BYTES = 16 << 10
"""TVM's own default of ``max_shared_memory_per_block`` for OpenCL."""

_HOST: dict[str, object] = {"kind": "llvm"}
"""A target for this machine: `tvm_target` adds the rest."""

_ANDROID_CPU = {"kind": "llvm", "mtriple": "aarch64-linux-android"}

TARGETS: dict[str, BuildTarget] = {
    target.name: target
    for target in (
        BuildTarget(
            "android",
            "Android phones with an OpenCL GPU",
            "opencl",
            ".tar",
            {"kind": "opencl", "host": _ANDROID_CPU},
            GENERIC,
        ),
        BuildTarget(
            "android-cpu",
            "the CPU of 64-bit Android phones from ARMv8.2 on",
            "llvm",
            ".tar",
            {
                **_ANDROID_CPU,
                "mattr": ["+neon", "+fullfp16", "+dotprod", "+i8mm"],
                # All phones get the same library.
                "keys": ["arm_cpu", "cpu", features.I8MM_AT_RUN_TIME],
                "num-cores": 4,
            },
        ),
        BuildTarget(
            "android-x86_64",
            "the CPU of Android emulators, and of x86-64 Chromebooks",
            "llvm",
            ".tar",
            # SSE4.2 and popcnt: what Android's ABI x86_64 promises (developer.android.com/ndk/guides/abis).
            {"kind": "llvm", "mtriple": "x86_64-linux-android", "mcpu": "x86-64-v2", "num-cores": 4},
        ),
        BuildTarget("host", "this machine's CPU", "llvm", ".so", _HOST),
        BuildTarget(
            "iphone",
            "iPhones, with Metal",
            "metal",
            ".tar",
            {
                "kind": "metal",
                "max_threads_per_block": 256,
                "max_shared_memory_per_block": 32768,
                "thread_warp_size": 1,
                "libs": ["iphoneos"],
                "host": {"kind": "llvm", "mtriple": "arm64-apple-darwin"},
            },
        ),
    )
}


def get_target(name: str, device_profile: str = GENERIC.name, cpu: str | None = None) -> BuildTarget:
    """One of `TARGETS`, with this profile where it has one, or this CPU if ``host``; a `UsageError` for others."""
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}", fix=did_you_mean(name, TARGETS))
    target = TARGETS[name]
    if target.spec == _HOST and cpu is not None:
        _require_cpu(cpu)
        return replace(target, cpu=cpu)
    return target if target.profile is None else replace(target, profile=DEVICES[device_profile])


def _require_cpu(cpu: str) -> None:
    """Raise a `UsageError` unless LLVM knows a 64-bit CPU of this machine's architecture by that name."""
    from tvm.target import codegen

    here = TARGETS["host"].tvm_target()
    known = [str(name) for name in codegen.llvm_get_cpu_archlist(here)]
    otherwise = f"Without --cpu, the library is for this machine's: {here.attrs['mcpu']}."
    if cpu not in known:
        what = f"LLVM knows no CPU {cpu!r} of this machine's architecture"
        raise UsageError(what, fix=f"{closest(cpu, known)} {otherwise}".strip())
    # LLVM ends the process when asked to compile for one of its 32-bit x86 CPUs.
    chosen = replace(TARGETS["host"], cpu=cpu).tvm_target()
    if "64bit" in codegen.llvm_get_cpu_features(here) and "64bit" not in codegen.llvm_get_cpu_features(chosen):
        raise UsageError(f"{cpu!r} is a CPU of 32 bits; libraries are for 64", fix=otherwise)


def library_name(model_lib: str, target: str) -> str:
    """The name under which MLC's engine looks up a library. An app can link those for a phone's GPU and its CPU.

    Libraries for CPUs of other architectures have the same name, because an APK has a folder for each.
    """
    return f"{model_lib}-cpu" if target in ("android-cpu", "android-x86_64") else model_lib


def architecture(target: BuildTarget) -> str:
    """The architecture of an Android target's CPU, as triples begin."""
    return "x86_64" if target.name == "android-x86_64" else "aarch64"


def system_lib_prefix(name: str) -> str:
    """The prefix of the symbols of the archive with this `library_name`. MLC's engine derives it by the same rule."""
    return name.replace("-", "_") + "_"
