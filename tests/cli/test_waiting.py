"""What a person sees while a long command works: every step by name, and how long the rest takes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte
import pytest
from typer.testing import CliRunner, Result

from edge_transact import progress
from edge_transact.cache.journal import Journal
from edge_transact.cli import app
from edge_transact.cli.common import PLANNING
from edge_transact.cli.history import LOADING
from edge_transact.progress import Clock, Run, Step
from tests.support.interruption import KilledError
from tests.support.patience import HANG_S
from tests.support.pruning import TEXT


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def pruning(random_model: Path, tmp_path: Path) -> list[str]:
    """The words of a quick pruning."""
    (tmp_path / "text.txt").write_text(TEXT)
    text = ["--calibration", str(tmp_path / "text.txt"), "--calibration-tokens", "512"]
    return ["prune", str(random_model), "--ratio", "0.4", *text, "-o", str(tmp_path / "pruned")]


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def steps(**seconds: float) -> list[Step]:
    """The steps of an earlier run."""
    return [Step(name, seconds=each) for name, each in seconds.items()]


@pytest.mark.parametrize("pace", [0.5, 1, 7])
@pytest.mark.parametrize("wrong", [0.6, 1, 1.6])
def test_from_a_quarter_of_a_second_run_on_the_time_left_is_right_within_a_factor_of_2(
    pace: float, wrong: float
) -> None:
    """On a machine that has become faster or slower, and where one step takes longer or shorter than before."""
    clock, counted = Time(), ("score", "solve")
    run = Run(steps(read=5, score=60, solve=100, write=2), clock=clock)
    took_s = {"read": 5 * pace, "score": 60 * pace, "solve": 100 * pace * wrong, "write": 2 * pace}
    whole_s, worst = sum(took_s.values()), 1.0
    for name, seconds in took_s.items():
        step = run.enter(name, 0.0 if name in counted else None)
        for part in range(1, 101):
            clock.now += seconds / 100
            if name in counted:
                run.reach(step, part / 100)
            true_s, left_s = whole_s - clock.now, run.left_s()
            if clock.now > whole_s / 4 and true_s > whole_s / 50:
                worst = max(worst, left_s / true_s, true_s / left_s)
        run.leave(step)
    assert worst < 2
    assert run.left_s() == 0


def test_a_first_run_numbers_its_steps_and_says_no_time() -> None:
    clock = Time()
    run = Run(clock=clock)
    for number in (1, 2):
        step = run.enter("a step", 0.0)
        clock.now += 1
        run.reach(step, 0.5)
        assert run.place == f"step {number}" and run.left_s() is None
        run.leave(step)
    assert [(step.name, step.seconds) for step in run.steps] == [("", 0), ("a step", 1), ("a step", 1)]


def test_steps_that_are_skipped_and_parts_that_were_done_before_take_no_time() -> None:
    clock = Time()
    run = Run(steps(read=5, score=60, solve=100, write=2), clock=clock)
    assert run.left_s() == 167
    step = run.enter("solve", 0.9)
    assert run.left_s() == pytest.approx(10 + 2) and run.place == "1 of 2"
    clock.now = 5
    run.reach(step, 0.95)
    assert 5 <= run.left_s() < 8
    clock.now = 10
    run.reach(step, 1.0)
    run.leave(step)
    run.enter("another", None)
    assert run.place == "2 of 3" and run.left_s() == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("parts", [4, 16, 100])
def test_between_two_counts_the_time_left_goes_down(parts: int) -> None:
    """Time since the last count belongs to work that isn't counted yet: it doesn't mean that the machine is slow."""
    clock = Time()
    run = Run(steps(windows=40, later=20), clock=clock)
    step = run.enter("windows", 0.0)
    for tick in range(1, 400):
        clock.now = tick / 10
        if tick % (400 // parts) == 0:
            run.reach(step, tick / 400)
        assert run.left_s() == pytest.approx(60 - clock.now, abs=0.1)


def test_the_time_of_a_step_is_without_those_inside_and_a_counted_one_has_none_inside() -> None:
    with progress.running() as run:
        with progress.working("compile"), progress.bar("kernels", 2), progress.working("no step"):
            assert [step.name for step in run._open] == ["", "compile", "kernels"]
        assert [step.name for step in run.steps] == ["", "compile", "kernels"]
    clock = Time()
    run = Run(steps(compile=3, kernels=10), clock=clock)
    outer = run.enter("compile", None)
    clock.now = 1
    inner = run.enter("kernels", 0.0)
    clock.now = 6
    assert run.left_s() == pytest.approx(2 + 5)
    run.leave(inner)
    clock.now = 8
    run.leave(outer)
    assert (outer.seconds, inner.seconds) == (3, 5)


def test_a_suspended_process_does_not_age(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu, resumed = Time(), Time(), []
    monkeypatch.setattr("edge_transact.progress.time.monotonic", wall)
    monkeypatch.setattr("edge_transact.progress.time.process_time", cpu)
    clock = Clock(lambda: resumed.append(wall.now))
    wall.now, cpu.now = 10, 9.0
    assert clock() == 10, "it has worked without looking at the clock"
    wall.now, cpu.now = 1000, 9.1
    assert clock() == 10 and resumed == [1000]
    wall.now = 1001
    assert clock() == 11


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that are entered from now on."""
    names, enter = [], Run.enter

    def noted(run: Run, name: str, share: float | None) -> Step:
        names.extend([name] if name else [])
        return enter(run, name, share)

    monkeypatch.setattr(Run, "enter", noted)
    return names


