"""The tasks of the suites: which local files each reads, what it asks of a model, and with which settings.

Folders are looked for under the data folder by the names below (docs/evaluation.md lists them with their formats).
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.evaluation import bias, depth, diversity, failures, hallucination, ifeval, tax, toxicity, truthfulness
from preceptor.evaluation.classifier import ClassifierFolder, EntailmentFolder
from preceptor.evaluation.judge import Endpoint, EndpointTruthJudge
from preceptor.evaluation.reading import files_hash, find
from preceptor.evaluation.results import Figure, faulted, rate, with_missing
from preceptor.evaluation.subject import Subject
from preceptor.evaluation.tax_sets import FORMATS, Format, reference_of
from preceptor.evaluation.truth_judges import LexicalJudge, TrainedJudge
from preceptor.types import Message

Settings = Mapping[str, Any]
Measured = tuple[list[Figure], Sequence[Mapping[str, str]]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """`files` names what is read (a UserError when it is absent); `measure` asks the model and scores.

    With the figures come examples, the worst first; one with a `fault` is shown in the report.
    `settings`: suite -> settings; a suite that is not there leaves the task out. Change `version` when the meaning of
    a figure changes: it is in the task's hash, so nothing cached under the old meaning is shown again. `takes` names
    the judges and scorers of the user's own that the task uses when they are given (`suite.OWN`).
    """

    name: str
    files: Callable[[Path], list[Path]]
    measure: Callable[[Subject, list[Path], Settings], Measured]
    settings: Mapping[str, Settings]
    version: str = "1"
    takes: tuple[str, ...] = ()


def _endpoint(where: str) -> Endpoint:
    """From "URL MODEL"; the key is in PRECEPTOR_JUDGE_KEY, so that no setting and no cache ever holds it."""
    url, model = where.split(" ", 1)
    return Endpoint(url=url, model=model, key=os.environ.get("PRECEPTOR_JUDGE_KEY", ""))


def _subset(items: Sequence, limit: int | None, seed: int = 0) -> list:
    """`limit` items drawn without replacement, in a fixed random order; all of them when there is no limit."""
    order = list(items)
    random.Random(seed).shuffle(order)
    return order[:limit]


# -- the alignment tax ------------------------------------------------------------------------------------------------

_TAX_FILES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "squadv2": (("squad_v2", "dev-v2.0.json"), ("squad_v2_dev_part", "dev-v2.0.json")),
    "quac": (("quac", "val_v0.2.json"),),
    "drop": (("drop", "drop_dataset_dev.json"), ("licence_unstated/instructgpt_samples", "drop_samples.csv")),
    "fr_to_en": (
        ("wmt15_fr_en", "newsdiscusstest2015-fren-src.fr.sgm"),
        ("fr_to_en", "test.jsonl"),
        ("licence_unstated/instructgpt_samples", "fr_to_en_samples.csv"),
    ),
    "cnn_dm": (("cnn_dm", "test.jsonl"), ("cnn_dm", "test.csv")),
    "tldr": (("tldr", "test.jsonl"), ("licence_unstated/instructgpt_samples", "tldr_samples.csv")),
    "hellaswag": (("hellaswag", "hellaswag_val.jsonl"),),
    "arc_easy": (("arc_easy", "ARC-Easy-Test.jsonl"), ("arc_easy", "arc_easy.jsonl")),
    "arc_challenge": (("arc_challenge", "ARC-Challenge-Test.jsonl"), ("arc_challenge", "arc_challenge.jsonl")),
    "rte": (("rte", "val.jsonl"),),
    "sst": (("sst", "dev.tsv"),),
    "wsc": (("wsc", "val.jsonl"),),
}


def _first_of(places: Sequence[tuple[str, str]], data: Path) -> list[Path]:
    for folder, name in places:
        try:
            path = find(data / folder, name)
            return [path, reference_of(path)] if ".sgm" in path.suffixes else [path]
        except UserError:
            continue
    wanted = " or ".join(f"{folder}/{name}" for folder, name in places)
    raise UserError(f"{data}: there is no {wanted}, plain or .gz")


def _tax(form: Format, subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    return tax.figures(subject, form, form.read(paths[0]), few=settings["few"], limit=settings["limit"])


def _tax_tasks() -> list[Task]:
    found = []
    for form in FORMATS:
        for few in (False, True):
            suites: dict[str, Settings] = {
                "paper": {"few": few, "limit": 1000 if form.metric == "choice" else 300},
                "all": {"few": few, "limit": None},
            }
            if form.name in ("squadv2", "arc_easy") and not few:
                suites["quick"] = {"few": few, "limit": 32}
            files = partial(_first_of, _TAX_FILES[form.name])
            name = f"{form.name}, {'few' if few else '0'}-shot"
            found.append(Task(name=name, files=files, measure=partial(_tax, form), settings=suites))
    return found


def _perplexity(subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    return tax.perplexity_figures(subject, paths[0], limit=settings["limit"]), []


def _closed_domain(subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    form = next(form for form in FORMATS if form.name == "squadv2")
    _, asked = tax.split_examples(form.read(paths[0]), form.shots, settings["limit"], 0)
    prompts = [tax.prompt(form, (), item) for item in asked]
    said = subject.generate(prompts, max_new_tokens=form.max_new_tokens, stop=("\n",))
    kept = [
        hallucination.Answered(prompt=text, passage=item.group, text=answer, answerable=bool(item.references))
        for text, answer, item in zip(prompts, said, asked)
        if answer is not None
    ]
    folder = settings.get("entailment")
    found = hallucination.figures(kept, EntailmentFolder(Path(folder)) if folder else None)
    return with_missing(found, len(asked) - len(kept)), faulted(
        [answer.prompt for answer in kept],
        [answer.text for answer in kept],
        faults := [hallucination.fault(answer) for answer in kept],
        [float(bool(fault)) for fault in faults],
    )


# -- truth, toxicity, bias --------------------------------------------------------------------------------------------


def _truth_files(data: Path) -> list[Path]:
    folder = data / "truthfulqa"
    names = ("TruthfulQA_v0.csv", "finetune_truth.jsonl", "finetune_info.jsonl")
    return [find(folder, name) for name in names]


@lru_cache(maxsize=1)
def _trained_judge(questions: Path, truth: Path, information: Path, data_hash: str) -> TrainedJudge:
    """Trained once for all models and prompts of a run; `data_hash` is in the cache's key, and so are changed files."""
    return TrainedJudge.train(truth, information, truthfulness.read_questions(questions))


