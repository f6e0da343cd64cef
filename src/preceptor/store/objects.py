"""A workspace's finished files in a shared or object store, for nodes that share no disk.

What training reads and makes (releases, corpora, models) goes to and comes from a place that fsspec knows: `s3://...`,
`gs://...`, `file:///...`. The database is not among it: nodes share one by `database = "postgresql://..."`.

    objects/SHA256        the bytes of a file, under their own hash: written once, never changed
    models/NAME.json      the files of one model and their hashes; releases/ and corpus/ likewise

An entry is written after its objects, in one piece; what it names is there. A reader compares every file with its hash
and puts an entry into the workspace whole or not at all, so a push or a pull that is killed is simply made again.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.store.workspace import Workspace

KINDS = ("releases", "corpus", "models")
BLOCK = 2**22  # bytes read and written at a time


@dataclass(slots=True)
class Moved:
    """What a push or a pull did."""

    entries: list[str] = field(default_factory=list)  # that were not there, or were there with other content
    known: int = 0  # entries that were there already
    files: int = 0
    bytes: int = 0

    def line(self) -> str:
        names = ", ".join(self.entries) or "nothing new"
        return f"{names}: {self.files:,} files, {self.bytes:,} bytes moved; {self.known:,} entries were there already"


def push(workspace: Workspace, url: str | None = None, names: Sequence[str] = ()) -> Moved:
    """Send releases, corpora and models to the store; `names` (kind/name or a model's name): only these."""
    files, root = _open(workspace, url)
    moved = Moved()
    with _telling(root):
        for kind, name, paths in _entries(workspace, names):
            described = {str(where): _describe(path) for where, path in paths.items()}
            place = f"{root}/{kind}/{name}.json"
            entry = {"kind": kind, "name": name, "files": described}
            if files.exists(place) and json.loads(files.cat_file(place)) == entry:
                moved.known += 1
                continue
            for where, path in paths.items():
                told = described[str(where)]
                target = f"{root}/objects/{told['sha256']}"
                if files.exists(target) and files.size(target) == told["bytes"]:
                    continue
                _send(files, target, path)
                moved.files += 1
                moved.bytes += told["bytes"]
            _put(files, place, json.dumps(entry, indent=1, sort_keys=True).encode())
            moved.entries.append(f"{kind}/{name}")
    return moved


def pull(workspace: Workspace, url: str | None = None, names: Sequence[str] = ()) -> Moved:
    """Fetch what the store has and the workspace has not; `names`: only these. Raises UserError where nothing is
    found, or where a file is not what its hash says; then the workspace keeps what it had."""
    files, root = _open(workspace, url)
    moved, wanted = Moved(), set(names)
    with _telling(root):
        for place in _listed(files, root):
            kind, name = place.rsplit("/", 2)[-2], place.rsplit("/", 1)[-1].removesuffix(".json")
            if names and not {name, f"{kind}/{name}"} & set(names):
                continue
            wanted -= {name, f"{kind}/{name}"}
            entry = _read_entry(files, place, name if kind == "models" else "")
            targets = {workspace.root / kind / where: told for where, told in entry.items()}
            if all(path.is_file() and _describe(path) == told for path, told in targets.items()):
                moved.known += 1
                continue
            _fetch_entry(workspace, files, root, kind, name, entry, moved)
            moved.entries.append(f"{kind}/{name}")
    if wanted or not (moved.entries or moved.known):
        raise UserError(
            f"{root} holds no {', '.join(sorted(wanted)) or 'releases, corpora or models'}; push them first"
        )
    return moved


def _fetch_entry(workspace: Workspace, files, root: str, kind: str, name: str, entry: dict, moved: Moved) -> None:
    """Into a folder of its own, then into its place: a model by exchanging folders, other files one by one."""
    new = workspace.root / kind / f".{name}.pull-{os.getpid()}"
    try:
        for where, told in entry.items():
            target = new / where
            target.parent.mkdir(parents=True, exist_ok=True)
            _receive(files, f"{root}/objects/{told['sha256']}", target, told)
            moved.files += 1
            moved.bytes += told["bytes"]
        if kind == "models":
            final, old = workspace.model(name), workspace.root / kind / f".{name}.old"
            if old.exists() and not final.exists():
                old.rename(final)  # a process was killed between the two steps below
            shutil.rmtree(old, ignore_errors=True)
            if final.exists():
                final.rename(old)
            (new / name).rename(final)
            shutil.rmtree(old, ignore_errors=True)
            return
        for where in sorted(entry):
            (new / where).replace(workspace.root / kind / where)
    finally:
        shutil.rmtree(new, ignore_errors=True)


# -- what a workspace has -------------------------------------------------------------------------------------------


def _entries(workspace: Workspace, names: Sequence[str]) -> Iterator[tuple[str, str, dict[Path, Path]]]:
    """(kind, name, path below the kind's folder -> file) of everything that is whole."""
    wanted, root = set(names), workspace.root
    for kind, name, paths in _whole(workspace):
        if names and not {name, f"{kind}/{name}"} & set(names):
            continue
        wanted -= {name, f"{kind}/{name}"}
        yield kind, name, {path.relative_to(root / kind): path for path in paths}
    if wanted:
        raise UserError(
            f"{root} has no {', '.join(sorted(wanted))} to push; preceptor status lists models and releases"
        )


def _whole(workspace: Workspace) -> Iterator[tuple[str, str, list[Path]]]:
    for rows in sorted((workspace.root / "releases").glob("*.jsonl")):
        manifest = rows.with_suffix(".json")
        if manifest.is_file() and not rows.name.startswith("."):
            yield "releases", rows.stem, [manifest, rows]
    for text in sorted((workspace.root / "corpus").glob("*.jsonl.zst")):
        if not text.name.startswith("."):
            yield "corpus", text.name.removesuffix(".jsonl.zst"), [text]
    for name in workspace.models():
        found = sorted(path for path in workspace.model(name).rglob("*") if path.is_file())
        yield "models", name, found


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


# -- the store ------------------------------------------------------------------------------------------------------


def _open(workspace: Workspace, url: str | None):
    """(the file system, the path of the store in it)."""
    import fsspec

    where = url or workspace.settings.get("store")
    if not where:
        raise UserError('no store: name one (s3://bucket/folder), or set store = "..." in preceptor.toml')
    try:
        files, root = fsspec.core.url_to_fs(where)
    except ImportError as error:
        scheme = where.partition(":")[0]
        extra = ": pip install 'preceptor[object-store]'" if scheme == "s3" else ""
        raise UserError(f"{where}: fsspec lacks the package for {scheme}:// ({error}){extra}") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return files, root.rstrip("/")


class _telling:
    """Turns what a store cannot do into one line."""

    def __init__(self, root: str):
        self.root = root

    def __enter__(self) -> None: ...

    def __exit__(self, _kind, error, _trace) -> None:
        if isinstance(error, OSError):
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"the store {self.root}: {words[0]}; nothing half-done is kept") from error
        if type(error).__module__.startswith(("botocore", "aiohttp", "google", "azure")):
            raise UserError(f"the store {self.root}: {error}; nothing half-done is kept") from error


