"""Plain text for pretraining: files in, one compressed file of documents out."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import zstandard

from preceptor.errors import UserError
from preceptor.intake.disk import writing
from preceptor.intake.files import stem
from preceptor.intake.progress import watch
from preceptor.intake.readers import read_documents
from preceptor.intake.report import Report
from preceptor.store import Workspace

PIECE = 8000  # characters: about 2,000 tokens of English
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def import_corpus(
    workspace: Workspace,
    files: Sequence[Path | str],
    *,
    name: str | None = None,
    map: Mapping[str, str] | None = None,
    progress: bool | None = None,
) -> Report:
    """Write the documents of `files` to `corpus/NAME-HASH.jsonl.zst` and record it as the corpus `name`.

    `name` is by default that of the file, or of the folder where there are several files. Documents longer than
    PIECE characters (books) are cut where paragraphs end, so that both parts of `read_corpus` have some of each book.
    Empty documents and exact repetitions are skipped and counted. The same files give the same corpus and nothing is
    written twice. Raises UserError; then nothing was kept.
    """
    paths = [Path(file) for file in files]
    if not paths:
        raise UserError("no file to import; name one or more")
    name = name or (stem(paths[0]) if len(paths) == 1 else paths[0].resolve().parent.name)
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name a corpus; use letters, digits, dot, dash and underscore (--name)")
    report = Report(kind="documents")
    folder = workspace.root / "corpus"
    temporary = folder / f".{name}-{os.getpid()}.new"
    try:
        with writing(folder):
            folder.mkdir(exist_ok=True)
            with watch(paths, "import corpus", progress) as seen:
                digest, size = _write(temporary, _documents(paths, map, report, seen.read))
            _record(workspace, name, temporary, digest, size, report)
    finally:
        temporary.unlink(missing_ok=True)
    return report


def _documents(paths: Sequence[Path], map: Mapping[str, str] | None, report: Report, progress) -> Iterator[str]:
    seen: set[bytes] = set()
    for path in paths:
        last = 0
        for row, text in read_documents(path, map=map, progress=progress):
            report.rows += row != last
            last = row
            try:
                digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
            except UnicodeEncodeError:
                report.skip("the text has half of a surrogate pair", path, row)
                continue
            if not text.strip():
                report.skip("the document is empty", path, row)
            elif digest in seen:
                report.skip("the same document again", path, row)
            else:
                seen.add(digest)
                report.taken += 1
                yield text


def pieces(text: str, limit: int = PIECE) -> Iterator[str]:
    """Cut a text into pieces of at most `limit` characters, at the last blank line, else line end, else blank."""
    start = 0
    while len(text) - start > limit:
        window = text[start : start + limit]
        cut = next((at + len(mark) for mark in ("\n\n", "\n", " ") if (at := window.rfind(mark)) > 0), limit)
        yield text[start : start + cut].strip()
        start += cut
    yield text[start:].strip()


def _write(path: Path, documents: Iterable[str]) -> tuple[str, int]:
    """Returns the SHA-256 of the rows before compression, which names the file, and their size in bytes."""
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as raw:
        with zstandard.ZstdCompressor(level=10).stream_writer(raw, closefd=False) as file:
            for document in documents:
                for piece in filter(None, pieces(document)):
                    line = json.dumps({"text": piece}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                    digest.update(line)
                    size += len(line)
                    file.write(line)
        raw.flush()
        os.fsync(raw.fileno())
    return digest.hexdigest(), size


def _record(workspace: Workspace, name: str, temporary: Path, digest: str, size: int, report: Report) -> None:
    if not report.taken:
        raise UserError(f"no document for the corpus {name!r}: {'; '.join(report.lines()[1:])}")
    path = f"corpus/{name}-{digest[:12]}.jsonl.zst"
    known = {corpus["name"]: corpus for corpus in workspace.store.corpora()}.get(name)
    if known is not None and known["path"] != path:
        raise UserError(f"the corpus {name!r} exists with other text; choose another name with --name")
    if known is not None and (workspace.root / path).is_file():
        report.taken, report.known = 0, report.taken
        return
    with temporary.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    temporary.replace(workspace.root / path)
    workspace.store.add_corpus(name, path, sha256, report.taken, size)
