"""Work is never thrown away: the same command goes on where it was interrupted, and says so."""

import json
import os
import signal
import threading
import time
from contextlib import suppress
from functools import partial

import pytest

from edge_transact.cache.resume import RESUME_HINT, described, journal_of
from tests.support.command import run, said
from tests.support.interruption import ended_after
from tests.support.patience import HANG_S
from tests.support.pruning import TEXT

pytestmark = pytest.mark.usefixtures("own_cache")


interrupted_after = partial(ended_after, error=KeyboardInterrupt)
"""Somebody presses Ctrl-C."""


def test_build_goes_on_inside_pruning_and_the_cache_shows_and_deletes_what_is_kept(random_model, tmp_path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    build = ["build", random_model, "--ratio", "0.4", "--calibration", tmp_path / "text.txt"]
    build += ["--calibration-tokens", "512", "--target", "host", "-o", tmp_path / "dist"]
    with interrupted_after(15):
        first = run(*build)
    assert first.exit_code == 130 and first.stderr.endswith(f"\nedge-transact: interrupted\n  {RESUME_HINT}\n")
    with interrupted_after(2):
        second = run(*build)
    assert second.exit_code == 130
    assert f"prune {random_model}: going on from 20" in second.stderr
    assert "with score 0 to 3, sensitivity" in second.stderr and "score, backward" not in second.stderr
    with interrupted_after(1):
        other = run(*build, "--seed", "1")
    assert other.exit_code == 130 and "going on" not in other.stderr
    listed = said("cache", "--kind", "unfinished")["entries"]
    assert [entry["what"] for entry in listed] == [f"prune {random_model}"] * 2
    with interrupted_after(1):
        fresh = run(*build, "--fresh")
    assert "going on" not in fresh.stderr
    assert "deleted 2 entries" in run("cache", "--clear", "--kind", "unfinished").stdout
    with interrupted_after(1):
        assert "going on" not in run(*build).stderr
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("swallowed", [False, True])
def test_an_interrupt_inside_the_compiler_is_no_bug(random_model, tmp_path, monkeypatch, swallowed) -> None:
    """TVM calls the pass, turns what it raises into an error of its own, and tries schedules under `except:`."""

    def interrupt(mod: object) -> object:
        with suppress(KeyboardInterrupt if swallowed else ()):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        return mod

    monkeypatch.setattr("edge_transact.compiler.pipeline.phases", lambda *_: {"a phase": [interrupt]})
    stopped = run("build", random_model, "--target", "host", "-o", tmp_path / "dist")
    assert stopped.exit_code == 130 and f"edge-transact: interrupted\n  {RESUME_HINT}" in stopped.stderr


def test_eval_goes_on_window_by_window_and_measures_the_same(random_model, tmp_path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    command = ["eval", random_model, random_model, "--text", tmp_path / "text.txt", "--window", "32"]
    command += ["--max-windows", "4", "--reference", random_model]
    whole = said(*command)
    with interrupted_after(6):
        stopped = run(*command)
    assert stopped.exit_code == 130 and RESUME_HINT in stopped.stderr
    with interrupted_after(2):
        again = run(*command, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout) == whole
    assert "with model 1 window 0 to 3, model 2 window 0 to 1 done" in again.stderr
    shown = run(*command).stdout
    assert whole["models"][0]["text_sha256"] in shown and "100.0%" in shown and "4 windows of 32 tokens" in shown


def test_two_runs_of_the_same_work_take_turns(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edge_transact")
    found = []

    def other() -> None:
        with journal_of("a work", {"seed": 1}) as journal:
            found.append(journal.names())

    thread = threading.Thread(target=other, daemon=True)
    with journal_of("a work", {"seed": 1}) as journal:
        journal["piece-0"] = {}
        thread.start()
        end = time.monotonic() + HANG_S
        while "a work: waiting for another process" not in caplog.text and time.monotonic() < end:
            thread.join(0.01)
        assert thread.is_alive() and "deleted 0 entries" in run("cache", "--clear", "--kind", "unfinished").stdout
        assert "piece-0" in journal
    thread.join(HANG_S)
    assert found == [[]], "the first one is complete, so it left nothing"


def test_what_was_done_is_told_in_a_few_words() -> None:
    names = ["score-0", "score-1", "score-2", "score-state", "sensitivity", "inputs-7-state"]
    assert described(names) == "score 0 to 2, sensitivity"
    assert described(["score-state"]) == "a first step"
