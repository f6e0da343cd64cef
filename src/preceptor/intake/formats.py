"""From a row of a public format to a Record: a conversation, the answers to it, and their ranks where people ranked.

Detection walks `readers.FORMATS`, the most particular first. A format is a name, the keys that give it away
and a function from a row to its records. A row that cannot be what its format says raises BadRow (the import stops);
a row with nothing to learn from gives a Skip (it is counted, the import goes on).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor.types import RED_TEAM, Message

Row = Mapping[str, Any]


class BadRow(ValueError):
    """The row is not what its format says. The message is what to tell the user, without file and row."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a row, or a part of one, has nothing to import."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """`details` are the further fields of a Completion that our own exports keep: id, sampling, finish_reason."""

    text: str
    model: str | None = None
    details: Row = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A prompt with what people did about it.

    `ranks` (1 is best, equal is a tie) belong to `answers`; None where nobody ranked. `group` is what must not be
    torn apart by a split where there is no user. `prompt`, `labeler` and `judgement` hold further fields of Prompt,
    Labeler and of Demonstration or Ranking. `note` is a remark that is counted in the report.
    """

    messages: tuple[Message, ...]
    answers: tuple[Answer, ...] = ()
    ranks: tuple[int, ...] | None = None
    labeler_id: str | None = None
    group: str | None = None
    note: str | None = None
    prompt: Row = field(default_factory=dict)
    labeler: Row = field(default_factory=dict)
    judgement: Row = field(default_factory=dict)


Records = Iterator[Record | Skip]


@dataclass(frozen=True, slots=True)
class Format:
    """`keys`: alternatives; the format is recognised where every key of one alternative is in the row.

    `gather` is for formats that spread one thing over several rows: it makes one row of them.
    """

    name: str
    keys: tuple[tuple[str, ...], ...]
    records: Callable[[Row], Records]
    check: Callable[[Row], bool] = lambda row: True
    gather: Callable[[Path, Iterator[Any]], Iterator[Any]] = lambda path, rows: rows

    def matches(self, row: Any) -> bool:
        return (
            isinstance(row, Mapping) and any(all(key in row for key in keys) for keys in self.keys) and self.check(row)
        )


# -- values ---------------------------------------------------------------------------------------------------


def get(row: Row, *keys: str) -> Any:
    """The value of the first of `keys` that is there."""
    for key in keys:
        if key in row:
            return row[key]
    there = ", ".join(map(str, list(row)[:8])) or "nothing"
    raise BadRow(f"has no {' or '.join(map(repr, keys))} (it has: {there}); mend the row or name the keys with --map")


def string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{what} is {type(value).__name__}, not text")
    return value


def text(row: Row, *keys: str) -> str:
    return string(get(row, *keys), repr(keys[0]))


def user(content: str) -> tuple[Message, ...]:
    return (Message(role="user", content=content),)


ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
}


def message(role: Any, content: Any) -> Message:
    if role not in ROLES:
        raise BadRow(f"a message has the role {role!r}; known: {', '.join(ROLES)}")
    if isinstance(content, Mapping) and "answer" in content:  # arena-hard keeps its answers so
        content = content["answer"]
    return Message(role=ROLES[role], content=string(content, "the content of a message"))  # type: ignore[arg-type]


def conversation(value: Any, what: str = "'messages'") -> tuple[Message, ...]:
    """Messages from text (one of the user) or from a list of {role, content} or {from, value}."""
    if isinstance(value, str):
        return user(value)
    if not isinstance(value, Sequence) or not value or not all(isinstance(item, Mapping) for item in value):
        raise BadRow(f"{what} is neither text nor a list of messages with role and content")
    return tuple(message(get(item, "role", "from"), get(item, "content", "value")) for item in value)


_TURN = re.compile(r"(?:^|\n\n)(?:## )?(Human|Assistant):")


def dialogue(value: str) -> tuple[Message, ...]:
    """Messages from "\\n\\nHuman: ...\\n\\nAssistant: ..." (also with "## " before the names)."""
    parts = _TURN.split(value)
    if len(parts) < 3 or parts[0].strip():
        raise BadRow('is no dialogue: it does not begin with "\\n\\nHuman:"')
    return tuple(message(role.lower(), content.strip()) for role, content in zip(parts[1::2], parts[2::2]))


def split_answer(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str] | None:
    """The conversation before the last answer, and that answer; None where it does not end with one."""
    if len(messages) < 2 or messages[-1].role != "assistant":
        return None
    return messages[:-1], messages[-1].content


def joined(instruction: str, given: str) -> str:
    """An instruction with its input below it, as the paper's prompts have them."""
    return f"{instruction.rstrip()}\n\n{given.strip()}" if given.strip() else instruction.strip()


