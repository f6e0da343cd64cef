"""Under Ray Train: two workers on one machine, three nodes, and a worker that is killed."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
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

from preceptor.training import cluster  # noqa: E402


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
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        assert len(nodes.list_all_nodes()) == 3
        config = settings_of("ppo-ptx", workers=3, address=nodes.address, checkpoint_minutes=0.0)
        folder = train(workspace, config)
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert (tmp_path / "fault-0").exists()  # it was killed
    close(metrics(workspace), metrics(another))
    near(folder, whole)
    lines = (workspace.run("out") / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 7))


def free_ports(count: int) -> list[int]:
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in opened]
    for server in opened:
        server.close()
    return ports


@pytest.fixture
def head(environment, tmp_path):
    """A cluster of one node that asks for a token, started as its owner would: the ports for nodes and for clients."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:  # what Ray left of the tests before
        environment.delenv(name)
    environment.setenv("RAY_AUTH_MODE", "token")
    environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    environment.setenv("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")  # else its end waits half a minute for leases
    nodes, clients = free_ports(2)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={nodes}", f"--ray-client-server-port={clients}", "--node-ip-address=127.0.0.1"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--include-dashboard=false", "--disable-usage-stats"]
    with open(tmp_path / "ray.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        for port in (nodes, clients):
            wait_for(port, process)
        yield nodes, clients
    finally:
        process.terminate()  # with --block it ends its own children, and no other cluster's
        process.wait()


def wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"nobody listens on {port}")


def preceptor(workspace, *words: str, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "preceptor", *words],
        cwd=workspace.root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_a_client_trains_on_a_cluster_at_its_address(workspace, another, head):
    """As on a laptop beside the cluster (ray://), and as on one of its nodes."""
    nodes, clients = head
    settings = ["--reference", "base", "--reward-model", "judge", "--steps", "3", "--batch", "12", "--minibatch", "6"]
    settings += ["--micro-batch", "4", "--max-new-tokens", "10", "--lr", "1e-5", "--value-lr", "1e-5"]
    settings += ["--ptx-coef", "0.5", "--ptx-batch", "3", "--ptx-context", "24", "--ema", "0.9"]
    whole = run(another, "ppo-ptx", **SMALL["ppo-ptx"], steps=3)
    workspace.store.close()
    outside = f"ray://127.0.0.1:{clients}"
    for name, address in (("client", outside), ("node", f"127.0.0.1:{nodes}")):
        done = preceptor(workspace, "ppo", *settings, "--workers", "2", "--address", address, "--output", name)
        assert done.returncode == 0, done.stderr[-3000:]
        assert str(workspace.model(name)) in done.stdout
        close(metrics(workspace, name), metrics(another))
        near(workspace.model(name), whole)
    done = preceptor(
        workspace,
        "ppo",
        *settings,
        "--workers",
        "2",
        "--address",
        f"ray://127.0.0.1:{clients}",
        RAY_AUTH_TOKEN="0" * 64,
    )
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN" in done.stderr


def test_a_worker_that_dies_each_time_ends_the_run_with_one_line(workspace, environment):
    environment.setenv(faults.VARIABLE, "kill@step:1/1")
    environment.setattr(cluster, "FAILURES", 1)
    with pytest.raises(UserError, match="run out: given up after 1 failures of workers") as caught:
        train(workspace, settings_of("sft-mix", workers=2, address="local"))
    assert "\n" not in str(caught.value)


def test_no_cluster_there_is_one_line(workspace, environment):
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1") as caught:
        train(workspace, SftConfig(model="base", output="out", workers=2, address="127.0.0.1:1"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="write ray://HOST:PORT"):
        train(workspace, SftConfig(model="base", output="out", workers=2, address="somewhere"))
