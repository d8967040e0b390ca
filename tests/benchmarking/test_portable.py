"""The portable runner: from a MODEL to a report with one command, on a machine without an NDK, clang or lld."""

import json
import os
import re
import shutil
import subprocess
import sys

import adbutils
import pytest

from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking import session
from edge_transact.benchmarking.portable import COMPILER, INSTALL, portable_runner
from edge_transact.benchmarking.records.plan import prompt_ids
from edge_transact.cache import cache_directory
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.runtime.host import HostModel
from tests.support.phone.runner import CACHE


@pytest.mark.slow
def test_one_command_takes_a_model_to_a_report(make_phone, runner, built_dist, tmp_path):
    """PATH has no clang and no lld. The phone has 1 GB free, and says nothing of its clocks."""
    phone = make_phone(storage_mib=1000)
    shutil.rmtree(phone.root / "sys/devices/system/cpu")
    # Compiling takes 14 s of CPU, and `runner` has been made so already.
    shutil.copytree(CACHE / "portable/runners", cache_directory() / "runners", dirs_exist_ok=True)
    (tmp_path / "bin").mkdir()
    for program in ("adb", "cc", "gcc", "as", "ld", COMPILER):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANDROID_NDK")}
    command = [
        sys.executable, "-m", "edge_transact", "bench", "demo:tiny", "--device", phone.serial, "--report", "report",
        "--lengths", "8+4", "--repetitions", "1", "--warmups", "0", "--json",
    ]  # fmt: skip
    environment = {**kept, "PATH": str(tmp_path / "bin"), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the portable one, for CPUs; OpenCL needs the NDK's" in done.stderr
    (result,) = json.loads(done.stdout.splitlines()[-1])["results"]
    prompt = prompt_ids(Manifest.read(built_dist).plan.vocab_size, 8)
    assert result["tokens"] == list(HostModel.load(built_dist).generate(prompt, 4))
    assert result["tokens_agreed"] == result["tokens_checked"] == 17
    assert result["target"] == "android-cpu" and result["cpu_mhz"] is None
    assert "demo:tiny" not in result["model"] and (tmp_path / "report/index.html").stat().st_size
    assert (phone.tmp / "edge-transact/portable/libc.so.6").exists()


def test_a_phone_that_is_too_full_gets_nothing_through_an_old_adb(make_phone, run_bench, monkeypatch):
    """Platform tools of 2018 know no `host:tport`, by which newer ones name a phone."""
    monkeypatch.setattr(adbutils.AdbClient, "server_version", lambda client: 39)
    phone = make_phone(storage_mib=8)
    (failure,) = run_bench(phone.serial).failures
    assert "8.4 MB of storage free, and 12.1 MB are needed" in failure
    assert list((phone.tmp / "edge-transact/portable").iterdir()) == []


def test_what_the_portable_runner_needs_is_said(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="OpenCL needs a runner built with the NDK"):
        session._portable_runner("android")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeTransactError, match=re.escape(f"no {COMPILER} on PATH")) as no:
        portable_runner()
    assert no.value.fix == INSTALL
