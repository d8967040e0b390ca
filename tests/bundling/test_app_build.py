"""`bundle --build`: which steps run, what they are told, and where a second call goes on. Programs are scripts here."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from edge_transact.bundling import apk as apk_checks
from edge_transact.bundling import install as installing
from edge_transact.bundling.steps import ALIGN
from edge_transact.doctor.check import Check
from edge_transact.errors import UsageError
from tests.support.app_tools import AppTools
from tests.support.command import run
from tests.support.dists import CLANG, make_dist
from tests.support.examples import examples_with, run_line

pytestmark = pytest.mark.needs("clang-19")

PACKAGING = ["rustup", "cmake", "cmake", "cmake"]
CHECKOUT = os.environ.get("MLC_LLM_SOURCE_DIR")


@pytest.fixture
def tools(tmp_path, monkeypatch) -> AppTools:
    """This machine has all that an app takes."""
    return use(AppTools(tmp_path / "tools"), monkeypatch)


def use(tools: AppTools, monkeypatch: pytest.MonkeyPatch) -> AppTools:
    tools.use(monkeypatch)
    monkeypatch.setattr(apk_checks, "examine_apk", lambda path: [Check("apk", True, path.read_text())])
    (tools.root / "app.apk").write_text("finished")
    return tools


@pytest.fixture
def bundle(tmp_path):
    """Runs the command on a small DIST and returns its result."""
    return partial(run, "bundle", make_dist(tmp_path / "dist"), "-o", tmp_path / "app")


def test_each_step_runs_once(tools, bundle, tmp_path):
    result = bundle("--build", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert Path(said["apk"]).read_text() == "finished" and said["checks"][0]["found"] == "finished"
    calls = tools.calls()
    assert [name for name, _, _ in calls] == [*PACKAGING, "gradle"]
    assert calls[0][1] == ["target", "add", "aarch64-linux-android"]
    assert calls[-1][1] == ["--console=plain", ":app:assembleDebug"]
    assert {flags for _, _, flags in calls} == {""}, "NDK r28 aligns by itself"
    assert (tmp_path / "app/dist/lib/mlc4j/output/tvm4j_core.jar").is_file()
    # They are printed so that they can be repeated by hand.
    assert "step 1 of 2" in result.stderr and "-m edge_transact.mlc.package" in result.stderr
    assert "gradle --console=plain :app:assembleDebug" in result.stderr

    released = bundle("--release")
    assert released.exit_code == 0 and "app/build/outputs/apk/release/app-release.apk\n" in released.stdout
    assert f"For Google Play: {tmp_path}/app/app/build/outputs/bundle/release/app-release.aab\n" in released.stdout
    assert [words for _, words, _ in tools.calls()] == [
        ["--console=plain", ":app:assembleRelease", ":app:bundleRelease"]
    ]

    again = bundle("--build")
    assert again.exit_code == 0 and "unchanged" in again.stderr
    assert [name for name, _, _ in tools.calls()] == ["gradle"], "Gradle knows itself what has changed"


def test_linkers_of_older_ndks_are_told_to_align(tmp_path, bundle, monkeypatch):
    tools = use(AppTools(tmp_path / "tools", ndk="27.0.11718014"), monkeypatch)
    assert bundle("--build").exit_code == 0
    assert {flags for name, _, flags in tools.calls() if name == "cmake"} == {*ALIGN.values()}


@pytest.mark.needs("ld.lld-19")
def test_clang_aligns_as_it_is_told(tmp_path):
    source, item, library = tmp_path / "x.c", tmp_path / "x.o", tmp_path / "x.so"
    source.write_text("int x = 1;")
    environment = {**os.environ, **ALIGN}
    compile_it = [*CLANG, "-Wall", "-Werror", "-c", source, "-o", item]
    link_it = [*CLANG, "-fuse-ld=lld", "-nostdlib", "-shared", "-Wl,-z,max-page-size=4096", item, "-o", library]
    for command in (compile_it, link_it):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
    with library.open("rb") as file:
        assert {segment["p_align"] for segment in ELFFile(file).iter_segments("PT_LOAD")} == {16384}


@pytest.mark.parametrize(
    ("broken", "before", "after"),
    [("rustup", ["rustup"], [*PACKAGING, "gradle"]), ("gradle", [*PACKAGING, "gradle"], ["gradle"])],
)
def test_a_failed_step_says_why_and_is_where_the_next_call_goes_on(tools, bundle, tmp_path, broken, before, after):
    tools.breaks(broken, "no space left on device")
    result = bundle("--build")
    (tmp_path / "app/build/half").touch()
    assert result.exit_code == 1 and "no space left on device" in result.stderr
    assert str(tmp_path / "app/logs") in result.stderr.replace("\n", "")
    assert [name for name, _, _ in tools.calls()] == before
    tools.breaks(broken, None)
    assert bundle("--build").exit_code == 0
    assert (tmp_path / "app/build/half").exists(), "CMake goes on with what it has compiled"
    assert [name for name, _, _ in tools.calls()] == after


def test_a_step_is_repeated_when_what_it_made_is_gone_or_what_it_needs_has_changed(tools, bundle, tmp_path):
    assert bundle("--build").exit_code == 0
    (tmp_path / "app/dist/lib/mlc4j/output/arm64-v8a/libtvm4j_runtime_packed.so").unlink()
    tools.calls()
    assert bundle("--build").exit_code == 0
    assert [name for name, _, _ in tools.calls()] == [*PACKAGING, "gradle"]
    stale = tmp_path / "app/build/CMakeCache.txt"
    stale.touch()
    (tools.root / "ndk/source.properties").write_text("Pkg.Revision = 29.0.1\n")
    assert bundle("--build").exit_code == 0
    assert [name for name, _, _ in tools.calls()] == [*PACKAGING, "gradle"]
    assert not stale.exists(), "CMake would go on with the old NDK"


def test_a_step_that_makes_nothing_has_failed(tools, bundle):
    (tools.root / "app.apk").unlink()
    result = bundle("--build")
    assert result.exit_code == 1 and "app-debug.apk" in result.stderr


def test_a_projects_own_gradle_comes_first(tools, bundle, tmp_path):
    assert bundle().exit_code == 0
    wrapper = tmp_path / "app/gradlew"
    wrapper.write_text((tools.root / "bin/gradle").read_text().replace(" gradle ", " wrapper "))
    wrapper.chmod(0o755)
    assert bundle("--build").exit_code == 0
    assert [name for name, _, _ in tools.calls()] == [*PACKAGING, "wrapper"]


def test_without_the_tools_the_project_is_complete_and_what_is_missing_is_named(tools, bundle, tmp_path, monkeypatch):
    for name in ("gradle", "rustup"):
        (tools.root / "bin" / name).unlink()
    monkeypatch.setenv("PATH", tools.path)
    monkeypatch.delenv("ANDROID_HOME")
    result = bundle("--build", "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["missing"] == ["sdk", "gradle", "rustup"]
    assert (tmp_path / "app/settings.gradle").is_file()
    text = " ".join(bundle("--build").stdout.split())
    assert "is complete" in text and "https://services.gradle.org/distributions/gradle-" in text
    assert [name for name, _, _ in tools.calls()] == []


def test_an_apk_that_would_not_run_is_not_installed(tools, bundle, monkeypatch):
    broken = Check("segments", False, "not aligned", "link again")
    monkeypatch.setattr(apk_checks, "examine_apk", lambda path: [broken])
    monkeypatch.setattr(installing, "find_phone", lambda serial: None)
    result = bundle("--install")
    assert result.exit_code == 1 and "not aligned" in result.stdout


def test_a_phone_that_is_missing_is_noticed_before_the_build(tools, bundle, monkeypatch):
    def none(serial: str) -> None:
        raise UsageError(f"adb knows no device {serial!r}")

    monkeypatch.setattr(installing, "find_phone", none)
    result = bundle("--install", "--device", "1A2B")
    assert result.exit_code == 2 and "no device '1A2B'" in result.stderr
    assert [name for name, _, _ in tools.calls()] == []


@pytest.mark.parametrize("line", examples_with("-o app --build") + examples_with("-o app --release"))
def test_examples_of_pages_and_help_build(line, tools, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dist(tmp_path / "dist")
    run_line(line)
    assert [name for name, _, _ in tools.calls()] == [*PACKAGING, "gradle"]


if CHECKOUT:

    @pytest.mark.slow
    @pytest.mark.needs("llvm-nm-19", "llvm-ar-19", "llvm-ranlib-19")
    @pytest.mark.parametrize("models", [True, False])
    def test_mlc_itself_packages_the_project(tools, bundle, tmp_path, monkeypatch, models):
        """With its own Python, and without models, too; rustup and CMake are scripts still."""
        monkeypatch.setenv("MLC_LLM_SOURCE_DIR", str(CHECKOUT))
        programs = tools.root / "ndk/toolchains/llvm/prebuilt/linux-x86_64/bin"
        programs.mkdir(parents=True)
        for name in ("llvm-ar", "llvm-nm", "llvm-ranlib"):
            (programs / name).symlink_to(f"/usr/bin/{name}-19")
        if models:
            result, logs = bundle("--build"), tmp_path / "app/logs"
        else:
            monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "cache"))
            (tools.root / "edge.aar").write_bytes(b"PK\5\6" + bytes(18))  # a ZIP file without entries
            result = run("bundle", "--engine", "-o", tmp_path / "maven")
            (logs,) = tmp_path.glob("cache/engines/*/logs")
        assert result.exit_code == 0 or "edge-release.aar has no" in result.stderr.replace("\n", ""), result.output
        log = (logs / "package.log").read_text()
        assert "Validation pass" in log and "jit compile" not in log
        names = ["edge_llama_q4f16_0_0123abcd", "edge_llama_q4f16_0_0123abcd_cpu"] if models else []
        assert f"packaged: {names}" in log
        assert [name for name, _, _ in tools.calls()] == [*PACKAGING, "gradle"]
