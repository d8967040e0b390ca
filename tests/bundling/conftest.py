"""Fixtures of the tests of apps."""

import pytest

from tests.support.edge_app import App


@pytest.fixture(scope="session")
def app(built_dist, tmp_path_factory: pytest.TempPathFactory):
    """An app whose core keeps running: a JVM and an engine for all tests."""
    app = App(built_dist, tmp_path_factory.mktemp("app"))
    yield app
    app.core.kill()
