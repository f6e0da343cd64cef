"""From the demo's measurements to claims with intervals: the report's data, `results.json`, the headline table."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from preceptor import __version__
from preceptor.pipeline.lineage import lineage, training_curves
from preceptor.pipeline.recipe import DECODINGS, LARGE, SMALL, K, Recipe
from preceptor.report.data import (
    Accuracy,
    Agreement,
    Answer,
    BestOfN,
    Component,
    Loss,
    Model,
    NotMeasured,
    OverOptimisation,
    Point,
    Process,
    ReportData,
    RewardCheck,
    Sample,
    Strength,
    Verdict,
    WinRate,
)
from preceptor.simulation.demonstrations import DISCLOSURE
from preceptor.simulation.labelers import labelers, prefers
from preceptor.simulation.users import Task, draw_prompts, users
from preceptor.simulation.world import World
from preceptor.statistics.agreement import pairwise_agreement
from preceptor.statistics.bradley_terry import bradley_terry
from preceptor.statistics.interval import Interval
from preceptor.statistics.overoptimisation import best_of_n_kl
from preceptor.statistics.preference import (
    Comparisons,
    compare,
    length_controlled,
    mean_interval,
    rate_interval,
    win_rate,
)
from preceptor.store import Workspace

SFT, PPO, PTX, OVER = "sft-small", "ppo-small", "ppo-ptx-small", "over-optimised"
MODELS = (
    Model(name=PTX, role="ppo-ptx", label="PPO-ptx", size="small"),
    Model(name=PPO, role="ppo", label="PPO", size="small"),
    Model(name=SFT, role="sft", label="SFT", size="small"),
    Model(name="base-small-prompted", role="prompted", label="Base, few-shot", size="small"),
    Model(name="base-small", role="base", label="Base", size="small"),
    Model(name="base-large-prompted", role="prompted", label="Large base, few-shot", size="large"),
    Model(name="base-large", role="base", label="Large base", size="large"),
    Model(name=OVER, role="other", label="Over-optimised", size="small"),
)
# Who is compared with whom. The first pair is the headline.
PAIRS = (
    (PTX, SFT),
    (PPO, SFT),
    (SFT, "base-small"),
    (SFT, "base-small-prompted"),
    (PTX, "base-large"),
    (PTX, "base-large-prompted"),
    ("base-small", SFT),
    ("base-small-prompted", SFT),
    ("base-large", SFT),
    ("base-large-prompted", SFT),
    (PTX, "base-small"),
    (PTX, "base-small-prompted"),
    (PTX, PPO),
    (OVER, SFT),
)
BEHAVIOURS = (
    ("does the task", 0, True),
    ("keeps the constraints", 1, True),
    ("is true", 2, True),
    ("is concise", 3, True),
    ("is rude", 4, False),
)
CLAIMS = {
    "sft_beats_base": "Imitating demonstrations beats the same base model",
    "sft_beats_prompted": "Imitating demonstrations beats the same base model with a few-shot prompt",
    "ptx_beats_sft": "PPO-ptx beats SFT, sampling at T = 1",
    "ptx_beats_sft_greedy": "PPO-ptx beats SFT, both greedy",
    "small_beats_large": "The small PPO-ptx model beats the larger base model",
    "small_beats_large_prompted": "The small PPO-ptx model beats the larger base model with a few-shot prompt",
    "large_is_better_trained": "The larger base model predicts text better than the small one",
    "ptx_lowers_tax": "Pretraining loss rises less under PPO-ptx than under PPO",
    "over_proxy_up": "Without a KL price the reward model's score rises",
    "over_gold_down": "Without a KL price the true quality falls",
    "rm_above_chance": "The reward model agrees with held-out labelers above chance",
}


def results(data: ReportData, found: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """`results.json`: the keys that scripts rely on."""
    rm = next(a for a in data.reward_accuracy if a.reward_model == "reward-2" and a.against == "held-out labelers")
    agreement = next(a for a in data.agreement if a.group == "training labelers")
    return {
        "seconds": round(data.seconds or 0.0, 1),
        "peak_rss_mib": round(data.peak_rss_mib or 0.0, 1),
        "seed": recipe.seed,
        "models": {model.name: {"parameters": model.parameters} for model in data.models},
        "win_rates": [
            {
                "model": rate.model,
                "baseline": rate.baseline,
                "judge": rate.judge,
                "decoding": rate.decoding,
                "win": rate.win.value,
                "low": rate.win.low,
                "high": rate.win.high,
                "n": rate.win.n,
                "prompts": rate.win.clusters,
            }
            for rate in data.win_rates
        ],
        "pretraining_loss": {loss.model: loss.loss.value for loss in data.losses},
        "reward_model": _plain(rm.accuracy, "accuracy"),
        "agreement": _plain(agreement.rate, "pairwise"),
        "verdicts": {verdict.claim: verdict.outcome for verdict in data.verdicts},
        "gold": {
            f"{given.model} {given.decoding}": float(np.mean([score for group in given.gold for score in group]))
            for given in answers_of(found).values()
        },
    }


def _plain(interval: Interval, name: str) -> dict[str, float]:
    return {name: interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


def report_data(
    workspace: Workspace, recipe: Recipe, found: dict[str, Any], *, seconds: float, peak_rss_mib: float
) -> ReportData:
    """Everything the report shows."""
    world = World.of(recipe.seed)
    tasks = draw_prompts(world, users(world, recipe.seed).held_out, recipe.test_prompts, f"test {recipe.seed}")
    given = answers_of(found)
    ancestors = lineage(workspace)
    parameters = {ancestor.name: ancestor.parameters for ancestor in ancestors}
    models = [
        Model(
            name=model.name,
            role=model.role,
            label=model.label,
            size=model.size,
            parameters=parameters[model.name.removesuffix("-prompted")],
        )
        for model in MODELS
    ]
    rates = win_rates(given, tasks, world, recipe.seed)
    losses = [
        Loss(model=name, loss=mean_interval(found[f"losses {name}"])) for name in (SMALL, LARGE, SFT, PPO, PTX, OVER)
    ]
    accuracies = reward_accuracy(found)
    curve = over_curve(found["over"])
    rankings = [ranking for ranking, _ in workspace.store.rankings(split="train")]
    overlap = [ranking for ranking, _ in workspace.store.rankings(split="valid")]
    cohorts = {labeler.id: labeler.cohort for labeler in workspace.store.labelers()}
    return ReportData(
        workspace=workspace.root.name,
        created=datetime.now(UTC).isoformat(timespec="minutes"),
        title="From a base model to one that follows instructions: the demo",
        seed=recipe.seed,
        seconds=seconds,
        peak_rss_mib=peak_rss_mib,
        version=__version__,
        simulated=True,
        main=PTX,
        baseline=SFT,
        score_name="gold points, at most 7",
        smallest_detectable=found["detectable"],
        process=Process(
            corpus_tokens=recipe.web_tokens,
            demonstrations=recipe.demonstrations,
            demonstration_writers=sum(cohort == "training" for cohort in cohorts.values()),
            rankings=len(rankings),
            comparisons=sum(len(ranking.comparisons()) for ranking in rankings),
            labelers=sum(cohort == "training" for cohort in cohorts.values()),
            k_smallest=K,
            k_largest=K,
            rounds=2,
            rl_steps=recipe.ppo(PTX, "reward-2").steps,
            kl_coef=recipe.ppo(PTX, "reward-2").kl_coef,
            ptx_coef=1.0,
            test_prompts=len(tasks),
            test_users=len({task.prompt.user_id for task in tasks}),
            samples_per_prompt=recipe.samples,
        ),
        models=models,
        verdicts=verdicts(rates, losses, accuracies, found),
        win_rates=rates,
        strengths=gold_strengths(given),
        training=training_curves(workspace),
        overoptimisation=OverOptimisation(
            model=OVER,
            points=curve,
            prompts=f"{len(found['over'][0]['gold'])} prompts of validation users, 2 answers each",
            note="The KL price was set to 0 and the learning rate doubled, to make the failure visible.",
        ),
        best_of_n=[
            BestOfN(
                n=n,
                kl=float(best_of_n_kl(n)),
                gold=mean_interval([gold for gold, _ in pairs]),
                proxy=mean_interval([proxy for _, proxy in pairs]),
            )
            for n, pairs in found["best of n"].items()
        ],
        losses=losses,
        components=components(given),
        samples=samples(given, tasks, workspace),
        agreement=[
            Agreement(group=f"{cohort} labelers", rate=agreement_of(overlap, cohorts, cohort))
            for cohort in ("training", "held-out")
        ],
        reward_accuracy=accuracies,
        reward_checks=[
            RewardCheck(flaw=flaw, reward_model="reward-2", preferred=rate_interval(hits))
            for flaw, hits in found["checks"].items()
        ],
        lineage=ancestors,
        disclosures=[*DISCLOSURE, *RECIPE_NOTES],
        limits=list(LIMITS),
        not_measured=[
            NotMeasured(
                what="Public benchmarks (TruthfulQA, toxicity, bias, SQuAD and the like)",
                why="a vocabulary of a few hundred words cannot answer them; run `preceptor evaluate` on real models",
            ),
            NotMeasured(what="Human judgement", why="every labeler here is a program"),
        ],
    )


RECIPE_NOTES = (
    "Sizes, learning rates and the number of steps were chosen on seed 0 with its gold scores and test prompts in "
    "view, and a fault in scoring answers that were cut off was found and mended on seed 1; no other seed was tuned, "
    "selected or stopped on gold or on held-out prompts. The run stops after fixed "
    "steps, or earlier when the KL divergence passes 3 nats per answer.",
    "The over-optimised run is a deliberate failure: KL price 0 and twice the learning rate.",
    "A raw or few-shot base model's answer is cut at the end of its first line; the few-shot prefix is, of four made "
    "of real demonstrations, the one whose answers the reward model scores best on validation prompts.",
)
LIMITS = (
    "A model of a quarter of a million parameters and a few hundred words shows the mechanism, not the size of an "
    "effect on real models.",
    "The gold judge is a program that shares its idea of quality with the simulated labelers, up to their noise and "
    "bias. Real labelers disagree about more.",
    "Intervals are over prompts. They do not include the luck of the seed: another seed gives other models.",
)


def answers_of(found: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """(model, decoding) -> its answers."""
    return {(value.model, value.decoding): value for key, value in found.items() if key.startswith("answers ")}


def win_rates(given, tasks: Sequence[Task], world: World, seed: int) -> list[WinRate]:
    """Gold for every pair and decoding, then held-out labelers; T = 1 first."""
    rates = []
    for decoding in DECODINGS:
        for model, baseline in PAIRS:
            if (model, decoding) not in given or (baseline, decoding) not in given:
                continue
            rates.append(gold_win_rate(given[model, decoding], given[baseline, decoding], decoding))
    for model, baseline in PAIRS:
        if baseline == SFT or (model, baseline) in ((PTX, "base-large-prompted"), (SFT, "base-small-prompted")):
            a, b = given[model, "T = 1"], given[baseline, "T = 1"]
            rates.append(labelers_win_rate(a, b, tasks, world, seed))
    return rates


def gold_strengths(given) -> list[Strength]:
    """All models of `PAIRS` on one scale by the gold judge at T = 1: Bradley-Terry with ties."""
    sides: tuple[list[str], list[str]] = ([], [])
    outcomes: list[float] = []
    prompts: list[int] = []
    for a, b in dict.fromkeys(tuple(sorted(pair)) for pair in PAIRS):
        met = gold_met(given[a, "T = 1"], given[b, "T = 1"])
        for side, name in zip(sides, (a, b)):
            side += [name] * len(met.outcomes)
        outcomes += met.outcomes.tolist()
        prompts += met.prompts.tolist()
    fitted = bradley_terry(*sides, outcomes, prompts, reference=SFT)
    return [Strength(model=name, strength=one, judge="gold, T = 1") for name, one in fitted.strengths.items()]


def gold_met(a, b) -> Comparisons:
    """Every answer of one side against every answer of the other to the same prompt."""
    flat = [(score, place) for place, group in enumerate(a.gold) for score in group]
    other = [(score, place) for place, group in enumerate(b.gold) for score in group]
    return compare([s for s, _ in flat], [s for s, _ in other], [p for _, p in flat], [p for _, p in other], tie=1e-9)


def gold_win_rate(a, b, decoding: str) -> WinRate:
    """The share of `gold_met` that `a` wins, raw and at equal length."""
    met = gold_met(a, b)
    lengths_a = np.array([n for group in a.tokens for n in group], dtype=float)[met.index_a]
    lengths_b = np.array([n for group in b.tokens for n in group], dtype=float)[met.index_b]
    controlled = length_controlled(met.outcomes, lengths_a, lengths_b, met.prompts)
    return WinRate(
        model=a.model,
        baseline=b.model,
        judge="gold",
        decoding=decoding,
        win=win_rate(met.outcomes, met.prompts),
        length_controlled=controlled.controlled,
    )


def labelers_win_rate(a, b, tasks: Sequence[Task], world: World, seed: int) -> WinRate:
    """A random held-out labeler judges answer i of one side against answer i of the other."""
    people = [simulated for simulated in labelers(seed) if simulated.labeler.cohort == "held-out"]
    outcomes, prompts, judges = [], [], []
    for place, task in enumerate(tasks):
        for number, (ours, theirs) in enumerate(zip(a.texts[place], b.texts[place])):
            rng = random.Random(f"preference {seed} {a.model} {b.model} {place} {number}")
            simulated = rng.choice(people)
            if rng.random() < 0.5:
                outcome = prefers(world, simulated, task.prompt, ours, theirs, rng)
            else:
                outcome = 1 - prefers(world, simulated, task.prompt, theirs, ours, rng)
            outcomes.append(outcome)
            prompts.append(place)
            judges.append(simulated.labeler.id)
    win = win_rate(outcomes, prompts, judges)
    return WinRate(model=a.model, baseline=b.model, judge="held-out labelers", decoding="T = 1", win=win)


def components(given) -> list[Component]:
    found = []
    for (model, decoding), answers in given.items():
        if decoding != "T = 1":
            continue
        clusters = [place for place, group in enumerate(answers.components) for _ in group]
        for behaviour, index, good in BEHAVIOURS:
            values = [verdict[index] for group in answers.components for verdict in group]
            rate = mean_interval(values, clusters)
            found.append(Component(behaviour=behaviour, model=model, rate=rate, good=good, decoding=decoding))
    order = [model.name for model in MODELS]
    return sorted(found, key=lambda part: order.index(part.model))


def reward_accuracy(found: dict[str, Any]) -> list[Accuracy]:
    names = {"held-out": "held-out labelers", "training": "training labelers", "gold": "gold judge"}
    result = []
    for model, key in (("reward-1", "rm 1"), ("reward-2", "rm 2")):
        for cohort, against in names.items():
            pairs = [pair for pair in found[key] if pair["cohort"] == cohort]
            if not pairs:
                continue
            accuracy = rate_interval([pair["right"] for pair in pairs], [pair["prompt"] for pair in pairs])
            answers = "validation users' prompts; answers of SFT and of the first policy"
            result.append(Accuracy(reward_model=model, against=against, accuracy=accuracy, answers=answers))
    return result


def agreement_of(rankings, cohorts: dict[str, str], cohort: str) -> Interval:
    found = pairwise_agreement([ranking for ranking in rankings if cohorts[ranking.labeler_id] == cohort])
    return Interval(value=found.value, low=found.low, high=found.high, n=found.pairs, clusters=found.items)


def over_curve(points: list[dict]) -> list[Point]:
    def interval(groups) -> Interval:
        clusters = [place for place, group in enumerate(groups) for _ in group]
        return mean_interval([value for group in groups for value in group], clusters)

    return [
        Point(
            step=point["step"],
            kl=max(0.0, float(np.mean(point["kl"]))),
            proxy=interval(point["proxy"]),
            gold=interval(point["gold"]),
        )
        for point in points
    ]


def rise(last: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Interval:
    """Change of a prompt's mean, over prompts."""
    return mean_interval(np.mean(last, axis=1) - np.mean(first, axis=1))


