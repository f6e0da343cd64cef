"""From a file to records: which format it has, and what its rows say."""

import difflib
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.intake.files import Progress, Row, read_rows, suffix
from preceptor.intake.formats import INSTRUCTIONS, PLAIN, BadRow, Format, Record, Skip, get
from preceptor.intake.labelling_tools import TOOLS
from preceptor.intake.own import OWN
from preceptor.intake.preferences import RANKED

FORMATS = (*RANKED, *TOOLS, *INSTRUCTIONS, OWN, *PLAIN)
LOOK_AT = 20  # rows that detection looks at
BLOCK = 8000  # characters of plain text that are read together
MAPPED = ("id", "prompt", "messages", "prompt_id", "user_id", "use_case", "source", "split", "consent", "meta")
MAPPED += ("text", "answers", "models", "ranks", "labeler_id", "chosen", "rejected", "input")


def read_records(
    path: Path,
    *,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[tuple[int, Record | Skip]]:
    """(row number, record) for every record of a file; one row may give several.

    `format` names one of FORMATS, else it is detected from the first rows. `map` takes our field names to the
    file's keys (dotted paths reach into objects and lists); its rows are read as our own format, or as pairs where
    `chosen` is mapped. Raises UserError naming file and row.
    """
    rows = read_rows(path, progress)
    if map:
        check_map(map)
        rows = (Row(row.number, _mapped(path, row, map)) for row in rows)
        chosen = named("pairs" if "chosen" in map else "preceptor") if format is None else named(format)
    elif format is not None:
        chosen = named(format)
    else:
        first = list(islice(rows, LOOK_AT))
        chosen = detect(path, first)
        rows = chain(first, rows)
    for row in chosen.gather(path, rows):
        if not isinstance(row.value, Mapping):
            raise UserError(f"{path}: row {row.number}: is {type(row.value).__name__}, not an object with keys")
        try:
            for record in chosen.records(row.value):
                yield row.number, record
        except BadRow as error:
            raise UserError(f"{path}: row {row.number}: {error} (read as {chosen.name})") from error
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise UserError(
                f"{path}: row {row.number}: its values do not have the shape of the format {chosen.name}; "
                "mend the row or name another with --format"
            ) from error


def named(name: str) -> Format:
    found = [format for format in FORMATS if format.name == name]
    if not found:
        names = [format.name for format in FORMATS]
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no format {name!r}; {hint}known: {', '.join(names)}")
    return found[0]


def detect(path: Path, rows: list[Row]) -> Format:
    """The first format that every one of `rows` fits; else the first that the first row fits."""
    for sample in (rows, rows[:1]):
        for format in FORMATS:
            if all(format.matches(row.value) for row in sample):
                return format
    value = rows[0].value
    keys = f"the keys {', '.join(map(repr, list(value)[:8]))}" if isinstance(value, Mapping) else type(value).__name__
    raise UserError(
        f"{path}: row {rows[0].number}: no known format has {keys}; name one with --format "
        f"({', '.join(format.name for format in FORMATS)}) or map the keys, for example --map prompt=KEY"
    )


def check_map(map: Mapping[str, str]) -> None:
    for field in map:
        if field not in MAPPED:
            near = difflib.get_close_matches(field, MAPPED, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"--map {field}=...: no such field; {hint}known: {', '.join(MAPPED)}")


def _mapped(path: Path, row: Row, map: Mapping[str, str]) -> dict[str, Any]:
    values = {field: _dig(path, row, key) for field, key in map.items()}
    given = values.pop("input", None)
    if given and isinstance(values.get("prompt"), str):
        values["prompt"] = f"{values['prompt']}\n\n{given}"
    return values


def _dig(path: Path, row: Row, key: str) -> Any:
    """`a.b.0` reaches row["a"]["b"][0]; a key that has dots itself is tried first."""
    value = row.value
    if isinstance(value, Mapping) and key in value:
        return value[key]
    for part in key.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            there = list(row.value) if isinstance(row.value, Mapping) else []
            near = difflib.get_close_matches(key, there, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(there[:8])}"
            raise UserError(f"{path}: row {row.number}: has no {key!r} ({hint}); mend --map or the row")
    return value


def read_documents(
    path: Path, *, map: Mapping[str, str] | None = None, progress: Progress = lambda _: None
) -> Iterator[tuple[int, str]]:
    """(row number, text) for every document: `text` (or `sections`, `content`, `story`) of JSON, CSV and TSV rows.

    A plain text is one document. It comes in blocks of about BLOCK characters that end at blank lines, so that a
    long one is never in memory at once. Raises UserError naming file and row.
    """
    if map and set(map) != {"text"}:
        raise UserError(f"a corpus has the field 'text' only, not {', '.join(sorted(set(map) - {'text'}))}")
    block: list[str] = []
    size = end = number = 0  # `end`: how many lines of the block stand before its last blank line
    for row in read_rows(path, progress, blank=True):
        if suffix(path) in (".csv", ".tsv") or not isinstance(row.value, Mapping) or set(row.value) != {"line"}:
            yield row.number, _document(path, row, map)
            continue
        line, number = row.value["line"], row.number
        block.append(line)
        size += len(line) + 1
        if not line.strip():
            end = len(block)
        if size > BLOCK:
            cut = end or len(block)
            yield number, "\n".join(block[:cut])
            block, end = block[cut:], 0
            size = sum(len(line) + 1 for line in block)
    if block:
        yield number, "\n".join(block)


def _document(path: Path, row: Row, map: Mapping[str, str] | None) -> str:
    if map:
        value = _dig(path, row, map["text"])
    elif isinstance(row.value, Mapping):
        try:
            value = get(row.value, "text", "sections", "content", "story")
        except BadRow as error:
            raise UserError(f"{path}: row {row.number}: {error}") from error
    else:
        value = row.value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "\n\n".join(value)
    if not isinstance(value, str):
        raise UserError(f"{path}: row {row.number}: the text is {type(value).__name__}, not text")
    return value
