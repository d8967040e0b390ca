"""``edge-transact run``: text from a DIST's host library."""

from __future__ import annotations

import io
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import JsonOption, ThreadsOption, guarded, show
from edge_transact.errors import UsageError

logger = logging.getLogger(__name__)


@guarded
def run(
    dist: Annotated[Path, typer.Argument(metavar="DIST", help="A directory that `build` wrote, with a host library.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The prompt.", show_default="stdin; on a terminal, a chat")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="The system message.", show_default="the chat template's, if it has one")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens in an answer.")] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Sampling temperature; 0 always takes the most likely token.",
            show_default="of mlc-chat-config.json",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the random choices.", show_default="another each time")
    ] = None,
    threads: ThreadsOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    no_thinking: Annotated[
        bool, typer.Option("--no-thinking", help="Ask the chat template for answers without reasoning, if it can.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer a prompt with the built library, streaming the tokens, or chat.

    The prompt goes into the model's chat template, if it has one; `--raw` leaves it as it is. Without `--prompt`, the
    prompt is read from stdin, or a chat starts on a terminal.

    **Examples**

    `edge-transact run dist --prompt "What is the capital of France?" --temperature 0`

    `echo "Once upon a time" | edge-transact run dist --raw --max-tokens 64`

    `edge-transact run dist --prompt "Say hello." --json | tail -1 | jq .decode_tok_s`
    """
    from edge_transact.runtime.opening import Opening

    opening = Opening(dist, text=True)
    from edge_transact.cli import chat

    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the locale doesn't have
    interactive = prompt is None and sys.stdin.isatty() and not as_json
    if interactive:
        chat.announce(dist)
    from edge_transact.runtime.session import Session

    system = None if system is None else chat.valid(system)
    session = Session.load(
        dist,
        temperature=temperature,
        seed=seed,
        system=system,
        max_tokens=max_tokens,
        threads=threads,
        opening=opening,
        raw=raw,
        thinking=False if no_thinking else None,
    )
    if system is not None and session.plain:
        raise UsageError("--system needs a chat template", fix="Leave it out: this model continues text as it is.")
    if interactive:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # there, an interrupt ends an answer only
        chat.Chat(session).run()
        return
    text = sys.stdin.read() if prompt is None else prompt
    answer = session.answer(chat.valid(text), on_text=None if as_json else chat.write)
    show(answer.to_dict() | {"threads": session.model.threads}, as_json, lambda: chat.write("\n"))
    if not as_json:
        speed = f", then {answer.decode_tok_s:.1f} tokens/s" if answer.decode_tok_s else ""
        logger.info(f"first token after {answer.prefill_s:.2f} s{speed}; threads: {session.model.threads}")
