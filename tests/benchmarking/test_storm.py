"""Random faults while a plan runs on two phones: no finished repetition is lost, and nothing hangs or is left behind.

As a test, this is one short plan. ``make soak`` runs new plans for EDGE_SOAK_MINUTES; EDGE_SOAK_SEED is the first seed.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.bench_logs import repetitions
from tests.support.growth import growth, require_level
from tests.support.patience import HANG_S

pytestmark = pytest.mark.slow

MINUTES = float(os.environ.get("EDGE_SOAK_MINUTES", "0"))
SEED = int(os.environ.get("EDGE_SOAK_SEED", "1"))
REPETITIONS = 4


def fill_up(phone) -> None:
    with contextlib.suppress(OSError), phone.filled_up(leave=0):
        time.sleep(1)


def stall(phone) -> None:
    phone.kill("edge-bench", signal.SIGSTOP)
    time.sleep(3)
    phone.kill("edge-bench", signal.SIGCONT)


def heat_up(phone) -> None:
    phone.set_temperature(70)
    time.sleep(2)
    phone.set_temperature(30)


FAULTS = {
    "the phone boots": lambda phone, server, bench: phone.reboot(),
    "the network is cut": lambda phone, server, bench: phone.cut_network(2),
    "the adb server is killed": lambda phone, server, bench: server.kill(),
    "the runner is killed": lambda phone, server, bench: phone.kill("edge-bench"),
    "the runner stalls": lambda phone, server, bench: stall(phone),
    "a file is damaged": lambda phone, server, bench: phone.damage_weights(),
    "the storage is full": lambda phone, server, bench: fill_up(phone),
    "the phone is hot": lambda phone, server, bench: heat_up(phone),
    "the bench is interrupted": lambda phone, server, bench: bench.send_signal(signal.SIGINT),
    "the bench is killed": lambda phone, server, bench: bench.kill(),
}


@pytest.mark.soak
def test_plans_in_a_storm(make_phone, adb_server, tiny_dist, runner, run_bench, tmp_path):
    phones = [make_phone(), make_phone()]
    known = run_bench("host", log=tmp_path / "host.jsonl", repetitions=1).results[0]["tokens"]
    end = time.monotonic() + 60 * MINUTES
    seed = SEED
    while True:
        log = tmp_path / f"{seed}.jsonl"
        words = command(phones, tiny_dist, runner, log)
        storm(random.Random(seed), 12 if MINUTES else 3, phones, adb_server, words, log)
        found = repetitions(log)
        assert Counter(record.serial for record in found) == {phone.serial: REPETITIONS for phone in phones}
        assert all(list(record.tokens) == known for record in found)
        assert [phone.read("/standin/fixed_performance").split()[-1] for phone in phones] == ["false"] * 2
        seed += 1
        if time.monotonic() > end:
            break


def command(phones, dist: Path, runner: Path, log: Path) -> list[str]:
    options = {
        "--device": ",".join(phone.serial for phone in phones), "--target": "android-cpu", "--runner": str(runner),
        "--lengths": "8+4", "--repetitions": str(REPETITIONS), "--per-visit": "2", "--warmups": "0", "--timeout": "20",
        "--cool-timeout": "20", "--reconnect": "20", "--output": str(log),
    }  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    return [sys.executable, "-m", "edge_transact", "bench", str(dist), *words]


def storm(dice: random.Random, faults: int, phones: list, server, command: list[str], log: Path) -> None:
    """Run the command until it succeeds, with `faults` faults on the way, and check what each attempt leaves."""
    for attempt in range(faults + 2):
        finished = finished_lines(log)
        errors = log.with_suffix(f".{attempt}.stderr")
        with errors.open("wb") as file:
            bench = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
        deadline = time.monotonic() + HANG_S
        try:
            while bench.poll() is None:
                assert time.monotonic() < deadline, f"hangs:\n{errors.read_text()}"
                if not faults:
                    time.sleep(0.1)
                    continue
                with contextlib.suppress(subprocess.TimeoutExpired):
                    bench.wait(dice.uniform(1, 4))
                    break
                name = dice.choice(list(FAULTS))
                faults -= 1
                print(f"{log.stem}, attempt {attempt}: {name}", flush=True)
                FAULTS[name](dice.choice(phones), server, bench)
        finally:
            bench.kill()
        assert bench.returncode in (0, 1, 130, -signal.SIGKILL), errors.read_text()
        assert "Traceback" not in errors.read_text(), errors.read_text()
        assert finished_lines(log)[: len(finished)] == finished
        for phone in phones:
            server.adb("disconnect", phone.serial)
            server.connect(phone)
            nothing_runs_on(phone)
        if bench.returncode == 0:
            return
    raise AssertionError(f"not finished after {attempt + 1} attempts:\n{errors.read_text()}")


def finished_lines(log: Path) -> list[str]:
    """The log's lines, without one that a killed bench was still writing."""
    return log.read_text().split("\n")[:-1] if log.exists() else []


def nothing_runs_on(phone) -> None:
    deadline = time.monotonic() + HANG_S
    while running := [line for line in phone.processes().values() if "edge-bench" in line]:
        assert time.monotonic() < deadline, running
        time.sleep(0.1)


@pytest.mark.parametrize("device", ["host", "phone"] if MINUTES else ["host"])
def test_memory_does_not_grow(device, request, run_bench):
    """Each repetition clears the KV cache, and leaves nothing else behind."""
    serial = request.getfixturevalue("phone").serial if device == "phone" else device
    assert run_bench(serial, repetitions=400 if MINUTES else 40, timeout_s=600).failures == []
    for visit in (0, 1):
        peaks = [record.peak_rss_mib for record in repetitions(run_bench.log) if record.round == visit]
        assert peaks[-1] - peaks[1] < 1


@pytest.mark.soak
def test_five_hundred_visits(phone, run_bench, tmp_path):
    """Fifty benches in one process, of ten visits each."""

    def visit(number: int) -> None:
        log = tmp_path / f"{number}.jsonl"
        assert run_bench(phone.serial, log=log, repetitions=10, per_visit=1).failures == []
        assert len({record.round for record in repetitions(log)}) == 10

    require_level(growth(visit, 50))
