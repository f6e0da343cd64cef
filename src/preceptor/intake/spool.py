"""A temporary file between reading and adding, so that a large import neither fills the memory nor holds the
database while it reads."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from pathlib import Path

import zstandard

from preceptor.intake.formats import Answer, Record
from preceptor.types import Message


@dataclass(frozen=True, slots=True)
class Entry:
    """A record and where it came from: the number of its file and of its row."""

    file: int
    row: int
    record: Record


class Spool:
    """Write all with `put`, then iterate once or more. The file has no name and is gone when the process is."""

    def __init__(self, folder: Path):
        self.raw = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.writer = zstandard.ZstdCompressor(level=1).stream_writer(self.raw, closefd=False)
        self.count = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def __len__(self) -> int:
        return self.count

    def put(self, entry: Entry) -> None:
        line = json.dumps([entry.file, entry.row, asdict(entry.record)], ensure_ascii=False)
        self.writer.write(line.encode() + b"\n")
        self.count += 1

    def __iter__(self) -> Iterator[Entry]:
        self.writer.close()
        self.raw.seek(0)
        with zstandard.ZstdDecompressor().stream_reader(self.raw, closefd=False) as plain:
            for line in TextIOWrapper(plain, encoding="utf-8", newline="\n"):
                file, row, fields = json.loads(line)
                yield Entry(file, row, _record(fields))


def _record(fields: dict) -> Record:
    messages = tuple(Message(**message) for message in fields.pop("messages"))
    answers = tuple(Answer(**answer) for answer in fields.pop("answers"))
    ranks = fields.pop("ranks")
    return Record(messages=messages, answers=answers, ranks=None if ranks is None else tuple(ranks), **fields)
