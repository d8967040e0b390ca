"""What a phone and an Android app need: adb, SDK, NDK, JDK, Rust, MLC-LLM. Building a library doesn't need them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import edge_transact
from edge_transact.artifacts.templates import TEMPLATE_DIRECTORIES
from edge_transact.bench.link import NDK_VARIABLES, find_linker
from edge_transact.doctor.check import Check, output_of
from edge_transact.doctor.system import install_command
from edge_transact.errors import EdgeTransactError
from edge_transact.mlc.builtins import Runtime
from edge_transact.mlc.checkout import GET, KNOWN_PAIR, KNOWN_REVISION, find

NDK_MAJOR = 27
"""The version that MLC-LLM's Android documentation requires."""
ALIGNED_NDK = 28
"""The first NDK that aligns segments to 16 KB by default, which Google Play requires. Linkers of others are told to."""
NDK_PACKAGE = "ndk;28.2.13676358"
JDK_MAJOR = 17
"""The version that MLC-LLM's Android documentation requires."""
RUST_TARGET = "aarch64-linux-android"
PINNED_TVM = "837cb9de"
"""The revision of TVM (mlc-ai/relax) in MLC-LLM 79d603f0, whose formats our libraries have."""


def adb() -> list[Check]:
    """adb, and its devices with their states."""
    version = output_of("adb", "version")
    if version is None:
        looked = "no adb on PATH"
        return [
            Check("adb", False, looked, install_command("adb")),
            Check("device", False, looked, "install adb first"),
        ]
    number = re.search(r"^Version (\S+)", version, re.MULTILINE)
    checks = [Check("adb", True, f"{number[1] if number else version.splitlines()[0]} at {shutil.which('adb')}")]
    listing = (output_of("adb", "devices", "-l") or "").splitlines()
    if any(line.startswith("* daemon not running") for line in listing):
        # adb started a server, which it never does on another computer: stop it, so that doctor leaves nothing running.
        output_of("adb", "kill-server")
    devices = [line.split() for line in listing if line and not line.startswith(("List of", "*", "adb "))]
    found = ", ".join(f"{words[0]} ({_device_state(words)})" for words in devices) or "adb sees no device"
    if any(words[1] == "device" for words in devices):
        return [*checks, Check("device", True, found)]
    return [*checks, Check("device", False, found, _device_fix({words[1] for words in devices}))]


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
    """The Android SDK, with which Gradle builds the app."""
    for directory in _sdk_directories():
        platforms = sorted(path.name for path in directory.glob("platforms/android-*"))
        if platforms:
            return [Check("sdk", True, f"{platforms[-1]} at {directory}")]
    looked = ", ".join(map(str, _sdk_directories())) or "ANDROID_HOME is not set"
    fix = "install Android Studio or its command-line tools, and export ANDROID_HOME=..."
    return [Check("sdk", False, f"no platforms: {looked}", fix)]


def ndk() -> list[Check]:
    """The newest NDK in the places where tools look for it."""
    fix = f'sdkmanager --install "{NDK_PACKAGE}", and export ANDROID_NDK=$ANDROID_HOME/ndk/{NDK_PACKAGE[4:]}'
    directory = find_ndk()
    if directory is None:
        looked = ", ".join(map(str, _ndk_candidates())) or f"{', '.join(NDK_VARIABLES)}, ANDROID_HOME/ndk"
        return [Check("ndk", False, f"none at {looked}", fix)]
    revision = ndk_revision(directory)
    found = f"r{revision[0]} ({'.'.join(map(str, revision))}) at {directory}"
    if revision[0] < NDK_MAJOR:
        return [Check("ndk", False, f"{found}: r{NDK_MAJOR} or newer is needed", fix)]
    return [Check("ndk", True, found)]


def find_ndk() -> Path | None:
    """The NDK that environment variables name, or the newest of the SDK; `None` if there is none."""
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
    """The linker that the bench needs, and its runner, where `edge-transact bench` looks for it."""
    linker = find_linker()
    directory = Path(os.environ.get("EDGE_BENCH_RUNNER") or "android_bench/build")
    runner = directory / "edge-bench"
    package = Path(edge_transact.__file__).parent
    # The runner's sources are next to the package in a source tree, and inside it in a wheel.
    source = next(path for path in (package.parent / "android_bench", package / "android_bench") if path.exists())
    build = (
        f"cmake -S {source} -B {directory} -DEDGE_TVM_SOURCE=$MLC_LLM_SOURCE_DIR/3rdparty/tvm "
        "-DCMAKE_TOOLCHAIN_FILE=$ANDROID_NDK/build/cmake/android.toolchain.cmake -DANDROID_ABI=arm64-v8a "
        f"-DANDROID_PLATFORM=android-28 && cmake --build {directory}"
    )
    return [
        Check("linker", True, linker[0])
        if linker
        else Check("linker", False, "no clang with lld, and no NDK", install_command("clang lld")),
        Check("runner", True, str(runner)) if runner.is_file() else Check("runner", False, f"no {runner}", build),
    ]


