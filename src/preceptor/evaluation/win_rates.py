"""How often one model is preferred to another: both answer the same prompts, and a judge says which answer is better.

Two kinds of judge. One scores every answer (a gold judge, a reward model): every answer of one side meets every answer
of the other, and there is no order of showing. The other is shown two answers (a judge model): answer i meets answer
i, each pair is asked in both orders, and what it contradicts counts for nobody. People's judgements come from the
labelling pages, which draw and store the order. All of them end in `statistics.preference`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from preceptor.evaluation.judge import PairJudge, failures
from preceptor.evaluation.subject import Subject
from preceptor.statistics.interval import Interval
from preceptor.statistics.preference import compare, length_controlled, position_effect, win_rate
from preceptor.types import RED_TEAM, Prompt

Judge = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
WORST = 5  # prompts kept, on which the model lost by most
TOO_LONG = "longer than a model's context"
FEWEST = 5  # prompts of a slice, below which it has no figure of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`model` against `baseline`: the share of comparisons won, ties half, with its interval by prompt.

    `worst`: prompt, both answers and use case, where the model lost by most. `slices`: the same by prompt source, use
    case, training and held-out users, red-team prompts. `users` asked these prompts, and `training_users` of them asked
    prompts of the training split too. `position`: share won by the answer shown first, for a judge that is shown two.
    `failures`: pairs without a verdict, by reason; they are in no share. `tally`: by id of the prompt, how many pairs
    were won, tied and lost, from which many models get one scale (Bradley-Terry).
    """

    model: str
    baseline: str
    judge: str
    decoding: str
    win: Interval
    length_controlled: Interval
    worst: tuple[tuple[str, str, str, str], ...]
    slices: tuple[tuple[str, Interval], ...] = ()
    users: int = 0
    training_users: int = 0
    position: Interval | None = None
    failures: dict[str, int] = field(default_factory=dict)
    tally: tuple[tuple[str, int, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """Two answers to prompt number `place`, and what came of it."""

    place: int
    ours: str
    theirs: str
    outcome: float
    margin: float


def compare_models(
    model: Subject,
    baseline: Subject,
    prompts: Sequence[Prompt],
    judge: Judge | PairJudge,
    *,
    judge_name: str,
    samples: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    training_users: Collection[str] = (),
) -> Comparison:
    """Draw `samples` answers per prompt from both models (1 when greedy) and let the judge compare them.

    `training_users`: those with a prompt in the training split.
    A prompt that a model cannot take in is left out and counted. Raises ValueError when no pair got a verdict.
    """
    samples = 1 if temperature == 0 else samples
    said: list[dict[int, list[str]]] = []
    for subject in (model, baseline):
        asked = [list(prompt.messages) for prompt in prompts for _ in range(samples)]
        replies = subject.answer(asked, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        groups = {place: replies[place * samples : (place + 1) * samples] for place in range(len(prompts))}
        said.append({place: list(group) for place, group in groups.items() if None not in group})  # type: ignore[misc]
    shared = [place for place in said[0] if place in said[1]]
    answers = [(place, said[0][place], said[1][place]) for place in shared]
    position = None
    if isinstance(judge, PairJudge):
        pairs, position, failed = _asked(judge, prompts, answers)
    else:
        pairs, failed = _scored(judge, prompts, answers)
    if len(shared) < len(prompts):
        met = samples if isinstance(judge, PairJudge) else samples**2
        failed[TOO_LONG] = met * (len(prompts) - len(shared))
    if not pairs:
        raise ValueError(f"the {judge_name} gave no verdict: {failed}")
    places = [pair.place for pair in pairs]
    outcomes = [pair.outcome for pair in pairs]
    lengths = [[float(len(text.split())) for text in (pair.ours, pair.theirs)] for pair in pairs]
    controlled = length_controlled(outcomes, [a for a, _ in lengths], [b for _, b in lengths], places)
    first: dict[int, _Pair] = {}
    for pair in pairs:
        first.setdefault(pair.place, pair)
    users = {prompts[place].user_id for place in first} - {None}
    worst = sorted(first.values(), key=lambda pair: (pair.margin, pair.place))[:WORST]
    return Comparison(
        model=model.name,
        baseline=baseline.name,
        judge=judge_name,
        decoding="greedy" if temperature == 0 else f"T = {temperature:g}",
        win=win_rate(outcomes, places),
        length_controlled=controlled.controlled,
        worst=tuple(
            (prompts[pair.place].text, pair.ours, pair.theirs, prompts[pair.place].use_case or "") for pair in worst
        ),
        slices=_slices(prompts, pairs, training_users),
        users=len(users),
        training_users=len(users.intersection(training_users)),
        position=position,
        failures=failed,
        tally=_tally(prompts, pairs),
    )


def _tally(prompts: Sequence[Prompt], pairs: Sequence[_Pair]) -> tuple[tuple[str, int, int, int], ...]:
    counts: dict[str, list[int]] = {}
    for pair in pairs:
        counts.setdefault(prompts[pair.place].id, [0, 0, 0])[round(2 - 2 * pair.outcome)] += 1
    return tuple((key, *row) for key, row in counts.items())  # type: ignore[misc]


Answers = Sequence[tuple[int, list[str], list[str]]]


def _scored(judge: Judge, prompts: Sequence[Prompt], answers: Answers) -> tuple[list[_Pair], dict[str, int]]:
    """Every answer against every other of the prompt, by the judge's score of each; and what has no score."""
    ours = [(place, text) for place, mine, _ in answers for text in mine]
    theirs = [(place, text) for place, _, other in answers for text in other]
    scores = [list(judge([prompts[place] for place, _ in side], [text for _, text in side])) for side in (ours, theirs)]
    met = compare(scores[0], scores[1], [place for place, _ in ours], [place for place, _ in theirs])
    pairs = [
        _Pair(
            place=ours[a][0],
            ours=ours[a][1],
            theirs=theirs[b][1],
            outcome=float(outcome),
            margin=float(scores[0][a] - scores[1][b]),
        )
        for outcome, a, b in zip(met.outcomes, met.index_a, met.index_b)
    ]
    return pairs, {"no score": met.missing} if met.missing else {}


def _asked(
    judge: PairJudge, prompts: Sequence[Prompt], answers: Answers
) -> tuple[list[_Pair], Interval | None, dict[str, int]]:
    """Answer i against answer i, both orders; the pairs with a verdict, the effect of the place, what failed."""
    asked = [(place, a, b) for place, ours, theirs in answers for a, b in zip(ours, theirs)]
    verdicts = judge.compare_all([(prompts[place].text, a, b) for place, a, b in asked])
    pairs = [
        _Pair(place=place, ours=a, theirs=b, outcome=found.outcome, margin=found.outcome)
        for (place, a, b), found in zip(asked, verdicts)
        if found.outcome is not None
    ]
    shown = [(value, place) for (place, *_), found in zip(asked, verdicts) for value in found.shown_first]
    effect = position_effect([v for v, _ in shown], [True] * len(shown), [p for _, p in shown]) if shown else None
    return pairs, effect, failures(verdicts)


def _slices(
    prompts: Sequence[Prompt], pairs: Sequence[_Pair], training_users: Collection[str]
) -> tuple[tuple[str, Interval], ...]:
    """Each value of a facet that holds for some of the prompts and not for all, with prompts enough."""

    def user(prompt: Prompt) -> str | None:
        if prompt.user_id is None:
            return None
        return "training users" if prompt.user_id in training_users else "held-out users"

    facets: tuple[tuple[str, Callable[[Prompt], str | None]], ...] = (
        ("prompt source", lambda prompt: prompt.source),
        ("use case", lambda prompt: prompt.use_case),
        ("users", user),
        ("written for", lambda prompt: RED_TEAM if prompt.red_team else None),
    )
    found: list[tuple[str, Interval]] = []
    for by, of in facets:
        values = sorted({str(of(prompts[pair.place])) for pair in pairs if of(prompts[pair.place])})
        for value in values:
            mine = [pair for pair in pairs if of(prompts[pair.place]) == value]
            if len(mine) < len(pairs) and len({pair.place for pair in mine}) >= FEWEST:
                win = win_rate([pair.outcome for pair in mine], [pair.place for pair in mine])
                found.append((f"{by}: {value}", win))
    return tuple(found)
