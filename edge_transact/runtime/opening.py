"""Reads a DIST in threads while Python imports numpy and TVM's runtime, which takes about as long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from edge_transact.artifacts.dist_files import MODEL_FILES
from edge_transact.artifacts.manifest import Manifest
from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.text import TextCodec, read_tokenizer
from edge_transact.runtime.threads import default_threads

MOST_THREADS = 4
"""The most files that are read at a time: as many cores compute sha256 faster than most disks read."""


class Opening:
    """A DIST that is being read. Leaving the ``with`` statement waits until library and weights have been verified.

    Configurations aren't verified: people may edit them. With `text`, the tokenizer is read, too. The `library` is to
    be loaded afterwards. An `EdgeTransactError` if it has no host library, or a file is missing or changed.
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
        # First, because it occupies one thread all the time.
        self._tokenizer = self._threads.submit(read_tokenizer, dist) if text else None
        checks = manifest.checks(dist, library, *MODEL_FILES)
        self._checks = [(check, self._threads.submit(check)) for check in checks]

    def codec(self) -> TextCodec:
        """Its tokenizer and chat template. Raises the errors of `TextCodec`."""
        return TextCodec(self._dist, None if self._tokenizer is None else self._tokenizer.result())

    def __enter__(self) -> Opening:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # A damaged file may have caused another error, and explains more; it doesn't cause an interrupt.
            if kind is None or issubclass(kind, Exception):
                for check, done in reversed(self._checks):
                    if done.cancel():  # not started yet, and this thread is free
                        check()
                    else:
                        done.result()
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)
