"""The workspace folder and its database. The only SQL of the project lives here."""

from preceptor.store.store import Added, Store
from preceptor.store.workspace import Workspace

__all__ = ["Added", "Store", "Workspace"]
