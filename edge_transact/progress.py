"""Progress: which step a run is in, how far it is, and how long the rest takes.

Whatever works on a step opens a bar of the step's name (`bar`, `track`, `working`). A long command is a `running`: it
numbers its steps as they begin, and takes their times. Where no bars can be drawn, in a terminal or notebook, their
descriptions are logged instead.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, OverflowMethod
    from rich.progress import Progress

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Advance = Callable[[float], None]

console: Callable[[], Console] | None = None
"""Gives where bars are drawn, if it is a terminal. None draws no bars."""

TRUST = 0.1
"""The share of an earlier run's time after which this run's pace counts as much as the earlier one's."""

SUSPENSION_S = 2.0
"""A longer pause between two looks at the clock, in which the process has hardly worked, was a suspension."""


class Clock:
    """Counts the seconds in which this process wasn't suspended, and calls `resumed` when it notices a suspension."""

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


@dataclass(eq=False)
class Step:
    """A step of a run, whose `seconds` leave out the steps inside it.

    Attributes:
        name: The description of its bar; empty for the time outside of all steps.
        makes: The cache entry that it is a part of making, as ``KIND/KEY``; empty if there is none.
        earlier_s: How long it took in an earlier run; `None` if that isn't known.
        first: The share of it that an interrupted run had done.
        share: The share that was done when it was counted last, after `counted_s` seconds.
    """

    name: str
    makes: str = ""
    seconds: float = 0.0
    earlier_s: float | None = None
    is_counted: bool = False
    first: float = 0.0
    share: float = 0.0
    counted_s: float = 0.0

    def left_s(self, seconds: float, pace: float) -> float:
        """What is left after so many seconds: the more of it is counted, the less an earlier run tells."""
        counted = self.share - self.first
        by_count = self.counted_s / counted * (1 - self.share) - (seconds - self.counted_s) if counted > 0 else 0.0
        if self.earlier_s is None:
            return max(by_count, 0.0)
        by_earlier = self.earlier_s * (1 - self.first) * pace - seconds
        trust = counted / (1 - self.first) if counted > 0 else 0.0
        return trust * max(by_count, 0.0) + (1 - trust) * max(by_earlier, 0.0)


class Run:
    """The steps of a run, in the order in which they began, and how long the rest of it takes.

    The first step has no name and is the time outside of the others.

    Args:
        earlier: The steps of an earlier run, without those that the cache makes unnecessary now.
        making: Tells which cache entry is being made, as ``KIND/KEY``.
        clock: Seconds.
    """

    def __init__(
        self, earlier: Sequence[Step] = (), making: Callable[[], str] = str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._later, self._making, self._clock = list(earlier), making, clock
        self._earlier_s = sum(step.seconds for step in earlier)
        self._at = clock()
        self._open: list[Step] = []
        self.steps: list[Step] = []
        self.enter("", None)

    @property
    def is_counting(self) -> bool:
        """Whether the current step is counted: what is inside it is no step of its own."""
        return self._open[-1].is_counted

    @property
    def place(self) -> str:
        """Which step it is, such as ``2 of 5``, or ``step 2`` where no earlier run tells how many there are."""
        number = len(self.steps) - 1
        return f"{number} of {number + len(self._later)}" if self._earlier_s else f"step {number}"

    def enter(self, name: str, share: float | None) -> Step:
        """Begins a step. `share` is what an interrupted run has done of it; `None` if its work isn't counted."""
        self._tick()
        step = Step(name, self._making(), is_counted=share is not None, first=share or 0.0, share=share or 0.0)
        names = [each.name for each in self._later]
        if name in names:
            # What comes before it in the earlier run was unnecessary this time.
            place = names.index(name)
            step.earlier_s = self._later[place].seconds
            del self._later[: place + 1]
        self.steps.append(step)
        self._open.append(step)
        return step

    def reach(self, step: Step, share: float) -> None:
        """The share of a step that is done."""
        self._tick()
        step.share, step.counted_s = share, step.seconds

    def leave(self, step: Step) -> None:
        """Ends a step."""
        self._tick()
        self._open.remove(step)

    def _tick(self) -> None:
        now = self._clock()
        for step in self._open[-1:]:
            step.seconds += now - self._at
        self._at = now

    def left_s(self) -> float | None:
        """The seconds until the run ends; `None` if no earlier run tells."""
        if not self._earlier_s:
            return None
        pace, current = self._pace(), self._open[-1]
        since_s = self._clock() - self._at
        of_open = [step.left_s(step.seconds + since_s * (step is current), pace) for step in self._open]
        return sum(of_open) + pace * sum(step.seconds for step in self._later)

    def _pace(self) -> float:
        """How many seconds one of the earlier run takes, by the steps that ended and by what is counted."""
        took_s = worked_s = TRUST * self._earlier_s
        for step in self.steps:
            is_open = step in self._open
            if step.earlier_s is not None and (step.is_counted or not is_open):
                took_s += step.counted_s if is_open else step.seconds
                worked_s += step.earlier_s * ((step.share if is_open else 1.0) - step.first)
        return took_s / worked_s


_run: Run | None = None
_shown: Progress | None = None
"""The display of a run, or of the bar that others are opened in. Of open bars, only the last is visible."""


def drawable() -> Console | None:
    """The terminal or notebook to draw on, if there is one. Ask before letting another library draw bars of its own.

    In a run, or while a bar of ours is open, the terminal is taken.
    """
    return _terminal() if _run is None and _shown is None else None


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
def running(earlier: Sequence[Step] = (), making: Callable[[], str] = str) -> Iterator[Run]:
    """While the body runs, its bars are steps of one run, and a bar of the whole run is above each. See `Run`."""
    global _run, _shown
    terminal = _terminal()
    # After a suspension, the shell's lines are where the bars were.
    run = Run(earlier, making, Clock(lambda: print(file=terminal.file)) if terminal else time.monotonic)
    with _display(terminal, run) if terminal else nullcontext() as display:
        _run = run
        if display:
            display.add_task(run.place, total=None, whole=True)
            _shown = display
        try:
            yield run
        finally:
            _run = _shown = None


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar. `total` is the number of items, if `items` has no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)