def demonstration(messages: tuple[Message, ...], answer: str, **rest: Any) -> Record:
    return Record(messages=messages, answers=(Answer(text=answer),), **rest)


def meta(row: Row, *keys: str) -> dict[str, Any]:
    """`keys` of the row as the `meta` of its prompt."""
    return {"meta": {key: row[key] for key in keys if row.get(key) not in (None, "")}}


# -- demonstrations and prompts -------------------------------------------------------------------------------


def _alpaca(row: Row) -> Records:
    """Alpaca, and Dolly under both its key names. The category of Dolly goes to `meta`."""
    given = row.get("input", row.get("context")) or ""
    prompt = user(joined(text(row, "instruction"), string(given, "'input'")))
    yield demonstration(prompt, text(row, "output", "response"), prompt=meta(row, "category"))


def _lima(row: Row) -> Records:
    """Earlier turns in `history` as [user, assistant] pairs."""
    earlier: list[Message] = []
    for turn in get(row, "history"):
        if not isinstance(turn, Sequence) or len(turn) != 2:
            raise BadRow("'history' is no list of [user, assistant] pairs")
        earlier += [message("user", turn[0]), message("assistant", turn[1])]
    prompt = user(joined(text(row, "instruction"), string(row.get("input") or "", "'input'")))
    yield demonstration((*earlier, *prompt), text(row, "output"))


def _self_instruct(row: Row) -> Records:
    """A task with instances: one demonstration for each."""
    instances = get(row, "instances")
    if not isinstance(instances, Sequence) or not instances:
        raise BadRow("'instances' is no list of {input, output}")
    for instance in instances:
        prompt = user(joined(text(row, "instruction"), text(instance, "input")))
        yield demonstration(prompt, text(instance, "output"), prompt=meta(row, "name", "motivation_app"))


def _prediction(row: Row) -> Records:
    """A self-instruct prediction: `target` was written by a person, `response` by a model; the target is taken."""
    yield demonstration(user(joined(text(row, "instruction"), text(row, "input"))), text(row, "target").strip())


def _messages(row: Row) -> Records:
    """A conversation. Where it ends with an answer, that is the demonstration; else it is a prompt."""
    value = get(row, "messages", "conversations", "conversation")
    if isinstance(value, Sequence) and value and all(isinstance(item, str) for item in value):  # LIMA as released
        value = [{"role": ("user", "assistant")[place % 2], "content": item} for place, item in enumerate(value)]
    messages = conversation(value)
    parts = split_answer(messages)
    author = f"model:{row['model']}" if isinstance(row.get("model"), str) else None
    if parts is None:
        yield Record(messages=messages)
    else:
        yield demonstration(parts[0], parts[1], labeler_id=author)


def _turns(row: Row) -> Records:
    """MT-bench: the first turn is the prompt, for later ones need an answer in between; all are kept in `meta`."""
    turns = get(row, "turns")
    if not isinstance(turns, Sequence) or not turns:
        raise BadRow("'turns' is no list of questions")
    texts = [string(turn["content"] if isinstance(turn, Mapping) else turn, "a turn") for turn in turns]
    further = {"turns": texts} if len(texts) > 1 else {}
    yield Record(messages=user(texts[0]), prompt={"meta": meta(row, "category")["meta"] | further})


def _completion(row: Row) -> Records:
    """TRL's prompt-completion, plain or conversational; of its unpaired preferences those with label true."""
    if row.get("label", True) is False:
        yield Skip("labelled as a bad answer")
        return
    answer = get(row, "completion")
    if not isinstance(answer, str):
        answer = conversation(answer, "'completion'")[-1].content
    yield demonstration(conversation(get(row, "prompt"), "'prompt'"), answer)


