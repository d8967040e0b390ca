"""Runs that end in the middle of their writes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge_transact.cache import journal
from edge_transact.cache.journal import Journal


class KilledError(Exception):
    """Simulates a kill at a known place."""


def write_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are written at once when there is one, however long the disk took for the last."""
    monkeypatch.setattr(journal, "STATE_S", 0)
    monkeypatch.setattr(journal, "STATE_SHARE", 1e9)


@contextmanager
def ended_after(writes: int, error: type[BaseException] = KilledError) -> Iterator[list[str]]:
    """Who would write to a journal once more gets an error. Yields the names of the groups that were written."""
    written: list[str] = []
    put = Journal.__setitem__

    def until_the_end(store: Journal, name: str, tensors: dict) -> None:
        if len(written) == writes:
            raise error
        written.append(name)
        put(store, name, tensors)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "__setitem__", until_the_end)
        yield written


@contextmanager
def killed_after(writes: int) -> Iterator[list[str]]:
    """`ended_after`, and the body ends there."""
    with pytest.raises(KilledError), ended_after(writes) as written:
        yield written
