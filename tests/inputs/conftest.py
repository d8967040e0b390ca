"""The small hub, for tests of models and texts that come from one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import hub as small_hub


@pytest.fixture
def hub() -> Iterator[small_hub.Hub]:
    """A hub on loopback, empty."""
    with small_hub.serve() as running:
        yield running
