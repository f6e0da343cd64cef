"""Commands for the stages: pretrain, sft, sample, reward, ppo."""

import json
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from preceptor.cli import AsJson, Where, app, open_workspace
from preceptor.config import (
    PpoConfig,
    PretrainConfig,
    RewardConfig,
    SampleConfig,
    SftConfig,
    StageConfig,
)

Pretrain = Annotated[PretrainConfig, Parameter(name="*")]
Sft = Annotated[SftConfig, Parameter(name="*")]
Sample = Annotated[SampleConfig, Parameter(name="*")]
Reward = Annotated[RewardConfig, Parameter(name="*")]
Ppo = Annotated[PpoConfig, Parameter(name="*")]


@app.command
def pretrain(config: Pretrain = PretrainConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Train a base model from scratch on the workspace's corpora. Prints the model's folder."""
    _train(config, workspace)


@app.command
def sft(config: Sft = SftConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Fine-tune a model on the labelers' demonstrations. Prints the model's folder."""
    _train(config, workspace)


@app.command
def sample(config: Sample, *, workspace: Where = None) -> None:
    """Draw K answers to each prompt into the store, for labelers to rank."""
    from preceptor.training.sample import sample as run

    added = run(open_workspace(workspace), config)
    print(f"{added.new:,} answers added, {added.known:,} were there already")


@app.command(name="next-round")
def next_round(
    *,
    model: str | None = None,
    k: int = 6,
    prompts: int | None = None,
    seed: int = 0,
    dry_run: bool = False,
    workspace: Where = None,
    as_json: AsJson = False,
) -> None:
    """Draw answers to the prompts that people sent with consent, and queue them for ranking. Repeating it adds nothing.

    Parameters
    ----------
    model
        Model that answers; the newest of PPO, else of SFT, when absent. Its name stands in every answer.
    k
        Answers per prompt, 4 to 9; how they are drawn stands in the table [sample] of preceptor.toml.
    prompts
        Prompts of this round at most; all that wait when absent.
    seed
        Seed of the draws.
    dry_run
        Say what would be done, and do nothing.
    """
    from dataclasses import asdict

    from preceptor.pipeline.next_round import prepare

    done = prepare(open_workspace(workspace), model=model, k=k, prompts=prompts, seed=seed, dry_run=dry_run)
    print(json.dumps(asdict(done), indent=1) if as_json else "\n".join(done.lines()))


@app.command
def reward(config: Reward = RewardConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Train a reward model on the labelers' rankings. Prints the model's folder."""
    _train(config, workspace)


@app.command
def ppo(config: Ppo = PpoConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Optimise a model against the reward model: PPO, or PPO-ptx with --ptx-coef. Prints the model's folder."""
    _train(config, workspace)


def _train(config: StageConfig, workspace: Path | None) -> None:
    from preceptor.training.launch import train

    folder = train(open_workspace(workspace), config)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one of the processes speaks
        print(folder)
