"""What alignment cost: public tasks before and after, greedy, cut at the first newline, with and without examples.

Report it for PPO and PPO-ptx side by side. The formats are in `tax_sets.py`.
"""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from preceptor.evaluation import scorers
from preceptor.evaluation.reading import read_text
from preceptor.evaluation.results import Figure, mean, rate, with_missing
from preceptor.evaluation.subject import Subject, choice_scores
from preceptor.evaluation.tax_sets import Format, Item
from preceptor.statistics.clustered import bootstrap
from preceptor.statistics.interval import Interval


def split_examples(items: Sequence[Item], shots: int, limit: int | None, seed: int) -> tuple[list[Item], list[Item]]:
    """(few-shot examples, items to ask). Examples come from other passages than any item that is asked.

    The local files hold no training part, so examples are set aside from the same file, and never asked; with
    `shots` 0 the same ones are set aside, so that both runs ask the same items.
    """
    order = list(items)
    random.Random(seed).shuffle(order)
    examples: list[Item] = []
    groups: set[str] = set()
    for item in order:
        if len(examples) == shots:
            break
        if item.group not in groups and item.answer:
            examples.append(item)
            groups.add(item.group)
    asked = [item for item in order if item.group not in groups]
    return examples, asked[:limit]


def prompt(form: Format, examples: Sequence[Item], item: Item) -> str:
    """Header, examples with their answers, query."""
    shown = [f"{example.query} {example.answer}" for example in examples]
    return form.header + form.between.join([*shown, item.query])


def figures(
    subject: Subject, form: Format, items: Sequence[Item], *, few: bool, limit: int | None = None, seed: int = 0
) -> tuple[list[Figure], list[dict[str, str]]]:
    """The metric of a task over at most `limit` items, and what was asked and said for each. F1 as shares 0 to 1.

    Where a prompt with all examples is longer than the model's context, examples are taken away from the front until it
    fits; the note says how many were shown on average. An item that does not fit without any is left out and counted.
    """
    examples, asked = split_examples(items, form.shots, limit, seed)
    if form.metric == "choice":
        return _choose(subject, form, examples if few else [], asked)

    def ask(prompts: list[str], _: list[Item]) -> list[str | None]:
        return subject.generate(prompts, max_new_tokens=form.max_new_tokens, stop=("\n",))

    prompts, texts, note = _with_as_many_as_fit(ask, form, examples if few else [], asked)
    said = [None if text is None else scorers.first_line(text) for text in texts]
    shown = [
        {"prompt": text, "answer": answer, "expected": str(item.references)}
        for text, answer, item in zip(prompts, said, asked)
        if answer is not None
    ]
    return _score(form, asked, said, [item.group for item in asked], note), shown


def _with_as_many_as_fit(
    ask: Callable[[list[str], list[Item]], list], form: Format, examples: Sequence[Item], asked: Sequence[Item]
) -> tuple[list[str], list, str]:
    """(prompts, replies, note): every item with as many of the last examples as the model can take in."""
    prompts, replies, shown = [""] * len(asked), [None] * len(asked), [0] * len(asked)
    left = list(range(len(asked)))
    for count in range(len(examples), -1, -1):
        for place in left:
            prompts[place], shown[place] = prompt(form, examples[len(examples) - count :], asked[place]), count
        said = ask([prompts[place] for place in left], [asked[place] for place in left])
        for place, reply in zip(left, said, strict=True):
            replies[place] = reply
        left = [place for place, reply in zip(left, said) if reply is None]
        if not left:
            break
    counts = [count for count, reply in zip(shown, replies) if reply is not None]
    short = bool(counts) and sum(counts) < len(examples) * len(counts)
    note = f"{np.mean(counts):.1f} of {len(examples)} examples fit the model's context, on average" if short else ""
    return prompts, replies, note


def _choose(subject, form, examples, asked) -> tuple[list[Figure], list[dict[str, str]]]:
    def ask(prompts: list[str], items: list[Item]) -> list:
        return choice_scores(subject, [(text, item.choices) for text, item in zip(prompts, items)])

    prompts, scores, note = _with_as_many_as_fit(ask, form, examples, asked)
    picks = [None if row is None else scorers.best_choice(row) for row in scores]
    hits = [None if pick is None else pick == item.gold for pick, item in zip(picks, asked)]
    shown = [
        {"prompt": text, "answer": item.choices[pick], "expected": item.choices[item.gold]}
        for text, pick, item in zip(prompts, picks, asked)
        if pick is not None
    ]
    return [rate("accuracy", hits, [item.group for item in asked], note=note)], shown


