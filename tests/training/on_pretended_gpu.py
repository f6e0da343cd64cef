"""Every stage's step on a pretended GPU, in a process of its own: torch learns of the device for good.

python on_pretended_gpu.py FOLDER      prints, as JSON, how often a GPU would have been waited for
"""

import json
import sys
from pathlib import Path

import torch

from preceptor.config import PpoConfig, RewardConfig, SftConfig
from preceptor.models.adapters import Lora, adapt, merge, own_state, take_adapter
from preceptor.models.load import load_policy, load_scalar, scalar_from_policy
from preceptor.models.roles import share_base
from preceptor.models.save import lineage, save_model
from preceptor.rollout.engine import generate
from preceptor.text.batches import Blocks
from preceptor.training import ppo, reward, sft
from preceptor.training.data import Example, RankedPrompt
from preceptor.training.optim import Average, Optimizers
from preceptor.training.pretrain import pretraining_loss
from preceptor.types import ModelCard, Sampling
from pretend_gpu import PretendGpu, pretended_gpu, register
from tiny_models import make_tokenizer, save

PAD, EOS = 1, 0
GPU = "pretend:0"
PROMPTS = [[9, 30, 31], [5], [7, 8, 40, 41, 42, 43], [6, 50]] * 3
LORA = Lora(rank=2, alpha=4.0)


def text() -> Blocks:
    import numpy as np

    return Blocks(np.arange(400, dtype=np.uint16) % 250 + 2, 16)


def demonstrations(folder: Path) -> None:
    model = load_policy(folder, GPU, dropout=0.1, attention="sdpa").train()
    optimizers = Optimizers(model, lr=1e-3)
    batch = [Example([5, 6, 7][: 1 + i % 3], [8, 9, 10, 0]) for i in range(6)]
    sft.learn(model, batch, text().take([0, 1]), PAD, SftConfig(micro_batch=4))
    optimizers.step(1.0, max_norm=1.0)
    pretraining_loss(model, text())


def rankings(folder: Path) -> None:
    model = scalar_from_policy(folder, 1, GPU, attention="sdpa")
    optimizers = Optimizers(model, lr=1e-3, matrix_lr=1e-2)
    batch = [RankedPrompt([5, 6], [[7, 0], [8, 9, 0], [4, 0]], [(0, 1), (0, 2)], "ann") for _ in range(3)]
    reward.learn_rankings(model, batch, PAD, RewardConfig(micro_batch=2))
    optimizers.step(1.0, max_norm=1.0)
    reward.ranking_accuracy(model, batch, PAD)


def iteration(models: tuple, **changes) -> None:
    policy, reference, value, judge = models
    settings = {"batch": 12, "minibatch": 5, "micro_batch": 2, "max_new_tokens": 9, "ptx_coef": 0.5, **changes}
    config = PpoConfig(**settings)
    optimizers = Optimizers(policy, lr=1e-3), Optimizers(value, lr=1e-3)
    average = Average(policy, 0.9)
    sampling = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=9)
    rows = generate(policy, PROMPTS, sampling, stop=frozenset(range(0, 300, 9)), pad=PAD, batch=5)
    rollout = ppo.assess(policy, reference, value, judge, [row[0] for row in rows], PAD, EOS, config)
    ppo.learn(policy, value, *optimizers, average, rollout, text(), PAD, config, 0)
    average.copy_to(policy)
    assert own_state(policy)


def four_models(folder: Path, judge: Path) -> tuple:
    policies = [load_policy(folder, GPU, attention="sdpa") for _ in range(2)]
    scalars = [load_scalar(judge, GPU, attention="sdpa") for _ in range(2)]
    return policies[0], policies[1].requires_grad_(False), scalars[0], scalars[1].requires_grad_(False)


def waits_of_decoding(gpu: PretendGpu, folder: Path, tokens: int) -> int:
    """Waits while 4 rows draw `tokens` tokens each; none ends early."""
    model = load_policy(folder, GPU, attention="sdpa")
    before = gpu.waits.total()
    sampling = Sampling(temperature=1.0, max_new_tokens=tokens)
    generate(model, PROMPTS[:4], sampling, stop=frozenset(), pad=PAD)
    return gpu.waits.total() - before


def main(folder: Path) -> None:
    base = save(folder / "sft", sys.argv[2])
    judge = adapt(scalar_from_policy(base, 3, torch.device("cpu")), LORA, seed=5)
    card = ModelCard(name="rm", stage="reward", parents={"model": lineage(base)}, parameters=1, seed=0)
    adapter = take_adapter(judge, LORA, str(base))
    save_model(folder / "rm", merge(judge), make_tokenizer(), card, adapter)
    register()
    with pretended_gpu() as gpu:
        demonstrations(base)
        rankings(base)
        iteration(four_models(base, folder / "rm"), recompute_logprobs=True)
        shared = share_base(base, folder / "rm", LORA, 0, GPU, attention="sdpa")
        iteration(shared)
        merge(shared[0])
        short, long = (waits_of_decoding(gpu, base, tokens) for tokens in (10, 40))
    print(json.dumps({"waits_per_decode_step": (long - short) / 30, "all": dict(gpu.waits)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
