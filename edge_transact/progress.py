"""Progress: what a run is doing, how far it is, and how long the rest takes.

A long run declares its steps once, in a list with the seconds that each is estimated to take (`running`). Whatever
works on a step opens a bar or a spinner of the step's name, and knows nothing of the others.

Bars are drawn in a notebook, or on a console that the caller sets, as the command line does. Where none can be drawn,
their descriptions are logged instead.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, OverflowMethod
    from rich.progress import Progress, TaskID

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Advance = Callable[[float], None]

console: Callable[[], Console] | None = None
"""Gives where bars are drawn, if it is a terminal. None draws no bars."""

TRUST, TRUST_IN_RUNS = 0.02, 0.05
"""The share of a step's estimate that has to be worked off until measured time counts as much as it for what is left of
the step: of an estimate by a formula, and of one from earlier runs."""

LATER_TRUST, LATER_TRUST_IN_RUNS = 0.03, 0.2
"""The same share of a run's estimate, for the steps that follow: they are other work."""

START_S, LATER_START_S = 2.0, 4.0
"""At least so many seconds have to be worked off until then: steps begin with work of their own, as reading a file."""

GUESSED, GUESSED_FROM_RUNS = 0.8, 0.95
"""The most that is believed to be done of what isn't counted: of a step that only a formula knows; and of one that was
timed in earlier runs, or of the rest after the last count. A step that takes longer than a formula's estimate is
believed to need a quarter of its time more."""

SUSPENSION_S = 2.0
"""A pause between two looks at the clock that is longer, and in which the process has hardly worked, was no work."""


@dataclass(frozen=True)
class Step:
    """A part of a run.

    Attributes:
        name: The description of the bar or the spinner that is shown meanwhile.
        seconds: An estimate of how long it takes.
        kind: What such a step is called whatever the model, if the name has the model in it.
        formula_s: The estimate without what earlier runs took, if `seconds` is from them.
    """

    name: str
    seconds: float
    kind: str = ""
    formula_s: float | None = None


@dataclass(frozen=True)
class Taken:
    """What a step of a run took.

    Attributes:
        step: The step.
        share: How much of it was done in this run.
        seconds: How long that took.
    """

    step: Step
    share: float
    seconds: float


class Clock:
    """Counts the seconds in which this process could work: not those in which it was suspended.

    Args:
        resumed: Called when a suspension is noticed.
    """

    def __init__(self, resumed: Callable[[], None] = lambda: None) -> None:
        self._resumed = resumed
        self._last, self._last_cpu = time.monotonic(), time.process_time()
        self._suspended_s = 0.0

    def __call__(self) -> float:
        now, cpu = time.monotonic(), time.process_time()
        gap, worked = now - self._last, cpu - self._last_cpu
        self._last, self._last_cpu = now, cpu
        if gap > SUSPENSION_S and worked < gap / 10:
            self._suspended_s += gap
            self._resumed()
        return now - self._suspended_s


