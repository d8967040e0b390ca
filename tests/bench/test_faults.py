"""Faults between a computer and a phone, provoked: no finished repetition is lost, and nothing hangs."""

import _thread
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from edge_transact.bench.drivers.adb import client, push
from edge_transact.bench.drivers.base import DeviceLost
from edge_transact.bench.records.plan import Lengths
from edge_transact.errors import EdgeTransactError
from tests.support.bench_logs import repetitions
from tests.support.phone.unauthorized import UnauthorizedDevice

pytestmark = pytest.mark.slow


@pytest.fixture
def two_attempts(monkeypatch):
    """Try a visit that always fails twice instead of three times."""
    monkeypatch.setattr("edge_transact.bench.run.ATTEMPTS", 2)


def reboot(phone, adb_server):
    """The device dies and comes back a moment later, with an empty /data/local/tmp and in no special mode."""

    def act():
        phone.stop()
        phone.write("/standin/fixed_performance", "booted")
        time.sleep(0.5)
        phone.start()

    return act


def fake_runner(tmp_path: Path, script: str) -> Path:
    """A misbehaving runner: a shell script with the run's name in $run, where `repetition N` prints a good line."""
    directory = tmp_path / "fake"
    directory.mkdir()
    prologue = """\
        #!/system/bin/sh
        while [ $# -gt 0 ]; do [ "$1" = --run ] && run=$2; [ "$1" = --repetitions ] && n=$2; shift; done
        line() { echo "{\\"run\\":\\"$run\\",\\"kind\\":$1}"; }
        repetition() {
            line "\\"repetition\\",\\"index\\":$1,\\"prefill_tokens\\":8,\\"ttft_s\\":0.2,\\"prefill_s\\":0.2,\\"decode_s\\":0.3,\\"decode_steps_s\\":[0.1,0.1,0.1],\\"e2e_s\\":0.5,\\"tokens\\":[1,2,3,4]"
        }
        """  # noqa: E501
    (directory / "edge-bench").write_text(textwrap.dedent(prologue) + textwrap.dedent(script))
    return directory


def test_device_dies_during_a_push(phone, adb_server, run_bench, monkeypatch):
    chunks, died = client._chunks, []

    def chunks_until_death(source):
        for number, chunk in enumerate(chunks(source)):
            if number == 3 and not died:
                died.append(True)
                reboot(phone, adb_server)()
            yield chunk

    monkeypatch.setattr(client, "_chunks", chunks_until_death)
    outcome = run_bench(phone.serial)
    assert died and outcome.failures == [] and outcome.results[0]["repetitions"] == 2


def test_device_dies_during_a_run(phone, adb_server, run_bench, when_logged):
    when_logged("repetition", 1, reboot(phone, adb_server))
    outcome = run_bench(phone.serial, repetitions=6)
    assert outcome.failures == [] and outcome.results[0]["repetitions"] == 6
    modes = phone.read("/standin/fixed_performance").split()
    assert modes[:2] == ["booted", "true"] and modes[-1] == "false"


def test_device_dies_between_runs_and_does_not_come_back(phone, run_bench, when_logged):
    when_logged("visit", 1, phone.stop)
    outcome = run_bench(phone.serial, reconnect_s=2)
    kept = repetitions(run_bench.log)
    assert len(kept) == 1 and len(outcome.failures) >= 1 and "same command again" in str(failure_of(outcome).fix)
    phone.start()
    client.AndroidDevice(client.adb_client(), phone.serial).wait(20, never())
    resumes(phone, run_bench)


def test_the_network_fails_and_the_runner_goes_on(phone, run_bench, when_logged):
    when_logged("repetition", 1, lambda: phone.cut_network(3))
    outcome = run_bench(phone.serial, repetitions=6, sample_s=0.2)
    assert outcome.failures == [] and outcome.results[0]["repetitions"] == 6
    assert outcome.results[0]["tokens_equal"]


def test_a_device_is_lost_again_while_it_recovers(phone, adb_server, run_bench, when_logged, monkeypatch):
    pull, lost = client.AndroidDevice.pull, []

    def pull_when_back(device, source):
        if not lost:
            lost.append(source)
            raise DeviceLost("gone again")
        return pull(device, source)

    monkeypatch.setattr(client.AndroidDevice, "pull", pull_when_back)
    when_logged("repetition", 1, reboot(phone, adb_server))
    outcome = run_bench(phone.serial, repetitions=6)
    assert lost and outcome.failures == [] and outcome.results[0]["repetitions"] == 6
    assert outcome.results[0]["tokens_equal"]


def test_adb_server_is_killed(phone, adb_server, run_bench, when_logged):
    when_logged("repetition", 1, adb_server.kill)
    outcome = run_bench(phone.serial, repetitions=4)
    assert outcome.failures == [] and outcome.results[0]["repetitions"] == 4


def test_unauthorized(adb_server, run_bench):
    device = UnauthorizedDevice()
    try:
        adb_server.adb("connect", device.serial)
        with pytest.raises(EdgeTransactError, match="unauthorized") as error:
            run_bench(device.serial)
        assert "allow USB debugging" in error.value.fix
    finally:
        device.close()


