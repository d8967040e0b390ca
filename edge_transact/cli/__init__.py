"""The command line: ``edge-transact COMMAND``. One file a command; each parses, calls, and prints."""

from __future__ import annotations

import sys

import typer

from edge_transact.cli.common import failures

app = typer.Typer(
    name="edge-transact",
    help="Take a LLaMA checkpoint to a phone: prune it, build it for Android and this host, run it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of a failure."),
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        from importlib.metadata import version as package_version

        typer.echo(package_version("edge-transact"))
        raise typer.Exit


def main() -> None:
    """The console script."""
    with failures(debug="--debug" in sys.argv):
        app()