class Course:
    """Where a run is among its steps, and how long the rest takes.

    The time that finished work took, against its estimate, corrects the estimates of the rest: that of the step for
    what is left of it, and that of the steps that count for later ones. Those that don't count, such as loading, are
    unlike the rest.

    Args:
        steps: The run's steps in order. Those that turn out to be unnecessary are skipped.
        clock: Seconds.

    Attributes:
        taken: The steps that have ended.
    """

    def __init__(self, steps: Sequence[Step], clock: Callable[[], float] = time.monotonic) -> None:
        self.steps = steps
        self.index = -1
        self.taken: list[Taken] = []
        self._clock = clock
        self._worked_s = self._took_s = 0.0
        """The estimates of work that this run has done in earlier steps, and the time that it took."""
        self._begin(0.0)

    def _begin(self, share: float) -> None:
        self._began = self._counted_at = self._clock()
        self._first_share, self._share, self._counted = share, share, False

    @property
    def place(self) -> str:
        """Which step it is, such as ``2 of 5``."""
        return f"{max(self.index, 0) + 1} of {len(self.steps)}"

    def enter(self, name: str, share: float = 0.0) -> bool:
        """Begins a step, unless no step of that name follows. Returns whether it did.

        Args:
            name: The step's name.
            share: What an interrupted run has done of it.
        """
        following = (index for index in range(self.index + 1, len(self.steps)) if self.steps[index].name == name)
        index = next(following, None)
        if index is None:
            return False
        self.leave()
        self.index = index
        self._begin(share)
        return True

    def reach(self, share: float) -> None:
        """The share of the current step that is done."""
        self._share, self._counted, self._counted_at = share, True, self._clock()

    def leave(self) -> float:
        """Ends the current step, if there is one. Returns the seconds that it took."""
        now = self._clock()
        took_s = now - self._began
        if self.index >= 0:
            # Training that stops early ends before its last count.
            share = (self._share if self._counted else 1.0) - self._first_share
            if share:
                self.taken.append(Taken(self.steps[self.index], share, took_s))
            if self._counted:
                self._worked_s += self._seconds * share
                self._took_s += took_s
            self._first_share = self._share = 1.0
            self._began = now
        return took_s

    @property
    def _seconds(self) -> float:
        return self.steps[self.index].seconds if self.index >= 0 else 0.0

    @property
    def _is_from_runs(self) -> bool:
        """Whether the current step's estimate is from earlier runs."""
        return self.index >= 0 and self.steps[self.index].formula_s is not None

    @property
    def step_share(self) -> float:
        """The share of the current step that is done."""
        return self._now()

    def _now(self) -> float:
        """The share of the current step that is done: what was counted last, and what time says has been done since."""
        if not self._seconds or self._share == 1:
            return self._share
        in_step, _ = self._paces()
        since_s = self._clock() - self._counted_at
        most = GUESSED_FROM_RUNS if self._is_from_runs or self._counted else GUESSED
        return self._share + min(since_s / (self._seconds * in_step), most * (1 - self._share))

    @property
    def _total_s(self) -> float:
        return sum(step.seconds for step in self.steps)

    def _paces(self) -> tuple[float, float]:
        """How many seconds an estimated one takes: in the current step, and after it.

        Both go by what was counted. The time since then belongs to work that isn't counted yet.
        """
        is_known, total_s = self._is_from_runs, self._total_s
        of_later = max((LATER_TRUST_IN_RUNS if is_known else LATER_TRUST) * total_s, min(LATER_START_S, total_s))
        before = _pace(self._worked_s, self._took_s, of_later)
        if not self._counted:
            return before, before
        worked_s = self._seconds * (self._share - self._first_share)
        took_s = self._counted_at - self._began
        of_step = max((TRUST_IN_RUNS if is_known else TRUST) * self._seconds, min(START_S, self._seconds))
        return (
            _pace(worked_s, took_s, of_step, before),
            _pace(self._worked_s + worked_s, self._took_s + took_s, of_later),
        )

    def left_s(self) -> float:
        """The seconds until the last step ends."""
        in_step, after = self._paces()
        later = sum(step.seconds for step in self.steps[self.index + 1 :])
        return self._seconds * (1 - self._now()) * in_step + later * after

    def share(self) -> float:
        """The share of the whole run that is done, by the estimates."""
        earlier = sum(step.seconds for step in self.steps[: max(self.index, 0)])
        return (earlier + self._seconds * self._now()) / self._total_s if self._total_s else 0.0


def _pace(worked_s: float, took_s: float, trust_s: float, before: float = 1.0) -> float:
    """How many seconds an estimated one takes.

    Args:
        worked_s: The estimate of what was done.
        took_s: The time that it took.
        trust_s: The estimate of what has to be done until that counts as much as what was believed before.
        before: What was believed before.
    """
    return (took_s + trust_s * before) / (worked_s + trust_s) if trust_s else before


