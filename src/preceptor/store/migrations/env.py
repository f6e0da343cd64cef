"""Alembic runs its versions on the connection that `connect.upgrade` holds."""

from alembic import context

from preceptor.store import schema_labelling, schema_serving  # noqa: F401  (their tables share the metadata)
from preceptor.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
