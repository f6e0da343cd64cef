"""From a file to rows, in bounded memory: plain, gzip or zstandard (told by their first bytes, never by the name);
JSON lines, a JSON list, JSON values one after the other, CSV or TSV with a header, or plain text.

Every fault is one UserError that names the file and the row.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from preceptor.errors import UserError

Progress = Callable[[int], None]  # told how many bytes of the file on disk were read since the last call
CHUNK = 1 << 16
GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands. `number` counts from 1: lines of JSON lines and text, else elements."""

    number: int
    value: Any


class _Counted(io.RawIOBase):
    """A file opened for reading that tells `progress` how many bytes were taken from it."""

    def __init__(self, raw: io.BufferedReader, progress: Progress):
        self.raw, self.progress = raw, progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self.raw.readinto(buffer)
        self.progress(count)
        return count


class _Zstandard(io.RawIOBase):
    """The decompressed bytes of one or more frames. Unlike the library's reader it refuses a cut-off frame."""

    def __init__(self, raw: io.BufferedIOBase):
        self.raw = raw
        self.frame = None
        self.pending = b""  # compressed bytes that belong to the next frame
        self.plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.plain:
            data = self.pending or self.raw.read(CHUNK)
            self.pending = b""
            if not data:
                if self.frame is not None:
                    raise EOFError("the last frame is cut off")
                return 0
            if self.frame is None:
                self.frame = zstandard.ZstdDecompressor().decompressobj()
            self.plain = memoryview(self.frame.decompress(data))
            if self.frame.eof:
                self.pending, self.frame = self.frame.unused_data, None
        count = min(len(buffer), len(self.plain))
        buffer[:count] = self.plain[:count]
        self.plain = self.plain[count:]
        return count