def verdicts(rates: list[WinRate], losses: list[Loss], accuracies, found: dict[str, Any]) -> list[Verdict]:
    """Each claim of the paper's pattern, shown or not."""

    def rate(model: str, baseline: str, decoding: str = "T = 1") -> Interval:
        return next(
            r.win for r in rates if (r.model, r.baseline, r.decoding, r.judge) == (model, baseline, decoding, "gold")
        )

    def gap(worse: str, better: str) -> Interval:
        return mean_interval(np.subtract(found[f"losses {worse}"], found[f"losses {better}"]))

    over, start = found["over"][-1], found["over"][0]
    rm = next(a for a in accuracies if a.reward_model == "reward-2" and a.against == "held-out labelers")
    claims = CLAIMS
    return [
        Verdict.above(claims["sft_beats_base"], rate(SFT, "base-small")),
        Verdict.above(claims["sft_beats_prompted"], rate(SFT, "base-small-prompted")),
        Verdict.above(claims["ptx_beats_sft"], rate(PTX, SFT)),
        Verdict.above(claims["ptx_beats_sft_greedy"], rate(PTX, SFT, "greedy")),
        Verdict.above(claims["small_beats_large"], rate(PTX, "base-large")),
        Verdict.above(claims["small_beats_large_prompted"], rate(PTX, "base-large-prompted")),
        Verdict.above(claims["large_is_better_trained"], gap(SMALL, LARGE), 0.0, "nats per token"),
        Verdict.above(claims["ptx_lowers_tax"], gap(PPO, PTX), 0.0, "nats per token"),
        Verdict.above(claims["over_proxy_up"], rise(over["proxy"], start["proxy"]), 0.0, "reward-model points"),
        Verdict.below(claims["over_gold_down"], rise(over["gold"], start["gold"]), 0.0, "gold points"),
        Verdict.above(claims["rm_above_chance"], rm.accuracy),
    ]


