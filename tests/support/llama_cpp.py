"""The real llama.cpp in a process, from a prebuilt npm package, node-llama-cpp."""

from __future__ import annotations

import json
import math
import subprocess
import threading
from pathlib import Path
from typing import Any

from edge_transact.evaluation.perplexity import windows_of
from tests.support.npm import npm_packages

VERSION = "3.22.1"
PACKAGES = (f"node-llama-cpp@{VERSION}", f"@node-llama-cpp/linux-x64@{VERSION}")
SCRIPT = Path(__file__).with_name("llama.mjs")


class LlamaCpp:
    """One process on one thread, which starts with the first model. npm installs it once for a run."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def open(self, model: Path) -> LlamaCpp:
        """This process, which answers about another model from now on."""
        if self._process is None:
            command = ["node", str(SCRIPT.resolve()), str(model.resolve())]
            self._process = subprocess.Popen(
                command,
                cwd=npm_packages("node-llama-cpp", *PACKAGES),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._read()
        else:
            self.ask(open=str(model))
        return self

    def ask(self, **request: object) -> dict[str, Any]:
        """The answer to one of the requests of ``llama.mjs``."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def perplexity(self, token_ids: list[int], window: int, windows: int) -> float:
        """The perplexity of the model, as `edge_transact.evaluation.perplexity` defines it."""
        cut = windows_of(token_ids, window, windows)
        logprobs = [value for ids in cut for value in self.ask(logprobs=list(ids))["logprobs"]]
        return math.exp(-sum(logprobs) / len(logprobs))

    def _read(self) -> dict[str, Any]:
        """The next JSON line."""
        assert self._process is not None and self._process.stdout is not None
        hangs = threading.Timer(300, self._process.kill)
        hangs.start()
        try:
            return json.loads(next(line for line in self._process.stdout if line.startswith("{")))
        finally:
            hangs.cancel()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
