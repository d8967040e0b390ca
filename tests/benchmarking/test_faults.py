"""Faults between a computer and a phone, provoked: no finished repetition is lost, and nothing hangs."""

import _thread
import contextlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from edge_transact.benchmarking import session
from edge_transact.benchmarking.drivers.adb import client, push
from edge_transact.benchmarking.drivers.base import DeviceLost
from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.errors import EdgeTransactError
from tests.support.bench_logs import repetitions
from tests.support.patience import HANG_S

pytestmark = pytest.mark.slow


@pytest.fixture
def two_attempts(monkeypatch):
    """Try a visit that always fails twice instead of three times."""
    monkeypatch.setattr("edge_transact.benchmarking.run.ATTEMPTS", 2)


def runs_on(phone) -> bool:
    return any("edge-bench" in line for line in phone.processes().values())


def fake_runner(tmp_path, script: str):
    """A misbehaving runner: a shell script with the run's name in $run, where `repetition N` prints a good line."""
    prologue = """\
        #!/system/bin/sh
        while [ $# -gt 0 ]; do [ "$1" = --run ] && run=$2; [ "$1" = --repetitions ] && n=$2; shift; done
        line() { echo "{\\"run\\":\\"$run\\",\\"kind\\":$1}"; }
        repetition() {
            line "\\"repetition\\",\\"index\\":$1,\\"prefill_tokens\\":8,\\"ttft_s\\":0.2,\\"prefill_s\\":0.2,\\"decode_s\\":0.3,\\"decode_steps_s\\":[0.1,0.1,0.1],\\"e2e_s\\":0.5,\\"tokens\\":[1,2,3,4]"
        }
        """  # noqa: E501
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "edge-bench").write_text(textwrap.dedent(prologue) + textwrap.dedent(script))
    return tmp_path / "fake"


NDKS = {
    "cannot locate symbol": """line '"error","message":"dlopen failed: cannot locate symbol \\"memcpy\\""'; exit 1""",
    "measures here": """i=0; while [ $i -lt $n ]; do repetition $i; i=$((i + 1)); done; line '"final"'""",
}


@pytest.mark.parametrize("words", NDKS)
def test_the_ndks_runner_measures_cpus_once_it_has_proven_itself(
    phone, run_bench, runner, tmp_path, monkeypatch, caplog, words
):
    """One that can't load the model gives way to the portable one, and the log says which measured."""
    caplog.set_level("INFO", "edge_transact")
    (tmp_path / "android_bench").mkdir()
    fake_runner(tmp_path, NDKS[words]).rename(tmp_path / "android_bench/build")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "portable_runner", lambda: runner)
    outcome = run_bench(phone.serial, runner=None, warmups=0)
    assert outcome.failures == [] and words in caplog.text
    kinds = {record.runner for record in repetitions(run_bench.log)}
    assert kinds == ({"ndk"} if words == "measures here" else {"portable"})
    assert outcome.results[0]["repetitions"] == 2


def test_a_call_that_was_killed_leaves_the_phones_settings_to_the_next(phone, run_bench):
    """What it set isn't taken for the user's."""
    (phone.tmp / "edge-transact").mkdir()
    (phone.tmp / "edge-transact/awake").write_text("15000 null\n")
    phone.write("/standin/settings/system.screen_off_timeout", 2147483647)
    phone.write("/standin/settings/global.stay_on_while_plugged_in", 15)
    run_bench(phone.serial)
    assert phone.read("/standin/settings/system.screen_off_timeout") == "15000"
    assert not (phone.root / "standin/settings/global.stay_on_while_plugged_in").exists()
    assert not (phone.tmp / "edge-transact/awake").exists()


@pytest.mark.soak
def test_device_dies_during_a_push(phone, run_bench, monkeypatch):
    chunks, died = client._chunks, []

    def chunks_until_death(source):
        for number, chunk in enumerate(chunks(source)):
            if number == 3 and not died:
                died.append(True)
                phone.reboot()
            yield chunk

    monkeypatch.setattr(client, "_chunks", chunks_until_death)
    outcome = run_bench(phone.serial)
    assert died and outcome.failures == [] and outcome.results[0]["repetitions"] == 2


