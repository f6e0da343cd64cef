"""Frozen data: training reads a release or a corpus file, never the live database.

A release is `releases/NAME.jsonl` (rows in order of id, one JSON object per line) with a manifest `NAME.json` beside
it. A corpus is `corpus/NAME-HASH.jsonl.zst` with rows `{"text": ...}`. Both are checked against their SHA-256 before
a row is handed out.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import zstandard

from preceptor.errors import UserError
from preceptor.intake.disk import writing
from preceptor.intake.names import presidio_finder
from preceptor.intake.pii import mask
from preceptor.store import Workspace
from preceptor.types import Prompt, Purpose, Release

Kind = Literal["demonstrations", "rankings", "prompts"]
KINDS: tuple[Kind, ...] = ("demonstrations", "rankings", "prompts")
BATCH = 500  # rankings whose completions are fetched together
VALID_PERCENT = 2


def freeze(
    workspace: Workspace,
    kind: Kind,
    *,
    split: str = "train",
    cohort: str | None = "training",
    purpose: Purpose | None = "training",
    source: str | None = None,
    name: str | None = None,
    mask_personal_data: bool = True,
) -> Release:
    """Write what the store holds of `kind` to a file that does not change any more, and record it.

    Only prompts whose user consented go in. `cohort` (None: all) chooses the labelers of demonstrations and rankings,
    `purpose` (None: all) the rubric of rankings, `source` (None: all) the prompts. A ranking made under a rubric for
    evaluation, where truth and harm come first, so never trains a reward model unless it is asked for. In the
    training split, personal data that `pii.find` finds is masked, and with `presidio = "MODEL"` in `preceptor.toml`
    names and places too. The same content gives the same release: nothing is
    written twice. The path of the release that is returned is absolute; the database and the manifest keep it
    relative to the workspace.
    Raises UserError where there is nothing to freeze or `name` belongs to other content.
    """
    if kind not in KINDS:
        raise UserError(f"no release of {kind!r}; choose one of: {', '.join(KINDS)}")
    filters = {"split": split, "consent": True, "source": source, "masked": mask_personal_data and split == "train"}
    if kind != "prompts":
        filters["cohort"] = cohort
    if kind == "rankings":
        filters["purpose"] = purpose
    folder = workspace.root / "releases"
    temporary = folder / f".{kind}-{split}-{os.getpid()}.new"
    try:
        with writing(folder):
            folder.mkdir(exist_ok=True)
            found = release_rows(
                workspace, kind, split, cohort=cohort, purpose=purpose, source=source, masked=filters["masked"]
            )
            sha256, rows = _write_rows(temporary, found)
            if rows == 0:
                names = ("split", "source", "cohort", "purpose")
                chosen = ", ".join(f"{key} {filters[key]}" for key in names if filters.get(key))
                raise UserError(f"no {kind} to freeze ({chosen}); import some, or choose another {', '.join(names)}")
            return _record(workspace, temporary, kind, sha256, rows, filters, name)
    finally:
        temporary.unlink(missing_ok=True)


def _record(
    workspace: Workspace,
    temporary: Path,
    kind: str,
    sha256: str,
    rows: int,
    filters: Mapping[str, Any],
    name: str | None,
) -> Release:
    """Give the file its name, write the manifest, and tell the database last: what it names is there."""
    name = name or f"{kind}-{filters['split']}-{sha256[:12]}"
    path = workspace.root / "releases" / f"{name}.jsonl"
    release = Release(name=name, kind=kind, path=f"releases/{name}.jsonl", sha256=sha256, rows=rows)
    known = {old.name: old for old in workspace.store.releases()}.get(name)
    if known is not None and known != release:
        raise UserError(f"the release {name!r} exists with other content; choose another name")
    manifest = path.with_suffix(".json")
    new = manifest.with_name(f".{manifest.name}.new")
    try:
        if known is None or not manifest.is_file():
            created = datetime.now(UTC).isoformat(timespec="seconds")
            text = json.dumps(asdict(release) | {"filters": filters, "created": created}, indent=1, ensure_ascii=False)
            new.write_text(text + "\n", encoding="utf-8")
            new.replace(manifest)  # before the rows: rows without a manifest cannot be read
        temporary.replace(path)
    finally:
        new.unlink(missing_ok=True)
    if known is None:
        workspace.store.add_release(release, filters)
    return replace(release, path=str(path))


def read_release(release: Release | Path | str) -> Iterator[dict[str, Any]]:
    """The rows of a release, given as `freeze` returned it or as the path of its `.jsonl`.

    The whole file is checked before this function returns; raises UserError where it is missing or was changed.
    """
    path = Path(release.path if isinstance(release, Release) else release)
    expected = release.sha256 if isinstance(release, Release) else _manifest(path)["sha256"]
    _check(path, expected)
    return _json_lines(path)


def releases(workspace: Workspace, kind: Kind | None = None) -> list[Release]:
    """The releases of a workspace, oldest first, with absolute paths."""
    return [replace(old, path=str(workspace.root / old.path)) for old in workspace.store.releases(kind)]


def read_corpus(
    workspace: Workspace, name: str | None = None, part: Literal["train", "valid"] = "train"
) -> Iterator[str]:
    """The documents of the corpus `name`, or of all corpora in order of name.

    `valid` is every document whose content hash falls in 2 of 100 classes, so a document stays on its side whatever
    else is imported; where none does and there are at least two, the one with the lowest hash. `train` is the rest.
    Long documents were cut at import (see `corpus.PIECE`), so a book gives to both parts.
    Raises UserError where there is no such corpus or its file was changed.
    """
    corpora = workspace.store.corpora()
    chosen = [corpus for corpus in corpora if name is None or corpus["name"] == name]
    if not chosen:
        there = ", ".join(corpus["name"] for corpus in corpora) or "none yet"
        wanted = "no corpus" if name is None else f"no corpus {name!r}"
        raise UserError(f"{wanted} (there: {there}); run: preceptor import corpus FILE...")
    for corpus in chosen:
        _check(workspace.root / corpus["path"], corpus["sha256"])
    return (text for corpus in chosen for text in _part(workspace.root / corpus["path"], part))


def _part(path: Path, part: str) -> Iterator[str]:
    lone = _lone_valid(path)
    for text in _documents(path):
        number = _content_number(text)
        valid = number % 100 < VALID_PERCENT if lone is None else number == lone
        if valid == (part == "valid"):
            yield text


def _lone_valid(path: Path) -> int | None:
    """The hash of the one validation document of a corpus that would have none, else None.

    Stops at the first document that is in the validation part by itself: about the fiftieth.
    """
    lowest: int | None = None
    count = 0
    for text in _documents(path):
        number = _content_number(text)
        if number % 100 < VALID_PERCENT:
            return None
        lowest = number if lowest is None else min(lowest, number)
        count += 1
    return lowest if count >= 2 else -1  # -1: no hash is negative, so a lone document is for training


def _content_number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])


def _documents(path: Path) -> Iterator[str]:
    with (
        path.open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as plain,
        TextIOWrapper(plain, encoding="utf-8", newline="\n") as lines,
    ):
        for line in lines:
            yield json.loads(line)["text"]


# -- rows -----------------------------------------------------------------------------------------------------


def release_rows(
    workspace: Workspace,
    kind: Kind,
    split: str,
    *,
    cohort: str | None = "training",
    purpose: Purpose | None = "training",
    source: str | None = None,
    masked: bool,
) -> Iterator[dict[str, Any]]:
    """What a release of these filters would hold, row by row; see `freeze`. `masked`: without personal data."""
    if kind == "prompts":
        rows = map(_prompt_row, workspace.store.prompts(split=split, source=source, consented=True))
    elif kind == "demonstrations":
        rows = _demonstration_rows(workspace, split, cohort, source)
    else:
        rows = _ranking_rows(workspace, split, cohort, source, purpose)
    if not masked:
        return rows
    model = workspace.settings.get("presidio")
    hide = partial(mask, more=presidio_finder(model)) if model else mask
    return (_masked(row, hide) for row in rows)


def _prompt_row(prompt: Prompt) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "messages": _messages(prompt),
        "user_id": prompt.user_id,
        "use_case": prompt.use_case,
        "meta": dict(prompt.meta),
    }


def _demonstration_rows(
    workspace: Workspace, split: str, cohort: str | None, source: str | None
) -> Iterator[dict[str, Any]]:
    cohorts = {labeler.id: labeler.cohort for labeler in workspace.store.labelers()}
    for demonstration, prompt in workspace.store.demonstrations(split=split):
        if not _wanted(prompt, source) or (cohort is not None and cohorts[demonstration.labeler_id] != cohort):
            continue
        yield {
            "id": demonstration.id,
            "prompt_id": prompt.id,
            "messages": _messages(prompt),
            "text": demonstration.text,
            "user_id": prompt.user_id,
            "labeler_id": demonstration.labeler_id,
        }


def _ranking_rows(
    workspace: Workspace, split: str, cohort: str | None, source: str | None, purpose: Purpose | None
) -> Iterator[dict[str, Any]]:
    cohorts = {labeler.id: labeler.cohort for labeler in workspace.store.labelers()}
    purposes: dict[str, Purpose] = {rubric.id: rubric.purpose for rubric in workspace.store.rubrics()}
    found = workspace.store.rankings(split=split, cohort=cohort)
    wanted = (
        (ranking, prompt)
        for ranking, prompt in found
        if _wanted(prompt, source) and purpose in (None, _purpose(ranking.rubric, purposes))
    )
    while batch := list(islice(wanted, BATCH)):
        ids = sorted({key for ranking, _ in batch for key in ranking.completion_ids})
        completions = {completion.id: completion for completion in workspace.store.completions(ids=ids)}
        for ranking, prompt in batch:
            answers = [completions[key] for key in ranking.completion_ids]
            yield {
                "id": ranking.id,
                "prompt_id": prompt.id,
                "messages": _messages(prompt),
                "labeler_id": ranking.labeler_id,
                "cohort": cohorts[ranking.labeler_id],
                "answers": [answer.text for answer in answers],
                "models": [answer.model_id for answer in answers],
                "ranks": list(ranking.ranks),
            }


def _purpose(rubric: str, purposes: Mapping[str, Purpose]) -> Purpose:
    """What a rubric is for; one that the store does not know (imported labels) tells by its name."""
    return purposes.get(rubric, "evaluation" if rubric.startswith("evaluation") else "training")


def _masked(row: dict[str, Any], mask: Callable[[str], str]) -> dict[str, Any]:
    row["messages"] = [message | {"content": mask(message["content"])} for message in row["messages"]]
    if "text" in row:
        row["text"] = mask(row["text"])
    if "answers" in row:
        row["answers"] = [mask(answer) for answer in row["answers"]]
    return row


def _wanted(prompt: Prompt, source: str | None) -> bool:
    return prompt.consent and source in (None, prompt.source)


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


# -- files ----------------------------------------------------------------------------------------------------


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> tuple[str, int]:
    """Write rows as JSON lines, flushed to the disk; returns (SHA-256 of the file, number of rows)."""
    digest = hashlib.sha256()
    count = 0
    with path.open("wb") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), count


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def _manifest(path: Path) -> dict[str, Any]:
    manifest = path.with_suffix(".json")
    if not manifest.is_file():
        raise UserError(f"{path} has no manifest {manifest.name} beside it, so it cannot be checked; freeze it again")
    return json.loads(manifest.read_text(encoding="utf-8"))


def _check(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing; freeze or import it again")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise UserError(f"{path} was changed after it was frozen (its SHA-256 differs); freeze or import it again")