def fail(*_: object, **__: object) -> None:
    raise KilledError


def test_a_dry_run_says_what_the_run_does_and_a_killed_report_goes_on_without_pruning_again(
    pruning, tmp_path, own_cache, monkeypatch, entered
) -> None:
    pruned, report = tmp_path / "pruned", tmp_path / "report"
    command = [*pruning, "--report", report, "--json"]
    expected = json.loads(run(*command, "--dry-run").stdout)
    whole, preparation = [step["name"] for step in expected["steps"]], [LOADING, PLANNING]
    assert not pruned.exists() and entered == preparation
    assert expected["tokens"] == 512 and expected["memory_bytes"] > 1 << 28 and expected["disk_bytes"] > 1 << 16
    assert expected["seconds"] is None and {step["seconds"] for step in expected["steps"]} == {None}
    entered.clear()
    with monkeypatch.context() as patched:
        patched.setattr("edge_transact.pruning.report.evaluate_documents", fail)
        killed = run(*command)
    assert killed.exit_code == 1 and killed.stderr.startswith("512 tokens, about 6") and "last run" not in killed.stderr
    before = entered[2:]
    assert pruned.exists() and not report.exists() and before == whole[: len(before)]
    entered.clear()
    with monkeypatch.context() as patched:
        patched.setattr("edge_transact.layerwise.model.LayerwiseModel.run", fail)
        again = run(*command)
    assert again.exit_code == 0, again.stderr
    assert "going on from 20" in again.stderr and (report / "index.html").exists()
    names = ["calibration text", "choose the widths", *whole[len(before) - 1 :]]
    assert entered[2:] == names, "the checkpoint is written once more"
    assert not list((own_cache / "unfinished").iterdir())
    other = run(*pruning, "--report", tmp_path / "other")
    assert other.exit_code == 1 and f"{pruned} exists" in other.stderr, "nothing is unfinished any more"


@pytest.mark.soak
def test_a_second_dry_run_of_build_knows_its_times_and_leaves_out_what_the_cache_has(
    random_model, tmp_path, own_cache, entered
) -> None:
    build = ["build", random_model, "--target", "host", "-o", tmp_path / "dist", "--force", "--json"]
    expected = [step["name"] for step in json.loads(run(*build, "--dry-run").stdout)["steps"]]
    entered.clear()
    assert run(*build).exit_code == 0
    assert [name for name in entered if name in expected] == expected
    again = json.loads(run(*build, "--dry-run").stdout)
    left = [step["name"] for step in again["steps"]]
    assert again["seconds"] > 0 and all(step["seconds"] is not None for step in again["steps"])
    assert "compare with torch" in left and not [name for name in left if name.startswith(("compile", "quantize"))]
    entered.clear()
    assert "; about " in run(*build).stderr and entered == left
    run("cache", "--clear", "--kind", "libraries")
    assert "compile kernels" in [step["name"] for step in json.loads(run(*build, "--dry-run").stdout)["steps"]]


def test_build_goes_on_inside_quantization(random_model, tmp_path, own_cache, monkeypatch) -> None:
    build = ["build", random_model, "--target", "host", "-o", tmp_path / "dist"]
    put, written = Journal.__setitem__, []

    def until_killed(journal: Journal, name: str, tensors: dict) -> None:
        if len(written) == 4:
            raise KilledError
        written.append(name)
        put(journal, name, tensors)

    monkeypatch.setattr("edge_transact.building.dist.place_library", fail)  # the weights are written before it
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "__setitem__", until_killed)
        run(*build)
    assert written == [f"rounded-{number}" for number in range(4)]
    again = run(*build)
    assert "quantize to q4f32_1: going on from 20" in again.stderr and "with rounded 0 to 3 done" in again.stderr
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "other"))
    run(*build)
    shards, others = (sorted(path.glob("weights/*/content/*")) for path in (own_cache, tmp_path / "other"))
    assert len(shards) > 1 and [file.read_bytes() for file in shards] == [file.read_bytes() for file in others]