DURING_A_RUN = {
    "the device dies": lambda phone, server: phone.reboot(),
    "the network fails and the runner goes on": lambda phone, server: phone.cut_network(3),
    "the adb server is killed": lambda phone, server: server.kill(),
    "the runner is killed for memory": lambda phone, server: phone.kill("edge-bench"),
}


IN_SOAK = ("the network fails and the runner goes on", "the adb server is killed")


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[pytest.mark.soak] * (fault in IN_SOAK)) for fault in DURING_A_RUN]
)
def test_what_fails_once_during_a_run_costs_nothing(phone, adb_server, run_bench, when_logged, fault):
    when_logged("repetition", 1, lambda: DURING_A_RUN[fault](phone, adb_server))
    outcome = run_bench(phone.serial, repetitions=6, sample_s=0.2)
    assert outcome.failures == [] and outcome.results[0]["repetitions"] == 6
    assert outcome.results[0]["tokens_equal"]
    modes = phone.read("/standin/fixed_performance").split()
    assert modes[-1] == "false" and ("dies" not in fault or modes[:2] == ["booted", "true"])


def test_device_dies_between_runs_and_does_not_come_back(phone, run_bench, when_logged):
    when_logged("visit", 1, phone.stop)
    outcome = run_bench(phone.serial, reconnect_s=2)
    assert len(repetitions(run_bench.log)) == 1 and len(outcome.failures) >= 1
    with pytest.raises(EdgeTransactError) as error:
        outcome.require()
    assert "same command again" in error.value.fix
    phone.start()
    client.AndroidDevice(client.adb_client(), phone.serial).wait(HANG_S, threading.Event())
    resumes(phone, run_bench)


@pytest.mark.soak
def test_a_device_is_lost_again_while_it_recovers(phone, run_bench, when_logged, monkeypatch):
    pull, lost = client.AndroidDevice.pull, []

    def pull_when_back(device, source):
        if not lost:
            lost.append(source)
            raise DeviceLost("gone again")
        return pull(device, source)

    monkeypatch.setattr(client.AndroidDevice, "pull", pull_when_back)
    when_logged("repetition", 1, phone.reboot)
    outcome = run_bench(phone.serial, repetitions=6)
    assert lost and outcome.failures == [] and outcome.results[0]["repetitions"] == 6
    assert outcome.results[0]["tokens_equal"]


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
    with phone.filled_up(leave=2 << 20):
        assert "MB of storage free" in run_bench(phone.serial).failures[0]
        look = push._look
        monkeypatch.setattr(push, "_look", lambda *asked: (look(*asked)[0], None))
        assert "No space left on device" in run_bench(phone.serial, resume=True).failures[0]
    resumes(phone, run_bench)


@pytest.mark.soak
def test_storage_of_the_device_fills_up_between_runs(two_attempts, phone, run_bench, monkeypatch):
    send = client.AndroidDevice.push
    with monkeypatch.context() as patch, contextlib.ExitStack() as ballast:

        def send_when_full(device, source, target, **options):
            if target.endswith(".prompt") and repetitions(run_bench.log):
                ballast.enter_context(phone.filled_up(leave=0))
            send(device, source, target, **options)

        patch.setattr(client.AndroidDevice, "push", send_when_full)
        outcome = run_bench(phone.serial)
    assert len(repetitions(run_bench.log)) == 1 and "cannot write" in outcome.failures[0]
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
        assert kept and log.read_text().endswith("\n") and not runs_on(phone)
        subprocess.run(["mount", "-o", "remount,size=1m", str(small)], check=True)
        outcome = run_bench(phone.serial, repetitions=8, log=log, resume=True)
        assert outcome.failures == [] and repetitions(log)[: len(kept)] == kept
        assert outcome.results[0]["repetitions"] == 8
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.soak
def test_runner_crashes_at_once(two_attempts, phone, run_bench, tmp_path):
    runner = fake_runner(tmp_path, "echo 'what a pity' >&2; kill -SEGV $$")
    outcome = run_bench(phone.serial, repetitions=1, runner=runner)
    assert outcome.results == [] and "signal 11" in outcome.failures[0] and "what a pity" in outcome.failures[0]
    resumes(phone, run_bench, repetitions=1)


GARBAGE = r"""
    printf '\000\377garbage\n{"run":"%s"' "$run"
    echo '{"kind":"repetition","run":"another","index":0}'
    line '"repetition","index":1'
    sleep 1
"""


