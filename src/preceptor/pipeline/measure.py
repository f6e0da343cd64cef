"""The demo's measurements. Each runs in a worker and gives plain values back; intervals are made in `summary`."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from preceptor.config import PpoConfig
from preceptor.models.load import load_scalar
from preceptor.pipeline.recipe import BEST_OF, Recipe
from preceptor.rollout.subject import LocalSubject
from preceptor.simulation.gold import judge
from preceptor.simulation.users import Task, draw_prompts, users
from preceptor.simulation.web import exchange
from preceptor.simulation.world import World
from preceptor.simulation.writers import FLAWS, flawed, ideal
from preceptor.store import Workspace
from preceptor.training.data import corpus_blocks
from preceptor.training.ppo import train_ppo
from preceptor.training.pretrain import block_losses
from preceptor.training.reward import score_episodes, score_rows
from preceptor.types import Prompt, Sampling

SAMPLES_OF_CURVE = 2
LINE_END = ("\n",)  # a base model goes on with the next speaker; its answer is its first line


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's answers to prompts, [prompt][sample], with the gold judge's five components and score."""

    model: str
    decoding: str
    texts: list[list[str]]
    components: list[list[tuple[float, ...]]]
    gold: list[list[float]]
    tokens: list[list[int]]
    kl: list[list[float]] | None = None  # to the SFT model, nats per answer


def test_tasks(recipe: Recipe) -> list[Task]:
    """The held-out users' prompts on which every model is judged."""
    world = World.of(recipe.seed)
    return draw_prompts(world, users(world, recipe.seed).held_out, recipe.test_prompts, f"test {recipe.seed}")


def validation_tasks(recipe: Recipe, n: int, purpose: str) -> list[Task]:
    world = World.of(recipe.seed)
    return draw_prompts(world, users(world, recipe.seed).validation, n, f"{purpose} {recipe.seed}")


def answers(
    workspace: Workspace,
    recipe: Recipe,
    model: str,
    decoding: str,
    temperature: float,
    prefix: str | None,
    against: str | None,
) -> Answers:
    """Answers to the test prompts. `prefix` None: the model's own end; text: a base model after this prefix, which
    may be empty, cut at the line's end. `against`: also the KL divergence from that model."""
    subject = LocalSubject(workspace.find_model(model))
    prompts = [task.prompt for task in test_tasks(recipe)]
    samples = 1 if temperature == 0 else recipe.samples
    given = draw(subject, prompts, prefix, temperature, samples, recipe)
    if against is not None:
        other = LocalSubject(workspace.find_model(against))
        given = replace(given, kl=divergence(subject, other, prompts, temperature, samples, recipe))
    shown = model if prefix in (None, "") else f"{model}-prompted"
    return judged(replace(given, model=shown, decoding=decoding), prompts, World.of(recipe.seed))


def draw(
    subject: LocalSubject, prompts: Sequence[Prompt], prefix: str | None, temperature: float, k: int, recipe: Recipe
) -> Answers:
    sampling = Sampling(temperature=temperature, max_new_tokens=recipe.answer_tokens, seed=recipe.seed + 1)
    rows = [subject.chat.prompt(prompt.messages) for prompt in prompts]
    if prefix:
        start = subject.chat.tokenizer(prefix, add_special_tokens=False)["input_ids"]
        rows = [start + row for row in rows]
    texts = subject.continuations(rows, sampling, k=k, stop=() if prefix is None else LINE_END)
    texts = [[text.strip() for text in group] for group in texts]
    tokens = [[len(row) for row in subject.chat.answers(group)] for group in texts]
    return Answers(subject.name, "", texts, [], [], tokens)


def judged(given: Answers, prompts: Sequence[Prompt], world: World) -> Answers:
    verdicts = [[judge(world, prompt, text) for text in group] for prompt, group in zip(prompts, given.texts)]
    return replace(
        given,
        components=[[tuple(verdict.components) for verdict in group] for group in verdicts],
        gold=[[verdict.score for verdict in group] for group in verdicts],
    )


