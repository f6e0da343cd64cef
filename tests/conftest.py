"""Puts this folder on the path, so that every test can import what lies here, and keeps torch to one thread.

Examples of hypothesis are the same on every machine, and may take as long as it needs.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

import postgres

settings.register_profile("any machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def postgres_url():
    """A PostgreSQL server of this process's own, for all its tests."""
    with postgres.server() as url:
        yield url