def _question(row: Row) -> Records:
    """A question, below its `context` where it has one, with an answer (gsm8k, halueval) or alone."""
    question = text(row, "question", "Question", "query", "user_query")
    passage = row.get("context")
    prompt = user(joined(passage, question) if isinstance(passage, str) else question)
    answer = row.get("answer", row.get("chatgpt_response", row.get("Best Answer")))
    details = meta(row, "Category", "Type")
    if isinstance(answer, str):
        yield demonstration(prompt, answer, prompt=details)
    else:
        yield Record(messages=prompt, prompt=details)


def _squad(row: Row) -> Records:
    """SQuAD's nested layout: passage and question, the first answer, or a skip where there is none."""
    for article in get(row, "data"):
        for paragraph in get(article, "paragraphs"):
            passage = text(paragraph, "context")
            for item in get(paragraph, "qas"):
                prompt = user(joined(passage, text(item, "question")))
                if item.get("answers"):
                    yield demonstration(prompt, text(item["answers"][0], "text"), group=passage)
                else:
                    yield Record(messages=prompt, group=passage)


def _instruction(row: Row) -> Records:
    """An instruction that waits for its answer."""
    prompt = user(joined(text(row, "instruction"), string(row.get("input") or "", "'input'")))
    yield Record(messages=prompt, prompt=meta(row, "category", "motivation_app"))


def _prompt(row: Row) -> Records:
    value = get(row, "prompt", "line", "Prompt", "goal")
    if isinstance(value, Mapping):  # RealToxicityPrompts
        value = text(value, "text")
    yield Record(messages=conversation(value, "'prompt'"), prompt=meta(row, "category", "cluster", "Category"))


def _behaviour(row: Row) -> Records:
    """HarmBench, AdvBench: what a model should refuse. For testing alone, so never in the training split."""
    value = text(row, "Behavior", "goal")
    if isinstance(row.get("ContextString"), str) and row["ContextString"]:
        value = joined(value, row["ContextString"])
    fields = meta(row, "category", "Category", "SemanticCategory", "BehaviorID")
    fields["meta"] = {**fields.get("meta", {}), "wanted_for": RED_TEAM}
    yield Record(messages=conversation(value, "'Behavior'"), prompt={**fields, "split": "test", "source": "plain"})


def _nested_prompts(row: Row) -> Records:
    """BOLD: {group: {entity: [prompt, ...]}}."""
    for group, entities in row.items():
        for prompts in entities.values():
            for prompt in prompts:
                yield Record(messages=user(string(prompt, "a prompt")), prompt={"meta": {"group": group}})


def _is_nested(row: Row) -> bool:
    return bool(row) and all(
        isinstance(entities, Mapping) and all(isinstance(prompts, list) for prompts in entities.values())
        for entities in row.values()
    )


INSTRUCTIONS: Sequence[Format] = (
    Format("self_instruct", (("instruction", "instances"),), _self_instruct),
    Format("self_instruct_prediction", (("instruction", "response", "target"),), _prediction),
    Format("lima", (("instruction", "output", "history"),), _lima),
    Format("dolly", (("instruction", "response"), ("instruction", "output", "category")), _alpaca),
    Format("alpaca", (("instruction", "output"),), _alpaca),
    Format("instruction", (("instruction",),), _instruction),
)

PLAIN: Sequence[Format] = (
    Format("mt_bench", (("turns",),), _turns),
    Format("messages", (("messages",), ("conversations",), ("conversation",)), _messages),
    Format("prompt_completion", (("prompt", "completion"),), _completion),
    Format("squad", (("data", "version"),), _squad),
    Format("question", (("question",), ("Question",), ("query",), ("user_query",)), _question),
    Format("behaviours", (("Behavior",), ("goal", "target")), _behaviour),
    Format("prompt", (("prompt",), ("line",), ("Prompt",), ("goal",)), _prompt),
    Format("nested_prompts", ((),), _nested_prompts, _is_nested),
)
