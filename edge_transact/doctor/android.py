"""Tools for phones and Android apps: adb, SDK, NDK, JDK, Rust, MLC-LLM. Building a library needs none of them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from packaging.version import Version

from edge_transact.artifacts.templates import TEMPLATE_DIRECTORIES
from edge_transact.benchmarking.link import NDK_VARIABLES, find_linker
from edge_transact.benchmarking.portable import COMPILER, INSTALL, RUNNER
from edge_transact.doctor.check import Check, output_of, verdict
from edge_transact.doctor.system import install_command
from edge_transact.errors import EdgeTransactError
from edge_transact.mlc.builtins import Runtime
from edge_transact.mlc.checkout import GET, KNOWN_PAIR, KNOWN_REVISION, find

NDK_MAJOR = 27
"""The version that MLC-LLM's Android documentation requires."""
ALIGNED_NDK = 28
"""The first NDK that aligns segments to 16 KB by default, as Google Play requires. `bundle` tells older linkers to."""
NDK_PACKAGE = "ndk;28.2.13676358"
JDK_MAJOR = 17
"""The version that MLC-LLM's Android documentation requires."""
RUST_TARGET = "aarch64-linux-android"
PINNED_TVM = "837cb9de"
"""The revision of TVM (mlc-ai/relax) in MLC-LLM 79d603f0. Our libraries have its formats."""


def adb() -> list[Check]:
    version = output_of("adb", "version")
    if version is None:
        fixes = {"adb": install_command("adb"), "device": "install adb first"}
        return [Check(name, False, "no adb on PATH", fix) for name, fix in fixes.items()]
    number = re.search(r"^Version (\S+)", version, re.MULTILINE)
    checks = [Check("adb", True, f"{number[1] if number else version.splitlines()[0]} at {shutil.which('adb')}")]
    listing = (output_of("adb", "devices", "-l") or "").splitlines()
    if any(line.startswith("* daemon not running") for line in listing):
        # adb has started a server on this computer: stop it, so that doctor leaves nothing running.
        output_of("adb", "kill-server")
    devices = [line.split() for line in listing if line and not line.startswith(("List of", "*", "adb "))]
    found = ", ".join(f"{words[0]} ({_device_state(words)})" for words in devices) or "adb sees no device"
    states = {words[1] for words in devices}
    return [*checks, verdict("device", "device" in states, found, _device_fix(states))]


def _device_state(words: list[str]) -> str:
    model = next((word.removeprefix("model:") for word in words if word.startswith("model:")), "")
    return model if words[1] == "device" and model else words[1]


def _device_fix(states: set[str]) -> str:
    if "unauthorized" in states:
        return "unlock the phone and accept the question about USB debugging"
    if "offline" in states:
        return "adb kill-server, and plug the phone in again"
    if "no" in states:  # "no permissions"
        return "install udev rules (Debian: android-sdk-platform-tools-common), plug the phone in again"
    return "on the phone: Settings, Developer options, USB debugging; then plug it in"


