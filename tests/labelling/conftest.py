"""Fixtures of the labelling tests."""

import shutil
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher
from persons import Person, join, make_workspace

from preceptor.labelling.app import create_app
from preceptor.store import Workspace


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch, request):
    """Hashing is meant to be slow; only its own test lets it be."""
    if "real_passwords" not in request.keywords:
        cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        monkeypatch.setattr("preceptor.labelling.access.PasswordHasher", lambda: cheap)


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A workspace made once; each test gets a copy."""
    root = tmp_path_factory.mktemp("filled") / "ws"
    make_workspace(root).store.close()
    return root


@pytest.fixture
def workspace(tmp_path, filled) -> Iterator[Workspace]:
    shutil.copytree(filled, tmp_path / "ws")
    made = Workspace(tmp_path / "ws")
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
