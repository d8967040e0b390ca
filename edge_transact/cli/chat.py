"""The chat of ``edge-transact run`` on a terminal."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from edge_transact.errors import EdgeTransactError, closest
from edge_transact.reading import user_path
from edge_transact.runtime.text import END_OF_THINKING, THINK

if TYPE_CHECKING:
    from edge_transact.runtime.session import Answer, Session

logger = logging.getLogger(__name__)

PROMPT, CONTINUATION = "> ", ". "

COMMANDS = {
    "/help": "these commands and keys",
    "/system": "TEXT: the system message from now on; without TEXT, show it",
    "/reset": "forget the conversation",
    "/save": "FILE: write the conversation as JSON, a list of messages",
    "/stats": "speed, context, sampling, threads and memory",
    "/exit": "leave, as Ctrl-D does",
}

KEYS = {
    "Alt-Enter": "a new line; a backslash at the end of a line does the same",
    "Ctrl-C": "stops the answer; twice leaves",
    "Up, Ctrl-R": "what you said before, also in other chats",
}

_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""Characters by which a text could move the cursor or rename the window."""


def write(text: str) -> None:
    """Writes what the model says on stdout. On a terminal, reasoning is dim, and control characters are replaced."""
    if sys.stdout.isatty():
        text = text.translate(_CONTROLS)
        if not _is_dumb():
            text = text.replace(THINK, "\x1b[2m").replace(END_OF_THINKING, "\x1b[22m")
    sys.stdout.write(text)
    sys.stdout.flush()


def valid(text: str) -> str:
    """The text with question marks for bytes that weren't UTF-8, which Python has read as lone surrogates."""
    return text.encode(errors="replace").decode()


def announce(dist: Path) -> None:
    from edge_transact.artifacts.manifest import Manifest

    name = Path(Manifest.read(dist).source).name
    logger.info(f"loading {' '.join(name.translate(_CONTROLS).split())} ...")


