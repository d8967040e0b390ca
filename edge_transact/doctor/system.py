"""The machine: Python, TVM's code generators, the C compiler, disk and memory, the model hub."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path

from edge_transact.doctor.check import Check, output_of, verdict
from edge_transact.formatting import megabytes
from edge_transact.system import memory

PYTHON = (3, 11)
DEMO_MEMORY_BYTES = 6e9
"""Peak memory of the demo."""
DEMO_DISK_BYTES = 4e9
"""Disk space for packages, and for the demo's checkpoints and libraries."""

# Runs in another process, so that doctor can report a broken installation. Without torch, whose import takes seconds.
_TVM_PROBE = """
import json, sys
sys.modules["torch"] = None
import tvm, tvm_ffi
found = lambda name: tvm_ffi.get_global_func(name, allow_missing=True)
llvm = found("target.llvm_get_targets")
print(json.dumps({
    "version": tvm.__version__,
    "llvm": found("target.llvm_version_major")() if llvm else None,
    "targets": [str(target) for target in llvm()] if llvm else [],
    "codegen": [kind for kind in ("opencl", "metal") if found("target.build." + kind)],
}))
"""


def python() -> list[Check]:
    found = f"{platform.python_version()} at {sys.executable}"
    fix = f"install Python {'.'.join(map(str, PYTHON))} or newer, and make a new venv with it"
    return [verdict("python", sys.version_info >= PYTHON, found, fix)]


def tvm_targets() -> list[Check]:
    """The targets that TVM can generate code for. All of them come with the wheel."""
    answer = output_of(sys.executable, "-c", _TVM_PROBE, timeout_s=120)
    try:
        probe = json.loads((answer or "").splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        probe = {"version": None, "llvm": None, "targets": [], "codegen": []}
    what = f"apache-tvm {probe['version']}" if probe["version"] else "apache-tvm cannot be imported"
    llvm = f"LLVM {probe['llvm']} in {what}" if probe["llvm"] else f"no LLVM in {what}"
    fix = "python -m pip install --force-reinstall --no-deps apache-tvm==0.26.0"
    host = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    checks = [
        (f"llvm-{name}", architecture in probe["targets"], f"{architecture} code: {llvm}")
        for name, architecture in (("host", host), ("aarch64", "aarch64"), ("x86_64", "x86_64"))
    ]
    checks += [(kind, kind in probe["codegen"], f"{kind} code: {what}") for kind in ("opencl", "metal")]
    return [verdict(name, ok, found, fix) for name, ok, found in checks]


def compiler() -> list[Check]:
    """The C compiler, which links the host library, and CMake, which builds MLC's Android runtime."""
    checks = []
    command = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "cc")
    for name, program, package in (("c-compiler", command, "gcc"), ("cmake", "cmake", "cmake")):
        version = output_of(program, "--version")
        if version:
            checks.append(Check(name, True, f"{version.splitlines()[0]} at {shutil.which(program) or program}"))
        else:
            with_xcode = sys.platform == "darwin" and package == "gcc"
            fix = "xcode-select --install" if with_xcode else install_command(package)
            checks.append(Check(name, False, f"no working {program} on PATH", fix))
    return checks


def resources() -> list[Check]:
    total = memory.total_bytes()
    free = shutil.disk_usage(Path.cwd()).free
    swap = f"{megabytes(DEMO_MEMORY_BYTES)} are needed: add swap, or use a larger machine"
    room = f"{megabytes(DEMO_DISK_BYTES)} are needed: run edge-transact cache --clear, or use another directory"
    return [
        verdict("memory", total >= DEMO_MEMORY_BYTES, megabytes(total), swap),
        verdict("disk", free >= DEMO_DISK_BYTES, f"{megabytes(free)} free in {Path.cwd()}", room),
    ]


def hub() -> list[Check]:
    """Whether the model hub answers, with huggingface_hub's own settings."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import get_session

    token = "logged in" if get_token() else "not logged in (gated models need it: hf auth login)"
    if constants.HF_HUB_OFFLINE:
        return [Check("hub", False, f"HF_HUB_OFFLINE is set; {token}", "unset HF_HUB_OFFLINE")]
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # its class depends on the HTTP library of this version of huggingface_hub
        found = f"{constants.ENDPOINT} does not answer ({type(error).__name__}); {token}"
        return [Check("hub", False, found, "check the network and HTTPS_PROXY, or set HF_ENDPOINT to a mirror")]
    return [Check("hub", True, f"{constants.ENDPOINT} answers; {token}")]


def install_command(package: str) -> str:
    for command in ("sudo apt-get install", "sudo dnf install", "sudo pacman -S", "brew install"):
        if shutil.which(command.removeprefix("sudo ").split()[0]):
            return f"{command} {package}"
    return f"install {package} with your system's package manager"
