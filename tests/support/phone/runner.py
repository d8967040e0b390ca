"""The runner for the stand-in phone: the portable one, as users get it."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from edge_transact.benchmarking.portable import portable_runner

REPOSITORY = Path(__file__).parents[3]
SOURCE = REPOSITORY / "android_bench"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-transact-tests"
"""Where test runs keep what takes long to make."""


def one_at_a_time(make: Callable[[], Path]) -> Callable[[], Path]:
    """If several processes call `make`, the first makes the result and the others find it."""

    @functools.wraps(make)
    def locked() -> Path:
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(CACHE / f".{make.__name__}.lock"):
            return make()

    return locked


@one_at_a_time
def build_runner() -> Path:
    """The portable runner's directory, kept from run to run: compiling it takes 15 s of CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_TRANSACT_CACHE", str(CACHE / "portable"))
        return portable_runner()
