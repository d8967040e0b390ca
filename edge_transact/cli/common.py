"""What all commands share: options, printing of results, and how failures end."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_transact.cli import logs
from edge_transact.errors import EdgeTransactError
from edge_transact.options.command_line import expand

if TYPE_CHECKING:
    from edge_transact.progress import Forecast

logger = logging.getLogger(__name__)

PLANNING = "see what is to be done"
"""The bar of long commands before their steps, while they look at their inputs."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Start over instead of going on where an interrupted run stopped.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Fail if there is no interrupted run with the same options to go on with.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what the steps are and about how long they take, and stop.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Number of CPU threads.", show_default="one for each big core")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]


def show(result: Mapping[str, Any], as_json: bool, text: Callable[[], None]) -> None:
    """Prints a command's result on stdout.

    Args:
        result: What ``--json`` prints, on one line.
        as_json: Whether ``--json`` was given.
        text: Prints the result for people, if it wasn't.
    """
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    else:
        text()


def may_start(forecast: Forecast, *, dry_run: bool, as_json: bool, without: str = "") -> bool:
    """Says what a run will take: on stdout and step by step with ``--dry-run``, otherwise in one line of the log.

    Args:
        forecast: What the run will take.
        dry_run: Whether ``--dry-run`` was given.
        as_json: Whether ``--json`` was given.
        without: What the forecast leaves out.

    Returns:
        Whether to go on.
    """
    if dry_run:
        _show_forecast(forecast, as_json)
    else:
        logger.info(f"{forecast}{without}")
    return not dry_run


def _show_forecast(forecast: Forecast, as_json: bool) -> None:

    def text() -> None:
        from rich.console import Console
        from rich.table import Table

        from edge_transact.progress import roughly

        table = Table("step", "about", title=str(forecast), title_justify="left")
        for step in forecast.steps:
            table.add_row(step.name, roughly(step.seconds))
        Console().print(table)

    show(forecast.to_dict(), as_json, text)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose failures end in a few lines on stderr and an exit code.

    The code is 1 for a failure, 2 for wrong usage and 130 for an interrupt. The global ``--debug`` prints the traceback
    first. Parameters that are option models become options, see `expand`.
    """
    command = expand(command)

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        if not sys.stderr.isatty():
            logs.hush_tqdm()
        try:
            command(*args, **kwargs)
        except EdgeTransactError as error:
            _end(error.message, error.fix, error.exit_code)
        except KeyboardInterrupt as interrupt:
            _end("interrupted", " ".join(getattr(interrupt, "__notes__", ())), 130)
        except BrokenPipeError:
            # Whoever read our output is gone, as with `| head`: there is nobody to tell.
            sys.stderr.close()
            raise SystemExit(1) from None
        except (typer.Exit, typer.Abort):
            raise
        except ModuleNotFoundError as error:
            from edge_transact.doctor import packages

            package = (error.name or "").partition(".")[0]
            fix = packages.install_command(package) or "See what is missing: edge-transact doctor"
            _end(f"the Python package {package} is not installed", fix, 1)
        except Exception as error:
            _end(f"{type(error).__name__}: {error}", "This looks like a bug: report what --debug prints.", 1)

    return run


def _end(message: str, fix: str, code: int) -> None:
    if logs.show_tracebacks:
        traceback.print_exc()
    sys.stderr.write(_wrapped(f"edge-transact: {message}"))
    if fix:
        sys.stderr.write(_wrapped(f"  {fix}"))
    raise SystemExit(code)


def _wrapped(text: str) -> str:
    """Lines that fit the terminal without broken words; elsewhere one line, which is easier to search."""
    if not sys.stderr.isatty():
        return text + "\n"
    import shutil
    import textwrap

    wrapper = textwrap.TextWrapper(
        shutil.get_terminal_size().columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "".join(wrapper.fill(line) + "\n" for line in text.splitlines() or [""])
