"""Bars and ledger in a database."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from closingbell.errors import ConfigurationError
from closingbell.store import interrupt
from closingbell.store.audit import Reconciliation
from closingbell.store.facts import Facts
from closingbell.store.faults import unreadable
from closingbell.store.patience import Patience
from closingbell.store.records import Records
from closingbell.store.writer import Writer

if TYPE_CHECKING:
    from closingbell.store.database import Database

__all__ = ["Facts", "Reconciliation", "Records", "Store", "Writer", "open_store"]


@dataclass(frozen=True, slots=True)
class Store:
    """One database: the hot path, the records, the facts that are not bars.

    Attributes:
        engine: the SQLAlchemy engine under all of them.
        writer: writes outcomes.
        records: runs, ledger and reconciliation.
        facts: splits.
    """

    engine: sa.Engine
    writer: Writer
    records: Records
    facts: Facts

    def interrupt(self) -> None:
        """Have broken off what a run waits for that is being stopped; see :mod:`closingbell.store.interrupt`."""
        interrupt.begin(self.engine)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


#: The kinds of database, by SQLAlchemy's name; each brings its driver, which only those load who use it.
_KINDS: Final = {"postgresql": "closingbell.store.postgres:Postgres", "oracle": "closingbell.store.oracle:Oracle"}


def open_store(
    url: str,
    *,
    connections: int = 8,
    retries: int = 3,
    patience: float = 300.0,
    lock_timeout: float = 30.0,
    stopped: Callable[[], bool] | None = None,
) -> Store:
    """Open a database; connects only when first used, and to another machine over TLS (:mod:`closingbell.hosts`).

    Args:
        url: an SQLAlchemy URL; ``postgres://`` is PostgreSQL too.
        connections: how many threads may write at once.
        retries: how often a transaction that writes bars is done again when it loses a race against another.
        patience: seconds to wait for a database that is away, locked, or failing over; 0: an error at once.
        lock_timeout: seconds that such a transaction waits for a lock before it is rolled back and tried again.
        stopped: says that the run is being stopped, which ends a wait at once; may be called from any thread.

    Raises:
        ConfigurationError: the URL cannot be read, or names a database that is not supported.
    """
    parsed = _parsed(url)
    if parsed is None:
        raise unreadable()
    kind = _KINDS.get(parsed.get_backend_name())
    if kind is None:
        raise ConfigurationError(
            "this database is not supported",
            value=parsed.drivername,
            fix="Set DATABASE_URL to a PostgreSQL 15 or newer, or an Oracle 19c or newer.",
        )
    database: Database = resolve_name(kind)()
    engine = database.engine(parsed, connections)
    engine = engine.execution_options(**Patience(patience, stopped, lock_timeout).option(), **database.option())
    writer = Writer(engine, retries=retries, lock_timeout=lock_timeout)
    return Store(engine, writer, Records(engine), Facts(engine))


def _parsed(url: str) -> sa.URL | None:
    """The URL in its parts; None if it is none, so that the error that quotes it ends here."""
    try:
        parsed = sa.make_url(re.sub(r"^postgres(?=[:+])", "postgresql", url))
    except (sa.exc.ArgumentError, ValueError):
        return None
    # An @ that is not percent-encoded puts the end of the password into host or database, and so into messages.
    return None if "@" in f"{parsed.host}{parsed.database}" else parsed
