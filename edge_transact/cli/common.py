"""What all commands share: options, printing of results, and how failures end."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_transact.cli import logs
from edge_transact.cli.command import RUN
from edge_transact.errors import EdgeTransactError
from edge_transact.formatting import duration
from edge_transact.options import MOST_CPUS
from edge_transact.options.command_line import expand

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edge_transact.cli.history import History
    from edge_transact.costs import Requirements
    from edge_transact.healing.run import HealResult
    from edge_transact.pruning.run import PruneResult

PLANNING = "see what is to be done"
"""The bar of long commands before their steps, while they look at their inputs."""

SHOWN = 1000
"""Characters of an error's message."""

RUN_OPTION = partial(typer.Option, rich_help_panel=RUN)
"""An option that no result depends on."""

JsonOption = Annotated[bool, RUN_OPTION("--json", help="Print one JSON object as the last line of stdout.")]
FreshOption = Annotated[bool, RUN_OPTION("--fresh", help="Start over instead of resuming an interrupted run.")]
ResumeOption = Annotated[
    bool, RUN_OPTION("--resume", help="Fail unless there is an interrupted run with the same options to resume.")
]
DryRunOption = Annotated[
    bool, RUN_OPTION("--dry-run", help="Print what would be done, and the memory and disk that it needs, and stop.")
]
ThreadsOption = Annotated[
    int | None, RUN_OPTION(min=1, max=MOST_CPUS, help="Number of CPU threads.", show_default="one for each big core")
]
ForceOption = Annotated[bool, RUN_OPTION("--force", help="Replace an output that exists.")]
ExpectOption = Annotated[
    Path | None, RUN_OPTION("--expect", metavar="PLAN", help="Compare with what `plan --json` printed into this file.")
]


def show(result: Mapping[str, Any], as_json: bool, text: Callable[[], None]) -> None:
    """Prints a command's result on stdout: as one line of JSON, or with `text` for people."""
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    else:
        text()


def print_table(console: Console, table: Table, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Fills and prints a table; in a pipe, lines with a tab between two columns."""
    if not console.is_terminal:
        print(*map("\t".join, [header, *rows]), sep="\n")
        return
    for row in rows:
        table.add_row(*row)
    console.print(table)


def show_written(
    title: str, facts: Mapping[str, str], values: Mapping[str, Any], as_json: bool, following: str | None
) -> None:
    """Prints what a command wrote: `values` with ``--json``, or a table of `facts` and the command to run next.

    Unusable answers and a report that are among the `values` are in the table, too.
    """

    def text() -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        for row in facts.items():
            table.add_row(*row)
        if degenerate := values.get("degenerate"):
            from edge_transact.evaluation.answers.collapse import beside

            table.add_row("unusable answers", beside(degenerate, values.get("source_degenerate")))
        if report := values.get("report"):
            table.add_row("report", str(Path(report) / "index.html"))
        console = Console()
        console.print(table)
        if following:
            console.print(f"Next: {following}", highlight=False, soft_wrap=True)

    show(values, as_json, text)


def show_checkpoint(
    output: Path,
    result: PruneResult | HealResult,
    degenerate: object,
    report: Path | None,
    as_json: bool,
    following: str,
    before: object = None,
) -> None:
    """`show_written` for a checkpoint, with the time and memory of this process.

    `degenerate` are the figures of its answers, `before` those of its source.
    """
    from edge_transact.system.clock import process_s
    from edge_transact.system.memory import peak_rss_mib

    values = result.to_dict() | {"peak_rss_mib": peak_rss_mib(), "seconds": process_s()}
    if degenerate:
        values |= {"degenerate": degenerate} | ({"source_degenerate": before} if before else {})
    if report is not None:
        values["report"] = str(report)
    title = f"{output} in {values['seconds']:.0f} s"
    show_written(title, result.summary().facts, values, as_json, following)


def show_requirements(
    requirements: Requirements,
    history: History,
    as_json: bool,
    facts: Mapping[str, str] = MappingProxyType({}),
    values: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Prints what ``--dry-run`` says: the steps, and what an earlier run took for each, if there was one.

    `facts` about the result are in a table of their own, and `values` in the JSON object.
    """
    steps: list[dict[str, Any]] = [
        {"name": step.name, "seconds": round(step.seconds, 1)} for step in history.steps() if step.name
    ]
    steps = steps or [{"name": name, "seconds": None} for name in requirements.steps]
    seconds = sum(step["seconds"] or 0.0 for step in steps) or None

    def text() -> None:
        from rich.console import Console
        from rich.table import Table

        console = Console(highlight=False)
        if facts:
            print_table(console, Table("result", "expected"), ("result", "expected"), facts.items())
        header = ("step", *(["in the last run"] if seconds else []))
        rows = [(step["name"], *([duration(step["seconds"])] if seconds else [])) for step in steps]
        print_table(console, Table(*header), header, rows)
        console.print(described(requirements, history), soft_wrap=True)

    show({**asdict(requirements), "steps": steps, "seconds": seconds, **values}, as_json, text)


def described(requirements: Requirements, history: History) -> str:
    """What a command needs, in a line, with the time of an earlier run."""
    seconds = sum(step.seconds for step in history.steps())
    return f"{requirements}" + (f"; about {duration(seconds)}, by the last run" if seconds else "")


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command, expanded by `expand`, whose failures end in a few lines on stderr and an exit code.

    The code is 1 for a failure, 2 for wrong usage, 130 for SIGINT, and 143 for SIGTERM.
    """
    command = expand(command)

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        if not sys.stderr.isatty():
            logs.hush_tqdm()
        pressed: list[int] = []
        try:
            with _interruptible(pressed):
                command(*args, **kwargs)
        except EdgeTransactError as error:
            _end(error.message, error.fix, error.exit_code)
        except KeyboardInterrupt as interrupt:
            code = 128 + (pressed or [signal.SIGINT])[0]
            _end("interrupted", " ".join(getattr(interrupt, "__notes__", ())), code)
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
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _end(
                f"{where}{error.strerror or error}",
                "Check the disk's space and permissions; --debug shows what wanted it.",
                1,
            )
        except UnicodeEncodeError as error:
            around = error.object[max(0, error.start - 40) : error.end + 40]
            _end(f"{around!r} is not valid Unicode", "Write it in UTF-8, or rename the file.", 1)
        except Exception as error:
            _end(f"{type(error).__name__}: {error}", "This looks like a bug: report what --debug prints.", 1)

    return run


@contextmanager
def _interruptible(pressed: list[int]) -> Iterator[None]:
    """Makes a `KeyboardInterrupt` of what ends the body after SIGINT or SIGTERM, such as TVM's own exceptions.

    The signals' numbers are added to `pressed`.
    """

    def press(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        # What starts several processes ends them with SIGTERM, and one may be waiting for another.
        numbers = [signal.SIGINT] if "RANK" in os.environ else [signal.SIGINT, signal.SIGTERM]
        found = {number: signal.getsignal(number) for number in numbers}
        # What is ignored, as under nohup, or handled by whoever calls us stays so.
        ours = [number for number, handler in found.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
        before = {number: signal.signal(number, press) for number in ours}
    try:
        yield
    except Exception as error:
        if not pressed:
            raise
        interrupt = KeyboardInterrupt()
        for note in getattr(error, "__notes__", ()):
            interrupt.add_note(note)
        raise interrupt from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(message: str, fix: str, code: int) -> None:
    if logs.show_tracebacks:
        traceback.print_exc()
    if len(message) > SHOWN:  # a path, or a value of a stranger's file
        message = f"{message[: SHOWN // 2]} ... {message[-SHOWN // 2 :]}"
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