def jdk() -> list[Check]:
    """The Java compiler: JAVA_HOME's, or the one on PATH."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "javac") if home else "javac"
    fix = f"{install_command(f'openjdk-{JDK_MAJOR}-jdk')}, or export JAVA_HOME=... (Android Studio's jbr will do)"
    version = output_of(program, "-version")
    match = re.search(r"javac (?:1\.)?(\d+)(\S*)", version or "")
    if not match:
        return [Check("jdk", False, f"no working {program}", fix)]
    ok = int(match[1]) >= JDK_MAJOR
    found = f"{match[1]}{match[2]} at {home or shutil.which(program)}"
    return [Check("jdk", ok, found if ok else f"{found}: {JDK_MAJOR} or newer is needed", "" if ok else fix)]


def gradle() -> list[Check]:
    """Gradle, of the version that the project of an app names or newer."""
    wanted = _gradle_wanted()
    fix = f"unpack https://services.gradle.org/distributions/gradle-{wanted}-bin.zip, and put its bin on PATH"
    version = output_of("gradle", "--version", timeout_s=60)
    match = re.search(r"^Gradle (\d+(?:\.\d+)*)", version or "", re.MULTILINE)
    if not match:
        return [Check("gradle", False, "no working gradle on PATH", fix)]
    found = f"{match[1]} at {shutil.which('gradle')}"
    if _numbers(match[1]) < _numbers(wanted):
        return [Check("gradle", False, f"{found}: {wanted} or newer is needed", fix)]
    return [Check("gradle", True, found)]


def _gradle_wanted() -> str:
    wrapper = next(
        path
        for path in (base / "android/gradle/wrapper/gradle-wrapper.properties" for base in TEMPLATE_DIRECTORIES)
        if path.is_file()
    )
    match = re.search(r"gradle-([\d.]+)-bin\.zip", wrapper.read_text())
    assert match is not None
    return match[1]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def rust() -> list[Check]:
    """Rust and its Android target, with which MLC builds the tokenizers, and rustup, which its packaging calls."""
    rustup = output_of("rustup", "--version")
    manager = (
        Check("rustup", True, f"{rustup.splitlines()[0]} at {shutil.which('rustup')}")
        if rustup
        else Check("rustup", False, "no rustup on PATH", "install rustup from https://rustup.rs")
    )
    version = output_of("rustc", "--version")
    sysroot = output_of("rustc", "--print", "sysroot")
    if not version or not sysroot:
        fix = "install rustup from https://rustup.rs"
        return [
            manager,
            Check("rust", False, "no rustc on PATH", fix),
            Check("rust-target", False, "no rustc on PATH", f"{fix}, then: rustup target add {RUST_TARGET}"),
        ]
    targets = sorted(path.parent.name for path in Path(sysroot).glob("lib/rustlib/*/lib"))
    ok = RUST_TARGET in targets
    return [
        manager,
        Check("rust", True, f"{version.removeprefix('rustc ')} at {sysroot}"),
        Check(
            "rust-target",
            ok,
            RUST_TARGET if ok else f"only {', '.join(targets) or 'none'}",
            "" if ok else f"rustup target add {RUST_TARGET}",
        ),
    ]


def mlc() -> list[Check]:
    """The MLC-LLM that ``--engine mlc`` runs, and, in a checkout, its TVM."""
    try:
        checkout = find()
    except EdgeTransactError as error:
        return [Check(name, False, error.message, GET) for name in ("mlc", "mlc-tvm")]
    known = "a known pair" if checkout.is_known else f"not a known pair; {KNOWN_PAIR} is"
    source, tvm = checkout.where, checkout.where / "3rdparty" / "tvm"
    if not os.environ.get("MLC_LLM_SOURCE_DIR"):
        tvm_check = Check("mlc-tvm", False, f"the installed {source} has no sources", GET)
    elif not (tvm / "include" / "tvm").is_dir():
        fix = f"git -C {source} submodule update --init --recursive"
        tvm_check = Check("mlc-tvm", False, f"{tvm} is empty", fix)
    else:
        revision = output_of("git", "-C", str(tvm), "rev-parse", "--short=8", "HEAD") or "unknown revision"
        note = "" if revision == PINNED_TVM else f" (our formats follow MLC-LLM's at {PINNED_TVM})"
        problems = Runtime.read(tvm).lacks() if (tvm / "src").is_dir() else []
        tvm_check = Check("mlc-tvm", True, f"revision {revision}{note}")
        if problems:
            fix = f"git -C {source} checkout {KNOWN_REVISION}, and git -C {source} submodule update --init --recursive"
            tvm_check = Check("mlc-tvm", False, f"revision {revision} can't run our libraries: {problems[0]}", fix)
    return [Check("mlc", True, f"{checkout.pair}, {known}; at {source}"), tvm_check]
