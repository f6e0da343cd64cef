"""A workspace: one folder with settings, database, frozen data, models, runs and reports."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.store.folder import SETTINGS, find_root, read_settings
from preceptor.store.store import Store


class Workspace:
    """A folder made by `preceptor init`. Opening it reads the settings; the database opens when first used."""

    def __init__(self, root: Path | str):
        self.root = Path(root).resolve()
        if not (self.root / SETTINGS).is_file():
            raise UserError(f"{self.root} is no workspace: it has no {SETTINGS}; run: preceptor init {self.root}")

    @staticmethod
    def create(root: Path | str, settings: str = "") -> "Workspace":
        """Make the folders and `preceptor.toml` with the text `settings`; an existing workspace is refused."""
        root = Path(root)
        if (root / SETTINGS).exists():
            raise UserError(f"{root} is a workspace already; choose another folder or use it with --workspace {root}")
        if root.exists() and not root.is_dir():
            raise UserError(f"{root} is a file; name a folder for the workspace")
        for name in ("releases", "corpus", "models", "runs", "reports"):
            (root / name).mkdir(parents=True, exist_ok=True)
        temporary = root / f".{SETTINGS}.new"
        temporary.write_text(settings, encoding="utf-8")
        temporary.rename(root / SETTINGS)
        return Workspace(root)

    @staticmethod
    def find(start: Path | str = ".") -> "Workspace":
        """The workspace that `start` is in: the nearest folder upward that has a `preceptor.toml`."""
        root = find_root(start)
        if root is None:
            raise UserError(
                f"{Path(start).resolve()} is in no workspace; run: preceptor init DIR, or name one with --workspace DIR"
            )
        return Workspace(root)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What `preceptor.toml` says, as nested dictionaries."""
        return read_settings(self.root)

    @cached_property
    def store(self) -> Store:
        return Store(self.settings.get("database", f"sqlite:///{self.root / 'preceptor.db'}"))

    def model(self, name: str) -> Path:
        """The folder of the workspace's model `name`."""
        return self.root / "models" / name

    def models(self) -> list[str]:
        """The names of finished models, by age."""
        found = (path.parent for path in (self.root / "models").glob("*/config.json"))
        folders = [path for path in found if not path.name.startswith(".")]  # a dot: half-written
        return [path.name for path in sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path.name))]

    def find_model(self, name: str) -> Path:
        """A model of this workspace by name, or a model folder by path."""
        for path in (self.model(name), Path(os.path.expanduser(name))):
            if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
                return path
        known = ", ".join(self.models()) or "none yet"
        raise UserError(f"no model {name!r} in {self.root / 'models'} (there: {known}), nor is it a model folder")

    def run(self, name: str) -> Path:
        return self.root / "runs" / name

    def reports(self) -> Path:
        return self.root / "reports"