def divergence(
    subject, other, prompts: Sequence[Prompt], temperature: float, k: int, recipe: Recipe
) -> list[list[float]]:
    """log pi - log pi_other of fresh answers of `subject`, summed over an answer (k1), [prompt][sample]."""
    sampling = Sampling(temperature=temperature, max_new_tokens=recipe.answer_tokens, seed=recipe.seed + 1)
    rows = [subject.chat.prompt(prompt.messages) for prompt in prompts]
    episodes = [episode for group in subject.episodes(rows, sampling, k=k) for episode in group]
    theirs = other.token_logprobs(
        [e.prompt_tokens for e in episodes], [e.answer_tokens for e in episodes], temperature or 1.0
    )
    flat = [float(sum(episode.logprobs) - sum(row)) for episode, row in zip(episodes, theirs)]
    return [flat[start : start + k] for start in range(0, len(flat), k)]


def choose_prefix(workspace: Workspace, recipe: Recipe, base: str, reward_model: str) -> dict:
    """The few-shot prefix, of several made of real demonstrations, whose answers the reward model likes best on
    validation prompts (as in the paper, section 3.5)."""
    subject = LocalSubject(workspace.find_model(base))
    scorer = load_scalar(workspace.find_model(reward_model))
    prompts = [task.prompt for task in validation_tasks(recipe, recipe.prefix_prompts, "prefix")]
    tried = []
    for prefix in prefixes(workspace, subject, recipe):
        given = draw(subject, prompts, prefix, 1.0, 1, recipe)
        rows = [
            subject.chat.prompt(prompt.messages) + subject.chat.answer(group[0])
            for prompt, group in zip(prompts, given.texts)
        ]
        tried.append((float(score_rows(scorer, rows, subject.chat.pad).mean()), prefix))
    return {"prefix": max(tried)[1], "scores": [score for score, _ in tried]}


def prefixes(workspace: Workspace, subject: LocalSubject, recipe: Recipe) -> list[str]:
    """Prefixes of demonstrations of different use cases, as many as fit into the room."""
    pairs = [(demonstration, prompt) for demonstration, prompt in workspace.store.demonstrations(split="train")]
    made = []
    for number in range(recipe.prefixes):
        random.Random(f"prefix {recipe.seed} {number}").shuffle(pairs)
        text, cases = "", set()
        for demonstration, prompt in pairs:
            longer = text + exchange(prompt.text, demonstration.text)
            if prompt.use_case in cases or len(subject.chat.tokenizer(longer)["input_ids"]) > recipe.prefix_tokens:
                continue
            text = longer
            cases.add(prompt.use_case)
        made.append(text)
    return made


def losses(workspace: Workspace, model: str) -> list[float]:
    """Pretraining loss per block of held-out text, nats per token."""
    subject = LocalSubject(workspace.find_model(model))
    return block_losses(subject.model, corpus_blocks(workspace, None, subject.chat, 128, "valid"), tokens=32768)


def reward_judgements(workspace: Workspace, recipe: Recipe, reward_model: str) -> list[dict]:
    """Every non-tied pair of the labelers' rankings of the overlap prompts, as the reward model and gold see it."""
    from preceptor.models.load import load_tokenizer
    from preceptor.text.chat import Chat

    folder = workspace.find_model(reward_model)
    chat, scorer, world = Chat(load_tokenizer(folder)), load_scalar(folder), World.of(recipe.seed)
    rankings = list(workspace.store.rankings(split="valid"))
    prompts = {prompt.id: prompt for _, prompt in rankings}
    ids = sorted({key for ranking, _ in rankings for key in ranking.completion_ids})
    completions = list(workspace.store.completions(ids=ids))
    rows = [chat.prompt(prompts[c.prompt_id].messages) + chat.answer(c.text) for c in completions]
    scores = dict(zip(ids, score_rows(scorer, rows, chat.pad).tolist()))
    gold = {c.id: judge(world, prompts[c.prompt_id], c.text).score for c in completions}
    cohorts = {labeler.id: labeler.cohort for labeler in workspace.store.labelers()}
    pairs = [
        {"prompt": ranking.prompt_id, "cohort": cohorts[ranking.labeler_id], "right": right}
        for ranking, _ in rankings
        for better, worse in ranking.comparisons()
        for right in [float(scores[ranking.completion_ids[better]] > scores[ranking.completion_ids[worse]])]
    ]
    by_prompt: dict[str, list[str]] = {}
    for completion in completions:
        by_prompt.setdefault(completion.prompt_id, []).append(completion.id)
    for prompt, group in by_prompt.items():
        for i, a in enumerate(group):
            for b in group[i + 1 :]:
                if abs(gold[a] - gold[b]) > 1e-9:
                    right = float((scores[a] > scores[b]) == (gold[a] > gold[b]))
                    pairs.append({"prompt": prompt, "cohort": "gold", "right": right})
    return pairs


