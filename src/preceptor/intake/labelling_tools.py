"""What other labelling tools export: Argilla's records, Label Studio's tasks, OpenAssistant's flat messages.

They say who answered what, so each person's answer is a judgement of its own, by `argilla:USER` or `label-studio:USER`.
The id and the metadata that the tool gave an item go to the prompt's `meta`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.intake.files import Row as Numbered
from preceptor.intake.formats import (
    Answer,
    BadRow,
    Format,
    Record,
    Records,
    Row,
    Skip,
    conversation,
    demonstration,
    get,
)
from preceptor.intake.preferences import records_of_tree
from preceptor.types import Message

PROMPTS = ("prompt", "instruction", "question", "input", "context", "text")  # the names under which prompts are kept
NOTHING = "nobody submitted a ranking or a text"


def _prompt(fields: Row, used: Sequence[str]) -> tuple[Message, ...]:
    """The conversation among the fields of an item: under one of the usual names, else the only field that is left."""
    left = [name for name in fields if name not in used]
    named = [name for name in PROMPTS if name in left] or [name for name in left if name in ("chat", "messages")]
    if not named and len(left) != 1:
        raise BadRow(f"which of the fields {', '.join(map(repr, left))} is the prompt? Rename it to 'prompt'")
    return conversation(fields[(named or left)[0]], "the prompt")


# -- Argilla ----------------------------------------------------------------------------------------------------


def _argilla(row: Row) -> Records:
    """A record of Argilla 1 (a list of responses, each with all its values) or 2 (questions, each with responses).

    Rankings keep their ties. What was discarded or left as a draft, suggestions of models, and answers to questions of
    other kinds (labels, ratings, spans) are not taken.
    """
    fields = get(row, "fields")
    meta = {key: row[key] for key in ("id", "external_id", "metadata") if row.get(key)}
    details = {"meta": {"argilla": meta} if meta else {}}
    found = [(user, order) for user, value in _argilla_values(row) if (order := _argilla_order(value, fields))]
    written = [(user, value) for user, value in _argilla_values(row) if isinstance(value, str) and value.strip()]
    options = sorted({name for _, order in found for name in order}) or [n for n in fields if _numbered(n)]
    messages = _prompt(fields, options)
    for user, order in found:
        names = [name for name in fields if name in order]  # in the order of the file, the same for everybody
        answers = tuple(Answer(text=conversation(fields[name])[-1].content) for name in names)
        ranks = tuple(order[name] for name in names)
        yield Record(messages=messages, answers=answers, ranks=ranks, labeler_id=user, prompt=details)
    for user, value in written:
        yield demonstration(messages, value, labeler_id=user, prompt=details)
    if not found and not written:
        yield Record(messages=messages, prompt=details)


def _argilla_values(row: Row) -> Iterator[tuple[str | None, Any]]:
    """(labeler, value) of every submitted answer to a question."""
    responses = row.get("responses") or ()
    if isinstance(responses, Mapping):  # version 2: question -> responses
        answers = [answer for several in responses.values() for answer in several]
        for answer in answers:
            if answer.get("status", "submitted") == "submitted":
                yield _user("argilla", answer.get("user_id")), answer.get("value")
        return
    for response in responses:
        if response.get("status", "submitted") == "submitted":
            for answer in (response.get("values") or {}).values():
                yield _user("argilla", response.get("user_id")), answer.get("value")


def _argilla_order(value: Any, fields: Row) -> dict[str, int] | None:
    """Field -> rank, where the value is a ranking of fields: names from best to worst, or names with ranks."""
    if isinstance(value, Mapping) and {"rank", "value"} <= set(value):  # as columns
        value = [{"rank": rank, "value": name} for rank, name in zip(value["rank"], value["value"])]
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < 2:
        return None
    if all(isinstance(item, Mapping) and "rank" in item and "value" in item for item in value):
        order = {item["value"]: item["rank"] for item in value}
    elif all(isinstance(item, str) and item in fields for item in value):
        order = {name: place for place, name in enumerate(value, 1)}
    else:
        return None
    if any(not isinstance(rank, int) or rank < 1 for rank in order.values()):
        raise BadRow(f"a ranking holds the ranks {list(order.values())!r}; they should be whole numbers from 1")
    if unknown := [name for name in order if name not in fields]:
        raise BadRow(f"a ranking names {unknown[0]!r}, which is no field of the record; give both the same name")
    return order


def _numbered(name: str) -> bool:
    """Whether a field is one of several answers, by its name: response-1, reply_2, completion3."""
    return re.fullmatch(r"(response|reply|answer|completion|generation|output|text)[ _-]?\d+", name.lower()) is not None


def _user(tool: str, key: Any) -> str | None:
    return None if key is None else f"{tool}:{key}"


# -- Label Studio -----------------------------------------------------------------------------------------------


def _label_studio(row: Row) -> Records:
    """A task with its annotations: Ranker (a list, or buckets in their order), Pairwise, TextArea.

    The export does not hold the project's configuration, so a Pairwise is read where its two tags are named like the
    fields they show, or where exactly two fields look like answers.
    """
    fields = get(row, "data")
    details = {"meta": {"label_studio": {"id": row["id"]}} if row.get("id") is not None else {}}
    annotations = [made for made in row.get("annotations") or () if not made.get("was_cancelled")]
    lists = [name for name, value in fields.items() if _items(value)]
    pair = [name for name in fields if _numbered(name)]
    messages = _prompt(fields, [*lists, *pair])
    count = 0
    for made in annotations:
        user = made.get("completed_by")
        labeler = _user("label-studio", user.get("id", user.get("email")) if isinstance(user, Mapping) else user)
        seconds = {"seconds": made["lead_time"]} if isinstance(made.get("lead_time"), int | float) else {}
        about = {"labeler_id": labeler, "prompt": details, "judgement": seconds}
        for result in get(made, "result"):
            record = _label_studio_result(result, fields, lists, pair, messages, about)
            if record is not None:
                count += 1
                yield record
    if annotations and not count:
        yield Skip(NOTHING)
    if not annotations:
        yield Record(messages=messages, prompt=details)


def _label_studio_result(result: Row, fields: Row, lists, pair, messages, about: dict[str, Any]) -> Record | None:
    value = result.get("value") or {}
    kind = result.get("type")
    if kind == "ranker":
        if len(lists) != 1:
            raise BadRow(f"a Ranker orders a list, but the task has {len(lists)} lists of items with ids")
        texts = {str(item["id"]): item for item in fields[lists[0]]}
        order = _ranker_order(value.get("ranker"), texts)
        answers = tuple(Answer(text=_item_text(texts[key]), model=texts[key].get("model")) for key in order)
        return Record(messages=messages, answers=answers, ranks=tuple(order.values()), **about) if order else None
    if kind == "pairwise":
        names = result.get("to_name")
        names = names.split(",") if isinstance(names, str) else names or []
        shown = [name.strip() for name in names if name.strip() in fields] or pair
        if len(shown) != 2:
            raise BadRow(f"a Pairwise compares two fields, but {shown or 'none'} can be told; name the tags like them")
        ranks = {"left": (1, 2), "right": (2, 1)}.get(str(value.get("selected")), (1, 1))
        answers = tuple(Answer(text=conversation(fields[name])[-1].content) for name in shown)
        return Record(messages=messages, answers=answers, ranks=ranks, **about)
    if kind == "textarea" and (texts := value.get("text")):
        written = texts if isinstance(texts, str) else "\n".join(texts)
        return demonstration(messages, written, **about) if written.strip() else None
    return None


def _ranker_order(value: Any, items: Mapping[str, Any]) -> dict[str, int]:
    """Item -> rank: the place in the list; with buckets the place of the bucket, so that its items are tied.

    Items that nobody moved stand in no list, or in the one named `_`: they have no rank.
    """
    if isinstance(value, Mapping):
        groups = [keys for name, keys in value.items() if name != "_" and keys]
        value = groups[0] if len(groups) == 1 else groups
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow(f"a Ranker gives {value!r}, neither a list of ids nor buckets of them")
    order: dict[str, int] = {}
    for place, keys in enumerate(value, 1):
        for key in keys if isinstance(keys, list) else [keys]:
            if str(key) not in items:
                raise BadRow(f"a Ranker names the item {key!r}, which the task does not have")
            order[str(key)] = place
    return order if len(order) > 1 else {}


def _items(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and "id" in item and "role" not in item for item in value)
    )


def _item_text(item: Row) -> str:
    for key in ("body", "text", "html", "title"):
        if isinstance(item.get(key), str):
            return item[key]
    raise BadRow("an item of the list has no text under 'body', 'text' or 'title'")


# -- OpenAssistant, one message a row ---------------------------------------------------------------------------


def trees_of(path: Path, rows: Iterator[Numbered]) -> Iterator[Numbered]:
    """Rows of messages, gathered into one row for each tree. The messages of a tree must stand together.

    A row is numbered by the first message of its tree. Raises UserError where a tree comes twice: then the file is
    not in the order in which such files are published, and holding all of it could take any memory.
    """
    seen: set[str] = set()
    gathered: list[Numbered] = []
    for row in rows:
        tree = row.value.get("message_tree_id") if isinstance(row.value, Mapping) else None
        if not isinstance(tree, str):
            raise UserError(f"{path}: row {row.number}: has no 'message_tree_id' (read as oasst_messages)")
        if gathered and gathered[0].value["message_tree_id"] != tree:
            yield _planted(gathered)
            gathered = []
        if not gathered:
            if tree in seen:
                raise UserError(
                    f"{path}: row {row.number}: the messages of the tree {tree!r} do not stand together; "
                    "sort the file by message_tree_id"
                )
            seen.add(tree)
        gathered.append(row)
    if gathered:
        yield _planted(gathered)


def _planted(rows: Sequence[Numbered]) -> Numbered:
    nodes = {row.value.get("message_id"): dict(row.value) | {"replies": []} for row in rows}
    roots, orphans = [], 0
    for node in nodes.values():
        parent = node.get("parent_id")
        if parent is None:
            roots.append(node)
        elif parent in nodes:
            nodes[parent]["replies"].append(node)
        else:
            orphans += 1
    tree = rows[0].value["message_tree_id"]
    return Numbered(rows[0].number, {"message_tree_id": tree, "roots": roots, "orphans": orphans})


def _messages(row: Row) -> Records:
    for root in row["roots"]:
        yield from records_of_tree(row["message_tree_id"], root)
    for _ in range(row["orphans"]):
        yield Skip("the message it answers is not in the file")


TOOLS: Sequence[Format] = (
    Format(
        "oasst_messages",
        (("message_tree_id", "message_id", "parent_id", "role", "text"), ("message_tree_id", "message_id", "role")),
        _messages,
        lambda row: "prompt" not in row,
        trees_of,
    ),
    Format("argilla", (("fields", "responses"), ("fields", "suggestions")), _argilla),
    Format(
        "label_studio",
        (("data", "annotations"),),
        _label_studio,
        lambda row: isinstance(row["data"], Mapping),
    ),
)
