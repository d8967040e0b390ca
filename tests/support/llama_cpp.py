"""The real llama.cpp, as npm ships it."""

from __future__ import annotations

from pathlib import Path

from benchmarks import llama_cpp
from benchmarks.subjects import Subject
from edge_transact.cache import cache_directory


class LlamaCpp:
    """One process on one thread, which starts with the first model. npm installs it once for a run."""

    def __init__(self) -> None:
        self._process: Subject | None = None

    def open(self, model: Path) -> Subject:
        """The process with this model, for the requests of ``benchmarks/native/llama.mjs``."""
        if self._process is None:
            self._process = llama_cpp.start(model, cache_directory() / "node-llama-cpp", threads=1)
        else:
            self._process.ask(open=str(model))
        return self._process

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.close()
