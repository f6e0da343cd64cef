"""Fixtures of the labelling tests."""

from collections.abc import Iterator

import pytest
from persons import Person, join, make_workspace

from preceptor.labelling.app import create_app
from preceptor.store import Workspace


@pytest.fixture
def workspace(tmp_path) -> Iterator[Workspace]:
    made = make_workspace(tmp_path / "ws")
    yield made
    made.store.close()


@pytest.fixture
def app(workspace):
    return create_app(workspace, writes_per_minute=100_000)


@pytest.fixture
def labeler(app) -> Person:
    return join(app)


@pytest.fixture
def researcher(app) -> Person:
    return join(app, "researcher")


@pytest.fixture
def admin(app) -> Person:
    return join(app, "admin")
