"""The command line: ``edge-transact COMMAND``. One file a command; each parses, calls, and prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edge_transact.cli import common
from edge_transact.cli.bench import bench
from edge_transact.cli.build import build
from edge_transact.cli.eval import evaluate
from edge_transact.cli.inspect import inspect
from edge_transact.cli.prune import prune
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
        from importlib.metadata import version

        typer.echo(version("edge-transact"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    common.debugging = debug


app.command("prune")(prune)
app.command("build")(build)
app.command("run")(run)
app.command("eval")(evaluate)
app.command("inspect")(inspect)
app.command("bench")(bench)


def main() -> None:
    """The console script. ``--debug`` may stand anywhere on the line."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments = ["--debug", *(argument for argument in arguments if argument != "--debug")]
    app(arguments, prog_name="edge-transact")
