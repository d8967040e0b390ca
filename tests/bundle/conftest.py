"""Fixtures of the tests of apps."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.edge_app import App


@pytest.fixture(scope="session")
def app(built_dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An app whose core keeps running: a JVM and an engine for all tests."""
    app = App(built_dist, tmp_path_factory.mktemp("app"))
    yield app
    app.core.kill()
