"""The terminal picture of the README: real commands, run on a terminal of 80 columns, and what they printed.

``python -m benchmarks.terminal`` runs them in a temporary directory and draws ``docs/terminal.svg``. What they log on
stderr is left out.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "docs" / "terminal.svg"
COLUMNS = 80
MODULE = ("-m", "edge_transact")
LINES = (
    "edge-transact prune demo:smollm2 --ratio 0.1 --method transact --calibration-tokens 1024 -o small",
    "edge-transact build small --target host -o dist",
    'edge-transact run dist --temperature 0 --max-tokens 24 --prompt "What is the capital of France?"',
)


def printed(line: str, directory: Path) -> str:
    """What a terminal is sent on stdout while a line runs in a directory, colours included."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    words = [sys.executable, *MODULE, *shlex.split(line)[1:]]
    with subprocess.Popen(words, stdout=slave, stderr=subprocess.DEVNULL, env=environment, cwd=directory) as process:
        os.close(slave)
        chunks = []
        try:
            while chunk := os.read(master, 4096):
                chunks.append(chunk)
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(master)
    if process.returncode:
        raise SystemExit(f"{line} ended with {process.returncode}")
    return b"".join(chunks).decode().replace("\r\n", "\n")


def draw(runs: Sequence[tuple[str, str]], path: Path) -> None:
    """Draws lines and what each printed as they stand on a terminal. The picture names no font of the network.

    Args:
        runs: A shell line and its output, with ANSI colours.
        path: The SVG.
    """
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line, output in runs:
        console.print(Text.assemble(("$ ", "green"), (line, "bold")))
        console.print(Text.from_ansi(output.rstrip()))
    drawn = console.export_svg(title="edge-transact", theme=DEFAULT_TERMINAL_THEME, unique_id="terminal")
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    # White in dark mode, too, as all pictures here.
    drawn = drawn.replace(">", '>\n    <rect width="100%" height="100%" fill="#ffffff"/>', 1)
    path.write_text(drawn.replace("Fira Code", "DejaVu Sans Mono"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        draw([(line, printed(line, Path(scratch))) for line in LINES], PICTURE)
