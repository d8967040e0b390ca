"""The log of a bench takes what comes: foreign and damaged lines, other versions, and other processes."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from edge_transact.benchmarking.records.log import Log, read_records, to_line
from edge_transact.cache.resume import Start
from edge_transact.errors import EdgeTransactError, UsageError
from tests.support.bench_logs import in_rounds, repetitions, write_log
from tests.support.patience import HANG_S

RECORDS = in_rounds(1.0, 2.0, 3.0)
FOREIGN = [
    b"Hello",
    b"\xff\x00\x80",
    b"[" * 100_000,
    b'{"kind": "journal"}',
    to_line(RECORDS[0]).encode()[:200],
    to_line(RECORDS[0]).replace('"e2e_s": 1.0', '"e2e_s": -1').encode().strip(),
    to_line(RECORDS[0]).replace('"serial": "s1", ', "").encode().strip(),
    to_line(RECORDS[0]).replace('"schema": 2', '"schema": 1').encode().strip(),
]


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_foreign_line_is_left_out_and_named(tmp_path, caplog, foreign, place):
    path = write_log(tmp_path / "log.jsonl", RECORDS)
    lines = path.read_bytes().splitlines()
    lines.insert(place, foreign)
    path.write_bytes(b"\n".join(lines))
    assert read_records(path) == RECORDS
    caplog.clear()
    log = Log(path, {"threads": 0})
    assert log.records == RECORDS
    assert f"line {place + 1} is no record" in caplog.text
    log.append(RECORDS[0])
    log.close()
    assert path.read_bytes().splitlines()[:-2] == lines
    assert read_records(path) == [*RECORDS, RECORDS[0]]
    with pytest.raises(UsageError, match="measured with --threads 0"):
        Log(path, {"threads": 1})


def test_a_bench_goes_on_with_its_log_or_begins_another(tmp_path, caplog):
    caplog.set_level("INFO", "edge_transact")
    path = write_log(tmp_path / "log.jsonl", [])
    with pytest.raises(UsageError, match="there is no log"):
        Log(tmp_path / "other.jsonl", {}, Start.RESUME)
    log = Log(path, {"threads": 1})
    log.append(RECORDS[0])
    log.close()
    with pytest.raises(UsageError, match="measured with --threads 1, now it is 2") as refused:
        Log(path, {"threads": 2})
    assert "--fresh" in refused.value.fix
    log = Log(path, {"threads": 1}, Start.RESUME)
    assert "has 1 repetitions, the last of 2026-01-01" in caplog.text and log.done(RECORDS[0].key) == 1
    log.close()
    Log(path, {"threads": 2}, Start.FRESH).close()
    assert read_records(tmp_path / "log.1.jsonl") == RECORDS[:1] and read_records(path) == []


def test_a_log_of_another_version_is_refused_and_kept_aside_by_fresh(tmp_path, caplog):
    caplog.set_level("INFO", "edge_transact")
    path = tmp_path / "log.jsonl"
    old = '{"schema": 1, "kind": "conditions"}\n' + to_line(RECORDS[0]).replace('"schema": 2', '"schema": 1')
    path.write_text(old)
    for read in (read_records, lambda path: Log(path, {"threads": 0})):
        with pytest.raises(EdgeTransactError, match="has schema 1, and this version writes 2"):
            read(path)
    log = Log(path, {"threads": 0}, Start.FRESH)
    log.append(RECORDS[1])
    log.close()
    assert (tmp_path / "log.1.jsonl").read_text() == old and str(tmp_path / "log.1.jsonl") in caplog.text
    assert read_records(path) == [RECORDS[1]]


def test_a_file_that_is_no_log_stays_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("Call the bank.\n")
    for read in (read_records, lambda path: Log(path, {}), lambda path: Log(path, {}, Start.FRESH)):
        with pytest.raises(EdgeTransactError, match="no bench records"):
            read(path)
    assert path.read_text() == "Call the bank.\n" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(EdgeTransactError, match="cannot be written"):
        Log(tmp_path, {})
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(EdgeTransactError, match="not a file"):
            Log(path, {})


@pytest.mark.parametrize("start", [Start.CONTINUE, Start.RESUME, Start.FRESH])
def test_a_second_bench_leaves_the_log_of_the_first_alone(tmp_path, start):
    path = write_log(tmp_path / "log.jsonl", RECORDS)
    with path.open() as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        before = path.read_bytes()
        with pytest.raises(EdgeTransactError, match="another bench is writing") as refused:
            Log(path, {}, start)
        assert "--output" in refused.value.fix
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    log = Log(path, {}, start)
    with pytest.raises(EdgeTransactError, match="another bench is writing"):
        Log(path, {})
    log.close()


# The command itself, on this host.


@pytest.mark.soak
def test_a_bench_is_hung_up_and_its_successor_suspended(tiny_dist, tmp_path, when_logged):
    """A closed terminal ends the runner, what is in the log isn't measured again, and a stop does no harm."""
    path = tmp_path / "log.jsonl"
    options = ["--lengths", "8+4", "--warmups", "0", "--threads", "1", "--json", "-o", str(path), "--repetitions"]
    command = [sys.executable, "-m", "edge_transact", "bench", str(tiny_dist), *options]
    master, slave = pty.openpty()
    first = subprocess.Popen(
        [*command, "50"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
    )
    os.close(slave)
    runners: list[psutil.Process] = []

    def hang_up() -> None:
        runners.extend(psutil.Process(first.pid).children())
        os.close(master)
        first.send_signal(signal.SIGHUP)

    when_logged("repetition", 1, hang_up)
    assert first.wait(timeout=HANG_S) == 130
    assert psutil.wait_procs(runners, timeout=HANG_S)[1] == []
    kept = repetitions(path)
    assert 1 <= len(kept) < 50

    second = subprocess.Popen([*command, str(len(kept) + 8)], stdout=subprocess.PIPE, text=True)
    stopped = threading.Event()

    def suspend() -> None:
        second.send_signal(signal.SIGSTOP)  # SIGTSTP does nothing where no shell could continue the process
        while psutil.Process(second.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        stopped.set()
        second.send_signal(signal.SIGCONT)

    when_logged("repetition", len(kept) + 1, suspend)
    printed, _ = second.communicate(timeout=HANG_S)
    (result,) = json.loads(printed.splitlines()[-1])["results"]
    assert stopped.is_set() and second.returncode == 0
    assert result["repetitions"] == len(kept) + 8 and repetitions(path)[: len(kept)] == kept
