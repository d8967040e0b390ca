"""Progress bars, which are drawn in a notebook, or on a console that the caller sets, as the command line does.

Where no bar can be drawn, the bar's description is logged instead.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

console: Console | None = None
"""Where bars are drawn, if it is a terminal. None draws no bars."""


def drawable() -> Console | None:
    """The terminal or notebook to draw on, if there is one. Ask before letting another library draw its own bars."""
    if console is None:
        return _notebook()
    return console if console.is_terminal else None


def _notebook() -> Console | None:
    """The notebook that this process runs, if it is a notebook's and has what rich draws with there."""
    if "ipykernel" not in sys.modules or find_spec("ipywidgets") is None:
        return None
    from rich.console import Console

    notebook = Console()
    return notebook if notebook.is_jupyter else None


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


def working(description: str) -> AbstractContextManager[object]:
    """A spinner while the body does work that can't be counted."""
    terminal = drawable()
    return terminal.status(description) if terminal else nullcontext()


@contextmanager
def bar(description: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A progress bar that the body advances: ``with bar("shards", n) as advance: advance(1)``."""
    terminal = drawable()
    if terminal is None:
        logger.info(description)
        yield lambda amount: None
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)
