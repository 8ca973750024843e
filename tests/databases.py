"""Databases for tests, each as if it were the test's own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from os import getuid
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

import sqlalchemy as sa

from closingbell.store import open_store
from closingbell.store.database import database_of
from closingbell.store.schema import metadata
from infra import migrations

#: A table that says: what is in this schema is the tests' own.
_MARK: Final = "closingbell_tests"

#: Columns that differ between two runs that do the same.
_OF_THE_WRITING: Final = {
    *("run_id", "old_run_id", "revision_id", "claim_id"),
    *(
        "seen_at",
        "updated_at",
        "known_from",
        "old_known_from",
        "started_at",
        "ended_at",
        "as_of",
        "claimed_at",
        "done_at",
    ),
    "report",  # names the run, and says how long it took
}


@contextmanager
def copied(server: sa.URL, template: str) -> Iterator[sa.URL]:
    """A copy of a database that nobody is connected to, for the time of a block."""
    name = f"copy_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    try:
        yield server.set(database=name)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))


class OneSchema:
    """The one schema that tests on Oracle work with, after each other: migrated once, and emptied for each.

    Args:
        url: of its owner.
        shared: whether other processes of this session of tests work with it too.
        renew: makes it as good as new, where there is a shorter way than to drop all that is in it.

    Attributes:
        url: of its owner.

    Raises:
        AssertionError: the schema holds tables, and no tests have made them: somebody's data would be deleted.
    """

    def __init__(self, url: str, *, shared: bool = False, renew: Callable[[], None] | None = None) -> None:
        self.url = url
        self._renew = renew
        self._store = open_store(url, connections=1, patience=0)
        self._lock = Path(gettempdir()) / f"closingbell-tests-oracle-{getuid()}.lock" if shared else None
        self._ready = False

    def close(self) -> None:
        """Close the connections; what is in the schema stays."""
        self._store.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No test in another process works with it meanwhile."""
        if self._lock is None:
            yield
            return
        with self._lock.open("w") as file:
            flock(file, LOCK_EX)  # until it is closed
            yield

    def clean(self) -> None:
        """Bring it to the newest migration, and all its tables to no rows."""
        if self._is_ready():
            with self._store.engine.begin() as connection:
                for table in reversed(metadata.sorted_tables):
                    connection.execute(sa.delete(table))
            return
        self.drop()
        migrations.upgrade(self._store.engine)
        # The stand-in hangs where a query with binds is executed once more after its connection has altered tables.
        self._store.engine.dispose()
        self._ready = True

    def spoil(self) -> None:
        """It is no longer as the migrations made it, and is made anew when next it is cleaned."""
        self._ready = False
        if self._lock:
            self.drop()  # the next may be another process

    def _is_ready(self) -> bool:
        if self._lock is None:
            return self._ready
        with self._store.engine.connect() as connection:
            return sa.inspect(connection).has_table(_MARK) and migrations.is_current(connection)

    def drop(self) -> None:
        """Leave nothing in it but, where others might come to it, the mark that it is the tests' to be emptied."""
        self._ready = False
        engine = self._store.engine
        if self._renew:
            engine.dispose()
            return self._renew()
        there = sa.inspect(engine)
        names = {name.lower() for name in (*there.get_table_names(), *there.get_temp_table_names())}
        assert not names or _MARK in names, "the tests empty this schema: name a user who owns nothing"
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not names:
                connection.execute(sa.schema.CreateTable(sa.Table(_MARK, sa.MetaData(), sa.Column("id", sa.Integer))))
            for statement in database_of(engine).drop_views():
                with suppress(sa.exc.DatabaseError):  # it is not there
                    connection.exec_driver_sql(statement)
            for name in names - {_MARK}:
                connection.execute(sa.schema.DropTable(sa.Table(name, sa.MetaData())))


def contents(engine: sa.Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table by its name, in one order: all but the runs' ids and the moments of writing.

    Those are no two runs' own; and a text without characters is none at all on Oracle.
    """
    with engine.connect() as connection:
        return {
            table.name: sorted(
                (tuple(map(_plain, row)) for row in connection.execute(sa.select(*_compared(table)))), key=repr
            )
            for table in metadata.sorted_tables
        }


def _compared(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.c if column.name not in _OF_THE_WRITING]


def _plain(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    return None if value == "" else value
