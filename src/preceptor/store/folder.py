"""Finding a workspace folder and reading its settings, with nothing but the standard library."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor.errors import UserError

SETTINGS = "preceptor.toml"


def find_root(start: Path | str) -> Path | None:
    """The nearest folder from `start` upward that has a `preceptor.toml`."""
    start = Path(start).resolve()
    return next((folder for folder in (start, *start.parents) if (folder / SETTINGS).is_file()), None)


def read_settings(root: Path) -> Mapping[str, Any]:
    """What `preceptor.toml` says, as nested dictionaries."""
    try:
        return tomllib.loads((root / SETTINGS).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{root / SETTINGS}: {error}") from error
