import gzip
import json
from itertools import count
from pathlib import Path

import pytest

import postgres
from preceptor.store import Workspace

NUMBERS = count(1)


@pytest.fixture(params=postgres.BOTH_SLOWLY)
def settings(request):
    """Settings of a workspace on SQLite, and with `-m slow` or `make test-all` on PostgreSQL too."""
    if request.param == "sqlite":
        yield ""
        return
    with postgres.database(request.getfixturevalue("postgres_url"), f"i{next(NUMBERS)}") as url:
        yield f'database = "{url}"\n'


@pytest.fixture
def workspace(tmp_path, settings):
    workspace = Workspace.create(tmp_path / "workspace", settings)
    yield workspace
    workspace.store.close()


@pytest.fixture
def write(tmp_path):
    """Write rows (or text, or bytes) to a file and return its path; `.gz` in the name compresses."""

    def write(name: str, content) -> Path:
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write
