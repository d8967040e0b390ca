"""The command line: ``edge-transact COMMAND``. One file a command; each parses, calls, and prints."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from edge_transact import __version__
from edge_transact.cli import common, logs
from edge_transact.cli.bench import bench
from edge_transact.cli.build import build
from edge_transact.cli.cache import cache
from edge_transact.cli.doctor import doctor
from edge_transact.cli.eval import evaluate
from edge_transact.cli.init import init
from edge_transact.cli.inspect import inspect
from edge_transact.cli.prune import prune
from edge_transact.cli.push import push
from edge_transact.cli.run import run

app = typer.Typer(
    name="edge-transact",
    help="Take a LLaMA checkpoint to a phone: prune it, build it for Android and this host, run it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print results, warnings and failures only.")] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", help="Also log what is read, why stages run again, and which programs are called."),
    ] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Run every stage again, even if nothing has changed.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    common.debugging = debug
    if quiet:
        common.hush_tqdm()
    logs.show_logs(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    if no_cache:
        from edge_transact.artifacts import cache as store

        store.enabled = False


GLOBAL_FLAGS = ("--debug", "--quiet", "--verbose", "--no-cache")

PIPELINE, OTHERS = "From a checkpoint to an answer", "Other commands"

app.command("prune", rich_help_panel=PIPELINE)(prune)
app.command("build", rich_help_panel=PIPELINE)(build)
app.command("run", rich_help_panel=PIPELINE)(run)
app.command("eval", rich_help_panel=PIPELINE)(evaluate)
app.command("inspect", rich_help_panel=PIPELINE)(inspect)
app.command("bench", rich_help_panel=PIPELINE)(bench)

app.command("init", rich_help_panel=OTHERS)(init)
app.command("doctor", rich_help_panel=OTHERS)(doctor)
app.command("cache", rich_help_panel=OTHERS)(cache)
app.command("push", rich_help_panel=OTHERS)(push)


def main() -> None:
    """The console script. `GLOBAL_FLAGS` can be anywhere on the line."""
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [argument for argument in arguments[:end] if argument in GLOBAL_FLAGS]
    rest = [argument for argument in arguments[:end] if argument not in GLOBAL_FLAGS]
    app([*flags, *rest, *arguments[end:]], prog_name="edge-transact")
