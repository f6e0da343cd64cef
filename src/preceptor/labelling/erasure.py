"""Delete a user: first what would go; then the database, every release file, and a list of models that learned it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from preceptor.errors import UserError
from preceptor.intake.disk import writing
from preceptor.labelling.access import Admin, Posted, form_body
from preceptor.labelling.pages import render
from preceptor.store import Workspace
from preceptor.store.erasure import belongings, erase, prompt_ids

router = APIRouter()


@dataclass
class Reach:
    """What deleting a user takes away. `releases`: name -> lines; `models`: names that learned from one of these,
    themselves or through a model they were made from."""

    rows: Mapping[str, int]
    releases: dict[str, int] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)


def reach(workspace: Workspace, user_id: str) -> Reach:
    """Looks into every release file: a release holds a user's lines by prompt id or by user id."""
    found = Reach(belongings(workspace.store, user_id))
    ids = prompt_ids(workspace.store, user_id)
    for release in workspace.store.releases():
        path = workspace.root / release.path
        if path.is_file():
            lines = sum(_theirs(line, user_id, ids) for line in _lines(path))
            if lines:
                found.releases[release.name] = lines
    found.models = _learned(workspace.root / "models", set(found.releases))
    return found


def _learned(folder: Path, releases: set[str]) -> list[str]:
    """The models trained on one of the releases, and those with such a model among their parents."""
    cards = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/preceptor.json")}
    learned = {name for name, card in cards.items() if releases & set(card.get("releases", {}))}
    while heirs := {
        name
        for name, card in cards.items()
        if name not in learned and learned & {parent.split("@")[0] for parent in card.get("parents", {}).values()}
    }:
        learned |= heirs
    return sorted(learned)


def delete_user(workspace: Workspace, user_id: str, actor: str) -> Reach:
    """Delete everything `reach` lists but the models.

    Files change first, the database last, in one transaction. After a crash in between the user is still listed, and
    deleting again finishes the work: a manifest that is ahead of the database says so.
    """
    found = reach(workspace, user_id)
    ids = prompt_ids(workspace.store, user_id)
    known: dict[str, tuple[str, int]] = {}
    for release in workspace.store.releases():
        path = workspace.root / release.path
        if release.name in found.releases:
            with writing(path):
                known[release.name] = _rewrite(path, user_id, ids)
        elif path.is_file() and (about := _manifest(path)) and about["sha256"] != release.sha256:
            known[release.name] = about["sha256"], about["rows"]
    erase(workspace.store, user_id, actor, known)
    return found


def _rewrite(path: Path, user_id: str, ids: set[str]) -> tuple[str, int]:
    """The file and its manifest without the user's lines; returns (SHA-256, rows)."""
    fresh = path.with_name(f".{path.name}-{os.getpid()}.new")
    digest, rows = hashlib.sha256(), 0
    try:
        with fresh.open("wb") as file:
            for line in _lines(path):
                if not _theirs(line, user_id, ids):
                    file.write(line)
                    digest.update(line)
                    rows += 1
            file.flush()
            os.fsync(file.fileno())
        if about := _manifest(path):
            new = path.with_name(f".{path.stem}.json.new")
            text = json.dumps(about | {"sha256": digest.hexdigest(), "rows": rows}, indent=1, ensure_ascii=False)
            new.write_text(text + "\n", encoding="utf-8")
            new.replace(path.with_suffix(".json"))
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return digest.hexdigest(), rows


def _manifest(path: Path) -> dict[str, Any]:
    manifest = path.with_suffix(".json")
    return json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}


def _lines(path: Path):
    with path.open("rb") as file:
        yield from file


def _theirs(line: bytes, user_id: str, ids: set[str]) -> bool:
    row = json.loads(line)
    return row.get("user_id") == user_id or row.get("prompt_id", row.get("id")) in ids


@router.get("/erase")
def ask(request: Request, user: Admin, who: str = "") -> Response:
    found = reach(request.app.state.workspace, who) if who else None
    return render(request, "erase.html", who=who, found=found, done=False)


@router.post("/erase", openapi_extra=form_body(who=str, again=str))
def confirm(request: Request, user: Admin, form: Posted) -> Response:
    who = form.get("who")
    if not who or form.get("again") != who:
        raise UserError("The user’s id was not typed the same twice. Nothing was deleted.")
    found = delete_user(request.app.state.workspace, who, user.id)
    return render(request, "erase.html", who=who, found=found, done=True)
