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
    "42P01": (
        "a table is missing",
        "Any closingbell command applies the migrations, given a user that may create tables.",
    ),
    "42703": (
        "a column is missing",
        "Any closingbell command applies the migrations, given a user that may create tables.",
    ),
}

_UNREACHABLE: Final = ("the database cannot be reached", "Start it, or check host and port in DATABASE_URL.")
_CROWDED: Final = ("the database has no free connection", "Lower FETCH_THREADS, or raise its max_connections.")
_RACE: Final = ("a transaction lost a race against another", "Run again: nothing is lost.")

#: SQLSTATE -> what passes by itself.
_TRANSIENT: Final = {
    "08": _UNREACHABLE,
    "57P01": _UNREACHABLE,
    "57P02": _UNREACHABLE,
    "57P03": _UNREACHABLE,
    "57P05": _UNREACHABLE,
    "53300": _CROWDED,
    "40": _RACE,
    "55P03": _RACE,
}

#: What the client library says of a login that the server refused: it hands on the words, not the SQLSTATE.
_LOGIN: Final = (
    ("No space left on device", "53100"),
    ("too many c", "53300"),  # clients; connections for a role or a database
    ("connection slots are reserved", "53300"),
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("permission denied for database", "42501"),
    ('role "', "28000"),
    ("does not exist", "3D000"),
)


@contextmanager
def transaction(engine: sa.Engine, *, snapshot: bool = False) -> Iterator[sa.Connection]:
    """A connection in a transaction, committed at the end; its errors are the project's own.

    Args:
        engine: the database's.
        snapshot: only read, and all of it as of one moment, whatever other transactions commit meanwhile.

    Raises:
        ConfigurationError: the database refuses for a reason that a person has to mend.
        RetryableError: it cannot be reached, or the transaction lost a race.
        FatalError: it refused a statement.
    """
    failure: ClosingbellError | None = None
    try:
        with engine.connect() as connection:
            if snapshot:
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection
    except (sa.exc.SQLAlchemyError, psycopg2.Error) as error:
        failure = explain(error, engine.url)
    if failure is not None:
        try:
            raise failure
        finally:
            # Python chains the driver's error to it even out here. What it holds is not ours to show: the
            # statement, and in its frames the password.
            failure.__context__ = None


def explain(error: Exception, url: sa.URL) -> ClosingbellError:
    """The project's error for a database error: configuration, retryable or fatal.

    The text is the database's own first line, with the password blotted out wherever it stands.
    """
    state = next((code for code in map(_sqlstate, _chain(error)) if code), None)
    text = _telling_line(error, url)
    value = f"{url.host or url.query.get('host') or 'local socket'}:{url.port or 5432}/{url.database} says {text!r}"
    if state is None:
        state = next((code for words, code in _LOGIN if words in text), "")
    for prefix in sorted(_CONFIGURATION, key=len, reverse=True):
        if state.startswith(prefix):
            what, fix = _CONFIGURATION[prefix]
            return ConfigurationError(what, value=value, fix=fix)
    passing = next((words for prefix, words in _TRANSIENT.items() if state.startswith(prefix)), None)
    if isinstance(error, sa.exc.TimeoutError):
        passing = _CROWDED
    elif passing is None and any(map(_lost_connection, _chain(error))):
        passing = _UNREACHABLE
    if passing:
        return RetryableError(passing[0], value=value, fix=passing[1])
    if "invalid dsn" in text or "invalid connection option" in text:
        return ConfigurationError("DATABASE_URL has an option that cannot be used", value=value, fix="Remove it.")
    return FatalError("the database refused a statement", value=value)


def _lost_connection(error: BaseException) -> bool:
    """Whether there is no connection, or no longer: such an error has no SQLSTATE, and often the plainest class."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    of_connections = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return (of_connections or type(error) is psycopg2.DatabaseError) and not _sqlstate(error)


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


def _telling_line(error: Exception, url: sa.URL) -> str:
    """The server's own words where there are any (a name with several addresses brings a line for each)."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
    line = next((line for line in lines if "FATAL" in line), lines[0])
    for secret in (url.password, url.query.get("password")):
        line = line.replace(str(secret), "***") if secret else line
    return line