def samples(given, tasks: Sequence[Task], workspace: Workspace) -> list[Sample]:
    """The first prompt of each kind, then the prompts on which the main model did worst; first answers at T = 1."""
    shown = ("base-large-prompted", SFT, PTX)

    def sample(place: int, group: Literal["worst", "typical"]) -> Sample:
        prompt = tasks[place].prompt
        answers = [
            Answer(model=name, text=given[name, "T = 1"].texts[place][0], score=given[name, "T = 1"].gold[place][0])
            for name in shown
        ]
        return Sample(
            prompt=prompt.text, answers=answers, group=group, user=prompt.user_id or "", slice=prompt.use_case or ""
        )

    firsts: dict[str, int] = {}
    for place, task in enumerate(tasks):
        firsts.setdefault(task.request.kind, place)
    gold = given[PTX, "T = 1"].gold
    worst = sorted(range(len(tasks)), key=lambda place: gold[place][0])[:5]
    return [sample(place, "worst") for place in worst] + [sample(place, "typical") for place in firsts.values()]


def headline(data: ReportData) -> list[str]:
    """The table that the demo prints at its end."""
    label = {model.name: model.label for model in data.models}
    lines = ["", "Who is preferred, by the gold judge, on prompts of held-out users (95 % interval by prompt):", ""]
    for rate in data.win_rates[: len(PAIRS)]:
        if (rate.model, rate.baseline) in PAIRS[:6] or rate.model == OVER:
            names = f"{label[rate.model]} against {label[rate.baseline]}"
            win = rate.win
            lines.append(f"  {names:<42} {win.value:6.1%}   ({win.low:.1%} to {win.high:.1%}, n = {win.n:,})")
    greedy = next(r for r in data.win_rates if (r.model, r.baseline, r.decoding) == (PTX, SFT, "greedy"))
    lines.append(
        f"  {'PPO-ptx against SFT, both greedy':<42} {greedy.win.value:6.1%}   "
        f"({greedy.win.low:.1%} to {greedy.win.high:.1%}, n = {greedy.win.n:,})"
    )
    lines.append("")
    for verdict in data.verdicts:
        lines.append(f"  {'shown    ' if verdict.outcome == 'shown' else 'NOT SHOWN'}  {verdict.claim}")
    return lines
