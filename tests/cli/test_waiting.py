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
from edge_transact.progress import Clock, Course, Step
from tests.support.interruption import KilledError
from tests.support.pruning import TEXT


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


STEPS = [Step("read", 5), Step("score", 60), Step("solve", 100), Step("write", 2)]


@pytest.mark.parametrize("pace", [0.5, 1, 7])
@pytest.mark.parametrize("wrong", [0.8, 1, 1.25])
def test_the_time_left_is_true_from_a_tenth_of_the_run_on(pace: float, wrong: float) -> None:
    """On a machine of another speed than was believed, and where one step's estimate is wrong, too."""
    clock = Time()
    course = Course(STEPS, clock)
    took_s = {step.name: step.seconds * pace * (wrong if step.name == "solve" else 1) for step in STEPS}
    whole_s = sum(took_s.values())
    worst = 1.0
    for step in STEPS:
        course.enter(step.name)
        for part in range(1, 101):
            clock.now += took_s[step.name] / 100
            if step.name in ("score", "solve"):  # the others aren't counted
                course.reach(part / 100)
            true_s = whole_s - clock.now
            if clock.now > whole_s / 10 and true_s > whole_s / 50:
                worst = max(worst, course.left_s() / true_s, true_s / course.left_s())
    assert worst < 1.5
    course.leave()
    assert course.left_s() == 0 and course.share() == 1


def test_steps_that_are_skipped_and_parts_that_were_done_before_take_no_time() -> None:
    clock = Time()
    course = Course(STEPS, clock)
    assert course.left_s() == 167 and course.place == "1 of 4"
    assert course.enter("solve", 0.9) and course.place == "3 of 4"
    assert course.left_s() == pytest.approx(10 + 2)
    assert not course.enter("score"), "it is over"
    clock.now = 5
    course.reach(0.95)
    assert 5 <= course.left_s() < 8


@pytest.mark.parametrize("parts", [4, 16, 100])
def test_between_two_counts_the_time_left_goes_down(parts: int) -> None:
    """Time since the last count belongs to work that isn't counted yet: it doesn't mean that the machine is slow."""
    clock = Time()
    course = Course([Step("windows", 40), Step("later", 20)], clock)
    course.enter("windows")
    for tick in range(1, 401):
        clock.now = tick / 10
        if tick % (400 // parts) == 0:
            course.reach(tick / 400)
        if tick < 400:
            assert course.left_s() == pytest.approx(60 - clock.now, abs=0.6)


def test_an_early_step_that_takes_long_says_little_of_the_other_steps() -> None:
    clock = Time()
    course = Course([Step("convert", 2, formula_s=2), Step("compile", 30, formula_s=30)], clock)
    course.enter("convert")
    clock.now = 2.5
    course.reach(0.5)
    assert 1 < course.left_s() - 30 < 10
    course.enter("compile")
    for part in range(1, 11):
        clock.now += 6
        course.reach(part / 20)
    assert course.left_s() == pytest.approx(60, rel=0.1), "this step's own pace counts more and more"


def test_times_are_said_with_two_digits() -> None:
    said = [progress.roughly(seconds) for seconds in (0.1, 89, 97, 180, 1200, 5400)]
    assert said == ["1 s", "89 s", "1.6 min", "3 min", "20 min", "1.5 h"]


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
    """The declared steps that are entered from now on."""
    names, enter = [], Course.enter

    def noted(course: Course, name: str, share: float = 0.0) -> bool:
        declared = enter(course, name, share)
        names.extend([name] * declared)
        return declared

    monkeypatch.setattr(Course, "enter", noted)
    return names


def fail(*_: object, **__: object) -> None:
    raise KilledError


def test_every_declared_step_is_entered_and_a_killed_report_goes_on_without_pruning_again(
    pruning, tmp_path, own_cache, monkeypatch, entered
) -> None:
    pruned, report = tmp_path / "pruned", tmp_path / "report"
    command = [*pruning, "--report", report, "--json"]
    expected = json.loads(run(*command, "--dry-run").stdout)
    assert not pruned.exists() and not entered, "--dry-run only says what would be done"
    assert expected["tokens"] == 512 and expected["seconds"] > 0 and expected["memory_bytes"] > 1 << 28
    with monkeypatch.context() as patched:
        patched.setattr("edge_transact.prune.report.page.evaluate_model", fail)
        killed = run(*command)
    assert killed.exit_code == 1 and f"{len(expected['steps'])} steps on 512 tokens: about " in killed.stderr
    before, whole = len(entered), [step["name"] for step in expected["steps"]]
    assert pruned.exists() and not report.exists() and entered == whole[:before]
    with monkeypatch.context() as patched:
        patched.setattr("edge_transact.layerwise.model.LayerwiseModel.run", fail)
        again = run(*command)
    assert again.exit_code == 0, again.stderr
    assert "going on from 20" in again.stderr and (report / "index.html").exists()
    names = ["calibration text", "choose the widths", *whole[before - 1 :]]
    assert entered[before:] == names, "the checkpoint is written once more"
    assert not list((own_cache / "unfinished").iterdir())
    other = run(*pruning, "--report", tmp_path / "other")
    assert other.exit_code == 1 and f"{pruned} exists" in other.stderr, "nothing is unfinished any more"


def test_build_goes_on_inside_quantization(random_model, tmp_path, own_cache, monkeypatch) -> None:
    build = ["build", random_model, "--target", "host", "-o", tmp_path / "dist"]
    put, written = Journal.__setitem__, []

    def until_killed(journal: Journal, name: str, tensors: dict) -> None:
        if len(written) == 4:
            raise KilledError
        written.append(name)
        put(journal, name, tensors)

    monkeypatch.setattr("edge_transact.build.dist.place_library", fail)  # the weights are written before it
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
    steps = [progress.Step("a first step", 1.0), progress.Step("a step with a name that is long", 20.0)]
    with progress.running(steps):
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
        shown.process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        shown.process.send_signal(signal.SIGCONT)
        while shown.percent < 15:
            assert shown.read(10), shown.lines
        hours, minutes, seconds = map(int, shown.lines[-2].split()[-2].split(":"))
        assert (hours, minutes) == (0, 0) and seconds < 40, "17 s are left, and 3 s more were none of work"
        assert b"\x1b[?25h" in shown.sent, "the shell gets its cursor back"


def test_a_terminal_that_is_closed_under_a_bar_ends_the_run_as_an_interrupt_does() -> None:
    with terminal(ticks=300) as shown:
        shown.read_until("2 of 2")
        os.close(shown.master)
        shown.process.send_signal(signal.SIGHUP)
        assert shown.process.wait(timeout=60) == 130


def test_in_a_pipe_steps_are_lines_without_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "2"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "done\n" and done.stderr == "a step with a name that is long\n"
    assert progress.drawable() is None
