"""Runs that end in the middle of their writes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch

from edge_transact.cache.journal import Journal


class KilledError(Exception):
    """Simulates a kill at a known place."""


@contextmanager
def killed_after(writes: int) -> Iterator[list[str]]:
    """The body is killed when it would write to a journal once more. Yields the names of the groups it has written."""
    written: list[str] = []
    put = Journal.__setitem__

    def until_killed(journal: Journal, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        if len(written) == writes:
            raise KilledError
        written.append(name)
        put(journal, name, tensors)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(Journal, "__setitem__", until_killed)
        yield written
