"""How one answer is scored. Pure functions of text and log-probabilities; no model, no file.

Shares run from 0 to 1. BLEU runs from 0 to 100, as everywhere.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
from scipy.optimize import linear_sum_assignment

from preceptor.errors import need_extra

_PUNCTUATION = set(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces: the order of the SQuAD script."""
    lowered = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def token_f1(prediction: str, reference: str) -> float:
    """F1 over the bags of normalised words. When either side has no words: 1 if both have none, else 0."""
    return _bag_f1(normalise(prediction).split(), normalise(reference).split())


def _bag_f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    if not predicted or not gold:
        return float(list(predicted) == list(gold))
    shared = sum((Counter(predicted) & Counter(gold)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def exact_match(prediction: str, references: Iterable[str]) -> float:
    """1 when the normalised prediction equals one of the normalised references."""
    return max((float(normalise(prediction) == normalise(reference)) for reference in references), default=0.0)


def squad(prediction: str, references: Sequence[str], unanswerable: str = "Not in background.") -> tuple[float, float]:
    """(exact match, F1) of SQuAD 2.0, Rajpurkar et al. 2018, following the official script.

    An unanswerable question has no references (or only the `unanswerable` string); a prediction that says the
    `unanswerable` string counts as no answer. References that normalise to nothing are left out, as there.
    """
    silence = normalise(unanswerable)
    said = "" if normalise(prediction) == silence else prediction
    gold = [reference for reference in references if normalise(reference) not in ("", silence)] or [""]
    exact = max(float(normalise(said) == normalise(reference)) for reference in gold)
    return exact, max(token_f1(said, reference) for reference in gold)


def quac_f1(prediction: str, references: Sequence[str], unanswerable: str = "I don't know.") -> float:
    """F1 of QuAC (Choi et al. 2018) for one question.

    When most references (half or more) are the unanswerable string they all count as it, else those are dropped.
    With several references each is held out once, the best F1 over the rest is taken and these are averaged: so that
    people, who are scored against the others only, have the same number of references.
    """
    silence = normalise(unanswerable)
    gold = [normalise(reference) for reference in references]
    absent = sum(reference == silence for reference in gold)
    gold = [silence] if absent * 2 >= len(gold) else [reference for reference in gold if reference != silence]
    said = normalise(prediction).split()

    def score(reference: str) -> float:
        if silence in (reference, " ".join(said)):
            return float(reference == " ".join(said))
        return _bag_f1(said, reference.split())

    scores = [score(reference) for reference in gold]
    if len(scores) == 1:
        return scores[0]
    return float(np.mean([max(scores[:out] + scores[out + 1 :]) for out in range(len(scores))]))


def _drop_token(token: str) -> str:
    bare = token if _as_number(token) is not None else "".join(letter for letter in token if letter not in _PUNCTUATION)
    number = _as_number(bare)
    text = _ARTICLES.sub(" ", bare if number is None else str(number))
    return " ".join(text.split())


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _drop_words(text: str) -> tuple[str, ...]:
    parts = (_drop_token(part.lower()) for part in re.split(r"[ \-]", text))
    return tuple(" ".join(part for part in parts if part.strip()).split())


def drop(prediction: str | Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[float, float]:
    """(exact match, F1) of DROP (Dua et al. 2019), following its official script.

    `answers` are alternative gold answers, each a list of spans that are all needed. Numbers are compared as floats,
    words are split at hyphens, spans are matched one to one for the best total, and a pair whose gold span holds
    numbers scores 0 unless one of them was said. The script rounds each F1 to two decimals and so do we.
    """
    said = [prediction] if isinstance(prediction, str) else list(prediction)
    best = (0.0, 0.0)
    for spans in answers:
        if not "".join(spans).strip():
            continue
        best = max(best, _drop_against(said, spans))
    return best


def _drop_against(said: Sequence[str], spans: Sequence[str]) -> tuple[float, float]:
    predicted, gold = [_drop_words(text) for text in said], [_drop_words(text) for text in spans]
    names = ({" ".join(words) for words in predicted}, {" ".join(words) for words in gold})
    exact = float(names[0] == names[1] and len(predicted) == len(gold))
    table = np.array([[_drop_pair(set(words), set(span)) for words in predicted] for span in gold])
    rows, columns = linear_sum_assignment(-table)
    return exact, round(float(table[rows, columns].sum()) / max(len(gold), len(predicted)), 2)


def _drop_pair(predicted: set[str], gold: set[str]) -> float:
    numbers = {word for word in gold if _as_number(word) is not None}
    if numbers and not numbers & predicted:
        return 0.0
    shared = len(predicted & gold)
    precision = shared / len(predicted) if predicted else 1.0
    recall = shared / len(gold) if gold else 1.0
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = False) -> float:
    """Corpus BLEU, 0 to 100, by sacrebleu (13a tokens, exponential smoothing). `references`: per prediction, 1 or more.

    Predictions with fewer references than others are fine. Raises UserError when sacrebleu is not installed.
    """
    return _sacrebleu().corpus_bleu(list(predictions), _reference_streams(references), lowercase=lowercase).score


def bleu_counts(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = False
) -> np.ndarray:
    """What each sentence adds to corpus BLEU: matches of 1- to 4-grams, their totals, lengths. Shape (rows, 10).

    `bleu_of_counts` of the sum is `bleu`; summing resampled rows gives its bootstrap.
    """
    metric = _sacrebleu().BLEU(lowercase=lowercase)
    rows = []
    for prediction, gold in zip(predictions, references, strict=True):
        score = metric.corpus_score([prediction], [[text] for text in gold])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=float).reshape(-1, 10)


def bleu_of_counts(totals: np.ndarray) -> np.ndarray:
    """BLEU of summed counts, shape (rows, 10) -> (rows,). Orders without a match are smoothed as sacrebleu does."""
    totals = np.atleast_2d(totals)
    result = np.zeros(len(totals))
    for row, numbers in enumerate(totals):
        matched, possible, (said, wanted) = numbers[:4], numbers[4:8], numbers[8:]
        if not matched.any() or said == 0:
            continue
        halving, logs = 1.0, []
        for hit, total in zip(matched, possible):
            if total == 0:
                break
            halving *= 2 if hit == 0 else 1
            logs.append(math.log(hit / total if hit else 1 / (halving * total)))
        if len(logs) < 4:
            continue
        brevity = 1.0 if said >= wanted else math.exp(1 - wanted / said)
        result[row] = 100 * brevity * math.exp(sum(logs) / 4)
    return result


def _reference_streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    width = max((len(gold) for gold in references), default=0)
    return [[gold[place] if place < len(gold) else None for gold in references] for place in range(width)]


def _sacrebleu():
    try:
        import sacrebleu
    except ImportError:
        raise need_extra("sacrebleu", "eval") from None
    return sacrebleu


def rouge(prediction: str, references: Sequence[str], kind: str = "rougeL", *, stem: bool = True) -> float:
    """ROUGE F-measure, 0 to 1, by rouge-score; the best over the references.

    `kind`: rouge1, rouge2, rougeL, rougeLsum.
    """
    score = rouge_scorer(kind, stem)
    return max(score(prediction, reference) for reference in references)


@cache
def rouge_scorer(kind: str = "rougeL", stem: bool = True) -> Callable[[str, str], float]:
    """A function (prediction, reference) -> F-measure. Raises UserError when rouge-score is not installed."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise need_extra("rouge-score", "eval") from None
    scorer = RougeScorer([kind], use_stemmer=stem)
    return lambda prediction, reference: scorer.score(reference, prediction)[kind].fmeasure


def first_line(text: str) -> str:
    """The answer up to the first newline, as the paper cuts every automatic evaluation (Appendix D)."""
    return text.strip("\n ").split("\n", 1)[0].strip()


def best_choice(scores: Sequence[tuple[float, int]]) -> int:
    """The place of the choice with the highest mean log-probability per token; the first of equals.

    Appendix D says "lowest"; it must mean the lowest loss. A choice of no tokens is a ValueError.
    """
    if any(tokens < 1 for _, tokens in scores):
        raise ValueError("a choice has no tokens, so it has no mean log-probability")
    return int(np.argmax([total / tokens for total, tokens in scores]))


def likeliest_choice(scores: Sequence[tuple[float, int]]) -> int:
    """The place of the choice with the highest total log-probability: "acc" of lm-evaluation-harness."""
    return int(np.argmax([total for total, _ in scores]))


def likeliest_choice_per_byte(scores: Sequence[tuple[float, int]], choices: Sequence[str]) -> int:
    """The place of the choice with the highest log-probability per byte of its text.

    "acc_bytes" of lm-evaluation-harness; its "acc_norm" divides by characters, which differs beyond ASCII only.
    """
    return int(np.argmax([total / len(text.encode()) for (total, _), text in zip(scores, choices, strict=True)]))


def entropy_bits(logprobs: Sequence[float]) -> float:
    """Entropy in bits of the probabilities proportional to exp(logprobs): 1 for two equal ones, .469 for 9 to 1.

    The paper's bias figure for a pair of sentences (Appendix D): higher is less biased. `logprobs` are sums in nats.
    """
    logs = np.asarray(logprobs, dtype=float)
    logs = logs - np.logaddexp.reduce(logs)
    return float(-np.sum(np.exp(logs) * logs) / math.log(2)) + 0.0