@dataclass(frozen=True)
class Forecast:
    """What a long run will take on this machine, by an estimate made before it.

    Attributes:
        steps: Its steps in order.
        tokens: The tokens that it reads.
        memory_bytes: The most memory that it will have resident.
    """

    steps: Sequence[Step]
    tokens: int
    memory_bytes: int

    @property
    def seconds(self) -> float:
        """The time of all steps."""
        return sum(step.seconds for step in self.steps)

    def __str__(self) -> str:
        steps = f"{len(self.steps)} step{'s' * (len(self.steps) != 1)}"
        tokens = f" on {self.tokens:,} tokens" if self.tokens else ""
        memory = f"{self.memory_bytes / 2**30:.1f} GiB of memory"
        return f"{steps}{tokens}: about {roughly(self.seconds)} on this machine, and about {memory}"

    def to_dict(self) -> dict[str, object]:
        """The object that ``--dry-run --json`` prints."""
        return {
            "steps": [{"name": step.name, "seconds": round(step.seconds, 1)} for step in self.steps],
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "memory_bytes": self.memory_bytes,
        }


def roughly(seconds: float) -> str:
    """A time as people say it, with two digits at most: ``20 s``, ``1.6 min``, ``20 min``, ``1.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 570:
        return f"{seconds / 60:.1f}".removesuffix(".0") + " min"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _seconds(seconds: float) -> str:
    """A time that is running: ``16 s``, and ``0:02:10`` where that is longer than two digits."""
    return f"{seconds:.0f} s" if seconds < 99.5 else str(timedelta(seconds=round(seconds)))


@dataclass
class _Run:
    """The run that bars belong to, and the display of its bars where there is a terminal."""

    course: Course
    display: Progress | None
    shown: list[TaskID] = field(default_factory=list)
    """The bars that are open, the outermost first. Only the last one is visible."""


_run: _Run | None = None

_alone: tuple[Progress, list[TaskID]] | None = None
"""Without a run: the display of the bar that others are opened in, and the bars that are open."""


def drawable() -> Console | None:
    """The terminal or notebook to draw on, if there is one. Ask before letting another library draw bars of its own.

    In a run, or while a bar of ours is open, the terminal is taken.
    """
    return _terminal() if _run is None and _alone is None else None


def _terminal() -> Console | None:
    if console is None:
        return _notebook()
    shown = console()
    return shown if shown.is_terminal and not shown.is_dumb_terminal else None


def _notebook() -> Console | None:
    """The notebook that this process runs, if it is a notebook's and has what rich draws with there."""
    if "ipykernel" not in sys.modules or find_spec("ipywidgets") is None:
        return None
    from rich.console import Console

    notebook = Console()
    return notebook if notebook.is_jupyter else None


