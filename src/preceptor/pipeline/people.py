"""What people said of the models' answers, for the report: preference, Likert, the flags of Table 3, toxicity, attacks.

Read from the store whenever a report is written. For preference only judgements that are no training data count: those
made under an evaluation guide, or on prompts outside the training split.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from preceptor.labelling import forms
from preceptor.labelling.questions import ATTACK_VERDICTS
from preceptor.labelling.records import verdicts
from preceptor.report.data import Component, Facet, Measured, Score, Strength, WinRate
from preceptor.statistics.bradley_terry import bradley_terry
from preceptor.statistics.preference import length_controlled, mean_interval, position_effect, rate_interval, win_rate
from preceptor.store import Workspace
from preceptor.store.oversight import Oversight
from preceptor.types import FLAGS, RED_TEAM, Completion, Labeler, Prompt

FEWEST = 5  # judgements of a slice, below which no figure is shown for it
LIKERT = "overall quality, 1 to 7"
SEVERITY = "severity of what complied, 1 to 3"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One answer that one person judged, or for preference a pair of which `completion` was shown first."""

    completion: Completion
    prompt: Prompt
    labeler: Labeler
    other: Completion | None = None
    outcome: float = 0.5


def slices(prompt: Prompt, labeler: Labeler) -> list[Facet]:
    """The slices a judgement belongs to: the paper's facets, and red-team prompts by who asked for them."""
    found = [
        Facet(by="prompt source", name=prompt.source),
        Facet(by="users", name="training users" if prompt.split == "train" else "held-out users"),
        Facet(by="labelers", name=f"{labeler.cohort} labelers"),
    ]
    if prompt.use_case:
        found.append(Facet(by="use case", name=prompt.use_case))
    if prompt.red_team:
        found.append(Facet(by="written for", name=RED_TEAM))
    return found


def pairs(workspace: Workspace) -> list[Judged]:
    """Every pair of two models' answers that a person put in order or called a tie, in the order shown."""
    store = workspace.store
    purposes = {rubric.id: rubric.purpose for rubric in store.rubrics()}
    rankings = [
        (ranking, prompt)
        for ranking, prompt in store.rankings()
        if purposes.get(ranking.rubric, ranking.rubric.split("-")[0]) == "evaluation" or prompt.split != "train"
    ]
    completions = _completions(workspace, (key for ranking, _ in rankings for key in ranking.completion_ids))
    labelers = _labelers(workspace)
    found = []
    for ranking, prompt in rankings:
        shown = [completions[key] for key in ranking.completion_ids]
        for i, first in enumerate(shown):
            for j, second in enumerate(shown[i + 1 :], i + 1):
                if first.model_id == second.model_id:
                    continue
                difference = ranking.ranks[j] - ranking.ranks[i]
                found.append(
                    Judged(
                        completion=first,
                        other=second,
                        prompt=prompt,
                        labeler=labelers[ranking.labeler_id],
                        outcome=0.5 if difference == 0 else float(difference > 0),
                    )
                )
    return found


def preferences(judged: Sequence[Judged], baseline: str) -> list[WinRate]:
    """Every model against the baseline where people compared the two directly: all, and by slice."""
    found = []
    models = sorted({one.model_id for pair in judged for one in (pair.completion, pair.other) if one is not None})
    for model in models:
        mine = [pair for pair in judged if {model, baseline} == {pair.completion.model_id, _other(pair).model_id}]
        if model == baseline or not mine:
            continue
        found.append(_win_rate(mine, model, baseline, None))
        found += [_win_rate(some, model, baseline, facet) for facet, some in _sliced(mine)]
    return found


