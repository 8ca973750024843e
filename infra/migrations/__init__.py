"""The database's schema, as Alembic migrations; applied on start."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from closingbell.store.database import database_of
from closingbell.store.faults import transaction
from closingbell.store.redo import again

#: So many years of partitions there are to be ahead: closingbell doctor speaks up when it is less than one.
_YEARS_AHEAD: Final = 4

#: One migration at a time in a database: two runs may start at once.
_LOCK: Final = "migrations"


def config() -> Config:
    """Alembic's configuration, without a file."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    return made


def is_current(connection: sa.Connection) -> bool:
    """Whether the database is at the newest migration."""
    head = ScriptDirectory.from_config(config()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == head


def upgrade(engine: sa.Engine) -> None:
    """Bring the schema to the newest migration; does nothing, and locks nothing, where it is there already.

    Raises:
        ClosingbellError: as :func:`closingbell.store.faults.transaction` says.
    """

    def current() -> bool:
        with transaction(engine) as connection:
            return is_current(connection)

    if not again(engine, current):
        again(engine, lambda: _upgrade(engine))
        engine.dispose()  # statements that its connections keep are of the tables as they were


def prepare(engine: sa.Engine, today: date) -> date | None:
    """Make partitions of the bars' table for the years to come, as the owner of the tables.

    Args:
        engine: of a database at the newest migration.
        today: the present day.

    Returns:
        Until when there are partitions now, where some were made; None: there are enough, or it has none.

    Raises:
        ClosingbellError: as :func:`closingbell.store.faults.transaction` says.
    """
    until = date(today.year + _YEARS_AHEAD, 1, 1)

    def made() -> bool:
        with transaction(engine) as connection:
            database_of(connection).lock(connection, _LOCK)
            return database_of(connection).prepare_until(connection, until)

    return until if again(engine, made) else None


def _upgrade(engine: sa.Engine) -> None:
    database = database_of(engine)
    # The lock is that of a transaction of its own: where each statement that makes a table commits, it would end with
    # the first of them.
    with transaction(engine) as guard:
        database.prepare(guard)
        database.lock(guard, _LOCK)
        with transaction(engine) as connection:
            made = config()
            made.attributes["connection"] = connection
            command.upgrade(made, "head")