PROGRAM = """
import sys, time
from edge_transact import progress
from edge_transact.cli import doctor as module, logs, main
from edge_transact.cli.common import guarded

@guarded
def doctor() -> None:
    steps = [("a first step", 1.0), ("a step with a name that is long", 20.0)]
    with progress.running([progress.Step(name, seconds=seconds) for name, seconds in steps]):
        with progress.working("a first step"):
            time.sleep(0.5)
        with progress.bar("a step with a name that is long", 200) as advance:
            for _ in range(int(sys.argv[0])):
                time.sleep(0.1)
                advance(1)
    print("done")

module.doctor = doctor
sys.argv = [sys.argv[1], "doctor"]
main()
"""


class Terminal:
    """A terminal with a program on it.

    Args:
        columns: Its width.
        ticks: How many tenths of a second the program works.
        environment: Variables for the program.
    """

    def __init__(self, columns: int, ticks: int, **environment: str) -> None:
        self.screen = pyte.Screen(columns, 20)
        self.stream = pyte.ByteStream(self.screen)
        self.sent = b""
        self.master, slave = pty.openpty()
        size = {"COLUMNS": str(columns), "LINES": "20", "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(ticks)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **size, **environment},
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
        )
        os.close(slave)

    @property
    def lines(self) -> list[str]:
        """What the screen shows."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def read(self, seconds: float = 0.2) -> bool:
        """Takes what the program sends; `False` when it has ended."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            return False
        self.sent += data
        self.stream.feed(data)
        return bool(data)

    @property
    def percent(self) -> int:
        """How far the step is, as the last line says."""
        found = re.search(r"(\d+)%$", self.lines[-1] if self.lines else "")
        return int(found[1]) if found else 0

    @property
    def left_s(self) -> int:
        """Seconds that are left, as the last line but one says."""
        hours, minutes, seconds = map(int, self.lines[-2].split()[-2].split(":"))
        return 3600 * hours + 60 * minutes + seconds

    def read_until(self, text: str) -> None:
        """Reads until the screen shows something."""
        while text not in "\n".join(self.lines):
            assert self.read(10), self.lines


@contextmanager
def terminal(columns: int = 80, ticks: int = 5, **environment: str) -> Iterator[Terminal]:
    opened = Terminal(columns, ticks, **environment)
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()


def test_a_narrow_terminal_shows_the_step_and_the_run_in_two_lines() -> None:
    with terminal(columns=40) as shown:
        shown.read_until("2 of 2")
        shown.read_until("%")
        first, second = shown.lines
        assert max(map(len, shown.lines)) <= 40
        assert first.startswith("2 of 2") and first.endswith(" left")
        assert second.startswith("a step with a n") and "…" in second and second.endswith("%")
        while shown.read():
            pass
        assert shown.lines[-1] == "done" and len(shown.lines) <= 2


def test_without_utf_8_everything_is_ascii() -> None:
    with terminal(columns=40, LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii") as shown:
        while shown.read():
            pass
        assert "done" in shown.lines and b"2 of 2" in shown.sent
        assert shown.sent.isascii() and b"\\u" not in shown.sent


def test_a_dumb_terminal_gets_a_line_for_each_step_that_is_counted() -> None:
    with terminal(TERM="dumb") as shown:
        while shown.read():
            pass
        assert shown.lines == ["a step with a name that is long", "done"]
        assert b"\x1b" not in shown.sent


def test_suspended_and_continued_a_run_goes_on_and_its_times_stay_sane() -> None:
    with terminal(ticks=40) as shown:
        shown.read_until("2 of 2")
        while shown.percent < 5:
            assert shown.read(10), shown.lines
        before = shown.left_s
        shown.process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        shown.process.send_signal(signal.SIGCONT)
        while shown.percent < 15:
            assert shown.read(10), shown.lines
        assert shown.left_s < before + 10, "if 3 s were work, they would add 17"
        assert b"\x1b[?25h" in shown.sent, "the shell gets its cursor back"


def test_a_terminal_that_is_closed_under_a_bar_ends_the_run_as_an_interrupt_does() -> None:
    with terminal(ticks=300) as shown:
        shown.read_until("2 of 2")
        os.close(shown.master)
        shown.process.send_signal(signal.SIGHUP)
        assert shown.process.wait(timeout=HANG_S) == 130


def test_in_a_pipe_steps_are_lines_without_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "2"], capture_output=True, text=True, timeout=HANG_S)
    assert done.stdout == "done\n" and done.stderr == "a step with a name that is long\n"
    assert progress.drawable() is None