def _sdk_directories() -> list[Path]:
    names = [os.environ.get(name) for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT")]
    return [Path(name) for name in names if name]


def sdk() -> list[Check]:
    for directory in _sdk_directories():
        if platforms := sorted(path.name for path in directory.glob("platforms/android-*")):
            return [Check("sdk", True, f"{platforms[-1]} at {directory}")]
    looked = ", ".join(map(str, _sdk_directories())) or "ANDROID_HOME is not set"
    fix = "install Android Studio or its command-line tools, and export ANDROID_HOME=..."
    return [Check("sdk", False, f"no platforms: {looked}", fix)]


def ndk() -> list[Check]:
    """The newest NDK where tools look for one."""
    fix = f'sdkmanager --install "{NDK_PACKAGE}", and export ANDROID_NDK=$ANDROID_HOME/ndk/{NDK_PACKAGE[4:]}'
    directory = find_ndk()
    if directory is None:
        looked = ", ".join(map(str, _ndk_candidates())) or f"{', '.join(NDK_VARIABLES)}, ANDROID_HOME/ndk"
        return [Check("ndk", False, f"none at {looked}", fix)]
    revision = ndk_revision(directory)
    found = f"r{revision[0]} ({'.'.join(map(str, revision))}) at {directory}"
    return [_new_enough("ndk", found, revision[0] >= NDK_MAJOR, f"r{NDK_MAJOR}", fix)]


def _new_enough(name: str, found: str, ok: bool, wanted: str, fix: str) -> Check:
    return verdict(name, ok, found if ok else f"{found}: {wanted} or newer is needed", fix)


def find_ndk() -> Path | None:
    """The NDK that environment variables name, else the SDK's newest; `None` if there is none."""
    return next(filter(ndk_revision, _ndk_candidates()), None)


def _ndk_candidates() -> list[Path]:
    candidates = [Path(os.environ[name]) for name in NDK_VARIABLES if os.environ.get(name)]
    for directory in _sdk_directories():
        candidates += sorted(directory.glob("ndk/*"), key=ndk_revision, reverse=True)
    return candidates


def ndk_revision(directory: Path) -> tuple[int, ...]:
    """The version of the NDK in a directory, such as ``(28, 2, 13676358)``; empty if there is none."""
    try:
        text = (directory / "source.properties").read_text()
    except OSError:
        return ()
    match = re.search(r"^Pkg\.Revision\s*=\s*([\d.]+)", text, re.MULTILINE)
    return tuple(int(part) for part in match[1].split(".") if part) if match else ()


def bench() -> list[Check]:
    """The runner of `edge-transact bench` with a linker of models, or the compiler of a portable one."""
    linker, compiler = find_linker(), shutil.which(COMPILER)
    runner = Path(os.environ.get("EDGE_BENCH_RUNNER") or "android_bench/build") / RUNNER
    if runner.is_file():
        links = f"linker {linker[0]}" if linker else f"but no linker: no {COMPILER}, no clang with lld, and no NDK"
        return [verdict("runner", linker is not None, f"{runner}, {links}", INSTALL)]
    made = f"portable, made with {compiler}; for OpenCL: docs/bench.md" if compiler else f"no {runner}, no {COMPILER}"
    return [verdict("runner", compiler is not None, made, INSTALL)]


def jdk() -> list[Check]:
    """The Java compiler: JAVA_HOME's, or the one on PATH."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "javac") if home else "javac"
    fix = f"{install_command(f'openjdk-{JDK_MAJOR}-jdk')}, or export JAVA_HOME=... (Android Studio's jbr will do)"
    version = output_of(program, "-version")
    match = re.search(r"javac (?:1\.)?(\d+)(\S*)", version or "")
    if not match:
        return [Check("jdk", False, f"no working {program}", fix)]
    found = f"{match[1]}{match[2]} at {home or shutil.which(program)}"
    return [_new_enough("jdk", found, int(match[1]) >= JDK_MAJOR, str(JDK_MAJOR), fix)]


def gradle() -> list[Check]:
    """Gradle, at least in the version that an app's project names."""
    places = (base / "android/gradle/wrapper/gradle-wrapper.properties" for base in TEMPLATE_DIRECTORIES)
    named = re.search(r"gradle-([\d.]+)-bin\.zip", next(filter(Path.is_file, places)).read_text())
    assert named is not None
    wanted = named[1]
    fix = f"unpack https://services.gradle.org/distributions/gradle-{wanted}-bin.zip, and put its bin on PATH"
    version = output_of("gradle", "--version", timeout_s=60)
    match = re.search(r"^Gradle (\d+(?:\.\d+)*)", version or "", re.MULTILINE)
    if not match:
        return [Check("gradle", False, "no working gradle on PATH", fix)]
    found = f"{match[1]} at {shutil.which('gradle')}"
    return [_new_enough("gradle", found, Version(match[1]) >= Version(wanted), wanted, fix)]


def rust() -> list[Check]:
    """Rust with its Android target, which builds MLC's tokenizers, and rustup, which MLC's packaging calls."""
    fix, add = "install rustup from https://rustup.rs", f"rustup target add {RUST_TARGET}"
    rustup = output_of("rustup", "--version")
    found = f"{rustup.splitlines()[0]} at {shutil.which('rustup')}" if rustup else "no rustup on PATH"
    manager = verdict("rustup", bool(rustup), found, fix)
    version, sysroot = output_of("rustc", "--version"), output_of("rustc", "--print", "sysroot")
    if not version or not sysroot:
        fixes = {"rust": fix, "rust-target": f"{fix}, then: {add}"}
        return [manager, *(Check(name, False, "no rustc on PATH", each) for name, each in fixes.items())]
    targets = sorted(path.parent.name for path in Path(sysroot).glob("lib/rustlib/*/lib"))
    ok = RUST_TARGET in targets
    return [
        manager,
        Check("rust", True, f"{version.removeprefix('rustc ')} at {sysroot}"),
        verdict("rust-target", ok, RUST_TARGET if ok else f"only {', '.join(targets) or 'none'}", add),
    ]


def mlc() -> list[Check]:
    """The MLC-LLM for ``--engine mlc``, and a checkout's TVM."""
    try:
        checkout = find()
    except EdgeTransactError as error:
        return [Check(name, False, error.message, GET) for name in ("mlc", "mlc-tvm")]
    known = "a known pair" if checkout.is_known else f"not a known pair; {KNOWN_PAIR} is"
    checks = [Check("mlc", True, f"{checkout.pair}, {known}; at {checkout.where}")]
    if not os.environ.get("MLC_LLM_SOURCE_DIR"):
        return [*checks, Check("mlc-tvm", False, f"the installed {checkout.where} has no sources", GET)]
    return [*checks, _mlc_tvm(checkout.where)]


def _mlc_tvm(source: Path) -> Check:
    tvm = source / "3rdparty" / "tvm"
    update = f"git -C {source} submodule update --init --recursive"
    if not (tvm / "include" / "tvm").is_dir():
        return Check("mlc-tvm", False, f"{tvm} is empty", update)
    revision = output_of("git", "-C", str(tvm), "rev-parse", "--short=8", "HEAD") or "unknown revision"
    problems = Runtime.read(tvm).lacks() if (tvm / "src").is_dir() else []
    if problems:
        fix = f"git -C {source} checkout {KNOWN_REVISION}, and {update}"
        return Check("mlc-tvm", False, f"revision {revision} can't run our libraries: {problems[0]}", fix)
    note = "" if revision == PINNED_TVM else f" (our formats follow MLC-LLM's at {PINNED_TVM})"
    return Check("mlc-tvm", True, f"revision {revision}{note}")
