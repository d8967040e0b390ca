"""What a person sees on stderr while a command runs: the package's log, a line a message, and progress bars."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import TYPE_CHECKING

from edge_transact import progress

if TYPE_CHECKING:
    from rich.console import Console

show_tracebacks = False
"""Whether failures show their traceback: the global ``--debug``, set before any command runs."""


@cache
def console() -> Console:
    """Stderr. It is made when there is something to print, because importing rich takes as long as decoding tokens."""
    from rich.console import Console

    return Console(stderr=True)


class _StderrHandler(logging.Handler):
    """Prints messages alone: no level, time or logger name. Warnings are yellow, debug messages dim."""

    def emit(self, record: logging.LogRecord) -> None:
        message, style = record.getMessage(), None
        if record.levelno >= logging.WARNING:
            message, style = f"warning: {message}", "yellow"
        elif record.levelno <= logging.DEBUG:
            style = "dim"
        # Words wrap on a terminal. Elsewhere a message stays on one line, so that logs can be searched.
        shown = console()
        shown.print(message, style=style, highlight=False, markup=False, soft_wrap=not shown.is_terminal)


_handler = _StderrHandler()


def show_logs(level: int = logging.INFO, package: str = "edge_transact") -> None:
    """Print what a package logs from `level` on, and draw progress bars if that includes ordinary messages."""
    logger = logging.getLogger(package)
    logger.setLevel(level)
    logger.addHandler(_handler)
    progress.console = console if level <= logging.INFO else None


def hush_tqdm() -> None:
    """Keeps other libraries' bars out of logs. Call it before they are imported: tqdm reads the variable once."""
    os.environ.setdefault("TQDM_DISABLE", "1")
