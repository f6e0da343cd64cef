"""What the store holds, as JSON lines: our own format, which imports again without loss, and pairs for TRL."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.intake.disk import writing
from preceptor.intake.releases import BATCH, KINDS, Kind, release_rows
from preceptor.store import Workspace
from preceptor.types import Completion, Labeler, Message, Prompt, Ranking, comparisons


def export_own(workspace: Workspace, kind: Kind, path: Path, *, split: str | None = None) -> int:
    """Write all of `kind` (of one split, or all) with every field to `path`; returns the number of rows.

    Importing the file into another workspace gives the same prompts, labelers, answers, demonstrations and rankings.
    """
    if kind not in KINDS:
        raise UserError(f"no export of {kind!r}; choose one of: {', '.join(KINDS)}")
    labelers = {labeler.id: labeler for labeler in workspace.store.labelers()}
    if kind == "prompts":
        rows: Iterable[Mapping[str, Any]] = (
            {"id": prompt.id} | _prompt(prompt) for prompt in workspace.store.prompts(split=split)
        )
    elif kind == "demonstrations":
        rows = (
            {"id": made.id, "prompt_id": prompt.id, **_prompt(prompt), **_labeler(labelers[made.labeler_id])}
            | {"text": made.text, "rubric": made.rubric, "seconds": made.seconds}
            for made, prompt in workspace.store.demonstrations(split=split)
        )
    else:
        rows = (
            {"id": made.id, "prompt_id": prompt.id, **_prompt(prompt), **_labeler(labelers[made.labeler_id])}
            | {"answers": [_completion(answer) for answer in answers], "ranks": list(made.ranks)}
            | {"rubric": made.rubric, "seconds": made.seconds}
            for made, prompt, answers in _rankings(workspace, split)
        )
    return write_lines(path, rows)


def export_pairs(workspace: Workspace, path: Path, *, split: str = "train", conversational: bool = True) -> int:
    """Write every pair that is not tied as TRL's prompt, chosen, rejected; returns the number of pairs.

    Conversational rows hold lists of messages; plain rows hold text, with the prompt's messages joined. Models are
    trained on this file, so it takes what a release of rankings takes (`releases.freeze`): prompts with consent,
    training labelers, rubrics for training; in the training split without personal data. The pairs of one ranking
    stand together and share `ranking_id`.
    """
    rows = release_rows(workspace, "rankings", split, masked=split == "train")
    return write_lines(path, (pair for row in rows for pair in _pairs(row, conversational)))


def count_pairs(workspace: Workspace, split: str = "train") -> int:
    """How many pairs `export_pairs` writes."""
    rows = release_rows(workspace, "rankings", split, masked=False)
    return sum(len(comparisons(row["ranks"])) for row in rows)


def _pairs(row: Mapping[str, Any], conversational: bool) -> Iterator[dict[str, Any]]:
    prompt: Any = row["messages"]
    answers: list[Any] = row["answers"]
    if conversational:
        answers = [[_message(Message(role="assistant", content=answer))] for answer in answers]
    else:
        prompt = Prompt(id=row["prompt_id"], messages=tuple(Message(**message) for message in prompt)).text
    for better, worse in comparisons(row["ranks"]):
        yield {"prompt": prompt, "chosen": answers[better], "rejected": answers[worse], "ranking_id": row["id"]}


def _rankings(workspace: Workspace, split: str | None) -> Iterator[tuple[Ranking, Prompt, list[Completion]]]:
    found = workspace.store.rankings(split=split)
    while batch := list(islice(found, BATCH)):
        ids = sorted({key for ranking, _ in batch for key in ranking.completion_ids})
        completions = {completion.id: completion for completion in workspace.store.completions(ids=ids)}
        for ranking, prompt in batch:
            yield ranking, prompt, [completions[key] for key in ranking.completion_ids]


def _message(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _prompt(prompt: Prompt) -> dict[str, Any]:
    names = ("user_id", "source", "split", "use_case", "consent")
    fields = {name: getattr(prompt, name) for name in names}
    return {"messages": [_message(message) for message in prompt.messages]} | fields | {"meta": dict(prompt.meta)}


def _labeler(labeler: Labeler) -> dict[str, Any]:
    fields = asdict(labeler)
    key = fields.pop("id")
    return {"labeler_id": key, "labeler": fields}


def _completion(completion: Completion) -> dict[str, Any]:
    fields = asdict(completion)
    del fields["prompt_id"]
    return fields


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """JSON lines under a temporary name, renamed when they are all on the disk."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}.new")
    count = 0
    try:
        with writing(path):
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count
