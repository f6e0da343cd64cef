"""What an import did: rows read, taken, known already, skipped and why."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor.store import Added


@dataclass(kw_only=True, slots=True)
class Skipped:
    """How often a reason came up, and where first."""

    count: int
    file: str
    row: int


@dataclass(kw_only=True, slots=True)
class Report:
    """`rows` of the files were read; of what they gave, `taken` is new in the store and `known` was there already
    (or twice in the files). `prompts`, `completions` and `labelers` count what came new with it."""

    kind: str
    rows: int = 0
    taken: int = 0
    known: int = 0
    prompts: int = 0
    completions: int = 0
    labelers: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, added: Added) -> None:
        self.taken += added.new
        self.known += added.known

    def skip(self, reason: str, path: Path, row: int) -> None:
        if reason in self.skipped:
            self.skipped[reason].count += 1
        else:
            self.skipped[reason] = Skipped(count=1, file=str(path), row=row)

    def lines(self) -> list[str]:
        """For people, one fact a line."""
        lines = [f"{self.rows:,} rows read: {self.taken:,} {self.kind} taken, {self.known:,} known already"]
        new = [
            f"{count:,} {what}"
            for count, what in (
                (self.prompts if self.kind != "prompts" else 0, "prompts"),
                (self.completions, "answers"),
                (self.labelers, "labelers"),
            )
            if count
        ]
        if new:
            lines.append(f"new with them: {', '.join(new)}")
        for reason, skipped in sorted(self.skipped.items(), key=lambda item: -item[1].count):
            lines.append(f"skipped {skipped.count:,}: {reason} (first: {skipped.file} row {skipped.row})")
        lines += [f"note: {count:,} {note}" for note, count in sorted(self.notes.items())]
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "rows": self.rows,
            "taken": self.taken,
            "known": self.known,
            "prompts": self.prompts,
            "completions": self.completions,
            "labelers": self.labelers,
            "skipped": {
                reason: {"count": skipped.count, "file": skipped.file, "row": skipped.row}
                for reason, skipped in self.skipped.items()
            },
            "notes": dict(self.notes),
        }
