"""Progress: which step a run is in, how far it is, and how long the rest takes.

What works on a step opens a bar of its name (`bar`, `track`, `working`). A long command is a `running`, which numbers
and times its steps. Where there is no terminal or notebook to draw bars on, their descriptions are logged.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, nullcontext
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
        makes: The cache entry that it is a part of making, as ``KIND/KEY``.
        earlier_s: How long it took in an earlier run; 0 if that isn't known.
        first, share: The shares that an interrupted run had done, and that were done after `counted_s` seconds.
    """

    name: str
    makes: str = ""
    seconds: float = 0.0
    earlier_s: float = 0.0
    is_counted: bool = False
    first: float = 0.0
    share: float = 0.0
    counted_s: float = 0.0

    def left_s(self, seconds: float, pace: float) -> float:
        """What is left after so many seconds, if one of the earlier run takes `pace`, or else by what is counted."""
        whole_s = self.earlier_s * pace
        if not whole_s and self.share > self.first:
            whole_s = self.counted_s / (self.share - self.first)
        return max(whole_s * (1 - self.share) - (seconds - self.counted_s), 0.0)


class Run:
    """The steps of a run, in the order in which they began, and how long the rest of it takes.

    The first step has no name and is the time outside of the others. `earlier` are the steps of an earlier run, without
    those that the cache makes unnecessary now; `making` tells which cache entry is being made, as ``KIND/KEY``.
    """

    def __init__(
        self, earlier: Sequence[Step] = (), making: Callable[[], str] = str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._later, self._making, self._clock = list(earlier), making, clock
        self._earlier_s, self._at = sum(step.seconds for step in earlier), clock()
        self._open: list[Step] = []
        self.steps: list[Step] = []
        self.enter("", None)

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
        self._tick()
        step.share, step.counted_s = share, step.seconds

    def leave(self, step: Step) -> None:
        self.reach(step, 1.0)
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
        took_s = worked_s = TRUST * self._earlier_s
        for step in self.steps:
            if step.earlier_s:
                took_s += step.counted_s
                worked_s += step.earlier_s * (step.share - step.first)
        # Displays ask in a thread of their own, so nothing is changed here.
        pace, current, since_s = took_s / worked_s, self._open[-1], self._clock() - self._at
        of_open = [step.left_s(step.seconds + since_s * (step is current), pace) for step in self._open]
        return sum(of_open) + pace * sum(step.seconds for step in self._later)


_run: Run | None = None
_shown: Progress | None = None
"""The display of a run, or of the bar that others are opened in."""


def drawable() -> Console | None:
    """The terminal or notebook where another library may draw bars of its own: one that has none of ours."""
    return _terminal() if _run is None and _shown is None else None


def _terminal() -> Console | None:
    if console is not None:
        shown = console()
        return shown if shown.is_terminal and not shown.is_dumb_terminal else None
    if "ipykernel" not in sys.modules or find_spec("ipywidgets") is None:  # what rich draws with in a notebook
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
        _run, _shown = run, display
        try:
            yield run
        finally:
            _run = _shown = None


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar. `total` is the number of items, if `items` has no length."""
    with bar(description, len(items) if total is None and isinstance(items, Sized) else total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def bar(description: str, total: float | None = None, done: float = 0.0) -> Iterator[Advance]:
    """A progress bar that the body advances, and a step of the run, unless it is opened inside a step that is counted.

    ``with bar("shards", n) as advance: advance(1)``. Without a `total`, the work can't be counted; an interrupted run
    has `done` a part of it.
    """
    run, reached = _run, done
    if run is None or run._open[-1].is_counted:
        with _drawn(description, total, done) as draw:
            yield draw
        return
    step = run.enter(description, None if total is None else done / total if total else 0.0)

    def advance(amount: float) -> None:
        nonlocal reached
        reached += amount
        if total:
            run.reach(step, reached / total)
        draw(amount)

    try:
        with _drawn(description, total, done) as draw:
            yield advance
    finally:
        run.leave(step)
        logger.debug(f"{step.name}: {step.seconds:.1f} s")


working = bar
"""The same, for work that can't be counted."""


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
        task = display.add_task(description, total=total, completed=round(done))
        _shown = display
        try:
            yield lambda amount: display.advance(task, amount)
        finally:
            if shown:
                display.remove_task(task)
            _shown = shown


@contextmanager
def _display(terminal: Console, run: Run | None = None, transient: bool = False) -> Iterator[Progress]:
    """Bars on a terminal, above which messages are printed; `transient` ones disappear at the end."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.table import Column, Table
    from rich.text import Text

    class Left(ProgressColumn):
        """The time that is left of the run or of a lone bar, a step's percentage, or the seconds so far."""

        def render(self, task: Task) -> Text:
            elapsed_s = task.elapsed or 0.0
            shown = f"{elapsed_s:.0f} s" if elapsed_s < 99.5 else str(timedelta(seconds=round(elapsed_s)))
            if run and task.id == 0:
                left_s, task.description = run.left_s(), run.place
                if left_s is not None:
                    task.total, task.completed = elapsed_s + left_s, elapsed_s
                    shown = f"{timedelta(seconds=round(left_s))} left"
            elif task.total is not None and run is None:
                return TimeRemainingColumn().render(task)
            elif task.total is not None:
                shown = f"{task.percentage:.0f}%"
            return Text(shown, justify="right", no_wrap=True)

    class Shown(Progress):
        """The bar of the run, and of all others the last."""

        def get_renderables(self) -> Iterator[Table]:
            yield self.make_tasks_table(self.tasks[:1] + self.tasks[1:][-1:] if run else self.tasks[-1:])

    crop: OverflowMethod = "crop" if terminal.options.ascii_only else "ellipsis"
    bar_width = max(5, min(40, terminal.width - 36))
    name_width = max(5, terminal.width - bar_width - len(" 10:00:00 left "))
    name = Column(no_wrap=True, overflow=crop, max_width=name_width)
    columns = (TextColumn("{task.description}", markup=False, table_column=name), BarColumn(bar_width), Left())
    with Shown(*columns, console=terminal, refresh_per_second=4, transient=transient) as display:
        terminal.show_cursor(True)  # it would be missing after Ctrl-Z
        if run:
            display.add_task(run.place, total=None)
        yield display
