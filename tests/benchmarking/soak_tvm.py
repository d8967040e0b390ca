"""Builds the runner for a phone from a real TVM checkout, as far as clang and lld can without an NDK.

Part of ``make soak``, because compiling TVM's runtime takes minutes. TVM_SOURCE_DIR names a checkout with submodules.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.phone.runner import SOURCE

STANDIN = Path(__file__).parents[1] / "support" / "phone"
GNU = Path("/usr/aarch64-linux-gnu/lib")
BIONIC = {"pthread_gettid_np"}
"""Functions of Android's C library that TVM uses and GNU's lacks."""


@pytest.fixture(scope="module")
def checkout() -> Path:
    if "TVM_SOURCE_DIR" not in os.environ:
        pytest.skip("TVM_SOURCE_DIR names no TVM checkout")
    return Path(os.environ["TVM_SOURCE_DIR"]).absolute()


@pytest.fixture(scope="module")
def program(checkout, tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp("android")
    toolchain = STANDIN / "android/toolchain.cmake"
    configure = ["cmake", "-S", str(SOURCE), "-B", str(build), "-G", "Ninja"]
    subprocess.run([*configure, f"-DEDGE_TVM_SOURCE={checkout}", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"], check=True)
    subprocess.run(["cmake", "--build", str(build)], check=True)
    return build / "edge-bench"


def test_nothing_is_missing_but_what_a_phone_has(program):
    """Only C, C++ and maths, with GNU's libraries instead of Android's. OpenCL is looked up at run time."""
    there = set(BIONIC)
    for name in ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1"):
        there |= symbols("-D", "--defined-only", str(GNU / name))
    assert symbols("-u", str(program)) - there == set()


def test_what_the_runner_calls_is_registered(program):
    """The runtime's functions register themselves by name, so the linker must keep them."""
    names = set(re.findall(r'GetGlobalRequired\("([\w.]+)"\)', (SOURCE / "src/model.cc").read_text()))
    names |= {"device_api.opencl", "ffi.Module.load_from_bytes.opencl", "opencl.SetPreCompiledPrograms"}
    content = program.read_bytes()
    assert len(names) > 12 and {name for name in names if name.encode() + b"\0" not in content} == set()


def test_a_model_finds_the_runtime_in_it(program):
    """A model library takes the runtime's functions from the program that loads it."""
    assert {"TVMFFIErrorSetRaisedFromCStrParts", "TVMFFIEnvModRegisterSystemLibSymbol"} <= symbols(
        "-D", "--defined-only", str(program)
    )
    loads = subprocess.run(["readelf", "-lW", str(program)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"LOAD.*?(0x[0-9a-f]+)$", loads, re.MULTILINE)) == {"0x4000"}


def symbols(*arguments: str) -> set[str]:
    """Symbols that nm lists, without their versions."""
    listing = subprocess.run(["nm", *arguments], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].partition("@")[0] for line in listing.splitlines() if line and not line.endswith(":")}
