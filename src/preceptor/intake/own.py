"""Our own JSON lines: what a person would write by hand, what a release holds and what `export` writes.

    {"prompt": "Name a colour."}
    {"prompt": "Name a colour.", "text": "Blue.", "labeler_id": "ana"}
    {"prompt": "Name a colour.", "answers": ["Blue.", "Seven."], "ranks": [1, 2], "labeler_id": "ana"}

`messages` may stand for `prompt`; an answer may be an object with `text`, `model_id` and more. Every other field of
the noun may be given too. `id` is the id of the row's own noun, `prompt_id` that of its prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from preceptor.intake.formats import Answer, BadRow, Format, Record, Records, Row, conversation, get, string, text
from preceptor.types import SPLITS, Cohort, FinishReason, Source

PROMPT_FIELDS = {
    "user_id": (str, type(None)),
    "source": (str,),
    "split": (str,),
    "use_case": (str, type(None)),
    "consent": (bool,),
    "meta": (dict,),
}
CHOICES = {
    "split": SPLITS,
    "source": get_args(Source),
    "cohort": get_args(Cohort),
    "finish_reason": get_args(FinishReason),
}
JUDGEMENT_FIELDS = {"rubric": (str,), "seconds": (int, float, type(None))}
LABELER_FIELDS = {"name": (str,), "cohort": (str,), "simulated": (bool,), "screening": (dict,)}
SAMPLING_FIELDS = {"temperature": (int, float), "top_p": (int, float), "max_new_tokens": (int,), "seed": (int,)}
ANSWER_FIELDS = {"id": (str,), "sampling": (dict,), "finish_reason": (str,)}


def _fields(row: Row, known: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """The fields of `row` that are in `known`, each of one of its types."""
    found = {}
    for key, types in known.items():
        if key not in row:
            continue
        if not isinstance(row[key], types) or (isinstance(row[key], bool) and bool not in types):
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise BadRow(f"{key!r} is {row[key]!r}, not {names}")
        if key in CHOICES and row[key] not in CHOICES[key]:
            raise BadRow(f"{key!r} is {row[key]!r}; known: {', '.join(CHOICES[key])}")
        found[key] = row[key]
    return found


def _own(row: Row) -> Records:
    messages = conversation(get(row, "messages", "prompt"), "'messages'" if "messages" in row else "'prompt'")
    prompt = _fields(row, PROMPT_FIELDS)
    judged = "text" in row or "ranks" in row or "answers" in row
    key = "prompt_id" if judged or "prompt_id" in row else "id"
    if row.get(key) is not None:
        prompt["id"] = string(row[key], repr(key))
    if not judged:
        yield Record(messages=messages, prompt=prompt)
        return
    judgement = _fields(row, JUDGEMENT_FIELDS)
    if row.get("id") is not None:
        judgement["id"] = string(row["id"], "'id'")
    labeler_id = None if row.get("labeler_id") is None else string(row["labeler_id"], "'labeler_id'")
    labeler = _fields(row.get("labeler", row), LABELER_FIELDS)
    if "text" in row:
        answers, ranks = (Answer(text=text(row, "text")),), None
    else:
        answers, ranks = _answers(row), _ranks(row)
        if len(answers) < 2:
            raise BadRow(f"a ranking needs at least 2 answers, this one has {len(answers)}")
        if len(answers) != len(ranks):
            raise BadRow(f"{len(answers)} answers but {len(ranks)} ranks; give one rank for each answer")
    yield Record(
        messages=messages,
        answers=answers,
        ranks=ranks,
        labeler_id=labeler_id,
        prompt=prompt,
        labeler=labeler,
        judgement=judgement,
    )


def _fields_only(row: Row, known: Mapping[str, tuple[type, ...]], what: str) -> None:
    if unknown := set(row) - set(known):
        raise BadRow(f"{what} has {sorted(unknown)[0]!r}; known: {', '.join(known)}")
    _fields(row, known)


def _answers(row: Row) -> tuple[Answer, ...]:
    values = get(row, "answers")
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise BadRow("'answers' is no list")
    models = row.get("models") or [None] * len(values)
    if len(models) != len(values):
        raise BadRow(f"{len(values)} answers but {len(models)} models; give one model for each answer")
    answers = []
    for value, model in zip(values, models):
        if isinstance(value, Mapping):
            model = value.get("model_id", model)
            details = _fields(value, ANSWER_FIELDS)
            _fields_only(details.get("sampling", {}), SAMPLING_FIELDS, "'sampling'")
            answers.append(Answer(text=text(value, "text"), model=model, details=details))
        else:
            answers.append(Answer(text=string(value, "an answer"), model=model))
    return tuple(answers)


def _ranks(row: Row) -> tuple[int, ...]:
    ranks = get(row, "ranks")
    if not isinstance(ranks, Sequence) or not all(type(rank) is int and rank >= 1 for rank in ranks):
        raise BadRow(f"'ranks' is {ranks!r}; it should hold whole numbers, 1 for the best, equal for a tie")
    return tuple(ranks)


_OF_PROMPTS = ("id", "prompt_id", "user_id", "source", "use_case", "split", "consent", "meta")
_MARKS = (*_OF_PROMPTS, "text", "answers", "ranks", "labeler_id")

OWN = Format(
    "preceptor",
    tuple((prompt, mark) for prompt in ("prompt", "messages") for mark in _MARKS),
    _own,
    lambda row: not ("text_correct" in row or "chosen" in row or "completion" in row or "message_tree_id" in row),
)