def working(description: str) -> AbstractContextManager[object]:
    """A bar of this description that moves while the body does work that can't be counted."""
    return bar(description, None)


@contextmanager
def bar(description: str, total: float | None, done: float = 0.0) -> Iterator[Advance]:
    """A progress bar that the body advances: ``with bar("shards", n) as advance: advance(1)``.

    In a run it is a step, unless it is opened inside a step that is counted. `total` is `None` if the work can't be
    counted, and `done` is what an interrupted run has done of it.
    """
    run, reached = _run, done
    step = None
    if run and not run.is_counting:
        step = run.enter(description, None if total is None else done / total if total else 0.0)
    try:
        with _drawn(description, total, done) as draw:

            def advance(amount: float) -> None:
                nonlocal reached
                reached += amount
                if run and step and total:
                    run.reach(step, reached / total)
                draw(amount)

            yield advance
    finally:
        if run and step:
            run.leave(step)
            logger.debug(f"{step.name}: {step.seconds:.1f} s")


@contextmanager
def _drawn(description: str, total: float | None, done: float) -> Iterator[Advance]:
    """A bar in the open display, in place of the one that it is opened in, or in a display of its own."""
    global _shown
    terminal, shown = _terminal(), _shown
    if terminal is None:
        if total is not None:
            logger.info(description)
        yield lambda amount: None
        return
    with nullcontext(shown) if shown else _display(terminal, transient=total is None) as display:
        outer = [task.id for task in display.tasks if "whole" not in task.fields][-1:]
        for each in outer:
            display.update(each, visible=False)
        task = display.add_task(description, total=total, completed=round(done))
        _shown = display
        try:
            yield lambda amount: display.advance(task, amount)
        finally:
            if shown:
                display.remove_task(task)
            for each in set(outer) & set(display.task_ids):
                display.update(each, visible=True)
            _shown = shown


@contextmanager
def _display(terminal: Console, run: Run | None = None, transient: bool = False) -> Iterator[Progress]:
    """Bars on a terminal, above which messages are printed; `transient` ones disappear at the end."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Left(ProgressColumn):
        """The time that is left of the run or of a lone bar, a step's percentage, or the seconds so far."""

        def render(self, task: Task) -> Text:
            said, elapsed_s = None, task.elapsed or 0.0
            if run and task.fields.get("whole"):
                left_s, task.description = run.left_s(), run.place
                if left_s is not None:
                    task.total, task.completed = elapsed_s + left_s, elapsed_s
                    said = f"{timedelta(seconds=round(left_s))} left"
            elif run and task.total is not None:
                said = f"{task.percentage:.0f}%"
            elif task.total is not None:
                return TimeRemainingColumn().render(task)
            if said is None:
                said = f"{elapsed_s:.0f} s" if elapsed_s < 99.5 else str(timedelta(seconds=round(elapsed_s)))
            return Text(said, justify="right", no_wrap=True)

    crop: OverflowMethod = "crop" if terminal.options.ascii_only else "ellipsis"
    bar_width = max(5, min(40, terminal.width - 36))
    name_width = max(5, terminal.width - bar_width - len(" 10:00:00 left "))
    name = Column(no_wrap=True, overflow=crop, max_width=name_width)
    columns = (TextColumn("{task.description}", markup=False, table_column=name), BarColumn(bar_width), Left())
    with Progress(*columns, console=terminal, refresh_per_second=4, transient=transient) as display:
        terminal.show_cursor(True)  # it would be missing after Ctrl-Z
        yield display
