"""The demo's pieces of work that make something: stages and labelling rounds. Each runs in a worker."""

import random
from collections.abc import Sequence
from dataclasses import replace

from preceptor.config import PpoConfig, PretrainConfig, RewardConfig, SampleConfig, SftConfig, StageConfig
from preceptor.intake.releases import freeze
from preceptor.models.save import read_card
from preceptor.pipeline.measure import (
    answers,
    best_of_n,
    choose_prefix,
    losses,
    over_optimise,
    reward_checks,
    reward_judgements,
)
from preceptor.pipeline.recipe import K, Recipe
from preceptor.simulation.demonstrations import demonstrations
from preceptor.simulation.labelers import SimulatedLabeler, labelers, rank
from preceptor.simulation.users import Task, draw_prompts, users
from preceptor.simulation.world import World
from preceptor.store import Workspace
from preceptor.training.ppo import train_ppo
from preceptor.training.pretrain import train_pretrain
from preceptor.training.reward import train_reward
from preceptor.training.sample import model_id, sample
from preceptor.training.sft import train_sft
from preceptor.types import Ranking

__all__ = ["answers", "best_of_n", "choose_prefix", "losses", "over_optimise", "reward_checks", "reward_judgements"]

STAGES = {PretrainConfig: train_pretrain, SftConfig: train_sft, RewardConfig: train_reward, PpoConfig: train_ppo}


def stage(workspace: Workspace, config: StageConfig) -> dict[str, float]:
    """Run a training stage; returns what its model card measured."""
    card = read_card(STAGES[type(config)](workspace, config))
    assert card is not None
    return dict(card.metrics)


# -- people -------------------------------------------------------------------------------------------------


def write_demonstrations(workspace: Workspace, recipe: Recipe) -> int:
    """Prompts of training users with a demonstration each, and the labelers, into the store."""
    world = World.of(recipe.seed)
    pool = users(world, recipe.seed).training
    tasks = draw_prompts(world, pool, recipe.demonstrations, f"demonstrations {recipe.seed}")
    tasks = [marked(task, 0) for task in tasks]
    store = workspace.store
    store.add_prompts(task.prompt for task in tasks)
    store.add_labelers(simulated.labeler for simulated in labelers(recipe.seed))
    return store.add_demonstrations(demonstrations(world, tasks, recipe.seed)).new


def labelling_round(workspace: Workspace, recipe: Recipe, number: int, models: Sequence[str], prompts: int) -> dict:
    """New prompts; K answers, drawn in equal parts from `models`; one training labeler ranks each prompt's answers.

    Returns the names of two releases with this round and what was there before: rankings and prompts. A round that
    was finished before an interruption is not repeated.
    """
    names = {"release": f"rankings-round-{number}", "prompts": f"prompts-round-{number}"}
    done = {release.name: release.rows for release in workspace.store.releases()}
    if not set(names.values()) <= set(done):
        world = World.of(recipe.seed)
        pool = users(world, recipe.seed).training
        tasks = draw_prompts(world, pool, prompts, f"round {number} {recipe.seed}")
        before = {prompt.id for prompt in workspace.store.prompts(split="train") if prompt.meta["round"] < number}
        tasks = [marked(task, number) for task in tasks if task.prompt.id not in before]
        workspace.store.add_prompts(task.prompt for task in tasks)
        people = [simulated for simulated in labelers(recipe.seed) if simulated.labeler.cohort == "training"]
        rng = random.Random(f"assignment {number} {recipe.seed}")
        assigned = [[rng.choice(people)] for _ in tasks]
        draw_and_rank(workspace, world, tasks, models, assigned, recipe, recipe.seed + 10 * number)
        freeze(workspace, "prompts", split="train", name=names["prompts"])
        done[names["release"]] = freeze(workspace, "rankings", split="train", name=names["release"]).rows
    return names | {"rows": done[names["release"]]}


def marked(task: Task, number: int) -> Task:
    """The task, with the round in which its prompt was first used (0: for a demonstration)."""
    return replace(task, prompt=replace(task.prompt, meta={**task.prompt.meta, "round": number}))


def overlap_round(workspace: Workspace, recipe: Recipe, models: Sequence[str]) -> int:
    """Validation users' prompts whose answers every labeler ranks, training and held-out: for measuring only."""
    world = World.of(recipe.seed)
    tasks = draw_prompts(world, users(world, recipe.seed).validation, recipe.overlap, f"overlap {recipe.seed}")
    workspace.store.add_prompts(task.prompt for task in tasks)
    everyone = labelers(recipe.seed)
    return draw_and_rank(workspace, world, tasks, models, [everyone for _ in tasks], recipe, recipe.seed + 77)


def draw_and_rank(
    workspace: Workspace,
    world: World,
    tasks: Sequence[Task],
    models: Sequence[str],
    assigned: Sequence[Sequence[SimulatedLabeler]],
    recipe: Recipe,
    seed: int,
) -> int:
    """Sample answers into the store and let the assigned labelers rank them. Returns the number of rankings."""
    prompts = [task.prompt for task in tasks]
    for model in models:
        config = SampleConfig(
            model=model, k=K // len(models), max_new_tokens=recipe.answer_tokens, seed=seed, batch=512
        )
        sample(workspace, config, prompts)
    answers: dict[str, list] = {prompt.id: [] for prompt in prompts}
    for model in models:
        for completion in workspace.store.completions(model_id=model_id(workspace, model)):
            if completion.prompt_id in answers:
                answers[completion.prompt_id].append(completion)
    rankings = []
    for prompt, people in zip(prompts, assigned):
        shown = answers[prompt.id]
        for simulated in people:
            rng = random.Random(f"ranking {seed} {prompt.id} {simulated.labeler.id}")
            ranks = rank(world, simulated, prompt, [completion.text for completion in shown], rng)
            ids = tuple(completion.id for completion in shown)
            rankings.append(Ranking.of(prompt.id, simulated.labeler.id, ids, tuple(ranks)))
    return workspace.store.add_rankings(rankings).new
