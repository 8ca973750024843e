"""Which database is read."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

import sqlalchemy as sa

from closingbell import settings
from closingbell.errors import ConfigurationError
from closingbell.provided import existing_database, with_secrets
from closingbell.store import Store, open_store

#: Threads that may read at once over one connection; each further one waits for one of them.
_THREADS: Final = 4


class Connection:
    """A database to read from, kept open for many reads; safe to use from several threads. Close it at the end.

    Args:
        engine: of a store.
        stack: what ends with it.
    """

    def __init__(self, engine: sa.Engine, stack: ExitStack) -> None:
        self.engine = engine
        self._stack = stack

    def __repr__(self) -> str:
        return f"Connection({self.engine.url.render_as_string()!r})"

    def close(self) -> None:
        """Close what was opened for it; an embedded PostgreSQL that nobody else uses is stopped."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


#: A URL, an SQLAlchemy engine, a store, or what :func:`connect` gave; None: what the settings name.
Database = str | sa.Engine | Store | Connection | None


def connect(database: Database = None) -> Connection:
    """Open a database once for many reads. Nothing is migrated, written, or made.

    Args:
        database: its URL. None: what DATABASE_URL names, else the embedded PostgreSQL of CLOSINGBELL_HOME, where an
            earlier run has filled one; it runs until the connection is closed. Of an engine that is not a store's, the
            URL is taken.

    Raises:
        ConfigurationError: there is no database to read, or it is of no kind that is supported.
    """
    stack = ExitStack()
    if isinstance(database, Connection):
        return Connection(database.engine, stack)
    if isinstance(database, Store):
        return Connection(database.engine, stack)
    try:
        store = open_store(_url(database, stack), connections=_THREADS, patience=0)
        stack.callback(store.close)
    except BaseException:
        stack.close()
        raise
    return Connection(store.engine, stack)


def _url(database: str | sa.Engine | None, stack: ExitStack) -> str:
    if isinstance(database, sa.Engine):
        return database.url.render_as_string(hide_password=False)
    if isinstance(database, str):
        return database
    if database is not None:
        raise ConfigurationError("this is no database", value=type(database).__name__, fix="Give its URL.")
    return existing_database(with_secrets(settings.read()), stack)
