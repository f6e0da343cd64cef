"""Opens the files of public benchmarks: plain or gzip; CSV, TSV, JSON, JSON lines or text.

Nothing is fetched. A missing or broken file is a UserError that names it and the row.
"""

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from preceptor.errors import UserError


def read_text(path: Path) -> str:
    """The whole file as UTF-8 text; a name that ends in .gz is unpacked."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as stream:
                return stream.read()
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def read_table(path: Path, *, needs: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV (or, named .tsv, tab-separated) file with a header. Columns in `needs` must be there."""
    tabs = ".tsv" in path.suffixes
    csv.field_size_limit(2**31 - 1)
    lines = read_text(path).splitlines(keepends=True)
    rows = list(csv.DictReader(lines, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else 0))
    missing = [column for column in needs if not rows or column not in rows[0]]
    if missing:
        raise UserError(f"{path}: there is no column {missing[0]!r}")
    return rows


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None


def read_json_lines(path: Path, *, needs: Iterable[str] = ()) -> list[dict[str, Any]]:
    """One object per line. Keys in `needs` must be in every one."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number}: not JSON: {error.msg}") from None
        missing = [key for key in needs if not isinstance(row, dict) or key not in row]
        if missing:
            raise UserError(f"{path}: line {number}: there is no {missing[0]!r}")
        rows.append(row)
    return rows


def find(folder: Path, *names: str) -> Path:
    """The first of `names` in `folder` that exists, plain or with .gz added. UserError says which were looked for."""
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise UserError(f"{folder}: none of {', '.join(names)} is there, plain or .gz")


def files_hash(paths: Iterable[Path]) -> str:
    """SHA-256 in hex over the bytes of some files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