def reward_checks(workspace: Workspace, recipe: Recipe, reward_model: str) -> dict[str, list[float]]:
    """Flaw -> for each test prompt where it can occur: does the ideal answer score above the same with that flaw?"""
    from preceptor.models.load import load_tokenizer
    from preceptor.text.chat import Chat

    folder = workspace.find_model(reward_model)
    chat, scorer, world = Chat(load_tokenizer(folder)), load_scalar(folder), World.of(recipe.seed)
    cases = [
        (flaw, task.prompt, ideal(world, task.prompt), spoiled)
        for task in test_tasks(recipe)
        for flaw in FLAWS
        if (spoiled := flawed(world, task.prompt, flaw)) is not None
    ]
    rows = [chat.prompt(prompt.messages) + chat.answer(text) for _, prompt, *pair in cases for text in pair]
    scores = score_rows(scorer, rows, chat.pad).view(-1, 2)
    found: dict[str, list[float]] = {}
    for (flaw, *_), better in zip(cases, (scores[:, 0] > scores[:, 1]).tolist()):
        found.setdefault(flaw, []).append(float(better))
    return found


def best_of_n(
    workspace: Workspace, recipe: Recipe, model: str, reward_model: str
) -> dict[int, list[tuple[float, float]]]:
    """n -> per validation prompt (gold, proxy) of the answer that the reward model likes best among the first n."""
    subject = LocalSubject(workspace.find_model(model))
    scorer, world = load_scalar(workspace.find_model(reward_model)), World.of(recipe.seed)
    prompts = [task.prompt for task in validation_tasks(recipe, recipe.best_prompts, "best of n")]
    given = draw(subject, prompts, None, 1.0, max(BEST_OF), recipe)
    found: dict[int, list[tuple[float, float]]] = {n: [] for n in BEST_OF}
    for prompt, group in zip(prompts, given.texts):
        rows = [subject.chat.prompt(prompt.messages) + subject.chat.answer(text) for text in group]
        scores = score_rows(scorer, rows, subject.chat.pad).tolist()
        gold = [judge(world, prompt, text).score for text in group]
        for n in BEST_OF:
            best = max(range(n), key=scores.__getitem__)
            found[n].append((gold[best], scores[best]))
    return found


def over_optimise(workspace: Workspace, recipe: Recipe, config: PpoConfig) -> list[dict]:
    """Train without a KL price, stopping every few steps to look at validation prompts: proxy, gold and KL.

    What was seen is kept, for the weights of the steps between are not: a run that goes on looks at new steps only.
    """
    assert config.reference is not None
    kept = workspace.root / "reports" / f"{config.output}.json"
    points = json.loads(kept.read_text()) if kept.is_file() else []
    world = World.of(recipe.seed)
    prompts = [task.prompt for task in validation_tasks(recipe, recipe.curve_prompts, "curve")]
    start = LocalSubject(workspace.find_model(config.reference))
    scorer = load_scalar(workspace.find_model(config.reward_model))
    for step in range(recipe.over_every * len(points), config.steps + 1, recipe.over_every):
        folder = workspace.find_model(config.reference)
        if step:
            folder = train_ppo(workspace, replace(config, max_steps=step))
        subject = LocalSubject(folder)
        sampling = Sampling(max_new_tokens=recipe.answer_tokens, seed=recipe.seed + 1)
        rows = [subject.chat.prompt(prompt.messages) for prompt in prompts]
        groups = subject.episodes(rows, sampling, k=SAMPLES_OF_CURVE)
        episodes = [episode for group in groups for episode in group]
        # The proxy is what the run itself is rewarded with: the same function on the same tokens.
        proxy = score_episodes(scorer, episodes, subject.chat.pad, subject.chat.eos)
        gold = [
            [judge(world, prompt, subject.chat.read(episode.answer_tokens)).score for episode in group]
            for prompt, group in zip(prompts, groups)
        ]
        kl = divergence(subject, start, prompts, 1.0, SAMPLES_OF_CURVE, recipe)
        points.append({"step": step, "gold": gold, "proxy": proxy.view(-1, SAMPLES_OF_CURVE).tolist(), "kl": kl})
        new = kept.with_name(f".{kept.name}.new")
        new.write_text(json.dumps(points))
        new.replace(kept)
    return points
