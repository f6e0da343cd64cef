"""How varied a model's answers are, and how they changed: training on one reward narrows what a model says.

All of it counts words; no embedding model is asked. Statistics are per prompt, over its samples, and averaged over
prompts, so that prompts of different subjects do not pass for variety.
"""

import math
from collections import Counter
from collections.abc import Sequence

from preceptor.evaluation import refusals, scorers
from preceptor.evaluation.ngrams import words
from preceptor.evaluation.results import Figure, mean, rate
from preceptor.evaluation.subject import Subject
from preceptor.types import Message


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams of words over all n-grams (Li et al. 2016); None when there are none.

    Falls with the amount of text, so compare equal numbers of samples of about equal length.
    """
    grams = [gram for text in texts for gram in _grams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU (0 to 100) of each text against the others (Zhu et al. 2018): 100 when all say the same."""
    if len(texts) < 2:
        return None
    values = []
    for place, text in enumerate(texts):
        others = [other for at, other in enumerate(texts) if at != place]
        values.append(float(scorers.bleu_of_counts(scorers.bleu_counts([text], [others]))[0]))
    return sum(values) / len(values)


def word_entropy(texts: Sequence[str]) -> float | None:
    """Entropy in bits of the words of all texts together; None when there are none."""
    counts = Counter(word for text in texts for word in words(text))
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values()) + 0.0 if total else None


def clusters(texts: Sequence[str], likeness: float = 0.5) -> list[int]:
    """A cluster number for each text: two whose word pairs overlap by `likeness` (Jaccard) or more are joined.

    Joining is transitive (single linkage). Numbers start at 0 in order of appearance.
    """
    sets = [set(_grams(["<", *words(text), ">"], 2)) for text in texts]
    labels = list(range(len(texts)))
    for right in range(len(texts)):
        for left in range(right):
            if labels[left] != labels[right] and _jaccard(sets[left], sets[right]) >= likeness:
                gone, kept = max(labels[left], labels[right]), min(labels[left], labels[right])
                labels = [kept if label == gone else label for label in labels]
    order = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [order[label] for label in labels]


def _jaccard(left: set, right: set) -> float:
    return len(left & right) / len(left | right)


def _grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def sample(
    subject: Subject, prompts: Sequence[str], *, samples: int, temperature: float, max_new_tokens: int, seed: int = 0
) -> list[list[str]]:
    """`samples` answers to each prompt through the chat template. Shape (prompts, samples); a prompt that the model
    cannot take in is left out."""
    asked = [[Message(role="user", content=prompt)] for prompt in prompts for _ in range(samples)]
    said = subject.answer(asked, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    groups = [said[start : start + samples] for start in range(0, len(said), samples)]
    return [[text for text in group if text is not None] for group in groups if None not in group]


def figures(answers: Sequence[Sequence[str]]) -> list[Figure]:
    """Variety, length, refusals, hedges of samples, shape (prompts, samples). Intervals take a prompt as one draw."""
    flat = [(place, text) for place, said in enumerate(answers) for text in said]
    prompts = [place for place, _ in flat]
    return [
        *(mean(f"distinct-{n}", [distinct_n(said, n) for said in answers]) for n in (1, 2, 3)),
        mean("self-BLEU", [self_bleu(said) for said in answers]),
        mean("word entropy (bits)", [word_entropy(said) for said in answers]),
        mean("clusters per sample", [len(set(clusters(said))) / len(said) for said in answers]),
        mean("length (words)", [float(len(text.split())) for _, text in flat], prompts),
        rate("refusals", [refusals.refuses(text) for _, text in flat], prompts),
        rate("hedges", [refusals.hedges(text) for _, text in flat], prompts),
    ]
