"""The portable runner: from a MODEL to a report with one command, on a machine without an NDK, clang or lld."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import adbutils
import pytest

from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking import session
from edge_transact.benchmarking.drivers.adb import client, devices
from edge_transact.benchmarking.drivers.adb.client import AndroidDevice
from edge_transact.benchmarking.drivers.adb.runner import start_of
from edge_transact.benchmarking.drivers.base import DeviceInfo
from edge_transact.benchmarking.link import link_archive
from edge_transact.benchmarking.portable import COMPILER, INSTALL, LOADER, portable_runner
from edge_transact.benchmarking.records.log import read_records
from edge_transact.benchmarking.records.plan import prompt_ids
from edge_transact.building import kept
from edge_transact.cache import cache_directory
from edge_transact.compiler.targets import library_name, system_lib_prefix
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.runtime.host import HostModel
from tests.support.clean_environment import clean_environment
from tests.support.command import run, said
from tests.support.phone.runner import CACHE


@pytest.mark.slow
def test_one_command_takes_a_model_to_a_report(make_phone, runner, built_dist, tmp_path):
    """In a clean environment: PATH has no clang and no lld. The phone has 1 GB free, and says nothing of its clocks."""
    phone = make_phone(storage_mib=1000)
    shutil.rmtree(phone.root / "sys/devices/system/cpu")
    # Compiling takes 14 s of CPU, and `runner` has been made so already.
    shutil.copytree(CACHE / "portable/runners", cache_directory() / "runners", dirs_exist_ok=True)
    (tmp_path / "bin").mkdir()
    for program in ("adb", "cc", "gcc", "as", "ld", COMPILER):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    names = {name: os.environ[name] for name in os.environ if not name.startswith(("ANDROID_NDK", "PYTHON"))}
    programs = clean_environment(tmp_path / "environment", "bench", "demo-data")
    assert subprocess.run([programs / "python", "-c", "import pytest"], cwd=tmp_path, capture_output=True).returncode
    command = [
        programs / "edge-transact", "bench", "demo:tiny", "--device", phone.serial, "--report", "report",
        "--evidence", "phone.zip", "--lengths", "8+4", "--repetitions", "1", "--warmups", "0", "--json",
    ]  # fmt: skip
    environment = {**names, "PATH": str(tmp_path / "bin")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the portable one, for CPUs; OpenCL needs the NDK's" in done.stderr
    (result,) = json.loads(done.stdout.splitlines()[-1])["results"]
    prompt = prompt_ids(Manifest.read(built_dist).plan.vocab_size, 8)
    assert result["tokens"] == list(HostModel.load(built_dist).generate(prompt, 4))
    assert result["tokens_agreed"] == result["tokens_checked"] == 17
    assert result["target"] == "android-cpu" and result["cpu_mhz"] is None and result["runner"] == "portable"
    assert "runner: portable" in (tmp_path / "report/index.html").read_text()
    assert {record.runner for record in read_records(tmp_path / "phone.zip")} == {"portable"}
    assert "demo:tiny" not in result["model"]
    assert (phone.tmp / "edge-transact/portable/libc.so.6").exists()


def test_a_phone_that_is_too_full_gets_nothing_through_an_old_adb(make_phone, run_bench, monkeypatch):
    """Platform tools of 2018 know no `host:tport`, by which newer ones name a phone."""
    monkeypatch.setattr(adbutils.AdbClient, "server_version", lambda client: 39)
    phone = make_phone(storage_mib=8)
    (failure,) = run_bench(phone.serial).failures
    assert "8.4 MB of storage free, and 12.2 MB are needed" in failure
    assert list((phone.tmp / "edge-transact/portable").iterdir()) == []


def test_a_loader_that_came_half_is_sent_again(phone, run_bench, runner, monkeypatch):
    """One of another call that ended lies there, and the connection ends while this one sends it."""
    there, chunks, cut = phone.tmp / "edge-transact/portable", client._chunks, []

    def half(source):
        for chunk in chunks(source):
            if isinstance(source, Path) and source.name == LOADER and not cut:
                cut.append(chunk)
                raise ConnectionResetError("cut")
            yield chunk

    device, name = AndroidDevice(client.adb_client(), phone.serial), "/data/local/tmp/edge-transact/portable"
    device.checked("mkdir", "-p", name)
    device.push((runner / LOADER).read_bytes()[:99_999], f"{name}/{LOADER}")
    monkeypatch.setattr(client, "_chunks", half)
    outcome = run_bench(phone.serial)
    assert cut and outcome.failures == [] and outcome.results[0]["tokens_equal"]
    assert (there / LOADER).read_bytes() == (runner / LOADER).read_bytes() and not list(there.glob("*.partial"))


def test_it_needs_no_root(runner, built_dist):
    """Tokens as user 2000, who is adb's shell on phones, and may write nothing here but its own directory."""
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        os.chmod(home, 0o755)
        tools, model = (shutil.copytree(path, Path(home, path.name)) for path in (runner, built_dist))
        manifest = Manifest.read(model)
        library = shutil.copy(link_archive(model / manifest.libraries["android-cpu"]), home)
        (ids := Path(home, "ids")).write_text(" ".join(map(str, manifest.parity["prompt_ids"][:8])) + "\n")
        for path in Path(home).rglob("*"):
            path.chmod(0o755)
        # Without privileges to regain, outside root's groups and directories.
        user = ("setpriv", "--reuid=2000", "--regid=2000", "--clear-groups", "--no-new-privs", "env", "-i", "-C", home)
        files = ("--model", model, "--library", library, "--prompt", ids, "--device", "cpu", "--decode", 4)
        prefix = ("--system-lib-prefix", system_lib_prefix(library_name(manifest.model_lib, "android-cpu")))
        words = (shutil.which("qemu-aarch64"), *start_of(str(tools), portable=True), *files, *prefix)
        command = (*user, *words, "--repetitions", 1, "--warmups", 0)
        output = subprocess.run([*map(str, command)], check=True, capture_output=True).stdout
        (tokens,) = (line["tokens"] for line in map(json.loads, output.splitlines()) if line["kind"] == "repetition")
        assert tokens == list(HostModel.load(built_dist).generate(manifest.parity["prompt_ids"][:8], 4))