def test_no_device_an_unknown_one_and_an_offline_one(adb_server, make_phone, run_bench):
    with pytest.raises(EdgeTransactError, match="no device"):
        run_bench("all")
    phone = make_phone()
    with pytest.raises(EdgeTransactError, match="'nonesuch'") as error:
        run_bench("nonesuch")
    assert phone.serial in error.value.fix
    phone.stop()
    with pytest.raises(EdgeTransactError, match=r"offline|knows no device"):
        run_bench(phone.serial)


def test_storage_of_the_device_is_full(phone, run_bench, monkeypatch):
    with filled_up(phone, leave=2 << 20):
        assert "MiB of storage free" in run_bench(phone.serial).failures[0]
        monkeypatch.setattr(push, "_check_storage", lambda device, free, needed: None)
        assert "No space left on device" in run_bench(phone.serial, resume=True).failures[0]
    resumes(phone, run_bench)


def test_storage_of_the_device_fills_up_between_runs(two_attempts, phone, run_bench, monkeypatch):
    send = client.AndroidDevice.push
    with monkeypatch.context() as patch, contextlib.ExitStack() as ballast:

        def send_when_full(device, source, target, **options):
            if target.endswith(".prompt") and repetitions(run_bench.log):
                ballast.enter_context(filled_up(phone, leave=0))
            send(device, source, target, **options)

        patch.setattr(client.AndroidDevice, "push", send_when_full)
        outcome = run_bench(phone.serial)
    kept = repetitions(run_bench.log)
    assert len(kept) == 1 and "cannot write" in outcome.failures[0]
    resumes(phone, run_bench)


def test_storage_of_this_computer_is_full(phone, run_bench, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(small)], check=True)
    log = small / "log.jsonl"
    try:
        with pytest.raises(EdgeTransactError, match="cannot be written"):
            run_bench(phone.serial, repetitions=8, log=log)
        kept = repetitions(log)
        assert kept and log.read_text().endswith("\n")
        assert [line for line in phone.processes().values() if "edge-bench" in line] == []
        subprocess.run(["mount", "-o", "remount,size=1m", str(small)], check=True)
        outcome = run_bench(phone.serial, repetitions=8, log=log, resume=True)
        assert outcome.failures == [] and repetitions(log)[: len(kept)] == kept
        assert outcome.results[0]["repetitions"] == 8
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_runner_is_killed_for_memory(phone, run_bench, when_logged):
    when_logged("repetition", 1, lambda: phone.kill("edge-bench"))
    outcome = run_bench(phone.serial, repetitions=4)
    assert outcome.failures == [] and outcome.results[0]["repetitions"] == 4


def test_runner_is_killed_every_time(two_attempts, phone, run_bench, tmp_path):
    outcome = run_bench(phone.serial, runner=fake_runner(tmp_path, "repetition 0; kill -9 $$"), repetitions=6)
    # Two attempts, each of which leaves one good repetition. The next round doesn't try the model again.
    assert len(repetitions(run_bench.log)) == 2
    assert len(outcome.failures) == 1 and "memory runs out" in outcome.failures[0]
    resumes(phone, run_bench, repetitions=6)


def test_runner_crashes_at_once(two_attempts, phone, run_bench, tmp_path):
    outcome = run_bench(
        phone.serial, repetitions=1, runner=fake_runner(tmp_path, "echo 'what a pity' >&2; kill -SEGV $$")
    )
    assert outcome.results == [] and "signal 11" in outcome.failures[0] and "what a pity" in outcome.failures[0]
    resumes(phone, run_bench, repetitions=1)


def test_runner_hangs(two_attempts, phone, run_bench, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_transact.bench.drivers.adb.runner.GRACE_S", 0)
    outcome = run_bench(
        phone.serial, runner=fake_runner(tmp_path, "repetition 0; sleep 600"), repetitions=6, timeout_s=1
    )
    assert len(repetitions(run_bench.log)) == 2 and "took longer" in outcome.failures[0]
    assert [line for line in phone.processes().values() if "edge-bench" in line] == []
    resumes(phone, run_bench, repetitions=6)


def test_runner_prints_garbage(two_attempts, phone, run_bench, tmp_path):
    script = r"""
        repetition 0
        printf '\000\377garbage\n{"run":"%s"' "$run"
        echo '{"kind":"repetition","run":"another","index":0}'
        line '"repetition","index":1'
        sleep 1
    """
    outcome = run_bench(phone.serial, runner=fake_runner(tmp_path, script), repetitions=6)
    assert len(repetitions(run_bench.log)) == 2 and "makes no sense" in outcome.failures[0]
    resumes(phone, run_bench, repetitions=6)


def test_runner_stops_in_the_middle_of_a_line(two_attempts, phone, run_bench, tmp_path):
    script = """
        repetition 0
        repetition 1 | { IFS= read -r line; printf %s "${line%tokens*}"; }
    """
    outcome = run_bench(phone.serial, runner=fake_runner(tmp_path, script), repetitions=6)
    assert len(repetitions(run_bench.log)) == 2 and "without its final line" in outcome.failures[0]
    resumes(phone, run_bench, repetitions=6)


def test_wrong_abi(phone, run_bench):
    properties = phone.read("/build.prop")
    phone.write("/build.prop", properties.replace("arm64-v8a", "armeabi-v7a"))
    outcome = run_bench(phone.serial)
    assert "armeabi-v7a, not arm64-v8a" in outcome.failures[0] and outcome.results == []
    phone.write("/build.prop", properties)
    resumes(phone, run_bench)


def test_a_shard_is_damaged_on_the_device(phone, run_bench, when_logged):
    def damage():
        (shard,) = (phone.tmp / "edge-transact/models").glob("*/params_shard_0.bin")
        content = bytearray(shard.read_bytes())
        content[2000:200000] = os.urandom(198000)
        shard.write_bytes(content)

    when_logged("visit", 1, damage).join(0)
    outcome = run_bench(phone.serial, repetitions=4)
    (result,) = outcome.results
    assert outcome.failures == [] and result["repetitions"] == 4
    assert result["tokens_equal"] and result["tokens_agreed"] == result["tokens_checked"]


def test_the_computers_clock_jumps(phone, run_bench, monkeypatch):
    real, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 86400 * 365)
    outcome = run_bench(phone.serial)
    (result,) = outcome.results
    assert outcome.failures == [] and 0 < result["ttft_s"] < result["e2e_s"] < 60


