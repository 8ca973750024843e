"""Database errors, by what the caller should do.

SQLAlchemy wraps the driver's error, and when a connection dies inside a transaction the failing rollback
hides the first error behind an ``InterfaceError``: so the whole chain is looked at, not the class on top. What a
driver's error means is each kind of database's own matter (:meth:`closingbell.store.database.Database.explain`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError
from closingbell.store.database import database_of
from closingbell.store.patience import Wait, patience_of


class AwayError(RetryableError):
    """There is no connection to the database, or no longer."""


class SilentError(AwayError):
    """Nothing there speaks like a database: the address may be wrong as well."""


class RaceError(RetryableError):
    """The transaction lost against another one; nothing keeps it from winning the next time."""


class OvertakenError(RaceError):
    """Others were quicker, and are done: the same transaction succeeds if it is begun again at once."""


class LockedError(RetryableError):
    """Somebody holds a lock for longer than the transaction may wait for one."""


class ReadOnlyError(ConfigurationError):
    """The server takes no writes: a wrong address, or a standby that somebody failed over to or from."""


class RefusedError(FatalError):
    """The database refuses what should be stored: a constraint, a type, a trigger.

    Attributes:
        message: the database's own words, without any secret; at most :data:`MESSAGE_LENGTH` characters.
    """

    def __init__(self, what: str, *, value: object = None, fix: str = "", message: str = "") -> None:
        super().__init__(what, value=value, fix=fix)
        self.message = message


#: As long as the column ``quarantine.message``.
MESSAGE_LENGTH: Final = 500

#: What kind of error, what is wrong and what to do.
Known = tuple[type[ClosingbellError], str, str]

UNREACHABLE: Final[Known] = (
    AwayError,
    "the database cannot be reached",
    "Start it, or check host and port in DATABASE_URL.",
)
SILENT: Final[Known] = (SilentError, *UNREACHABLE[1:])
RACE: Final[Known] = (RaceError, "a transaction lost a race against another", "Run again: nothing is lost.")
LOCKED: Final[Known] = (
    LockedError,
    "another session holds a lock for too long",
    "End that session, or its transaction.",
)
READ_ONLY: Final[Known] = (
    ReadOnlyError,
    "the database is read-only",
    "Point DATABASE_URL at the primary, or make this server writable.",
)
LOGIN_REFUSED: Final[Known] = (
    ConfigurationError,
    "the database refuses the user or the password",
    "Check user and password in DATABASE_URL.",
)
NO_DATABASE: Final[Known] = (
    ConfigurationError,
    "there is no such database",
    "Create it, or check its name in DATABASE_URL.",
)
FORBIDDEN: Final[Known] = (
    ConfigurationError,
    "the database user may not do this",
    "Grant it: python -m infra.migrations --writer NAME, as the owner of the tables.",
)
_MIGRATE: Final = "Any closingbell command applies the migrations, given a user that may create tables."
NO_TABLE: Final[Known] = (ConfigurationError, "a table is missing", _MIGRATE)
NO_COLUMN: Final[Known] = (ConfigurationError, "a column is missing", _MIGRATE)
FULL: Final[Known] = (
    ConfigurationError,
    "the database's disk is full",
    "Free space on the database server, then run again: nothing is lost.",
)
REFUSED: Final = "the database refused a statement"


def unreadable() -> ConfigurationError:
    """The error of a URL that is none; what it says is not shown, for a part of it is the password."""
    return ConfigurationError(
        "DATABASE_URL is not a database URL",
        value="(not shown)",
        fix="Write it as postgresql://user:password@host:5432/database or oracle://user:password@host:1521/service, "
        "special characters percent-encoded.",
    )


@contextmanager
def transaction(
    engine: sa.Engine, *, snapshot: bool = False, wait: Wait | None = None, lasting: bool = False
) -> Iterator[sa.Connection]:
    """A connection in a transaction, committed at the end; its errors are the project's own.

    A database that is away when the transaction begins is waited for, as long as the engine's patience says.

    Args:
        engine: of a store.
        snapshot: only read, and all of it as of one moment, whatever other transactions commit meanwhile.
        wait: the wait that this one is a part of, which sees to locks itself; None: one of its own.
        lasting: it is there to last, and is not broken off when the run is being stopped.

    Raises:
        ConfigurationError: the database refuses for a reason that a person has to mend.
        RetryableError: it cannot be reached, or the transaction lost a race.
        FatalError: it refused a statement.
    """
    failure: ClosingbellError | None = None
    patience, database = patience_of(engine), database_of(engine)
    connection = _connected(engine, wait)
    try:
        with connection:
            if snapshot:
                connection = connection.execution_options(**database.snapshot)
            alone = wait is None and not lasting
            noting = patience.noting(connection.connection.driver_connection) if alone else nullcontext()
            with noting as noted, connection.begin():
                if wait is None:
                    session = database.bound(connection, seconds_for_lock(engine, patience.lock_timeout))
                    if noted:
                        noted.session = session
                yield connection
    except driver_errors(engine) as error:
        failure = explain(error, engine)
    if failure is not None:
        try:
            raise failure
        finally:
            # Python chains the driver's error to it even out here. What it holds is not ours to show: the
            # statement, and in its frames the password.
            failure.__context__ = None


def seconds_for_lock(engine: sa.Engine, seconds: float) -> float:
    """How long a transaction that begins now waits for a lock, which else would be so many seconds; 0: no limit.

    A run that is being stopped has less time; where the limit is that of a whole statement, it stays.
    """
    return seconds if database_of(engine).bounds_statements else patience_of(engine).for_lock(seconds)


def _connected(engine: sa.Engine, wait: Wait | None) -> sa.Connection:
    """A connection; while the database is away, or behind a failover takes no writes, it is waited for."""
    patience = patience_of(engine)
    wait = wait or Wait(patience)
    while True:
        try:
            connection = engine.connect()
        except driver_errors(engine) as error:
            failure = explain(error, engine)
        else:
            patience.met = True
            return connection
        passes = isinstance(failure, AwayError) or (isinstance(failure, ReadOnlyError) and patience.written)
        if not passes:
            raise failure
        wait.bear(failure, stranger=isinstance(failure, SilentError) and not patience.met)


def driver_errors(bind: sa.Engine | sa.Connection) -> tuple[type[Exception], ...]:
    """What to catch around statements: SQLAlchemy's errors, and the driver's where it is spoken to directly."""
    return sa.exc.SQLAlchemyError, bind.dialect.loaded_dbapi.Error


def explain(error: Exception, bind: sa.Engine | sa.Connection) -> ClosingbellError:
    """The project's error for a database error: configuration, retryable or fatal.

    The text is the database's own first line, with the password blotted out wherever it stands.
    """
    return database_of(bind).explain(error, bind.engine.url)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that are behind it: wrapped, its causes, and those that it was raised in the handling of."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [getattr(current, "orig", None), current.__cause__, current.__context__]


def was_invalidated(error: BaseException) -> bool:
    """Whether SQLAlchemy itself takes the error for the loss of a connection."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def without_secrets(text: str, url: sa.URL) -> str:
    """A text with the URL's passwords blotted out wherever they stand."""
    for secret in (url.password, url.query.get("password"), url.query.get("wallet_password")):
        text = text.replace(str(secret), "***") if secret else text
    return text
