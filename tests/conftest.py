"""Puts this folder on the path, so that every test can import what lies here, and keeps torch to one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import postgres


@pytest.fixture(scope="session")
def postgres_url():
    """A PostgreSQL server of this process's own, for all its tests."""
    with postgres.server() as url:
        yield url
