"""One process or many: the same stage function, started where and as often as `--workers` says.

In a process that `torchrun` started, the stage joins its group. With `--workers N` this machine starts N processes
under torch's elastic agent, which starts all of them again from the last checkpoint when one dies. With `--address` a
Ray cluster does both (cluster.py).
"""

import os
from pathlib import Path

import torch
import torch.distributed as dist

from preceptor.config import PpoConfig, PretrainConfig, RewardConfig, SftConfig, StageConfig
from preceptor.errors import UserError
from preceptor.models.shard import lay_out
from preceptor.store import Workspace
from preceptor.training import ranks
from preceptor.training.ppo import train_ppo
from preceptor.training.pretrain import train_pretrain
from preceptor.training.reward import train_reward
from preceptor.training.run import console
from preceptor.training.sft import train_sft

STAGES = {PretrainConfig: train_pretrain, SftConfig: train_sft, RewardConfig: train_reward, PpoConfig: train_ppo}
RESTARTS = 3  # of all workers, when one died
REFUSED = "refused: "  # before the message of a user's mistake that a worker met


def train(workspace: Workspace, config: StageConfig) -> Path:
    """Run a stage in as many processes as its config says. Returns the model's folder."""
    _check(config)
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return join_group(workspace, config)
    if config.address is not None:
        from preceptor.training.cluster import train_on_ray

        return train_on_ray(workspace, config)
    if config.workers > 1:
        return _start_here(workspace, config)
    return STAGES[type(config)](workspace, config)


def join_group(workspace: Workspace, config: StageConfig) -> Path:
    """Run the stage as one rank of the group that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR)."""
    own = not dist.is_initialized()
    if own:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    console.quiet = not ranks.first()
    lay_out(config.tensor_parallel)
    try:
        folder = STAGES[type(config)](workspace, config)
        ranks.barrier()  # a rank that leaves while another still sends to it ends that one, or itself, with an abort
        return folder
    finally:
        if own:
            dist.destroy_process_group()


def _check(config: StageConfig) -> None:
    started = int(os.environ.get("WORLD_SIZE", "1"))  # by a launcher
    processes = started if started > 1 else config.workers
    if processes % config.tensor_parallel:
        raise UserError(f"tensor_parallel {config.tensor_parallel} does not divide the {processes} workers")
    if processes == 1 and config.address is None:
        return
    if getattr(config, "lora_rank", None):
        raise UserError(
            "lora_rank and several workers do not go together: an adapter's base is not sharded; use --workers 1"
        )
    if getattr(config, "matrix_lr", None):
        raise UserError(
            "Muon works on whole matrices, so matrix_lr needs --workers 1; train with AdamW: --matrix-lr none"
        )


def _start_here(workspace: Workspace, config: StageConfig) -> Path:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.workers,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=RESTARTS,
        monitor_interval=0.2,
        start_method="spawn",
        local_addr="127.0.0.1",
    )
    workspace.store.close()
    # Else workers that are started again meet under the addresses of the dead ones, and may wait for them for ever.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // config.workers)))
    try:
        folders = elastic_launch(settings, work)(str(workspace.root), config)
    except SignalException:  # the agent has passed SIGTERM on, and waited for the workers to save
        console.print(f"{config.output}: stopped; what was saved is kept")
        return workspace.model(config.output)
    except ChildFailedError as error:
        raise UserError(
            f"run {config.output}: a worker failed {RESTARTS + 1} times; its last words are above"
        ) from error
    refused = [found for found in folders.values() if str(found).startswith(REFUSED)]
    if refused:
        raise UserError(refused[0].removeprefix(REFUSED))
    return Path(folders[0])


def work(root: str, config: StageConfig) -> str:
    """What each worker does. A user's mistake is handed back as text: starting again would not mend it."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        return str(join_group(Workspace(root), config))
    except UserError as error:
        return REFUSED + str(error)