@contextmanager
def open_text(path: Path, progress: Progress = lambda _: None) -> Iterator[io.TextIOWrapper]:
    """The text of a file, decompressed where its first bytes say so. UTF-8, with or without a byte-order mark.

    Raises UserError where the file is missing, empty, cut off, damaged or in another encoding.
    """
    try:
        with path.open("rb") as raw:
            magic = raw.peek(4)[:4]
            if not magic:
                raise UserError(f"{path}: the file is empty; there is nothing to import")
            stream: Any = io.BufferedReader(_Counted(raw, progress), CHUNK)
            if magic.startswith(GZIP):
                stream = io.BufferedReader(gzip.GzipFile(fileobj=stream), CHUNK)  # type: ignore[arg-type]
            elif magic == ZSTANDARD:
                stream = io.BufferedReader(_Zstandard(stream), CHUNK)
            first = stream.peek(4)[:4]
            if not first:
                raise UserError(f"{path}: the file is empty inside its compression; there is nothing to import")
            if first.startswith(UTF16):
                raise UserError(f"{path}: the text is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8")
            with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {_not_utf8(error)}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise UserError(
            f"{path}: the compressed file is cut off or damaged ({error}); fetch it again, nothing was imported"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _not_utf8(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"byte 0x{byte:02x} is not UTF-8; convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8"


def read_rows(path: Path, progress: Progress = lambda _: None, *, blank: bool = False) -> Iterator[Row]:
    """The rows of a file: dictionaries from JSON, CSV and TSV, `{"line": ...}` from plain text.

    Blank lines of plain text are left out unless `blank`.

    Raises UserError naming the file and the row.
    """
    with open_text(path, progress) as text:
        kind = suffix(path)
        number = 0
        try:
            if kind in (".csv", ".tsv"):
                rows = _delimited(text, "," if kind == ".csv" else "\t")
            else:
                rows = _structured(text, blank)
            for row in rows:
                number = row.number
                yield row
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: after row {number}: {_not_utf8(error)}") from error
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise UserError(
                f"{path}: after row {number}: the compressed file is cut off or damaged ({error}); "
                "fetch it again, nothing was imported"
            ) from error
        except _Fault as fault:
            raise UserError(f"{path}: row {fault.row}: {fault.message}") from fault
        if number == 0:
            raise UserError(f"{path}: no rows in it; there is nothing to import")


def suffix(path: Path) -> str:
    """The last suffix that does not name a compression, in lower case."""
    return next((part for part in reversed([s.lower() for s in path.suffixes]) if part not in (".gz", ".zst")), "")


def stem(path: Path) -> str:
    """The name of a file without the suffixes that say what it is."""
    name = path.name
    while Path(name).suffix.lower() in (".gz", ".zst", ".jsonl", ".json", ".ndjson", ".txt", ".csv", ".tsv"):
        name = Path(name).stem
    return name


class _Fault(Exception):
    def __init__(self, row: int, message: str):
        self.row, self.message = row, message
        super().__init__(message)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that JSON knows; write null or leave the key out")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def _structured(text: io.TextIOWrapper, blank: bool) -> Iterator[Row]:
    """JSON lines, a JSON list or JSON values in a row by what the file begins with; else the lines of a text."""
    number = 0
    while line := text.readline(CHUNK):  # a list may be one line of a gigabyte
        number += 1
        start = line.lstrip()
        if not start:
            continue
        is_list = start[0] == "[" and start[1:].lstrip()[:1] in ("{", "[", "]", "")
        if not is_list and line[-1] not in "\r\n":
            line += text.readline()
        if is_list:
            yield from _values(text, start[1:], in_list=True)
        elif start[0] == "{" and not _whole(line):
            yield from _values(text, line, in_list=False)
        elif start[0] == "{":
            yield Row(number, _parse(line, number))
            yield from _json_lines(text, number)
        else:
            yield Row(number, {"line": line.rstrip("\r\n")})
            yield from _plain_lines(text, number, blank)
        return


def _whole(line: str) -> bool:
    """Whether a line is JSON by itself, or wrong by itself (closed, but not JSON)."""
    try:
        _decoder.decode(line)
    except ValueError:
        return line.rstrip().endswith("}")
    return True


def _parse(line: str, number: int) -> Any:
    try:
        return _decoder.decode(line)
    except ValueError as error:
        raise _Fault(number, f"not JSON ({error})") from error


def _json_lines(text: io.TextIOWrapper, number: int) -> Iterator[Row]:
    for here, line in enumerate(text, number + 1):
        if line.strip():
            yield Row(here, _parse(line, here))


def _plain_lines(text: io.TextIOWrapper, number: int, blank: bool) -> Iterator[Row]:
    for here, line in enumerate(text, number + 1):
        if blank or line.strip():
            yield Row(here, {"line": line.rstrip("\r\n")})


def _values(text: io.TextIOWrapper, buffer: str, *, in_list: bool) -> Iterator[Row]:
    """The elements of a JSON list after its bracket, or JSON values one after the other, decoded as they arrive.

    Where a value is not complete, as much again as there is is read before the next try, so a long one costs
    linear time.
    """
    number, at, more = 1, 0, CHUNK
    while True:
        while at < len(buffer) and buffer[at] in " \t\r\n,":
            at += 1
        if in_list and buffer[at : at + 1] == "]":
            return
        try:
            value, end = _decoder.raw_decode(buffer, at)
            if end == len(buffer) and not isinstance(value, dict | list | str):
                raise json.JSONDecodeError("a number may go on", buffer, end)
        except ValueError as error:
            data = text.read(more)
            if data:
                buffer, at, more = buffer[at:] + data, 0, max(CHUNK, len(buffer) - at + len(data))
                continue
            if at == len(buffer) and not in_list:
                return
            cut = at == len(buffer) or _cut_off(error, buffer)
            raise _Fault(number, "the file ends in the middle of it" if cut else f"not JSON ({error})") from error
        yield Row(number, value)
        number, at, more = number + 1, end, CHUNK


def _cut_off(error: ValueError, buffer: str) -> bool:
    return isinstance(error, json.JSONDecodeError) and (
        error.pos >= len(buffer.rstrip()) - 1 or error.msg.startswith("Unterminated")
    )


def _delimited(text: io.TextIOWrapper, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(1 << 27)
    reader = csv.DictReader(
        text, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    )
    number = 0
    try:
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise _Fault(number, f"has another number of columns than the header's {len(reader.fieldnames or ())}")
            yield Row(number, row)
    except csv.Error as error:
        raise _Fault(number + 1, f"not CSV ({error})") from error
