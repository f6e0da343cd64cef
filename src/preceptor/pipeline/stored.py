"""Every figure measured so far: reports/evaluation.json of the workspace."""

import json
from typing import Any

from preceptor.store import Workspace

STORED = "evaluation.json"


def read_stored(workspace: Workspace) -> dict[str, Any]:
    path = workspace.root / "reports" / STORED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"suites": {}, "win_rates": []}


def write_stored(workspace: Workspace, stored: dict[str, Any]) -> None:
    path = workspace.root / "reports" / STORED
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{STORED}.new")
    new.write_text(json.dumps(stored, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
