"""Memory of the machine and of the process, and the sizes that C++ has a copy of."""

from __future__ import annotations

import re

import psutil

from edge_transact import costs
from edge_transact.system import memory
from tests.support.examples import ROOT


def test_memory_is_what_the_system_says() -> None:
    assert memory.total_bytes() == psutil.virtual_memory().total
    assert memory.fits(1 << 20)
    assert not memory.fits(memory.total_bytes())
    assert psutil.Process().memory_info().rss <= memory.peak_rss_mib() * 2**20 * 1.01


def test_the_phones_runner_has_the_same_pages() -> None:
    source = (ROOT / "android_bench" / "src" / "model.cc").read_text()
    assert int(re.search(r"kPageTokens = (\d+)", source)[1]) == costs.PAGE_SIZE
