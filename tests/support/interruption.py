"""Runs that end in the middle of their writes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge_transact.cache.journal import Journal


class KilledError(Exception):
    """Simulates a kill at a known place."""


@contextmanager
def ended_after(writes: int, error: type[BaseException] = KilledError) -> Iterator[list[str]]:
    """Who would write to a journal once more gets an error. Yields the names of the groups that were written."""
    written: list[str] = []
    put = Journal.__setitem__

    def until_the_end(journal: Journal, name: str, tensors: dict) -> None:
        if len(written) == writes:
            raise error
        written.append(name)
        put(journal, name, tensors)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "__setitem__", until_the_end)
        yield written


@contextmanager
def killed_after(writes: int) -> Iterator[list[str]]:
    """`ended_after`, and the body ends there."""
    with pytest.raises(KilledError), ended_after(writes) as written:
        yield written