def test_a_phone_never_cools(phone, run_bench, when_logged):
    when_logged("repetition", 1, lambda: phone.set_temperature(60))
    outcome = run_bench(phone.serial, repetitions=40, cool_timeout_s=1, sample_s=0.3)
    kept = repetitions(run_bench.log)
    assert 1 <= len(kept) < 40 and "60.0 C and does not cool to 37 C" in outcome.failures[0]
    phone.set_temperature(30)
    resumes(phone, run_bench, repetitions=len(kept) + 1)


def test_the_ceiling_pauses_a_visit(phone, run_bench, when_logged):
    def heat_up():
        phone.set_temperature(70)
        for _ in range(100):
            if '"temp_peak_c": 70' in run_bench.log.read_text():
                break
            time.sleep(0.1)
        phone.set_temperature(30)

    when_logged("repetition", 1, heat_up)
    # Long repetitions, so that temperatures are read before the visit ends.
    outcome = run_bench(phone.serial, lengths=(Lengths(8, 32),), repetitions=8, sample_s=0.1)
    assert outcome.failures == [] and outcome.results[0]["repetitions"] == 8
    assert outcome.results[0]["temp_peak_c"] == 70


def test_interrupted_during_a_push(phone, run_bench, monkeypatch):
    chunks, sent = client._chunks, []

    def slow_chunks(source):
        for chunk in chunks(source):
            sent.append(len(chunk))
            if len(sent) == 3:
                _thread.interrupt_main()
            if len(sent) >= 3:
                time.sleep(0.05)
            yield chunk

    monkeypatch.setattr(client, "_chunks", slow_chunks)
    with pytest.raises(KeyboardInterrupt):
        run_bench(phone.serial)
    assert 3 <= len(sent) < 30
    assert [line for line in phone.processes().values() if "edge-bench" in line] == []
    monkeypatch.undo()
    resumes(phone, run_bench)


def test_interrupted(phone, run_bench, tiny_dist, runner, when_logged):
    command = [
        sys.executable, "-m", "edge_transact", "bench", str(tiny_dist), "--device", phone.serial,
        "--runner", str(runner), "--lengths", "8+4", "--repetitions", "200", "-o", str(run_bench.log),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    when_logged("repetition", 1, lambda: process.send_signal(signal.SIGINT)).join()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors and "same command again" in errors
    assert [line for line in phone.processes().values() if "edge-bench" in line] == []
    assert phone.read("/standin/fixed_performance").split()[-1] == "false"
    kept = len(repetitions(run_bench.log))
    assert kept >= 1
    assert run_bench(phone.serial, resume=True, repetitions=2, warmups=1).results[0]["repetitions"] >= kept


@contextlib.contextmanager
def filled_up(phone, leave: int):
    """Fill the phone's storage up to the last `leave` bytes."""
    ballast, free = phone.tmp / "ballast", os.statvfs(phone.tmp)
    with ballast.open("ab") as file:
        size = file.tell() + free.f_bavail * free.f_frsize - leave
        os.posix_fallocate(file.fileno(), 0, size)
    yield
    ballast.unlink(missing_ok=True)


def resumes(phone, run_bench, **options):
    """Once the fault is gone the plan continues: finished repetitions stay, and the rest is measured."""
    kept = repetitions(run_bench.log)
    outcome = run_bench(phone.serial, resume=True, **options)
    assert outcome.failures == [] and repetitions(run_bench.log)[: len(kept)] == kept
    assert outcome.results[0]["repetitions"] >= options.get("repetitions", 2)


def never():
    return threading.Event()


def failure_of(outcome):
    with pytest.raises(EdgeTransactError) as error:
        outcome.require()
    return error.value
