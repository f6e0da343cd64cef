"""Under Ray Train: two workers on one machine, three nodes, and a worker that is killed."""

import json
import os
from pathlib import Path

import pytest
from small_stages import metrics, run
from test_ranks import SMALL, close, near

from preceptor import faults
from preceptor.config import SftConfig
from preceptor.errors import UserError
from preceptor.training.launch import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")

from ray.cluster_utils import Cluster  # noqa: E402


def settings_of(stage: str, **changes):
    from small_stages import STAGES

    _, config, settings = STAGES[stage]
    return config(**{"output": "out", **settings, **SMALL[stage], **changes})


@pytest.fixture
def environment(monkeypatch):
    """What workers inherit from the nodes: where the package and the tests are, one thread, no usage reports."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield monkeypatch
    ray.shutdown()


def test_two_workers_of_one_machine_make_the_curve_of_one_process(workspace, another, environment):
    whole = run(another, "sft-mix", **SMALL["sft-mix"])
    folder = train(workspace, settings_of("sft-mix", workers=2, address="local"))
    close(metrics(workspace), metrics(another))
    near(folder, whole)
    with pytest.raises(UserError, match="seed was 0, is 3"):
        train(workspace, settings_of("sft-mix", workers=2, address="local", seed=3))


def test_on_three_nodes_a_worker_is_killed_and_the_run_ends_the_same(workspace, another, environment, tmp_path):
    """Three simulated nodes of one processor each, so each has one worker."""
    whole = run(another, "ppo-ptx", **SMALL["ppo-ptx"])
    environment.setenv(faults.VARIABLE, "kill@step:4/1")
    environment.setenv(faults.ONCE, str(tmp_path))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        assert len(cluster.list_all_nodes()) == 3
        config = settings_of("ppo-ptx", workers=3, address=cluster.address, checkpoint_minutes=0.0)
        folder = train(workspace, config)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (tmp_path / "fault-0").exists()  # it was killed
    close(metrics(workspace), metrics(another))
    near(folder, whole)
    lines = (workspace.run("out") / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 7))


def test_no_cluster_there_is_one_line(workspace, environment):
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1") as caught:
        train(workspace, SftConfig(model="base", output="out", workers=2, address="127.0.0.1:1"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="write ray://HOST:PORT"):
        train(workspace, SftConfig(model="base", output="out", workers=2, address="somewhere"))
