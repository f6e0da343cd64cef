"""The formats in which people, or models, preferred one answer over another: each becomes ranks with ties."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from preceptor.intake.formats import (
    Answer,
    BadRow,
    Format,
    Record,
    Records,
    Row,
    Skip,
    conversation,
    dialogue,
    get,
    joined,
    message,
    meta,
    split_answer,
    string,
    text,
    user,
)
from preceptor.types import Message

NOT_TRANSITIVE = "preferences that fit no ranking, kept as pairs"


def ranks_of_scores(scores: Sequence[float]) -> tuple[int, ...]:
    """Rank 1 for the highest score; equal scores are ties: (1.5, 0.5, 1.5) -> (1, 3, 1)."""
    return tuple(1 + sum(other > score for other in scores) for score in scores)


def ranks_of_pairs(count: int, preferences: Mapping[tuple[int, int], int]) -> tuple[int, ...] | None:
    """The ranking with ties that agrees with every pair, or None where none does.

    `preferences[i, j]` (i < j, all pairs) is 0 for a tie, 1 where i won, 2 where j won. A ranking that agrees
    exists exactly where ranking by the number of answers that beat one reproduces every pair.
    """
    beaten = [1] * count
    for (i, j), preference in preferences.items():
        if preference:
            beaten[j if preference == 1 else i] += 1
    for (i, j), preference in preferences.items():
        implied = 0 if beaten[i] == beaten[j] else 1 if beaten[i] < beaten[j] else 2
        if implied != preference:
            return None
    return tuple(beaten)


def _choice(value: Any, known: Mapping[Any, tuple[int, int]], what: str) -> tuple[int, int]:
    if isinstance(value, bool) or value not in known:
        raise BadRow(f"{what} is {value!r}; known: {', '.join(map(str, known))}")
    return known[value]


def _dialogues(texts: Sequence[str], ranks: tuple[int, ...]) -> Record | Skip:
    """Dialogues that differ in their last answer only."""
    parts = [split_answer(dialogue(value)) for value in texts]
    if any(part is None for part in parts):
        return Skip("a dialogue ends without an answer")
    found = [part for part in parts if part is not None]
    if any(part[0] != found[0][0] for part in found):
        return Skip("the dialogues differ before their last answer")
    return Record(messages=found[0][0], answers=tuple(Answer(text=part[1]) for part in found), ranks=ranks)


def _pair(row: Row) -> Records:
    """chosen and rejected: whole HH dialogues, or answers to `prompt`, each plain or conversational (TRL)."""
    chosen, rejected = get(row, "chosen"), get(row, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if "prompt" in row:
            prompt = conversation(row["prompt"], "'prompt'")
            yield Record(messages=prompt, answers=(Answer(text=chosen), Answer(text=rejected)), ranks=(1, 2))
        else:
            yield _dialogues([chosen, rejected], (1, 2))
        return
    sides = [conversation(chosen, "'chosen'"), conversation(rejected, "'rejected'")]
    before: tuple[Message, ...] = conversation(row["prompt"], "'prompt'") if "prompt" in row else ()
    whole = [side if side[: len(before)] == before else before + side for side in sides]
    parts = [split_answer(side) for side in whole]
    if parts[0] is None or parts[1] is None:
        yield Skip("a dialogue ends without an answer")
    elif parts[0][0] != parts[1][0]:
        yield Skip("the dialogues differ before their last answer")
    else:
        answers = (Answer(text=parts[0][1]), Answer(text=parts[1][1]))
        yield Record(messages=parts[0][0], answers=answers, ranks=(1, 2))


def _scored(row: Row) -> Records:
    """K dialogues in `text` with K numbers in `score`, higher is better (HH as cleaned, WebGPT)."""
    texts, scores = get(row, "text"), get(row, "score")
    if not isinstance(scores, Sequence) or len(scores) != len(texts):
        raise BadRow(f"{len(texts)} texts but 'score' is {scores!r}; give one number for each text")
    if not all(isinstance(score, int | float) and not isinstance(score, bool) for score in scores):
        raise BadRow(f"'score' holds something that is no number: {scores!r}")
    if len(texts) < 2:
        raise BadRow(f"a ranking needs at least 2 answers, this one has {len(texts)}")
    yield _dialogues([string(value, "an element of 'text'") for value in texts], ranks_of_scores(scores))


def _correct(row: Row) -> Records:
    """HHH: text_correct and text_incorrect are whole dialogues."""
    yield _dialogues([text(row, "text_correct"), text(row, "text_incorrect")], (1, 2))


def _fine_grained(row: Row) -> Records:
    """QA-Feedback: four answers and six pairwise preferences (0 tie, 1 first, 2 second).

    Where they fit a ranking with ties, that is it; else each pair is kept as a ranking of two, and noted. The
    retrieved passages are left out of the prompt: they alone are longer than the length rule allows.
    """
    prompt = user(text(row, "question"))
    answers = tuple(Answer(text=text(row, f"prediction {number}")) for number in range(1, 5))
    preference = get(row, "preference")
    pairs = list(combinations(range(4), 2))
    if len(preference) != len(pairs) or any(value not in (0, 1, 2) for value in preference):
        raise BadRow(f"'preference' is {preference!r}; it should hold 6 values of 0, 1 or 2")
    ranks = ranks_of_pairs(4, dict(zip(pairs, preference)))
    if ranks is not None:
        yield Record(messages=prompt, answers=answers, ranks=ranks)
        return
    for (i, j), value in zip(pairs, preference):
        ranks = ((1, 1), (1, 2), (2, 1))[value]
        yield Record(messages=prompt, answers=(answers[i], answers[j]), ranks=ranks, note=NOT_TRANSITIVE)


_EVAL = {1: (1, 2), 2: (2, 1), 1.5: (1, 1), 0: (1, 1)}


def _alpaca_eval(row: Row) -> Records:
    """A reference and candidates that were each judged against it (1 reference wins, 2 candidate wins, 1.5 or 0 tie).

    Every judged pair is a ranking of two: candidates were never compared with each other.
    """
    prompt = user(text(row, "instruction"))
    details = meta(row, "dataset")
    if "output_1" in row:
        answers = tuple(Answer(text=text(row, f"output_{n}"), model=row.get(f"generator_{n}")) for n in (1, 2))
        ranks = _choice(row.get("preference"), _EVAL, "'preference'")
        annotator = row.get("annotator")
        yield Record(messages=prompt, answers=answers, ranks=ranks, prompt=details, labeler_id=annotator)
        return
    reference = get(row, "reference")
    first = Answer(text=text(reference, "output"), model=reference.get("generator"))
    for candidate in get(row, "candidates"):
        second = Answer(text=text(candidate, "output"), model=candidate.get("generator"))
        ranks = _choice(get(candidate, "preference"), _EVAL, "'preference'")
        yield Record(messages=prompt, answers=(first, second), ranks=ranks, prompt=details)


def _pandalm(row: Row) -> Records:
    """Two answers and up to several annotators (0 tie, 1 first, 2 second): one ranking for each annotator."""
    prompt = user(joined(text(row, "instruction"), text(row, "input")))
    models = str(row.get("cmp_key", "")).split("_")
    for key in ("response1", "response2"):
        if not isinstance(get(row, key), str):
            yield Skip(f"an answer is {type(row[key]).__name__}, not text")
            return
    names: Sequence[str | None] = models if len(models) == 2 else (None, None)
    answers = tuple(Answer(text=text(row, f"response{n}"), model=names[n - 1]) for n in (1, 2))
    for key in (key for key in row if key.startswith("annotator")):
        ranks = _choice(row[key], {0: (1, 1), 1: (1, 2), 2: (2, 1)}, f"'{key}'")
        yield Record(messages=prompt, answers=answers, ranks=ranks, labeler_id=f"pandalm:{key}")


def _auto_j(row: Row) -> Records:
    """label: 0 first is better, 1 second is better, 2 tie."""
    ranks = _choice(get(row, "label"), {0: (1, 2), 1: (2, 1), 2: (1, 1)}, "'label'")
    answers = tuple(Answer(text=text(row, f"response {n}").strip()) for n in (1, 2))
    yield Record(messages=user(text(row, "prompt")), answers=answers, ranks=ranks, prompt=meta(row, "scenario"))


def _tree(row: Row) -> Records:
    """An OpenAssistant tree: a record for every user's message with its replies, ranked where people ranked them.

    Ranks count from 0 in the file; equal ranks stay ties. Where only some siblings are ranked, the others are left
    out of the ranking. Without ranks the first reply is kept as a demonstration.
    """
    yield from records_of_tree(string(row.get("message_tree_id", ""), "'message_tree_id'"), get(row, "prompt"))


def records_of_tree(tree: str, root: Row) -> Records:
    """The records of the tree named `tree` below its first message."""
    waiting: list[tuple[tuple[Message, ...], Row]] = [((), root)]
    while waiting:
        before, node = waiting.pop()
        here = (*before, message(get(node, "role"), get(node, "text")))
        replies = [reply for reply in node.get("replies", ()) if not reply.get("deleted")]
        waiting += [(here, reply) for reply in reversed(replies)]
        if here[-1].role == "user":
            yield _siblings(here, replies, tree)


def _siblings(messages: tuple[Message, ...], replies: Sequence[Row], tree: str) -> Record:
    ranked = [reply for reply in replies if isinstance(reply.get("rank"), int)]
    if len(ranked) >= 2:
        ranks = tuple(reply["rank"] + 1 for reply in ranked)
        return Record(messages=messages, answers=tuple(map(_reply, ranked)), ranks=ranks, group=tree)
    return Record(messages=messages, answers=tuple(map(_reply, replies[:1])), group=tree)


def _reply(reply: Row) -> Answer:
    model = reply.get("model_name") if reply.get("synthetic") else "person"
    return Answer(text=text(reply, "text"), model=model)


RANKED: Sequence[Format] = (
    Format("oasst", (("message_tree_id", "prompt"),), _tree),
    Format("finegrained_qa", (("question", "prediction 1", "preference"),), _fine_grained),
    Format("alpaca_eval", (("reference", "candidates"), ("output_1", "output_2", "preference")), _alpaca_eval),
    Format("pandalm", (("response1", "response2", "annotator1"),), _pandalm),
    Format("auto_j", (("response 1", "response 2", "label"),), _auto_j),
    Format("hhh", (("text_correct", "text_incorrect"),), _correct),
    Format("scored", (("text", "score"),), _scored, lambda row: isinstance(row["text"], list)),
    Format("pairs", (("chosen", "rejected"),), _pair),
)
