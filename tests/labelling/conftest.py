"""Fixtures of the labelling tests."""

import shutil
from collections.abc import Iterator
from itertools import count

import pytest
from argon2 import PasswordHasher
from browsing import ARGUMENTS, Live
from persons import CHROMIUM, Person, join, make_workspace

import postgres
from preceptor.labelling.app import create_app
from preceptor.store import Workspace

NUMBERS = count(1)


class Clock:
    """A clock that stands until it is set."""

    def __init__(self, start=1_800_000_000.0):
        self.time = start

    def __call__(self):
        return self.time


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


@pytest.fixture(scope="session")
def filled_postgres(tmp_path_factory, postgres_url):
    """The same in PostgreSQL: a database for others to be copies of."""
    with postgres.database(postgres_url, "filled") as url:
        made = make_workspace(tmp_path_factory.mktemp("filled-postgres") / "ws", f'database = "{url}"\n')
        made.store.close()
        yield "filled"


@pytest.fixture(params=postgres.BOTH_SLOWLY)
def workspace(request, tmp_path) -> Iterator[Workspace]:
    """On PostgreSQL only with `-m slow` or `make test-all`; a short pass on it is in test_backup.py."""
    if request.param == "sqlite":
        shutil.copytree(request.getfixturevalue("filled"), tmp_path / "ws")
        made = Workspace(tmp_path / "ws")
        yield made
        made.store.close()
        return
    template, url = request.getfixturevalue("filled_postgres"), request.getfixturevalue("postgres_url")
    with postgres.database(url, f"w{next(NUMBERS)}", template) as own:
        made = Workspace.create(tmp_path / "ws", f'database = "{own}"\n')
        yield made
        made.store.close()


@pytest.fixture
def app(workspace):
    return create_app(workspace, writes_per_minute=100_000)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def timed(workspace, clock):
    return create_app(workspace, now=clock, writes_per_minute=100_000)


@pytest.fixture
def labeler(app) -> Person:
    return join(app)


@pytest.fixture
def researcher(app) -> Person:
    return join(app, "researcher")


@pytest.fixture
def admin(app) -> Person:
    return join(app, "admin")


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def live(tmp_path):
    workspace = make_workspace(tmp_path / "hallam-assistant")
    with Live(create_app(workspace, writes_per_minute=100_000)) as running:
        yield running
    workspace.store.close()