@pytest.mark.parametrize(
    ("then", "words"),
    [
        pytest.param("kill -9 $$", "memory runs out", id="is killed"),
        pytest.param("sleep 600", "took longer", id="hangs"),
        pytest.param(GARBAGE, "makes no sense", id="prints garbage", marks=pytest.mark.soak),
        pytest.param(
            'repetition 1 | { IFS= read -r line; printf %s "${line%tokens*}"; }',
            "without its final line",
            id="stops in the middle of a line",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_runner_fails_every_time(two_attempts, phone, run_bench, tmp_path, monkeypatch, then, words):
    """Two attempts, each of which leaves one good repetition. The next round doesn't try the model again."""
    monkeypatch.setattr("edge_transact.benchmarking.drivers.adb.runner.GRACE_S", 0)
    runner, timeout_s = fake_runner(tmp_path, f"repetition 0\n{then}"), 1 if words == "took longer" else HANG_S
    outcome = run_bench(phone.serial, runner=runner, repetitions=6, timeout_s=timeout_s)
    assert len(repetitions(run_bench.log)) == 2 and not runs_on(phone)
    assert len(outcome.failures) == 1 and words in outcome.failures[0]
    resumes(phone, run_bench, repetitions=6)


def test_wrong_abi(phone, run_bench):
    properties = phone.read("/build.prop")
    phone.write("/build.prop", properties.replace("arm64-v8a", "armeabi-v7a"))
    outcome = run_bench(phone.serial)
    assert "armeabi-v7a, not arm64-v8a" in outcome.failures[0] and outcome.results == []
    phone.write("/build.prop", properties)
    resumes(phone, run_bench)


def test_a_shard_is_damaged_on_the_device(phone, run_bench, when_logged):
    when_logged("visit", 1, phone.damage_weights).join(0)
    outcome = run_bench(phone.serial, repetitions=4)
    (result,) = outcome.results
    assert outcome.failures == [] and result["repetitions"] == 4
    assert result["tokens_equal"] and result["tokens_agreed"] == result["tokens_checked"]


@pytest.mark.soak
def test_the_computers_clock_jumps(phone, run_bench, monkeypatch):
    real, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 86400 * 365)
    outcome = run_bench(phone.serial)
    (result,) = outcome.results
    assert outcome.failures == [] and 0 < result["ttft_s"] < result["e2e_s"] < HANG_S


@pytest.mark.soak
def test_a_phone_never_cools(phone, run_bench, when_logged):
    when_logged("repetition", 1, lambda: phone.set_temperature(60))
    outcome = run_bench(phone.serial, repetitions=40, cool_timeout_s=1, sample_s=0.3)
    kept = repetitions(run_bench.log)
    assert 1 <= len(kept) < 40 and "60.0 C and does not cool to 37 C" in outcome.failures[0]
    phone.set_temperature(30)
    resumes(phone, run_bench, repetitions=len(kept) + 1)


@pytest.mark.soak
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


@pytest.mark.soak
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
    assert 3 <= len(sent) < 30 and not runs_on(phone)
    monkeypatch.undo()
    resumes(phone, run_bench)


def test_interrupted(phone, run_bench, tiny_dist, runner, when_logged):
    command = [
        sys.executable, "-m", "edge_transact", "bench", str(tiny_dist), "--device", phone.serial,
        "--runner", str(runner), "--lengths", "8+4", "--repetitions", "200", "-o", str(run_bench.log),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    when_logged("repetition", 1, lambda: process.send_signal(signal.SIGINT)).join()
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 130 and "interrupted" in errors and "same command again" in errors
    assert not runs_on(phone) and phone.read("/standin/fixed_performance").split()[-1] == "false"
    assert phone.read("/standin/settings/system.screen_off_timeout") == "60000"
    kept = len(repetitions(run_bench.log))
    assert kept >= 1
    assert run_bench(phone.serial, resume=True, repetitions=2, warmups=1).results[0]["repetitions"] >= kept


def resumes(phone, run_bench, **options):
    """Once the fault is gone the plan continues: finished repetitions stay, and the rest is measured."""
    kept = repetitions(run_bench.log)
    outcome = run_bench(phone.serial, resume=True, **options)
    assert outcome.failures == [] and repetitions(run_bench.log)[: len(kept)] == kept
    assert outcome.results[0]["repetitions"] >= options.get("repetitions", 2)
