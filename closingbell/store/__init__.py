"""Bars and ledger in a database."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from closingbell.errors import ConfigurationError
from closingbell.store.audit import Reconciliation
from closingbell.store.facts import Facts
from closingbell.store.patience import Patience
from closingbell.store.postgres import PostgresWriter
from closingbell.store.records import Records
from closingbell.store.tls import tls_of

__all__ = ["Facts", "PostgresWriter", "Reconciliation", "Records", "Store", "open_store"]


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
    writer: PostgresWriter
    records: Records
    facts: Facts

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


#: A network that falls silent in the middle of a statement is noticed in a minute, not in hours.
_KEEPALIVE: Final = {
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def open_store(
    url: str,
    *,
    connections: int = 8,
    retries: int = 3,
    patience: float = 300.0,
    lock_timeout: float = 30.0,
    stopped: Callable[[], bool] | None = None,
) -> Store:
    """Open a database; connects only when first used, and to another machine over TLS (:mod:`closingbell.store.tls`).

    Args:
        url: an SQLAlchemy URL; ``postgres://`` and ``postgresql://`` mean psycopg2.
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
        raise _unreadable()
    if parsed.get_backend_name() != "postgresql":
        raise ConfigurationError(
            "this database is not supported",
            value=parsed.drivername,
            fix="Set DATABASE_URL to a PostgreSQL 15 or newer.",
        )
    parsed = parsed.set(drivername="postgresql+psycopg2")
    tls = tls_of(parsed)
    if tls is None:
        raise _unreadable()
    engine = sa.create_engine(
        parsed,
        pool_size=connections,
        max_overflow=2,
        pool_pre_ping=True,
        # Whatever the role's default: who has waited for a lock has to see what it guarded.
        isolation_level="READ COMMITTED",
        hide_parameters=True,
        connect_args={"connect_timeout": 10, "application_name": "closingbell", **_KEEPALIVE, **tls},
        execution_options=Patience(patience, stopped, lock_timeout).option(),
    )
    writer = PostgresWriter(engine, retries=retries, lock_timeout=lock_timeout)
    return Store(engine, writer, Records(engine), Facts(engine))


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "DATABASE_URL is not a database URL",
        value="(not shown)",
        fix="Write it as postgresql://user:password@host:5432/database, special characters percent-encoded.",
    )


def _parsed(url: str) -> sa.URL | None:
    """The URL in its parts; None if it is none, so that the error that quotes it ends here."""
    try:
        parsed = sa.make_url(re.sub(r"^postgres(?=[:+])", "postgresql", url))
    except (sa.exc.ArgumentError, ValueError):
        return None
    # An @ that is not percent-encoded puts the end of the password into host or database, and so into messages.
    return None if "@" in f"{parsed.host}{parsed.database}" else parsed
