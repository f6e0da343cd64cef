import gzip
import json
from pathlib import Path

import pytest

from preceptor.store import Workspace


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace")
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
