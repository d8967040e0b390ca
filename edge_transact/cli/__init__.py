"""The command line: ``edge-transact COMMAND``. One file a command; each parses, calls, and prints.

A command's file is imported when the command is called: pydantic alone takes longer than ``--help`` should.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from edge_transact.cli import logs
from edge_transact.cli.command import Command, everywhere, without_types_of_flags
from edge_transact.version import __version__

COLLECTED_OBJECTS = 10_000
"""How many objects are made until Python looks for garbage among them. Importing torch, transformers and TVM makes a
million that stay; with Python's own 700, looking for garbage among those takes an eighth of the time to import them.
"""

COMMANDS = {
    "plan": "Compare what can be made of models, dense, cut, in fewer bits or trained, and recommend one for a budget.",
    "prune": "Make a model smaller by removing KV groups, dims inside heads and MLP dims.",
    "heal": "Recover a pruned model's quality by distillation from the model that it was pruned from.",
    "build": "Quantize a model and compile its libraries, for `run`, for MLC-LLM's engine and for apps.",
    "run": "Answer a prompt with the built library, streaming the tokens, or chat.",
    "eval": "Measure the perplexity and task scores of models: dense, pruned or built.",
    "inspect": "Print widths, parameters, FLOPs, KV cache and memory of models, from their configuration alone.",
    "explain": "Print where a model's bytes, times and losses are, by layer and block, and which limit binds.",
    "export": "Write a model as a GGUF file for llama.cpp and the apps that use it.",
    "bench": "Measure latency and memory of models on phones or on this host.",
    "profile": "Measure the kernels of a model's shape on a device, over widths and contexts, for budgets of time.",
    "bundle": "Write an Android Studio project with models in it: a library module to build on, and a chat app.",
    "install": "Copy the weights of models that are too large for an app into its files on a phone, over adb.",
    "verify": "Compare outputs, byte by byte, with the sha256 that was recorded when they were written.",
    "init": "Write an `edge-transact.toml`, with which `edge-transact build` alone does the whole job.",
    "doctor": "List what each job needs on this machine, and how to install what is missing.",
    "cache": "List the cached results of earlier runs, or delete them.",
    "push": "Upload a checkpoint with its model card to the model hub.",
}
"""The commands in the order of ``--help``, with the first sentence of each one's docstring."""

OTHERS = ("verify", "init", "doctor", "cache", "push")
"""Those that aren't on the way from a checkpoint to an answer."""


def load_command(name: str) -> Any:
    function = getattr(import_module(f"edge_transact.cli.{name}"), {"eval": "evaluate"}.get(name, name))
    single = typer.Typer(rich_markup_mode=MARKUP, pretty_exceptions_enable=False, add_completion=False)
    single.command(name, cls=Command, context_settings=CONTEXT)(function)
    command = typer.main.get_command(single)
    command.params += everywhere(typer.main.get_command(app).params, GLOBAL_FLAGS)
    return command


class _LazyGroup(TyperGroup):
    """Lists commands from `COMMANDS`, and imports the one that is called."""

    def get_params(self, ctx: Any) -> list[Any]:
        return without_types_of_flags(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args[0] == "help":
            args = [*args[1:], "--help"]
            if len(args) == 1:
                typer.echo(ctx.get_help())
                ctx.exit()
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and load_command(listed.name or ""), rest


MARKUP: Literal["markdown"] = "markdown"
CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="edge-transact",
    help="Take a LLaMA checkpoint to a phone: prune it, build it for Android and this host, run it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    context_settings=CONTEXT,
    cls=_LazyGroup,
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
    logs.show_tracebacks = False
    logs.show_logs(logging.INFO)
    for name, given in {"debug": debug, "verbose": verbose, "quiet": quiet, "no_cache": no_cache}.items():
        if given:
            GLOBAL_FLAGS[name]()


def _be_quiet() -> None:
    logs.hush_tqdm()
    logs.show_logs(logging.WARNING)


def _use_no_cache() -> None:
    from edge_transact import cache as store

    store.enabled = False


GLOBAL_FLAGS: dict[str, Callable[[], None]] = {
    "debug": partial(setattr, logs, "show_tracebacks", True),
    "quiet": _be_quiet,
    "verbose": lambda: logs.show_logs(logging.DEBUG),
    "no_cache": _use_no_cache,
}
"""What the flags do that stand before a command or among its own options."""


def _listed(sentence: str) -> Callable[[], None]:
    def listed() -> None:
        """Stands for a command in the list of ``--help``."""

    listed.__doc__ = sentence
    return listed


for _name, _sentence in COMMANDS.items():
    _panel = "Other commands" if _name in OTHERS else "From a checkpoint to an answer"
    app.command(_name, rich_help_panel=_panel)(_listed(_sentence))


def main() -> None:
    gc.set_threshold(COLLECTED_OBJECTS)
    # torch's threads would wait for each other by spinning: on CPUs that others use, that takes most of the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # At its end, Python would look for garbage among those once more: a second's wait with torch and transformers.
    atexit.register(gc.freeze)
    # Until a command runs, an interrupt just ends the program. A signal that is ignored, as under nohup, stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]
        signal.signal(signal.SIGHUP, partial(_hang_up, terminals))
    app(prog_name="edge-transact")


def _hang_up(terminals: Sequence[int], signal_number: int, frame: FrameType | None) -> None:
    """The terminal was closed: ends as an interrupt does, with everything left clean. What is printed goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for terminal in terminals:
        os.dup2(nowhere, terminal)
    raise KeyboardInterrupt
