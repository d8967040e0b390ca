"""`doctor`: what it finds, what it calls missing, which jobs that leaves possible. Other programs are scripts here."""

import json
import re
from pathlib import Path

import pytest

from edge_transact.benchmarking.portable import INSTALL
from edge_transact.doctor import JOBS, android, check, examine, needed_for, packages, system
from tests.support.command import run, said

ROOT = Path(__file__).resolve().parents[2]
TVM = {"version": "0.26.0", "llvm": 22, "targets": ["x86_64", "aarch64"], "codegen": ["opencl", "metal"]}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A bare machine: offline, and nothing on PATH but the scripts that a test adds."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    android = [f"ANDROID_{name}" for name in ("HOME", "SDK_ROOT", "NDK", "NDK_HOME", "NDK_ROOT")]
    for name in ("CC", "JAVA_HOME", "MLC_LLM_SOURCE_DIR", "EDGE_BENCH_RUNNER", *android):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(system, "_TVM_PROBE", f"print({json.dumps(TVM)!r})")

    def add(name: str, script: str) -> None:
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)

    return add


def ndk(directory: Path, revision: str) -> Path:
    directory.mkdir(parents=True)
    (directory / "source.properties").write_text(f"Pkg.Desc = Android NDK\nPkg.Revision = {revision}\n")
    return directory


def test_every_job_needs_checks_that_exist(programs):
    names = [check.name for check in examine()]
    assert len(names) == len(set(names))
    for job in JOBS.values():
        assert set(job.needs) <= set(names)
    assert all(needed_for(name) for name in names)
    assert set(JOBS) <= set(re.findall(r"[\w-]+", run("doctor", "--help").stdout))


def test_only_missing_things_have_a_fix(programs):
    for examined in examine():
        assert examined.found and examined.ok == (examined.fix == ""), examined


def test_the_ndk_is_read_from_its_own_file(programs, tmp_path, monkeypatch):
    for revision, ok in (("28.2.13676358", True), ("27.0.11718014", True), ("26.1.10909125", False)):
        monkeypatch.setenv("ANDROID_NDK", str(ndk(tmp_path / revision, revision)))
        (found,) = android.ndk()
        assert found.ok is ok and revision in found.found
        assert ok or "sdkmanager" in found.fix


def test_the_newest_ndk_of_an_sdk_is_found(programs, tmp_path, monkeypatch):
    for revision in ("9.0.1", "28.2.13676358", "27.0.11718014"):
        ndk(tmp_path / "sdk" / "ndk" / revision, revision)
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    (found,) = android.ndk()
    assert found.ok and "r28" in found.found


def test_an_ndk_variable_that_points_nowhere_is_named(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "gone"))
    (found,) = android.ndk()
    assert not found.ok and str(tmp_path / "gone") in found.found


DEVICES = "if [ $1 = version ]; then echo 'Version 34.0.5'; else echo 'List of devices attached'; echo '%s'; fi"


@pytest.mark.parametrize(
    ("line", "ok", "fix"),
    [
        ("1a2b3c device usb:1-1 product:p model:Pixel_9 device:d", True, ""),
        ("1a2b3c unauthorized usb:1-1", False, "unlock the phone"),
        ("1a2b3c offline transport_id:1", False, "plug the phone in again"),
        ("1a2b3c no permissions (udev); see [..]", False, "udev"),
        ("", False, "USB debugging"),
    ],
)
def test_devices_are_named_with_their_state(programs, line, ok, fix):
    programs("adb", DEVICES % line)
    tool, device = android.adb()
    assert tool.ok and "34.0.5" in tool.found
    assert device.ok is ok
    assert fix in device.fix
    assert not line or line.split()[0] in device.found


STARTED = "* daemon not running; starting now at tcp:5037\n* daemon started successfully\n"


@pytest.mark.parametrize(("said", "last"), [(STARTED, "kill-server"), ("", "devices")])
def test_only_an_adb_server_that_doctor_started_is_stopped(programs, tmp_path, monkeypatch, said, last):
    """`adb kill-server` would end a server on another computer too."""
    monkeypatch.setenv("ADB_SERVER_SOCKET", "tcp:phones.example:5037")
    programs("adb", f"echo $1 >> {tmp_path}/calls; printf '{said}' >&2; echo 'Version 34'")
    android.adb()
    assert (tmp_path / "calls").read_text().split()[-1] == last


