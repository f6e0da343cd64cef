"""`preceptor import events`: the raw record of another workspace, and the rows that training reads from it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.intake.export import write_lines
from preceptor.intake.files import read_rows
from preceptor.labelling.records import rows_of
from preceptor.store import Added, Workspace
from preceptor.store.events import add_events, events
from preceptor.store.labelling import Labelling


def import_events(workspace: Workspace, files: Sequence[Path]) -> Added:
    """Add the events of `files`, as the export page and `export events` write them; one transaction.

    The prompts, and the answers that were shown, must be in the workspace (import prompts and rankings first). What
    stands makes the same rankings, ratings, demonstrations and prompts, with the same ids, as where it was submitted.
    Importing again adds nothing. Raises UserError naming file and row; then nothing was added.
    """
    if not files:
        raise UserError("no file to import; name one or more")
    store = workspace.store
    labelling = Labelling(store)
    with store.write() as connection:
        added = add_events(store, _rows(files), connection)
        for where, row in _rows(files):
            stands = row["withdrawn_at"] is None and row["version"] == row["newest_version"]
            if not stands or row["queue_screening_id"] or row["kind"] in ("skip", "report"):
                continue
            try:
                found = labelling.assignment(row["assignment_id"], row["labeler_id"], connection)
            except KeyError as error:
                raise UserError(
                    f"{where}: the answer {error.args[0]!r} is not in this workspace; import the rankings first"
                ) from error
            made = rows_of(found, row["labeler_id"], row["body"]["fields"])(row["version"], row["seconds"])
            store.add_prompts(made.prompts, within=connection)
            store.add_demonstrations(made.demonstrations, within=connection)
            store.add_ratings(made.ratings, within=connection)
            store.add_rankings(made.rankings, within=connection)
    return added


def _rows(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in files:
        for row in read_rows(Path(path)):
            if not isinstance(row.value, dict):
                raise UserError(f"{path}: row {row.number}: is {type(row.value).__name__}, not an event")
            yield f"{path}: row {row.number}", row.value


def export_events(workspace: Workspace, path: Path) -> int:
    """Write the raw record as JSON lines; returns the number of events."""
    return write_lines(path, events(workspace.store))
