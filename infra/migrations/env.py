"""Alembic's entry: migrates over the connection that :mod:`infra.migrations` hands in."""

from alembic import context

from closingbell.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
