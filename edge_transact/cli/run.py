"""``edge-transact run``: text from a DIST's host library."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import JsonOption, guarded, show

logger = logging.getLogger(__name__)


@guarded
def run(
    dist: Annotated[Path, typer.Argument(metavar="DIST", help="A directory that `build` wrote, with a host library.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="What to say; without it, stdin, or a chat on a terminal.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Stop after so many tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token every time.")] = 0.0,
    seed: Annotated[int, typer.Option(help="For temperatures above 0.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is: no chat template.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer a prompt from the built library, streaming.

    The prompt is wrapped in the model's chat template, where it has one; `--raw` leaves it as it is. Without
    `--prompt`, text piped in is the prompt, and a terminal starts a chat.

    **Examples**

    `edge-transact run dist --prompt "What is the capital of France?"`

    `echo "Once upon a time" | edge-transact run dist --raw --max-tokens 64`

    `edge-transact run dist --prompt "Say hello." --json | tail -1 | jq .decode_tok_s`
    """
    from edge_transact.runtime.session import Session

    session = Session.load(dist, max_tokens=max_tokens, temperature=temperature, seed=seed, raw=raw)
    if prompt is None and sys.stdin.isatty() and not as_json:
        _chat(session)
        return
    text = sys.stdin.read() if prompt is None else prompt
    answer = session.answer(text, on_text=None if as_json else _write)
    show(answer.to_dict(), as_json, lambda: _write("\n"))


def _chat(session) -> None:

    logger.info("A chat: an empty line or Ctrl-D ends it, /reset forgets what was said.")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return
        if not text:
            return
        if text == "/reset":
            session.reset()
            continue
        session.answer(text, on_text=_write)
        _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
