"""Progress on stderr: bars with time left on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

console = Console(stderr=True)
"""Everything that isn't a result goes here; the global ``--quiet`` silences it, warnings and failures apart."""

verbose = False
"""Whether `detail` says anything: the global ``--verbose``."""


def step(message: str) -> None:
    """Say what happens now, in a line."""
    _say(console, message)


def detail(message: str) -> None:
    """Say what few want to know, in a line."""
    if verbose:
        _say(console, message, style="dim")


def calling(words: Sequence[object]) -> None:
    """Say which program is called, as a shell would be told to: a `detail`."""
    detail(f"$ {shlex.join(map(str, words))}")


def warn(message: str) -> None:
    """Say what will surprise, in a line, even where ``--quiet`` silences the rest."""
    _say(Console(stderr=True), f"warning: {message}", style="yellow")


def _say(where: Console, message: str, style: str | None = None) -> None:
    # Wrapped at words on a terminal; whoever reads a log searches in lines.
    where.print(message, style=style, highlight=False, markup=False, soft_wrap=not where.is_terminal)


def shows_bars() -> bool:
    """Whether stderr is a terminal that may be drawn on; programs of others ask before they draw theirs."""
    return console.is_terminal and not console.quiet


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar.

    Args:
        items: What to iterate over.
        description: What is being done, such as ``calibrate``.
        total: How many items there are, where `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def working(description: str) -> Iterator[None]:
    """A spinner while the body does what can't be counted."""
    if not shows_bars():
        yield
        return
    with console.status(description):
        yield


@contextmanager
def bar(description: str, total: float | None):
    """A progress bar that the body advances: ``with bar("shards", n) as advance: advance(1)``."""
    if not shows_bars():
        step(description)
        yield lambda amount: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)