def _score(
    form: Format, asked: Sequence[Item], said: Sequence[str | None], groups: Sequence[str], note: str
) -> list[Figure]:
    if form.metric == "bleu":
        pairs = [(text, item.references) for text, item in zip(said, asked) if text is not None]
        return [_bleu(*zip(*pairs), missing=len(said) - len(pairs), note=note) if pairs else mean("BLEU", list(said))]
    score = _SCORES[form.metric]
    values = [None if text is None else score(text, item) for text, item in zip(said, asked)]
    if form.metric in ("squad", "drop"):
        exact = [None if value is None else value[0] == 1 for value in values]
        f1 = [None if value is None else value[1] for value in values]
        return [mean("F1", f1, groups, note=note), rate("exact match", exact, groups, note=note)]
    if form.metric == "noun":
        return [rate("accuracy", values, groups, note=note)]
    return [mean({"quac": "F1", "rouge": "ROUGE-L"}[form.metric], values, groups, note=note)]


def _drop(text: str, item: Item) -> tuple[float, float]:
    return scorers.drop(text, [(answer,) if isinstance(answer, str) else answer for answer in item.references])


_SCORES = {
    "squad": lambda text, item: scorers.squad(text, item.references),
    "quac": lambda text, item: scorers.quac_f1(text, item.references),
    "drop": _drop,
    "rouge": lambda text, item: scorers.rouge(text, item.references),
    "noun": lambda text, item: same_noun(text, item.references[0]) == bool(item.gold),
}


def same_noun(said: str, noun: str) -> bool:
    """WSC as the paper scores it: True when one of the two normalised nouns holds the other."""
    left, right = scorers.normalise(said), scorers.normalise(noun)
    return bool(left) and (left in right or right in left)


def _bleu(said: Sequence[str], references: Sequence[Sequence[str]], missing: int, note: str) -> Figure:
    """Corpus BLEU is no mean of sentences: its interval resamples the sentences' n-gram counts."""
    low, high = bootstrap(scorers.bleu_counts(said, references), scorers.bleu_of_counts)
    value = scorers.bleu(said, references)
    interval = Interval(value=value, low=low, high=high, n=len(said), clusters=len(said))
    return Figure(metric="BLEU", interval=interval, missing=missing, note=note)


def perplexity_figures(
    subject: Subject, path: Path, *, window: int = 1500, limit: int | None = None, seed: int = 0
) -> list[Figure]:
    """Held-out loss in nats per token, and per byte, over pieces of about `window` letters cut between lines.

    Each piece is scored on its own, with nothing before it. Per token, compare models of one tokenizer only; per byte
    compares any. The perplexity is exp(nats per token). Intervals take a piece as one draw.
    """
    pieces = _pieces(read_text(path), window)
    random.Random(seed).shuffle(pieces)
    pieces = pieces[:limit]
    pairs = zip(pieces, subject.loglikelihood([("", piece) for piece in pieces]))
    scores = [(*one, len(piece.encode())) for piece, one in pairs if one is not None]
    if not scores:
        return [Figure(metric="nats per token", interval=None, missing=len(pieces))]
    totals, tokens, sizes = np.array(scores, dtype=float).T * np.array([[-1.0], [1.0], [1.0]])
    per_token, per_byte = (
        _ratio(name, totals, by) for name, by in (("nats per token", tokens), ("nats per byte", sizes))
    )
    whole = per_token.interval
    ends = {end: math.exp(min(700.0, getattr(whole, end))) for end in ("value", "low", "high")}
    perplexity = Interval(**ends, n=whole.n, clusters=whole.clusters)
    found = [per_token, per_byte, Figure(metric="perplexity", interval=perplexity)]
    return with_missing(found, len(pieces) - len(scores))


def _ratio(metric: str, totals: np.ndarray, sizes: np.ndarray) -> Figure:
    """Sum over sum; the interval is that of the mean of the linearised pieces (Taylor), centred on the ratio."""
    value = float(totals.sum() / sizes.sum())
    pseudo = value + (totals - value * sizes) / sizes.mean()
    return mean(metric, list(pseudo))


def _pieces(text: str, window: int) -> list[str]:
    pieces, current = [], ""
    for line in text.splitlines(keepends=True):
        if current and len(current) + len(line) > window:
            pieces.append(current)
            current = ""
        current += line
    return [piece for piece in [*pieces, current] if piece.strip()]