def _win_rate(mine: Sequence[Judged], model: str, baseline: str, facet: Facet | None) -> WinRate:
    first = np.array([pair.completion.model_id == model for pair in mine])
    shown = np.array([pair.outcome for pair in mine])
    outcomes = np.where(first, shown, 1 - shown)
    lengths = np.array([[len(one.text.split()) for one in (pair.completion, _other(pair))] for pair in mine])
    ours, theirs = np.where(first, lengths[:, 0], lengths[:, 1]), np.where(first, lengths[:, 1], lengths[:, 0])
    prompts = [pair.prompt.id for pair in mine]
    # Only where the order was drawn: imported and simulated rankings may list one model first always.
    drawn = 0.25 <= first.mean() <= 0.75
    decodings = {f"T = {one.sampling.temperature:g}" for pair in mine for one in (pair.completion, _other(pair))}
    return WinRate(
        model=model,
        baseline=baseline,
        judge="people",
        decoding=" and ".join(sorted(decodings)),
        win=win_rate(outcomes, prompts, [pair.labeler.id for pair in mine]),
        length_controlled=length_controlled(outcomes, ours, theirs, prompts).controlled,
        position=position_effect(outcomes, first, prompts) if drawn else None,
        cohort=f"{facet.by}: {facet.name}" if facet else "",
    )


def strengths(judged: Sequence[Judged], baseline: str) -> list[Strength]:
    """Bradley-Terry with ties over all models that people compared; nothing when they fall into parts."""
    if not judged:
        return []
    names = [pair.completion.model_id for pair in judged], [_other(pair).model_id for pair in judged]
    reference = baseline if baseline in {*names[0], *names[1]} else None
    outcomes, prompts = [pair.outcome for pair in judged], [pair.prompt.id for pair in judged]
    try:
        fitted = bradley_terry(*names, outcomes, prompts, reference=reference)
    except ValueError:
        return []  # no chain of comparisons connects them all, so there is no one scale
    return [Strength(model=name, strength=interval, judge="people") for name, interval in fitted.strengths.items()]


def ratings(workspace: Workspace) -> tuple[list[Score], list[Component]]:
    """Likert scores and flag rates of every model, all and by slice."""
    given = list(workspace.store.ratings())
    completions = _completions(workspace, (rating.completion_id for rating in given))
    prompts = {one.id: one for one in workspace.store.prompts(ids={one.prompt_id for one in completions.values()})}
    labelers = _labelers(workspace)
    judged = {
        rating.id: Judged(
            completion=completions[rating.completion_id],
            prompt=prompts[completions[rating.completion_id].prompt_id],
            labeler=labelers[rating.labeler_id],
        )
        for rating in given
    }
    by_id = {rating.id: rating for rating in given}
    scores: list[Score] = []
    flags: list[Component] = []
    by_model: dict[str, dict[str, Judged]] = defaultdict(dict)
    for key, one in judged.items():
        by_model[one.completion.model_id][key] = one
    for model, mine in sorted(by_model.items()):
        every = [(None, list(mine)), *_sliced_keys(mine)]
        for facet, keys in every:
            cohort = f"{facet.by}: {facet.name}" if facet else ""
            where = [mine[key].prompt.id for key in keys]
            quality = mean_interval([float(by_id[key].quality) for key in keys], where)
            scores.append(Score(what=LIKERT, model=model, mean=quality, cohort=cohort))
            for flag in FLAGS:
                asked = [key for key in keys if flag in by_id[key].flags]
                if len(asked) < FEWEST:
                    continue
                hits = [by_id[key].flags[flag] for key in asked]
                rate = rate_interval(hits, [mine[key].prompt.id for key in asked])
                name, good = flag.replace("_", " "), flag == "satisfies_constraint"
                flags.append(Component(behaviour=name, model=model, rate=rate, good=good, cohort=cohort))
    return scores, flags


SCALES = (("toxicity", "toxicity, 0 to 2"), ("relative", "toxicity against the prompt, −1 to 1"),
          ("continuity", "continuity, 1 to 7"))  # fmt: skip


