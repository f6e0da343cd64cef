import signal

import pytest
import server as servers


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for all tests that do not stop it."""
    workspace = servers.make_workspace(tmp_path_factory.mktemp("serving") / "workspace")
    running = servers.start(workspace)
    yield running
    running.stop(signal.SIGTERM)
