"""Database errors, by what the caller should do.

SQLAlchemy wraps the driver's error, and when a connection dies inside a transaction the failing rollback
hides the first error behind an ``InterfaceError``: so the whole chain is looked at, not the class on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg2
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError
from closingbell.store.patience import Wait, patience_of


class AwayError(RetryableError):
    """There is no connection to the database, or no longer."""


class RaceError(RetryableError):
    """The transaction lost against another one; nothing keeps it from winning the next time."""


class LockedError(RetryableError):
    """Somebody holds a lock for longer than the transaction may wait for one."""


class ReadOnlyError(ConfigurationError):
    """The server takes no writes: a wrong address, or a standby that somebody failed over to or from."""


class RefusedError(FatalError):
    """The database refuses what should be stored: a constraint, a type, a trigger.

    Attributes:
        message: the database's own words, without any secret; at most 500 characters.
    """

    def __init__(self, what: str, *, value: object = None, fix: str = "", message: str = "") -> None:
        super().__init__(what, value=value, fix=fix)
        self.message = message


_Known = tuple[type[ClosingbellError], str, str]

_UNREACHABLE: Final[_Known] = (
    AwayError,
    "the database cannot be reached",
    "Start it, or check host and port in DATABASE_URL.",
)
_CROWDED: Final[_Known] = (
    AwayError,
    "the database has no free connection",
    "Lower FETCH_THREADS, or raise its max_connections.",
)
_RACE: Final[_Known] = (RaceError, "a transaction lost a race against another", "Run again: nothing is lost.")
_MIGRATE: Final = "Any closingbell command applies the migrations, given a user that may create tables."
_READ_ONLY: Final[_Known] = (
    ReadOnlyError,
    "the database is read-only",
    "Point DATABASE_URL at the primary, or make this server writable.",
)
_LOGIN_REFUSED: Final[_Known] = (
    ConfigurationError,
    "the database refuses the user or the password",
    "Check user and password in DATABASE_URL.",
)
_NO_TLS: Final[_Known] = (
    ConfigurationError,
    "the database does not speak TLS",
    "Switch TLS on there, or, if the network in between is trusted, add ?sslmode=disable to DATABASE_URL.",
)
_BAD_TLS: Final[_Known] = (
    ConfigurationError,
    "the database's TLS certificate cannot be verified",
    "Set sslrootcert in DATABASE_URL to the authority's certificate, and use the host name that it was issued for.",
)
_BAD_OPTION: Final[_Known] = (ConfigurationError, "DATABASE_URL has an option that cannot be used", "Remove it.")

#: SQLSTATE -> what kind of error, what is wrong and what to do (PostgreSQL documentation, appendix A). Longest prefix
#: wins.
_STATES: Final[dict[str, _Known]] = {
    "08": _UNREACHABLE,
    "25006": _READ_ONLY,
    "25P03": _UNREACHABLE,
    "25P04": _UNREACHABLE,
    "28": _LOGIN_REFUSED,
    "3D000": (ConfigurationError, "there is no such database", "Create it, or check its name in DATABASE_URL."),
    "40": _RACE,
    "42501": (
        ConfigurationError,
        "the database user may not do this",
        "Grant it: python -m infra.migrations --writer NAME, as the owner of the tables.",
    ),
    "42P01": (ConfigurationError, "a table is missing", _MIGRATE),
    "42703": (ConfigurationError, "a column is missing", _MIGRATE),
    "53100": (
        ConfigurationError,
        "the database's disk is full",
        "Free space on the database server, then run again: nothing is lost.",
    ),
    "53200": (AwayError, "the database server is out of memory", "Give it more, or lower FETCH_THREADS."),
    "53300": _CROWDED,
    "55P03": (LockedError, "another session holds a lock for too long", "End that session, or its transaction."),
    "57014": (
        RaceError,
        "the database cancelled a statement",
        "Raise statement_timeout for this user if it is set: ALTER ROLE NAME SET statement_timeout = '10min'.",
    ),
    "57P01": _UNREACHABLE,
    "57P02": _UNREACHABLE,
    "57P03": _UNREACHABLE,
    "57P05": _UNREACHABLE,
}

#: Classes of SQLSTATE by which a server refuses values: data, integrity, views' and triggers' own.
_OF_VALUES: Final = ("22", "23", "27", "38", "39", "44", "P0", "09", "2F")

#: Classes that PostgreSQL has taken of those that the standard leaves to implementations; others are somebody's own,
#: from a trigger.
_OF_POSTGRES: Final = ("53", "54", "55", "57", "58", "72", "F0", "HV", "XX")

#: What the client library says of a login that failed: it hands on the words, not the SQLSTATE.
_LOGIN: Final = (
    ("No space left on device", "53100"),
    ("too many c", "53300"),  # clients; connections for a role or a database
    ("connection slots are reserved", "53300"),
    ("no more connections allowed", "53300"),  # pgbouncer
    ("database system is ", "57P03"),  # starting up, shutting down, in recovery mode
    ("session is read-only", "25006"),  # target_session_attrs
    ("server is in hot standby mode", "25006"),
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("SASL authentication failed", "28P01"),  # pgbouncer
    ("permission denied for database", "42501"),
    ('role "', "28000"),
    ("does not exist", "3D000"),
    ("no such database", "3D000"),  # pgbouncer
)

#: The same for what is wrong before a login.
_WORDS: Final = (
    ("does not support SSL", _NO_TLS),
    ("certificate verify failed", _BAD_TLS),
    ("does not match host name", _BAD_TLS),
    ("root certificate file", _BAD_TLS),
    ("invalid dsn", _BAD_OPTION),
    ("invalid connection option", _BAD_OPTION),
    ("unsupported startup parameter", _BAD_OPTION),  # pgbouncer
)

#: As long as the column ``quarantine.message``.
_MESSAGE_LENGTH: Final = 500


#: For one transaction only, so that a pooler cannot hand it on.
_LOCK_TIMEOUT: Final = sa.text("SELECT set_config('lock_timeout', :lock_timeout, true)")


@contextmanager
def transaction(engine: sa.Engine, *, snapshot: bool = False, wait: Wait | None = None) -> Iterator[sa.Connection]:
    """A connection in a transaction, committed at the end; its errors are the project's own.

    A database that is away when the transaction begins is waited for, as long as the engine's patience says.

    Args:
        engine: the database's.
        snapshot: only read, and all of it as of one moment, whatever other transactions commit meanwhile.
        wait: the wait that this one is a part of, which sees to locks itself; None: one of its own.

    Raises:
        ConfigurationError: the database refuses for a reason that a person has to mend.
        RetryableError: it cannot be reached, or the transaction lost a race.
        FatalError: it refused a statement.
    """
    failure: ClosingbellError | None = None
    connection = _connected(engine, wait)
    try:
        with connection:
            if snapshot:
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                if wait is None and (seconds := patience_of(engine).lock_timeout):
                    connection.execute(_LOCK_TIMEOUT, {"lock_timeout": f"{seconds * 1000:.0f}"})
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


def _connected(engine: sa.Engine, wait: Wait | None) -> sa.Connection:
    """A connection; while the database is away, or behind a failover takes no writes, it is waited for."""
    patience = patience_of(engine)
    wait = wait or Wait(patience)
    while True:
        try:
            connection = engine.connect()
        except (sa.exc.SQLAlchemyError, psycopg2.Error) as error:
            failure = explain(error, engine.url)
        else:
            patience.met = True
            return connection
        passes = isinstance(failure, AwayError) or (isinstance(failure, ReadOnlyError) and patience.written)
        if not passes:
            raise failure
        silent = failure.what == _UNREACHABLE[1] and "FATAL" not in str(failure.value)
        wait.bear(failure, stranger=silent and not patience.met)


def explain(error: Exception, url: sa.URL) -> ClosingbellError:
    """The project's error for a database error: configuration, retryable or fatal.

    The text is the database's own first line, with the password blotted out wherever it stands.
    """
    state = next((code for code in map(_sqlstate, _chain(error)) if code), None)
    text = _telling_line(error, url)
    value = f"{url.host or url.query.get('host') or 'local socket'}:{url.port or 5432}/{url.database} says {text!r}"
    known: _Known | None = None
    if state is None:
        known = next((what for words, what in _WORDS if words in text), None)
        state = next((code for words, code in _LOGIN if words in text), "")
    prefix = max((prefix for prefix in _STATES if state.startswith(prefix)), key=len, default=None)
    if known is None and prefix:
        known = _STATES[prefix]
    if isinstance(error, sa.exc.TimeoutError):
        known = _CROWDED
    elif known is None and any(map(_lost_connection, _chain(error))):
        known = _UNREACHABLE
    if known:
        kind, what, fix = known
        return kind(what, value=value, fix=fix)
    if state and _is_of_values(state):
        return RefusedError("the database refused a statement", value=value, message=_message(error, url) or text)
    return FatalError("the database refused a statement", value=value)


def _is_of_values(state: str) -> bool:
    """Whether such an error is about what should be stored, not about who, where or how."""
    own = state[0] in "56789IJKLMNOPQRSTUVWXYZ" and not state.startswith(_OF_POSTGRES)
    return own or state.startswith(_OF_VALUES)


def _message(error: Exception, url: sa.URL) -> str:
    """What the server says was wrong, and of what, as far as it says so without repeating the row."""
    diag: Any = next((found for each in _chain(error) if (found := getattr(each, "diag", None))), None)
    if diag is None or not diag.message_primary:
        return ""
    detail = diag.message_detail or ""
    more = f" ({detail})" if detail and not detail.startswith("Failing row") else ""
    return _without_secrets(" ".join(f"{diag.message_primary}{more}".split()), url)[:_MESSAGE_LENGTH]


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
    return _without_secrets(next((line for line in lines if "FATAL" in line), lines[0]), url)


def _without_secrets(text: str, url: sa.URL) -> str:
    for secret in (url.password, url.query.get("password")):
        text = text.replace(str(secret), "***") if secret else text
    return text