def test_a_dry_run_builds_and_makes_nothing(built_dist, monkeypatch, tmp_path):
    """Without any program on PATH, and with nothing in the cache before and after."""
    info = DeviceInfo("s1", "phone", ("arm64-v8a",))
    monkeypatch.setattr(devices, "find_devices", lambda selector: [AndroidDevice(None, "s1")])
    monkeypatch.setattr(devices, "describe", lambda device: info)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "cache"))
    plan = ("--dry-run", "--output", tmp_path / "log.jsonl")
    built = said("bench", built_dist, "--lengths", "8+4", "--device", "s1", *plan)["plan"]
    assert (built["devices"], built["builds"], built["visits"]) == (["phone"], [], built["rounds"])
    for device in (("--device", "s1"), ()):
        to_build = said("bench", built_dist, "demo:tiny", "--lengths", "8+4,16+4", *device, *plan)["plan"]
        assert to_build["builds"] == ["demo:tiny"] and to_build["models"] == [str(built_dist), "demo:tiny"]
        assert to_build["visits"] == 2 * 2 * built["visits"]
    assert "build demo:tiny, then" in run("bench", "demo:tiny", *plan).stdout
    refused = run("bench", "demo:tiny", "--device", "s1", "--tune", *plan)
    assert refused.exit_code == 2 and "Build demo:tiny first" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said_before_anything_is_built(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "find_devices", lambda selector: [])
    monkeypatch.setattr(kept, "kept_dist", lambda *_: pytest.fail("built"))
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("bench", "demo:tiny", "--device", "s1")
    assert done.exit_code == 1 and f"no {COMPILER} on PATH" in done.stderr
    done = run("bench", "demo:tiny", "--device", "s1", "--target", "android")
    assert done.exit_code == 2 and "OpenCL needs a runner built with the NDK" in done.stderr
    for names, said_of_it in (({}, "no C compiler on PATH"), ({"CC": "tcc"}, "no C compiler tcc")):
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        done = run("build", "demo:tiny", "--target", "android-cpu", "--output", tmp_path / "dist")
        assert done.exit_code == 1 and said_of_it in done.stderr and "doctor --for host" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_the_portable_runner_needs_is_said(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="OpenCL needs a runner built with the NDK"):
        session._portable_runner("android")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeTransactError, match=re.escape(f"no {COMPILER} on PATH")) as no:
        portable_runner()
    assert no.value.fix == INSTALL
