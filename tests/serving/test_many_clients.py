"""32 streaming clients against one, as `make bench` measures it; slow because it needs quiet cores and time."""

import sys
from pathlib import Path

import pytest
import server as servers

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_32_clients_share_the_steps_and_none_starves(tmp_path):
    from serving import measure

    workspace = servers.make_workspace(tmp_path / "workspace", ("alpha",))
    seen = measure(workspace, "alpha", seconds=20, clients=32)
    assert seen["slowest_client_share_of_median"] > 0.5
    assert seen["resident_mib"]["many_later"] < 1.1 * seen["resident_mib"]["many"]
    assert seen["ratio"] >= 5, seen
