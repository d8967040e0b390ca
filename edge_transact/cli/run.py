"""``edge-transact run``: text from a DIST's host library."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_transact.cli.common import JsonOption, guarded, show

if TYPE_CHECKING:
    from edge_transact.runtime.session import Session

logger = logging.getLogger(__name__)


@guarded
def run(
    dist: Annotated[Path, typer.Argument(metavar="DIST", help="A directory that `build` wrote, with a host library.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The prompt.", show_default="stdin; on a terminal, a chat")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens in an answer.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Sampling temperature; 0 always takes the most likely token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed for temperatures above 0.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer a prompt with the built library, token by token as they are decoded.

    The prompt goes into the model's chat template, if it has one; `--raw` leaves it as it is. Without `--prompt`, the
    prompt is read from stdin, or a chat starts on a terminal.

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


def _chat(session: Session) -> None:
    logger.info("Chat: an empty line or Ctrl-D ends it, /reset forgets the conversation.")
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
