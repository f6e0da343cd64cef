"""Settings of short runs, and what to compare between two of them."""

import json

import torch
from safetensors.torch import load_file

from preceptor.config import PpoConfig, PretrainConfig, RewardConfig, SftConfig
from preceptor.store import Workspace
from preceptor.training.ppo import train_ppo
from preceptor.training.pretrain import train_pretrain
from preceptor.training.reward import train_reward
from preceptor.training.sft import train_sft

STAGES = {
    "pretrain": (train_pretrain, PretrainConfig, {"vocabulary": 300, "context": 24, "batch": 4, "steps": 7}),
    "sft": (train_sft, SftConfig, {"model": "base-gpt2", "epochs": 3, "batch": 8, "lr": 1e-3, "micro_batch": 3}),
    "sft-mix": (train_sft, SftConfig, {"model": "base", "epochs": 2, "batch": 8, "lr": 1e-3, "mix": 0.3}),
    "reward": (train_reward, RewardConfig, {"model": "base", "epochs": 2, "batch": 10, "lr": 1e-3, "micro_batch": 4}),
    "ppo-ptx": (
        train_ppo,
        PpoConfig,
        {
            "reference": "base",
            "reward_model": "judge",
            "steps": 6,
            "batch": 12,
            "minibatch": 6,
            "micro_batch": 4,
            "max_new_tokens": 10,
            "lr": 1e-3,
            "value_lr": 1e-3,
            "ptx_coef": 0.5,
            "ptx_batch": 3,
            "ptx_context": 24,
            "ema": 0.9,
        },
    ),
}


def run(workspace: Workspace, stage: str, **changes):
    """Run a stage with its small settings; returns the model's folder."""
    train, config, settings = STAGES[stage]
    return train(workspace, config(**{"output": "out", **settings, **changes}))


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one, other) -> bool:
    """Are the weights of two folders the same, bit for bit?"""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(workspace: Workspace, name: str = "out") -> list[dict]:
    return [json.loads(line) for line in (workspace.run(name) / "metrics.jsonl").read_text().splitlines()]
