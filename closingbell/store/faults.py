"""Database errors, by what the caller should do.

SQLAlchemy wraps the driver's error, and when a connection dies inside a transaction the failing rollback
hides the first error behind an ``InterfaceError``: so the whole chain is looked at, not the class on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg2
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError

#: SQLSTATE -> what is wrong and what to do (PostgreSQL documentation, appendix A). Longest prefix wins.
_CONFIGURATION: Final = {
    "25006": ("the database is read-only", "Point DATABASE_URL at the primary, or make this server writable."),
    "28": ("the database refuses the user or the password", "Check user and password in DATABASE_URL."),
    "3D000": ("there is no such database", "Create it, or check its name in DATABASE_URL."),
    "42501": ("the database user may not do this", "Grant it: docs/operations.md lists the grants."),
    "53100": ("the database's disk is full", "Free space on the database server, then run again: nothing is lost."),
    "42P01": ("a table is missing", "Apply the migrations: closingbell doctor --migrate."),
}

#: What passes by itself: connections, serialization, deadlocks, locks, shutdowns, too many connections.
_TRANSIENT: Final = ("08", "40", "55P03", "57P01", "57P02", "57P03", "57P05", "53300")

#: What the client library says of a login that the server refused before there was a SQLSTATE.
_LOGIN: Final = (
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("role ", "28000"),
    ("no pg_hba.conf entry", "28000"),
    ("does not exist", "3D000"),
)


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection in a transaction, committed at the end; its errors are the project's own.

    Raises:
        ConfigurationError: the database refuses for a reason that a person has to mend.
        RetryableError: it cannot be reached, or the transaction lost a race.
        FatalError: it refused a statement.
    """
    failure: ClosingbellError | None = None
    try:
        with engine.begin() as connection:
            yield connection
    except (sa.exc.SQLAlchemyError, psycopg2.Error) as error:
        failure = explain(error, engine.url)
    # Raised out here, so that the driver's error, which may quote the password, is not chained to it.
    if failure is not None:
        raise failure


def explain(error: Exception, url: sa.URL) -> ClosingbellError:
    """The project's error for a database error: configuration, retryable or fatal.

    The text is the database's own first line, with the password blotted out wherever it stands.
    """
    state = next((code for code in map(_sqlstate, _chain(error)) if code), None)
    text = _first_line(error, url)
    where = f"{url.host or 'local socket'}:{url.port or 5432}/{url.database}"
    if state is None:
        state = next((code for words, code in _LOGIN if words in text), None)
    if state:
        for prefix in sorted(_CONFIGURATION, key=len, reverse=True):
            if state.startswith(prefix):
                what, fix = _CONFIGURATION[prefix]
                return ConfigurationError(what, value=f"{where} says {text!r}", fix=fix)
    disconnected = any(isinstance(e, DBAPIError) and e.connection_invalidated for e in _chain(error))
    if (state or "").startswith(_TRANSIENT) or disconnected or state is None:
        return RetryableError(
            "the database cannot be reached",
            value=f"{where} says {text!r}",
            fix="Start it, or check host and port in DATABASE_URL.",
        )
    return FatalError("the database refused a statement", value=f"{where} says {text!r}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [getattr(current, "orig", None), current.__cause__, current.__context__]


def _sqlstate(error: BaseException) -> str | None:
    code = getattr(error, "pgcode", None)
    return code if isinstance(code, str) else None


def _first_line(error: Exception, url: sa.URL) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line.replace(str(url.password), "***") if url.password else line
