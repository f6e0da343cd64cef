"""Stages of the demo's size, each a process that can be killed: its models' shapes, batches and step counts.

As a script: ROOT STAGE EVERY. It trains the stage as `cut-STAGE`, with a checkpoint after every EVERY steps, and says
each step's number when its metrics are written.
"""

import sys
from dataclasses import replace
from pathlib import Path

from preceptor.config import StageConfig
from preceptor.pipeline.recipe import Recipe
from preceptor.store import Workspace

# The base model reads less text, and for a shorter time, than in the demo; the rest is the demo's.
RECIPE = Recipe(web_tokens=400_000, pretrain_steps=150)
EVERY = {"sft": 8, "reward": 12, "ppo-ptx": 3}


def settings(stage: str) -> StageConfig:
    """The demo's settings of a stage; PPO's bound on the KL lies higher: this base lets the policy go further."""
    return {
        "sft": RECIPE.sft(),
        "reward": RECIPE.reward("reward-1", "rankings-round-1"),
        "ppo-ptx": RECIPE.ppo("ppo-ptx-small", "reward-1", release="prompts-round-1", ptx_coef=1.0, kl_stop=50.0),
    }[stage]


def prepare(root: Path) -> Workspace:
    """A workspace with a base, and the whole runs `sft-small`, `reward-1` and `ppo-ptx-small`."""
    from preceptor.pipeline.demo import SETTINGS, write_web
    from preceptor.pipeline.jobs import labelling_round, stage, write_demonstrations
    from preceptor.simulation.world import World

    workspace = Workspace.create(root, SETTINGS)
    write_web(workspace, World.of(RECIPE.seed), RECIPE)
    stage(workspace, RECIPE.pretrain_small())
    write_demonstrations(workspace, RECIPE)
    stage(workspace, settings("sft"))
    labelling_round(workspace, RECIPE, 1, ["sft-small"], RECIPE.round_1)
    stage(workspace, settings("reward"))
    stage(workspace, settings("ppo-ptx"))
    return workspace


def main(root: str, stage: str, every: str) -> None:
    import torch

    from preceptor.pipeline import jobs
    from preceptor.training import run

    torch.set_num_threads(1)
    run.console.quiet = True
    own = run.Run.log

    def log(self, metrics):
        own(self, metrics)
        print(self.step, flush=True)

    run.Run.log = log
    run.Run.due = lambda self: self.step % int(every) == 0
    jobs.stage(Workspace(root), replace(settings(stage), output=f"cut-{stage}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