class Chat:
    """Reads messages and commands from the terminal, and prints answers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        from rich.console import Console

        self._console = Console(highlight=False)
        self._read = _reader()
        self._answers: list[Answer] = []
        self._saved: set[Path] = set()

    def run(self) -> None:
        """Chats until the person leaves; a `KeyboardInterrupt` if the terminal was closed."""
        self._dim("/help lists commands, Ctrl-D leaves.")
        interrupted = False
        while True:
            try:
                text = valid(self._read()).strip()
            except EOFError:  # Ctrl-D, or a terminal that was closed: its end may be read before its signal comes
                break
            except KeyboardInterrupt:
                if interrupted or _is_closed():
                    break
                interrupted = True
                self._dim("Ctrl-C again leaves.")
                continue
            if text.split()[:1] == ["/exit"]:
                return
            try:
                interrupted = self._take(text)
            except KeyboardInterrupt:
                break
        if _is_closed():
            raise KeyboardInterrupt

    def _take(self, text: str) -> bool:
        """Does what a line says. Returns whether Ctrl-C stopped the answer."""
        # A path, as in "/etc/passwd has which format?", is no command.
        word, _, rest = text.partition(" ")
        try:
            if word in COMMANDS:
                getattr(self, f"_{word[1:]}")(rest.strip())
            elif re.fullmatch(r"/\w*", word):
                raise EdgeTransactError(f"there is no {word}", fix=closest(word, COMMANDS) or "/help lists commands.")
            elif text:
                return self._answer(text)
        except (EdgeTransactError, OSError, ValueError) as error:
            self._console.print(f"{error}\n{getattr(error, 'fix', '')}".strip(), style="yellow", markup=False)
        return False

    def _answer(self, text: str) -> bool:
        with _interruptible() as stopped:
            answer = self._session.answer(text, on_text=write, stopped=stopped)
        write("\n")
        self._answers.append(answer)
        self._dim(" ".join(self._remarks(answer)))
        return answer.finish == "stopped"

    def _remarks(self, answer: Answer) -> Iterator[str]:
        if answer.finish == "stopped":
            yield "Stopped."
        if answer.finish == "length":
            yield f"Ended at --max-tokens {self._session.max_tokens}."
        if answer.finish == "context":
            yield "The model's context is full."
        if answer.dropped_turns:
            yield f"The context had no room for the oldest {_count(answer.dropped_turns, 'turn')}."
        speed = f", {answer.decode_tok_s:.1f} tokens/s" if answer.decode_tok_s else ""
        yield f"{_count(len(answer.tokens), 'token')}{speed}"

    def _help(self, _rest: str) -> None:
        self._rows(COMMANDS | KEYS)

    def _system(self, text: str) -> None:
        if self._session.plain:
            raise EdgeTransactError("this model has no chat template: it continues text")
        if text:
            self._session.system = text
        system = self._session.system
        self._dim("The chat template's own, if it has one." if system is None else system)

    def _reset(self, _rest: str) -> None:
        self._session.reset()
        self._dim("The conversation is forgotten.")

    def _save(self, name: str) -> None:
        from edge_transact.artifacts.outputs import new_file, refuse_existing

        if not name:
            raise EdgeTransactError("/save needs a file", fix="/save chat.json")
        path = user_path(name).absolute()
        if path not in self._saved:
            refuse_existing(path, force=False, fix="Name another file.")
        with new_file(path, b"[", own=True) as fresh:
            fresh.write_text(json.dumps(self._session.messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self._saved.add(path)
        self._dim(f"Saved {_count(len(self._session.messages), 'message')} in {path}")

    def _stats(self, _rest: str) -> None:
        from edge_transact.system.memory import peak_rss_mib

        session, sampling = self._session, self._session.sampler.sampling
        rows = {
            "conversation": _count(len(session.turns), "turn"),
            "KV cache": f"{session.model.length} of {session.model.context_window_size} tokens",
            "sampling": f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, "
            f"repetition penalty {sampling.repetition_penalty:g}",
            "threads": str(self._session.model.threads),
            "memory": f"{peak_rss_mib():.0f} MiB at most",
        }
        if self._answers:
            last, tokens = self._answers[-1], sum(len(answer.tokens) for answer in self._answers)
            seconds, steps = (sum(getattr(a, name) for a in self._answers) for name in ("decode_s", "decode_steps"))
            rows |= {
                "last prompt": f"{last.prompt_tokens} tokens, {last.prefill_tokens} of them new, "
                f"first token after {last.prefill_s:.2f} s",
                "answers": f"{_count(tokens, 'token')}" + (f", {steps / seconds:.1f} tokens/s" if steps else ""),
            }
        self._rows(rows)

    def _rows(self, rows: dict[str, str]) -> None:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for name, text in rows.items():
            table.add_row(name, text)
        self._console.print(table)

    def _dim(self, text: str) -> None:
        self._console.print(text.translate(_CONTROLS), style="dim", markup=False)


def _is_closed() -> bool:
    return not sys.stdin.isatty()


def _is_dumb() -> bool:
    return os.environ.get("TERM", "dumb") in ("dumb", "unknown")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """In the body, the first Ctrl-C makes the yielded function true, and the second is a `KeyboardInterrupt`."""
    # An interrupt anywhere would leave the KV cache in the middle of a token.
    pressed = 0

    def press(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed > 0
    finally:
        signal.signal(signal.SIGINT, before)


def _reader() -> Callable[[], str]:
    """Reads a message of one or more lines, with line editing if the terminal can."""
    if not sys.stdout.isatty() or _is_dumb():
        return _read_plainly
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.shortcuts import CompleteStyle

    # Otherwise it warns where a terminal doesn't say where its cursor is.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def alt_enter(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    history = _history_file()
    session: PromptSession[str] = PromptSession(
        PROMPT,
        multiline=True,
        prompt_continuation=CONTINUATION,
        key_bindings=keys,
        history=FileHistory(str(history)) if history else InMemoryHistory(),
        completer=WordCompleter(list(COMMANDS), sentence=True),
        complete_style=CompleteStyle.READLINE_LIKE,
        enable_suspend=True,
    )
    return session.prompt


def _read_plainly() -> str:
    lines = [input(PROMPT)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(CONTINUATION))
    return "\n".join(lines)


def _history_file() -> Path | None:
    """The file of what was said in all chats, readable by its user alone; `None` if it can't be written."""
    path = user_path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "edge-transact" / "chat-history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        logger.debug(f"no history: {error}")
        return None
    return path
