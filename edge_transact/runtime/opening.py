"""Reads a DIST in threads, while Python imports what runs it.

Comparing the weights with the manifest and reading a tokenizer take about as long as importing numpy and TVM's runtime,
and only the latter need Python.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from edge_transact.artifacts.dist_files import SHARDS, TENSOR_CACHE, TOKENIZER_FILES
from edge_transact.artifacts.manifest import Manifest
from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.text import TextCodec, read_tokenizer
from edge_transact.runtime.threads import default_threads

MOST_THREADS = 4
"""Files that are read at a time, at most: so many cores compute sha256 faster than most disks are."""


class Opening:
    """A DIST with a host library that is being read. Leaving the ``with`` statement waits until it has been verified.

    Only code and weights are verified: people may edit the configuration.

    Args:
        dist: The DIST.
        text: Also read its tokenizer, for `codec`.

    Attributes:
        library: The path of its host library, which may be loaded after the ``with`` statement.

    Raises:
        EdgeTransactError: It is not a DIST, or has no host library; at the end, a file of it is missing or changed.
    """

    def __init__(self, dist: Path, *, text: bool = False) -> None:
        self._dist = dist
        manifest = Manifest.read(dist)
        library = manifest.libraries.get("host")
        if library is None:
            raise EdgeTransactError(
                f"{dist} has no library for this host", fix="Build it again with --target host among its targets."
            )
        self.library = dist / library
        # One core is left for Python's own work.
        self._threads = ThreadPoolExecutor(max(1, min(MOST_THREADS, default_threads() - 1)))
        # First, because it takes one thread all the time.
        self._tokenizer = self._threads.submit(read_tokenizer, dist) if text else None
        checks = manifest.checks(dist, library, TENSOR_CACHE, SHARDS, *TOKENIZER_FILES)
        self._checks = [(check, self._threads.submit(check)) for check in checks]

    def codec(self) -> TextCodec:
        """Its tokenizer and chat template. Errors are those of `TextCodec`."""
        return TextCodec(self._dist, None if self._tokenizer is None else self._tokenizer.result())

    def __enter__(self) -> Opening:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # A damaged file may be the cause of another error, and says more than that. An interrupt has no cause here.
            if kind is None or issubclass(kind, Exception):
                for check, done in reversed(self._checks):
                    if done.cancel():  # no thread has come to it yet, and this one has nothing else to do
                        check()
                    else:
                        done.result()
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)