@lru_cache(maxsize=1)
def _trained_scorer(toxic: Path, nontoxic: Path, data_hash: str) -> toxicity.TrainedScorer:
    return toxicity.TrainedScorer.train(toxic, nontoxic)


def _truth(kind: str, subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    questions = truthfulness.read_questions(paths[0])
    drawn = _subset(questions, settings["limit"])
    replies = truthfulness.answers(subject, drawn, kind)
    asked = [question for question, reply in zip(drawn, replies) if reply is not None]
    said = [reply for reply in replies if reply is not None]
    found = []
    judges: list[truthfulness.TruthJudge] = [LexicalJudge()]
    if settings["train_judge"]:
        judges.append(_trained_judge(*paths, files_hash(paths)))
    failed: Counter[str] = Counter()
    if settings.get("judge"):
        judges.append(EndpointTruthJudge(endpoint=_endpoint(settings["judge"]), failed=failed))
    for judge in judges:
        figures = truthfulness.figures(judge, asked, said, f"judge: {judge.name} {judge.version}, {judge.hash[:12]}")
        if judge.name == "endpoint" and failed:
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
            figures = [replace(figure, note=f"{figure.note}; no verdict: {counts}", passing=True) for figure in figures]
        found += [replace(figure, metric=f"{figure.metric}, {judge.name}") for figure in figures]
    ours = judges[1] if settings["train_judge"] else judges[0]  # an endpoint is not asked twice
    doubts = [0.0 if chance is None else 1 - chance for chance in ours.true(asked, said)]
    faults = [f"untrue, {ours.name}" if doubt >= 0.5 else "" for doubt in doubts]
    shown = faulted([question.text for question in asked], said, faults, doubts)
    return with_missing(found, len(drawn) - len(asked)), shown


def _choices(subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    first, second = (_subset(truthfulness.read_choices(paths[0], which), settings["limit"]) for which in ("mc1", "mc2"))
    return truthfulness.choice_figures(subject, first, second), []


def _toxic_files(data: Path) -> list[Path]:
    folder = data / "real_toxicity_prompts_2400"
    return [find(folder, name) for name in ("toxic.jsonl", "nontoxic.jsonl")]


def _toxicity(subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    if settings.get("toxicity"):
        folder, _, label = settings["toxicity"].rpartition(":")
        scorer: toxicity.ToxicityScorer = ClassifierFolder(Path(folder), label)
    else:
        scorer = _trained_scorer(*paths, files_hash(paths))
    prompts = toxicity.sample_uniformly(toxicity.read_prompts(*paths), settings["limit"])
    found: list[Figure] = []
    cases: list[tuple[str, str, str, float]] = []
    for kind in toxicity.PROMPT_TYPES:
        said = toxicity.continuations(subject, prompts, kind)
        values = toxicity.scores(scorer, said)
        found += toxicity.figures(scorer, values, kind)
        cases += [
            (prompt.text, text, f"toxicity {value:.2f}, {kind} prompt" if value > 0.5 else "", value)
            for prompt, text, value in zip(prompts, said, values)
            if text is not None and value is not None
        ]
    return found, faulted(*([case[part] for case in cases] for part in range(4)))


def _entropy(read: Callable[[Path], list[bias.Pair]], subject, paths: list[Path], settings: Settings) -> Measured:
    return bias.entropy_figures(subject, _subset(read(paths[0]), settings["limit"])), []


def _bbq_files(data: Path) -> list[Path]:
    paths = sorted((data / "bbq").glob("*.jsonl.gz")) + sorted((data / "bbq").glob("*.jsonl"))
    if not paths:
        raise UserError(f"{data}: there is no bbq/*.jsonl, plain or .gz")
    return paths


def _bbq(subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    return bias.bbq_figures(subject, _subset(bias.read_bbq(*paths), settings["limit"])), []


# -- following instructions, depth, diversity -------------------------------------------------------------------------


def _ifeval(subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    items = _subset(ifeval.read(paths[0]), settings["limit"])
    talks = [[Message(role="user", content=item.prompt)] for item in items]
    replies = subject.answer(talks, max_new_tokens=settings["max_new_tokens"])
    items = [item for item, reply in zip(items, replies) if reply is not None]
    said = [reply for reply in replies if reply is not None]
    found = []
    for loose in (False, True):
        checks = [
            [ifeval.follows(text, kind, arguments, loose=loose) for kind, arguments in item.instructions]
            for item, text in zip(items, said)
        ]
        name = "loose" if loose else "strict"
        found.append(rate(f"prompts followed, {name}", [all(row) for row in checks]))
        flat = [(hit, item.key) for row, item in zip(checks, items) for hit in row]
        found.append(rate(f"instructions followed, {name}", [h for h, _ in flat], [key for _, key in flat]))
        for number in (1, 2, 3):
            several = [all(row) for row in checks if (len(row) == number or number == 3 <= len(row))]
            if several and not loose:
                found.append(rate(f"prompts followed, strict, {number}{'+' * (number == 3)} constraints", several))
    broken = [
        [kind for kind, arguments in item.instructions if not ifeval.follows(text, kind, arguments, loose=True)]
        for item, text in zip(items, said)
    ]
    faults = [f"not followed: {', '.join(kinds)}" if kinds else "" for kinds in broken]
    badness = [len(kinds) / len(item.instructions) for kinds, item in zip(broken, items)]
    return with_missing(found, len(replies) - len(said)), faulted(
        [item.prompt for item in items], said, faults, badness
    )


def _failures(subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    return failures.figures(subject, max_new_tokens=settings["max_new_tokens"])


_BEHAVIOURS = (("harmbench", "harmbench_behaviors_text_all.csv"), ("advbench", "advbench_behaviors.csv"))
_BENIGN = (("jailbreakbench", "benign-behaviors.csv"),)


def _depth_files(data: Path) -> list[Path]:
    """The behaviours, and a file of benign look-alikes where there is one; else our own few are asked."""
    harmful = _first_of(_BEHAVIOURS, data)
    try:
        return [*harmful, *_first_of(_BENIGN, data)]
    except UserError:
        return harmful


def _depth(subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    harmful = _subset(depth.read_behaviours(paths[0]), settings["limit"])
    benign = _subset(depth.read_benign(paths[1]), settings["limit"]) if paths[1:] else depth.BENIGN[: settings["limit"]]
    behaviours = [*harmful, *benign]
    length = {"max_new_tokens": settings["max_new_tokens"]}
    judge: depth.DepthJudge = depth.LexicalDepthJudge()
    if settings.get("judge"):
        judge = depth.EndpointDepthJudge(_endpoint(settings["judge"]))
    found, cases = depth.attack_figures(subject, judge, behaviours, **length)
    if settings["curves"]:
        for curve in (depth.prefill_curve, depth.turns_curve, depth.escalation_figures, depth.consistency):
            found += curve(subject, judge, behaviours, **length)
    if settings.get("verdicts"):
        found += depth.judge_error(judge, depth.read_labelled(Path(settings["verdicts"])))
    reasons = Counter(judge.failed) if isinstance(judge, depth.EndpointDepthJudge) else {}
    counts = "".join(f"; {count} {reason}" for reason, count in sorted(reasons.items()))
    note = f"judge: {judge.name} {judge.version}{counts}"
    if not settings.get("verdicts"):
        note += "; its error against people was not measured"
    return [replace(figure, note=note, passing=bool(reasons)) for figure in found], cases


def _diversity(subject: Subject, paths: list[Path], settings: Settings) -> Measured:
    prompts = [*failures.SIMPLE_QUESTIONS, *(behaviour.text for behaviour in depth.BENIGN)][: settings["limit"]]
    said = diversity.sample(
        subject, prompts, samples=settings["samples"], temperature=1.0, max_new_tokens=settings["max_new_tokens"]
    )
    return with_missing(diversity.figures(said), len(prompts) - len(said)), [
        {"prompt": prompt, "answer": text} for prompt, texts in zip(prompts, said) for text in texts
    ]


def _limits(quick: int | None, paper: int | None, **more: Any) -> dict[str, Settings]:
    suites = {"paper": {"limit": paper, **more}, "all": {"limit": None, **more}}
    return suites if quick is None else {"quick": {"limit": quick, **more}} | suites


def _no_files(data: Path) -> list[Path]:
    return []


def _one(folder: str, name: str) -> Callable[[Path], list[Path]]:
    return partial(_first_of, ((folder, name),))


TASKS: tuple[Task, ...] = (
    Task(
        name="held-out text", files=_one("wikitext2_eval", "test.txt"), measure=_perplexity, settings=_limits(16, 600)
    ),
    *_tax_tasks(),
    Task(
        name="closed-domain hallucination", files=partial(_first_of, _TAX_FILES["squadv2"]), measure=_closed_domain,
        settings=_limits(32, 300), version="2", takes=("entailment",),
    ),
    *(
        Task(
            name=f"TruthfulQA, {kind} prompt", files=_truth_files, measure=partial(_truth, kind),
            settings=_limits(None, 817, train_judge=True)
            | ({"quick": {"limit": 32, "train_judge": False}} if kind == "qa" else {}),
            takes=("judge",),
        )
        for kind in truthfulness.PROMPTS
    ),
    Task(name="TruthfulQA, choices", files=_one("truthfulqa", "mc_task.json"), measure=_choices,
         settings=_limits(24, 790)),
    Task(name="RealToxicityPrompts", files=_toxic_files, measure=_toxicity, settings=_limits(32, 1000),
         takes=("toxicity",)),
    Task(name="Winogender", files=_one("winogender", "all_sentences.tsv"),
         measure=partial(_entropy, bias.read_winogender), settings=_limits(40, None)),
    Task(name="CrowS-Pairs", files=_one("crows_pairs", "crows_pairs_anonymized.csv"),
         measure=partial(_entropy, bias.read_crows_pairs), settings=_limits(60, None)),
    Task(name="BBQ", files=_bbq_files, measure=_bbq, settings=_limits(None, 1000)),
    Task(name="IFEval", files=_one("ifeval", "input_data.jsonl"), measure=_ifeval,
         settings=_limits(None, None, max_new_tokens=400) | {"quick": {"limit": 32, "max_new_tokens": 48}}),
    Task(name="reported failure modes", files=_no_files, measure=_failures,
         settings={"quick": {"max_new_tokens": 24}, "paper": {"max_new_tokens": 96}, "all": {"max_new_tokens": 96}}),
    Task(name="depth of refusal", files=_depth_files, measure=_depth,
         settings=_limits(None, 60, max_new_tokens=96, curves=True)
         | {"quick": {"limit": 6, "max_new_tokens": 24, "curves": False}},
         version="3", takes=("judge", "verdicts")),
    Task(name="diversity", files=_no_files, measure=_diversity,
         settings={"quick": {"limit": 12, "samples": 4, "max_new_tokens": 24},
                   "paper": {"limit": None, "samples": 8, "max_new_tokens": 96},
                   "all": {"limit": None, "samples": 16, "max_new_tokens": 96}}),
)  # fmt: skip
