"""The workspace folder and its database. The only SQL of the project lives here."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preceptor.store.store import Added, Store
    from preceptor.store.workspace import Workspace

__all__ = ["Added", "Store", "Workspace"]


def __getattr__(name: str):
    """`Workspace`, `Store` and `Added` bring SQLAlchemy, which `preceptor --help` does without."""
    if name == "Workspace":
        from preceptor.store.workspace import Workspace

        return Workspace
    if name in ("Added", "Store"):
        from preceptor.store import store

        return getattr(store, name)
    raise AttributeError(name)
