"""The only file that knows Ray: the same stage function under Ray Train, on the nodes of a cluster.

Ray Train places the workers, joins them in a process group, watches them, and starts all of them again when one or its
node dies; the stage then goes on from its last checkpoint. The workspace has to stand on a file system that every node
sees under the same path, and its database has to be PostgreSQL when the nodes are several machines.
"""

import logging
import os
import socket
from pathlib import Path

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from preceptor.config import StageConfig
from preceptor.errors import UserError
from preceptor.store import Workspace

FAILURES = 3  # workers or nodes that may die before the run is given up
CPUS = 1  # of each worker


def train_on_ray(workspace: Workspace, config: StageConfig) -> Path:
    """Run a stage with `config.workers` workers on the cluster at `config.address`. Returns the model's folder."""
    own = not ray.is_initialized()
    notes = workspace.root / "runs" / ".ray"  # Ray Train's own state, on the disk that all nodes see
    notes.mkdir(parents=True, exist_ok=True)
    refusal = notes / f"{config.output}.refused"
    refusal.unlink(missing_ok=True)
    if own:
        _check_reachable(str(config.address))
        try:
            ray.init(address=config.address, log_to_driver=True, logging_level="warning")
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = str(error).strip().splitlines()[-1].strip()  # of a traceback from the other side its last line
            raise UserError(
                f"no Ray cluster at {config.address}: {said}; one that asks for a token is given "
                "it by RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, here as on its nodes"
            ) from error
    try:
        gpus = ray.cluster_resources().get("GPU", 0) >= config.workers
        free = ray.cluster_resources().get("CPU", 0)
        if not gpus and free < config.workers * CPUS:
            raise UserError(f"the Ray cluster has {free:.0f} CPUs and no GPU for each of {config.workers} workers")
        workspace.store.close()
        trainer = TorchTrainer(
            _work,
            train_loop_config={"root": str(workspace.root), "config": config, "refusal": str(refusal)},
            scaling_config=ScalingConfig(
                num_workers=config.workers,
                use_gpu=gpus,
                resources_per_worker={"CPU": CPUS} | ({"GPU": 1} if gpus else {}),
            ),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=RunConfig(
                name=config.output,
                storage_path=str(notes),
                failure_config=FailureConfig(max_failures=FAILURES),
            ),
        )
        trainer.fit()
    except TrainingFailedError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"run {config.output}: given up after {FAILURES} failures of workers: {reason}") from error
    finally:
        if own:
            ray.shutdown()
    if refusal.is_file():
        raise UserError(refusal.read_text())
    return workspace.model(config.output)


def _check_reachable(address: str) -> None:
    """Raises UserError when nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        if address in ("auto", "local"):
            return
        raise UserError(f"{address!r} is no address of a Ray cluster; write ray://HOST:PORT, HOST:PORT, auto or local")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray cluster at {address}: {error}") from error


def _work(loop: dict) -> None:
    """What each worker does. A user's mistake is written down, not raised: starting again would not mend it."""
    import torch

    from preceptor.training.launch import join_group

    logging.getLogger("alembic").setLevel(logging.WARNING)  # Ray lets through what every library says
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", CPUS)))
    try:
        join_group(Workspace(loop["root"]), loop["config"])
    except UserError as error:
        Path(loop["refusal"]).write_text(str(error))  # every rank has the same
