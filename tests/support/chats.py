"""A small DIST that chats, and the real chat on a pseudo terminal."""

import json
import os
import shutil
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pexpect

from edge_transact.artifacts.manifest import Manifest
from tests.support.byte_model import CHAT_TEMPLATE
from tests.support.dists import edit_json
from tests.support.patience import HANG_S

READY = r"\x1b\[\?2004h"
"""What prompt_toolkit prints when it waits for a line."""

SLOW = """
import sys, time
seconds = float(sys.argv.pop(1))
from edge_transact.cli import main
from edge_transact.runtime.host import HostModel
decode = HostModel.decode
def slowly(model, token):
    print(end="\\a", flush=True)
    time.sleep(seconds)
    return decode(model, token)
HostModel.decode = slowly
main()
"""
"""The command line with a model that takes its time, so that an answer can be interrupted, and rings at each token."""


def chatting(dist: Path, path: Path, source: str | None = None, **config: object) -> Path:
    """A copy of a DIST with a chat template, which never ends an answer itself and was built from `source`."""
    shutil.copytree(dist, path)
    edit_json(path / "tokenizer_config.json", chat_template=CHAT_TEMPLATE)
    changed = json.loads((path / "mlc-chat-config.json").read_text())
    changed["conv_template"]["stop_token_ids"] = []
    edit_json(path / "mlc-chat-config.json", conv_template=changed["conv_template"], temperature=0.0, **config)
    manifest = Manifest.read(path)
    replace(manifest, source=source or manifest.source).write(path)
    return path


class Terminal:
    """``edge-transact run`` on a pseudo terminal; its state is in `home`, and a token takes `decode_s` longer."""

    def __init__(self, home: Path, *arguments: object, decode_s: float = 0.0, columns: int = 80, **environment: str):
        program = ["-c", SLOW, str(decode_s)] if decode_s else ["-m", "edge_transact"]
        # pytest-xdist gives its processes COLUMNS, which would count for more than this terminal's width.
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.child = pexpect.spawn(
            sys.executable,
            [*program, "run", *map(str, arguments)],
            env={**inherited, "TERM": "xterm", "XDG_STATE_HOME": str(home)} | environment,
            encoding="utf-8",
            dimensions=(24, columns),
            timeout=HANG_S,
        )
        self.seen = ""

    def say(self, text: str, end: str = "\r") -> None:
        """Types a line."""
        self.child.send(text + end)

    def expect(self, pattern: str) -> str:
        """Waits until the chat prints what matches. Returns what it printed before and with it."""
        self.child.expect(pattern)
        piece = self.child.before + self.child.after
        self.seen += piece
        return piece

    def interrupt(self) -> None:
        """Presses Ctrl-C in an answer: once the terminal makes a signal of it, as prompt_toolkit's own mode doesn't."""
        end = time.monotonic() + HANG_S
        while not termios.tcgetattr(self.child.child_fd)[3] & termios.ISIG:
            assert time.monotonic() < end, self.seen
            time.sleep(0.01)
        self.child.sendintr()

    def ended(self) -> int:
        """Waits until the chat ends. Returns its exit code."""
        self.child.expect(pexpect.EOF)
        self.seen += self.child.before
        self.child.close()
        return self.child.exitstatus