def _listed(files, root: str) -> list[str]:
    found = []
    for kind in KINDS:
        folder = f"{root}/{kind}"
        if files.exists(folder):
            files.invalidate_cache(folder)
            found += sorted(each for each in files.ls(folder, detail=False) if each.endswith(".json"))
    return found


def _read_entry(files, place: str, folder: str) -> dict[str, dict[str, Any]]:
    """Path below the kind's folder -> bytes and hash. Raises UserError for an entry that would leave the kind's folder,
    or the `folder` in it."""
    try:
        entry = json.loads(files.cat_file(place))["files"]
        for where, told in entry.items():
            if Path(where).is_absolute() or ".." in Path(where).parts or len(told["sha256"]) != 64 or told["bytes"] < 0:
                raise ValueError(where)
            if folder and (Path(where).parts[0] != folder or len(Path(where).parts) < 2):
                raise ValueError(where)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place} is no entry of a store of this program; push it anew") from error
    return entry


def _put(files, place: str, content: bytes) -> None:
    """In one piece: object stores show an object when it is whole; elsewhere a new name is moved into place."""
    with _placing(files, place) as target:
        files.pipe_file(target, content)


def _send(files, place: str, path: Path) -> None:
    with _placing(files, place) as target:
        files.put_file(str(path), target)


class _placing:
    """The name to write to, which becomes `place` when all is written."""

    def __init__(self, files, place: str):
        self.files, self.place = files, place
        self.name = place
        if "file" in _protocols(files):
            files.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
            self.name = f"{place}.{uuid.uuid4().hex[:12]}.new"

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, kind, _error, _trace) -> None:
        if self.name != self.place:
            if kind is None:
                os.replace(self.name, self.place)
            else:
                Path(self.name).unlink(missing_ok=True)


def _protocols(files) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _receive(files, place: str, target: Path, told: dict[str, Any]) -> None:
    digest = hashlib.sha256()
    with files.open(place, "rb") as source, open(target, "wb") as file:
        while block := source.read(BLOCK):
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != told["sha256"]:
        raise UserError(f"{place} is not what its name says: it was damaged in the store; push it anew")