def toxicity(workspace: Workspace) -> list[Score]:
    """The paper's form for toxicity, by model: toxicity, toxicity against the prompt, continuity."""
    opinions = Oversight(workspace.store).opinions(kinds=("toxicity",))
    completions = _completions(workspace, (key for opinion in opinions for key in opinion.shown))
    values: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for opinion in opinions:
        answers, problems = forms.toxicity(opinion.fields, len(opinion.shown))
        if problems:
            continue  # written by an older form; a submission that lacks an answer is never taken
        for key, answer in zip(opinion.shown, answers["answers"]):
            one = completions[key]
            for scale, name in SCALES:
                values[name, one.model_id].append((float(answer[scale]), one.prompt_id))
    return [
        Score(what=name, model=model, mean=mean_interval([v for v, _ in some], [p for _, p in some]))
        for (name, model), some in sorted(values.items())
    ]


def red_team(workspace: Workspace) -> list[Measured]:
    """What answers did with people's attacks, by model: the three verdicts, the flags of Table 3, how bad it was."""
    rows = list(verdicts(Oversight(workspace.store)))
    names = {key: one.model_id for key, one in _completions(workspace, (row["completion_id"] for row in rows)).items()}
    values: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)  # (model, metric) -> value, request
    for row in rows:
        said = {f"{state}, harmful, people’s attacks": row["verdict"] == state for state in ATTACK_VERDICTS}
        said |= {f"{flag.replace('_', ' ')}, attacked by people": yes for flag, yes in row["flags"].items()}
        if row["severity"] is not None:
            said[SEVERITY] = row["severity"]
        for metric, value in said.items():
            values[names[row["completion_id"]], metric].append((float(value), row["request"]))
    found = []
    for (model, metric), some in sorted(values.items()):
        interval = mean_interval if metric == SEVERITY else rate_interval
        given = interval([value for value, _ in some], [request for _, request in some])
        found.append(Measured(group="depth", task="red team of people", metric=metric, model=model, value=given))
    return found


def people_verdicts(workspace: Workspace) -> Path | None:
    """People's verdicts on answers to attacks as a file for `evaluate --verdicts`; none where nobody gave any."""
    rows = list(verdicts(Oversight(workspace.store)))
    if not rows:
        return None
    path = workspace.root / "reports" / "verdicts.jsonl"
    write_verdicts(path, rows)
    return path


def write_verdicts(path: Path, rows: Iterable[dict]) -> int:
    """JSON lines, one verdict each. Returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    new.write_text("".join(lines), encoding="utf-8")
    new.replace(path)
    return len(lines)


def _sliced(judged: Sequence[Judged]) -> list[tuple[Facet, list[Judged]]]:
    keyed = dict(enumerate(judged))
    return [(facet, [keyed[key] for key in keys]) for facet, keys in _sliced_keys(keyed)]


def _sliced_keys(judged: dict) -> list[tuple[Facet, list]]:
    """Slices with enough judgements, where a facet has more than one value; in a fixed order."""
    found: dict[Facet, list] = defaultdict(list)
    for key, one in judged.items():
        for facet in slices(one.prompt, one.labeler):
            found[facet].append(key)
    several = {facet.by for facet in found if len(found[facet]) < len(judged)}
    order = sorted(found, key=lambda facet: (facet.by, facet.name))
    return [(facet, found[facet]) for facet in order if facet.by in several and len(found[facet]) >= FEWEST]


def _other(pair: Judged) -> Completion:
    assert pair.other is not None
    return pair.other


def _completions(workspace: Workspace, ids: Iterable[str]) -> dict[str, Completion]:
    """With models by their plain name, as in the report; where one name had several weights, with a short hash."""
    found = {one.id: one for one in workspace.store.completions(ids=set(ids))}
    weights: dict[str, set[str]] = defaultdict(set)
    for one in found.values():
        weights[one.model_id.partition("@")[0]].add(one.model_id)
    shown = {
        full: name if len(several) == 1 else f"{name}@{full.partition('@')[2][:6]}"
        for name, several in weights.items()
        for full in several
    }
    return {key: replace(one, model_id=shown[one.model_id]) for key, one in found.items()}


def _labelers(workspace: Workspace) -> dict[str, Labeler]:
    return {one.id: one for one in workspace.store.labelers()}
