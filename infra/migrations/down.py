"""Back to an older schema, for who has to go back to an older version of this project; docs/upgrading.md.

A migration that is undone drops what it made. Where anything is in there, that is refused unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from closingbell.errors import ConfigurationError
from closingbell.store.database import database_of
from closingbell.store.faults import transaction
from infra import migrations

#: What goes when a migration is undone, by its revision: tables, with None for all of a table, or the columns.
#: Migrations that are not named here lose nothing.
LOST: Final[Mapping[str, Mapping[str, tuple[str, ...] | None]]] = {
    "0006": {"roll": None},
    "0005": {"late_cell": None, "event": None, "event_mark": None},
    "0003": {"claim": None, "quarantine": ("message",)},
    "0002": {
        "split_revision": None,
        "dividend": None,
        "ticker_history": None,
        "split": ("known_from",),
        "facts_watermark": ("known",),
        "revision": ("old_run_id",),
        "run": ("as_of",),
    },
}

#: Where each kind of database begins. Below it there is nothing: who wants that drops the database, or the user.
FIRST: Final = {"postgresql": "0001", "oracle": "0004"}

#: What nobody misses: claims are of runs that are under way, and these columns are filled again by the way up.
_DISPENSABLE: Final = {("claim", None), ("split", "known_from"), ("run", "as_of")}


def downgrade(engine: sa.Engine, to: str, *, discard: bool = False) -> list[str]:
    """Bring the schema back to an older migration. No run may be under way.

    Args:
        engine: of a store, as the owner of the tables.
        to: the migration's revision, ``0006``.
        discard: also when that deletes rows or values that are nowhere else.

    Returns:
        What was deleted, in words.

    Raises:
        ConfigurationError: there is no such migration, or the database is older; or something would be deleted.
        ClosingbellError: as :func:`closingbell.store.faults.transaction` says.
    """
    database = database_of(engine)
    with transaction(engine) as guard:
        database.prepare(guard)
        database.lock(guard, migrations._LOCK)
        with transaction(engine) as connection:
            undone = [*_undone(connection, to)]
            told = [*_held(connection, undone)]
        if told and not discard:
            raise ConfigurationError(
                f"a database at {to} has no room for all that is stored",
                value=", ".join(told),
                fix="Back it up, then allow it with --discard.",
            )
        with transaction(engine) as connection:
            made = migrations.config()
            made.attributes["connection"] = connection
            command.downgrade(made, to)
    engine.dispose()  # statements that its connections keep are of the tables as they were
    return told


def _undone(connection: sa.Connection, to: str) -> Iterator[str]:
    """The revisions from the database's own down to that one, which is not among them."""
    now = MigrationContext.configure(connection).get_current_revision()
    revisions = [script.revision for script in ScriptDirectory.from_config(migrations.config()).walk_revisions()]
    known = revisions[: revisions.index(FIRST[database_of(connection).name]) + 1]
    if to not in known:
        raise ConfigurationError("there is no such migration here", value=to, fix=f"Use one of {', '.join(known)}.")
    if now not in known:
        fix = "Use the version of this project that made it, or a newer one."
        raise ConfigurationError("the database is at no migration that is known here", value=now, fix=fix)
    if known.index(to) < known.index(now):
        raise ConfigurationError("the database is at an older migration", value=now, fix="Leave out --down-to.")
    yield from known[known.index(now) : known.index(to)]


def _held(connection: sa.Connection, undone: list[str]) -> Iterator[str]:
    """What there is in the tables and columns that go, in words; a table that goes later says all of its columns."""
    going: dict[tuple[str, str | None], None] = {}
    for revision in undone:
        for name, columns in LOST.get(revision, {}).items():
            going |= dict.fromkeys((name, column) for column in columns or (None,))
    whole = {name for name, column in going if column is None}
    there = set(sa.inspect(connection).get_table_names())
    for name, column in going:
        if name not in there or (name, column) in _DISPENSABLE or (column is not None and name in whole):
            continue
        table: Any = sa.table(name, *([sa.column(column)] if column else []))
        counted = sa.select(sa.func.count(table.c[column]) if column else sa.func.count()).select_from(table)
        if count := connection.execute(counted).scalar_one():
            yield f"{name}.{column} ({count:,} values)" if column else f"{name} ({count:,} rows)"
