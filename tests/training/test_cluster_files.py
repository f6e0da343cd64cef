"""The examples of docs/examples are what their tools read."""

from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_the_kuberay_job_asks_for_the_workers_it_starts():
    job = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    gpus = group["replicas"] * int(worker["resources"]["limits"]["nvidia.com/gpu"])
    assert f"--workers {gpus} --address auto" in job["spec"]["entrypoint"]
    constraints = (EXAMPLES.parents[1] / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in constraints
    assert {mount["mountPath"] for mount in worker["volumeMounts"]} >= {"/shared", "/dev/shm"}


def test_the_cluster_file_is_what_ray_up_reads():
    cluster = yaml.safe_load((EXAMPLES / "ray-cluster.yaml").read_text())
    schema = Path(pytest.importorskip("ray").__file__).parent / "autoscaler" / "ray-schema.json"
    import json

    from jsonschema import validate

    validate(cluster, json.loads(schema.read_text()))
    assert cluster["head_node_type"] in cluster["available_node_types"]
