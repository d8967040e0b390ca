"""One process that runs for days: what it holds is level after a tenth of the work."""

import gc
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.session import Session
from tests.support.command import said

MOST_BYTES = 64 << 20
MOST_BYTES_OF_BUILDS = 640 << 20
"""A build that compiles keeps about 5 MB: not yet explained."""


def held() -> dict[str, int]:
    """What this process holds."""
    gc.collect()
    me = psutil.Process()
    return {
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "handles": me.num_fds(),
        "threads": me.num_threads(),
        "temporary files": len(os.listdir(tempfile.gettempdir())),
        "bytes": me.memory_info().rss,
    }


def growth(work: Callable[[int], object], times: int) -> dict[str, int]:
    """By how much `held` grows after the first tenth."""
    for number in range(times):
        if number == times // 10:
            before = held()
        work(number)
    after = held()
    grown = {name: after[name] - before[name] for name in before}
    print(f"{work.__name__}, {times} times: {before}, then {grown}")
    return grown


def require_level(grown: dict[str, int], most_bytes: int = MOST_BYTES) -> None:
    # The allocator maps and unmaps a few pieces as it pleases.
    assert grown.pop("bytes") < most_bytes and grown.pop("mappings") < 20
    assert max(grown.values()) <= 0, grown


def test_a_library_is_unloaded_and_its_logits_stay(built_dist, tmp_path):
    (source,) = built_dist.glob("lib/*-host.so")
    library = Path(shutil.copy(source, tmp_path / "once.so"))
    logits = (model := HostModel(library, built_dist)).prefill([1, 2, 3])
    expected = logits.copy()
    del model
    gc.collect()
    assert "once.so" not in Path("/proc/self/maps").read_text()
    assert (logits == expected).all()


@pytest.mark.soak
def test_a_thousand_generations(built_dist):
    session = Session.load(built_dist, max_tokens=16, seed=0)

    def generate(number: int) -> None:
        session.answer(f"In the year {number}")

    require_level(growth(generate, 1000))


@pytest.mark.soak
def test_two_hundred_evals(built_dist, chapters):
    def evaluate(number: int) -> None:
        said("eval", built_dist, "--text", chapters, "--window", 32 + number % 2, "--max-windows", 2, "--no-cache")

    require_level(growth(evaluate, 200))


@pytest.mark.soak
def test_a_hundred_builds(random_model, tmp_path):
    def make(number: int) -> None:
        build(str(random_model), tmp_path / "dist", BuildOptions(target=["host"], context=number % 32 + 32), force=True)

    require_level(growth(make, 100), MOST_BYTES_OF_BUILDS)