def test_the_runner_is_looked_for_where_bench_does(programs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (missing,) = android.bench()
    assert not missing.ok and missing.fix == INSTALL
    monkeypatch.setenv("EDGE_BENCH_RUNNER", str(tmp_path))
    (tmp_path / "edge-bench").touch()
    (unlinked,) = android.bench()
    assert not unlinked.ok and unlinked.fix == INSTALL and "no NDK" in unlinked.found
    monkeypatch.delenv("EDGE_BENCH_RUNNER")
    programs("aarch64-linux-gnu-g++", "")
    (runner,) = android.bench()
    assert runner.ok and "portable" in runner.found and "OpenCL" in runner.found
    monkeypatch.setenv("EDGE_BENCH_RUNNER", str(tmp_path))
    clang = tmp_path / "ndk/toolchains/llvm/prebuilt/linux-x86_64/bin/clang"
    clang.parent.mkdir(parents=True)
    clang.touch()
    monkeypatch.setenv("ANDROID_NDK", str(tmp_path / "ndk"))
    (runner,) = android.bench()
    assert (runner.ok, runner.found) == (True, f"{tmp_path}/edge-bench, linker {clang}")


def test_jdk_versions_old_style_and_new(programs):
    for version, ok in (("17.0.2", True), ("21", True), ("11.0.1", False), ("1.8.0_292", False)):
        programs("javac", f"echo javac {version} >&2")
        (found,) = android.jdk()
        assert found.ok is ok, version


def test_rust_without_the_android_target(programs, tmp_path):
    (tmp_path / "lib/rustlib/x86_64-unknown-linux-gnu/lib").mkdir(parents=True)
    programs("rustc", f'[ "$1" = --version ] && echo rustc 1.90.0 || echo {tmp_path}')
    rustup, rust, target = android.rust()
    assert not rustup.ok, "MLC's packaging calls it"
    assert rust.ok and "1.90.0" in rust.found
    assert not target.ok and target.fix == "rustup target add aarch64-linux-android"
    (tmp_path / "lib/rustlib/aarch64-linux-android/lib").mkdir(parents=True)
    programs("rustup", "echo rustup 1.28.2")
    assert all(check.ok for check in android.rust())


def test_gradle_is_as_new_as_the_projects_own(programs):
    wrapper = (ROOT / "templates/android/gradle/wrapper/gradle-wrapper.properties").read_text()
    (wanted,) = re.findall(r"gradle-([\d.]+)-bin\.zip", wrapper)
    for version, ok in ((wanted, True), (f"{wanted}.1", True), ("8.13", False), ("no version", False)):
        programs("gradle", f"echo; echo ----; echo Gradle {version}; echo ----")
        (found,) = android.gradle()
        assert found.ok is ok, version
        assert ok or f"gradle-{wanted}-bin.zip" in found.fix


def test_an_mlc_checkout_without_its_submodules(programs, tmp_path, monkeypatch):
    (tmp_path / "python/mlc_llm").mkdir(parents=True)
    (tmp_path / "python/mlc_llm/__init__.py").touch()
    monkeypatch.setenv("MLC_LLM_SOURCE_DIR", str(tmp_path))
    checkout, tvm = android.mlc()
    assert checkout.ok and not tvm.ok and "submodule update --init" in tvm.fix
    (tmp_path / "3rdparty/tvm/include/tvm").mkdir(parents=True)
    programs("git", "echo 1234abcd")
    checkout, tvm = android.mlc()
    assert "1234abcd" in checkout.found
    assert tvm.ok and "1234abcd" in tvm.found and android.PINNED_TVM in tvm.found


def test_an_installed_mlc_is_enough_for_the_engine_but_not_for_apps(programs, tmp_path, monkeypatch):
    assert [check.ok for check in android.mlc()] == [False, False]
    (tmp_path / "mlc_llm").mkdir()
    (tmp_path / "mlc_llm" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    mlc, tvm = android.mlc()
    assert mlc.ok and str(tmp_path / "mlc_llm") in mlc.found
    assert not tvm.ok and "git clone --recursive" in tvm.fix


def test_a_package_of_the_wrong_version_is_missing(monkeypatch):
    monkeypatch.setattr(packages.metadata, "version", lambda name: "0.1")
    (found,) = packages.packages()
    assert not found.ok and "apache-tvm 0.1 (needs ==0.26.0)" in found.found


def test_an_extra_includes_the_extras_that_it_names(monkeypatch):
    def version(name: str) -> str:
        if name == "glassllm":
            raise packages.metadata.PackageNotFoundError
        return "1000"

    monkeypatch.setattr(packages.metadata, "version", version)
    demo = next(found for found in packages.extras() if found.name == "demo")
    assert not demo.ok and "glassllm missing" in demo.found and "gguf 1000" in demo.found


def test_tvm_generates_code_for_the_host_and_for_phones():
    assert {check.name for check in system.tvm_targets() if check.ok} == {
        "llvm-host",
        "llvm-aarch64",
        "llvm-x86_64",
        "opencl",
        "metal",
    }


def test_a_broken_tvm_is_a_finding(monkeypatch):
    monkeypatch.setattr(system, "_TVM_PROBE", "raise ImportError")
    assert [check.ok for check in system.tvm_targets()] == [False] * 5


def test_offline_mode_is_named(programs):
    (found,) = system.hub()
    assert not found.ok and found.fix == "unset HF_HUB_OFFLINE"


def test_a_program_that_hangs_times_out(programs):
    programs("hangs", "exec /bin/sleep 60")
    assert check.output_of("hangs", timeout_s=0.2) is None


def test_missing_things_fail_only_with_for(programs):
    report = said("doctor")
    assert {"name", "ok", "found", "fix"} == set(report["checks"][0])
    assert "ndk" in report["jobs"]["app"]["missing"]
    assert run("doctor", "--for", "app").exit_code == 1
    assert run("doctor", "--for", "android").exit_code == 1
    programs("gcc", "echo gcc 14")
    assert run("doctor", "--for", "android", "--for", "android-cpu").exit_code == 0
    assert run("doctor", "--for", "android", "--for", "app").exit_code == 1


def test_an_unknown_job():
    result = run("doctor", "--for", "andriod")
    assert result.exit_code == 2 and "Did you mean 'android'?" in result.stderr


def test_the_screen_fits_80_columns_and_fixes_can_be_copied(programs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("doctor", "--for", "app").stdout
    fixes = [found.fix for found in examine() if not found.ok]
    assert [line for line in shown.splitlines() if len(line) > 80 and line.strip() not in fixes] == []
    assert "rustup target add aarch64-linux-android" in shown and "-- ndk" in shown