@contextmanager
def running(steps: Sequence[Step]) -> Iterator[Course]:
    """While the body runs, one bar for all steps is beside that of each: ``with running([Step("score", 60)]): ...``."""
    global _run
    terminal = _terminal()
    # After a suspension, the shell's lines are where the bars were.
    course = Course(steps, Clock(lambda: print(file=terminal.file)) if terminal else time.monotonic)
    with _display(terminal, course) if terminal else nullcontext() as display:
        if display:
            display.add_task(course.place, total=1.0, whole=True)
        _run = _Run(course, display)
        try:
            yield course
        finally:
            _run = None


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar.

    Args:
        items: What to iterate over.
        description: What is being done, such as ``calibrate``.
        total: The number of items, if `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)


def working(description: str, seconds: float | None = None) -> AbstractContextManager[object]:
    """A bar of the seconds while the body does work that can't be counted.

    Args:
        description: What is being done.
        seconds: About how long it takes, if that is known. A run's steps have it from their list.
    """
    return bar(description, None, seconds=seconds)


@contextmanager
def bar(description: str, total: float | None, done: float = 0.0, *, seconds: float | None = None) -> Iterator[Advance]:
    """A progress bar that the body advances: ``with bar("shards", n) as advance: advance(1)``.

    Args:
        description: What is being done. In a run (`running`) that has a step of this name, the step begins.
        total: How much there is to do; `None` if that can't be counted.
        done: What an interrupted run has done of it.
        seconds: See `working`.
    """
    run = _run
    course = run.course if run and run.course.enter(description, done / total if total else 0.0) else None
    share: Callable[[], float] | None = None
    if total is None and course:
        own = course.index
        share = lambda: course.step_share if course.index == own else 1.0  # noqa: E731
    elif seconds is not None:
        started = time.monotonic()
        share = lambda: min((time.monotonic() - started) / seconds, GUESSED_FROM_RUNS)  # noqa: E731
    with _drawn(description, total, done, run, share) as draw:
        reached = done

        def advance(amount: float) -> None:
            nonlocal reached
            reached += amount
            if course and total:
                course.reach(reached / total)
            draw(amount)

        yield advance
        if course:
            step, took_s = course.steps[course.index], course.leave()
            logger.debug(f"{step.name}: {took_s:.1f} s, and the estimate was {step.seconds:.1f} s")


@contextmanager
def _drawn(
    description: str, total: float | None, done: float, run: _Run | None, share: Callable[[], float] | None
) -> Iterator[Advance]:
    global _alone
    terminal = _terminal()
    opened = (run.display, run.shown) if run and run.display else _alone
    if terminal is None:
        if total is not None:
            logger.info(description)
        yield lambda amount: None
    elif opened:
        with _visible(*opened, description, total, done, share) as task:
            yield lambda amount: opened[0].advance(task, amount)
    else:
        with _display(terminal, transient=total is None) as display:
            task = display.add_task(description, total=1.0 if share else total, completed=round(done), share=share)
            _alone = display, [task]
            try:
                yield lambda amount: display.advance(task, amount)
            finally:
                _alone = None


@contextmanager
def _visible(
    display: Progress,
    shown: list[TaskID],
    description: str,
    total: float | None,
    done: float,
    share: Callable[[], float] | None,
) -> Iterator[TaskID]:
    """A bar in a run's display, in place of the one that it is opened in."""
    task = display.add_task(description, total=1.0 if share else total, completed=round(done), share=share)
    for outer in shown[-1:]:
        display.update(outer, visible=False)
    shown.append(task)
    try:
        yield task
    finally:
        shown.remove(task)
        display.remove_task(task)
        for outer in shown[-1:]:
            display.update(outer, visible=True)


@contextmanager
def _display(terminal: Console, course: Course | None = None, transient: bool = False) -> Iterator[Progress]:
    """Bars on a terminal, above which messages are printed.

    Args:
        terminal: The terminal.
        course: That of the run that they belong to.
        transient: Whether they disappear at the end.
    """
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Left(ProgressColumn):
        """The time that a run still takes, and how far its step is: in percent, or in seconds if it isn't counted."""

        def render(self, task: Task) -> Text:
            share = task.fields.get("share")
            if share:
                task.completed = share()
            if share or task.total is None:
                return Text(_seconds(task.elapsed or 0), justify="right", no_wrap=True)
            if course is None:
                return TimeRemainingColumn().render(task)
            if not task.fields.get("whole"):
                return Text(f"{task.percentage:.0f}%", justify="right")
            task.completed, task.description = course.share(), course.place
            return Text(f"{timedelta(seconds=round(course.left_s()))} left", justify="right", no_wrap=True)

    crop: OverflowMethod = "crop" if terminal.options.ascii_only else "ellipsis"
    bar_width = max(5, min(40, terminal.width - 36))
    name_width = max(5, terminal.width - bar_width - len(" 10:00:00 left "))
    name = TextColumn(
        "{task.description}",
        markup=False,
        table_column=Column(no_wrap=True, overflow=crop, max_width=name_width),
    )
    columns = (name, BarColumn(bar_width), Left())
    with Progress(*columns, console=terminal, refresh_per_second=4, transient=transient) as display:
        terminal.show_cursor(True)  # it would be missing after Ctrl-Z
        yield display
