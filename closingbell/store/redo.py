"""A transaction that writes, done exactly once in effect, whatever becomes of its connection.

A database that is away, locked by somebody or failing over is waited for; a race that was lost is run again. A
commit whose answer was lost is looked up by the transaction's number, which the server remembers: what was committed
is not done again. Where nobody knows any more (another server took over), it is; the writes are made for that.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar

import psycopg2
import sqlalchemy as sa

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError
from closingbell.store.faults import AwayError, LockedError, RaceError, ReadOnlyError, RefusedError, transaction
from closingbell.store.patience import Wait, log, patience_of

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that a transaction waits for a lock at least when somebody looks who holds it.
_GLANCE: Final = 1.0

#: How often is looked who holds a lock that a transaction waits for.
_LOOK: Final = 0.25

#: First in each transaction: how long it waits for a lock, and how long its client may be silent before it loses its
#: own (its machine died; both for itself only, so that a pooler cannot hand it on), its number and its session.
_BEGIN: Final = sa.text("""
    SELECT set_config('lock_timeout', :lock_timeout, true) AS lock_timeout,
        set_config('idle_in_transaction_session_timeout', '60s', true) AS silence,
        CAST(pg_current_xact_id() AS text) AS xid, pg_backend_pid() AS pid
""")

#: Of which history of which cluster such a number is: a standby that takes over begins a new timeline. Not every
#: hosted database tells.
_HISTORY: Final = sa.text("""
    SELECT (SELECT CAST(system_identifier AS text) FROM pg_control_system())
        || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
""")

#: What became of a transaction; NULL where it is too long ago.
_FATE: Final = sa.text("""
    SELECT CASE WHEN pg_is_in_recovery() THEN 'recovering' ELSE pg_xact_status(CAST(:xid AS xid8)) END
""")

#: Ends the session of a transaction that has lost its client: it would keep its locks until the server notices. One
#: that is in the middle of its commit is left to it.
_END_ORPHAN: Final = sa.text("""
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE pid = :pid AND backend_xid = CAST(CAST(:xid AS xid8) AS xid) AND (state LIKE 'idle%' OR NOT :committing)
""")

_HOLDERS: Final = sa.text("""
    SELECT blocking.pid, usename, application_name, state, xact_start
    FROM unnest(pg_blocking_pids(:pid)) AS blocking (pid) LEFT JOIN pg_stat_activity USING (pid)
    ORDER BY xact_start LIMIT 3
""")


@dataclass(frozen=True, slots=True)
class _Begun:
    """A transaction that has begun: its number, its session, and the history that the number belongs to, if known."""

    xid: str
    pid: int
    history: str


class _Attempt(Generic[T]):
    """One try of a transaction, and how far it came."""

    def __init__(self) -> None:
        self.begun: _Begun | None = None
        self.results: list[T] = []

    @property
    def committing(self) -> bool:
        """Whether all was done but the commit: without its answer nobody knows what became of it."""
        return bool(self.results)


class Redo:
    """Does transactions again that may succeed later; safe to use from several threads.

    Args:
        engine: the database's; its patience says how long a database that is away is waited for.
        retries: how often a lost race is run again.
        delay: seconds before the first of those; doubles each time.
        lock_timeout: seconds that a transaction waits for a lock before it is rolled back and tried again.
    """

    def __init__(self, engine: sa.Engine, *, retries: int, delay: float, lock_timeout: float) -> None:
        self._engine = engine
        self._patience = patience_of(engine)
        self._retries = retries
        self._delay = delay
        self._lock_timeout = lock_timeout
        self._history: str | None = None  # of the server as it was met last; "": it does not tell

    def __call__(self, work: Callable[[sa.Connection], T]) -> T:
        """Do a transaction.

        Args:
            work: what to do in it. May be called several times; nothing of the calls before remains in the database.

        Returns:
            What ``work`` returned in the transaction that was committed.

        Raises:
            ClosingbellError: as :func:`closingbell.store.faults.transaction`, when neither patience nor retries help.
            RunEndingError: the run is being stopped while it would have to wait.
        """
        wait = Wait(self._patience)
        races = 0
        holders: list[str] = []
        locked = False
        while True:
            attempt = _Attempt[T]()
            try:
                result = self._try(work, attempt, wait, holders if locked else None)
            except RaceError as error:
                failure: ClosingbellError = error
            except (AwayError, LockedError, ReadOnlyError) as error:
                failure = error
            else:
                self._patience.written = True
                if wait.seconds:
                    log.warning("the database took it after %.0f s", wait.seconds)
                return result
            failure.__context__ = None
            if not isinstance(failure, RaceError | LockedError):
                self._history = None  # whoever answers next may be another server
            if isinstance(failure, RaceError):
                if races == self._retries and not self._patience.over:
                    raise failure
                pause = self._delay * 2**races
                races += 1
                log.warning("%s: %s; trying again, %d of %d", failure.what, failure.value, races, self._retries)
                wait.sleep(pause, failure)
            elif isinstance(failure, LockedError):
                if locked:
                    wait.bear(_named(failure, holders))
                else:
                    log.warning("%s: %s; trying again, and looking who it is", failure.what, failure.value)
                locked = True
            elif isinstance(failure, ReadOnlyError):
                if not self._patience.written:
                    raise failure
                self._engine.dispose()  # a new connection may find the new primary
                wait.bear(failure)
            else:
                wait.bear(failure)
                if attempt.begun and self._was_committed(attempt.begun, attempt.committing, wait):
                    log.warning("the connection was lost, but the commit had been made")
                    return attempt.results[0]

    def _try(
        self, work: Callable[[sa.Connection], T], attempt: _Attempt[T], wait: Wait, holders: list[str] | None
    ) -> T:
        seconds = self._lock_timeout
        if holders is not None:
            seconds = max(seconds, _GLANCE) if self._patience.seconds else _GLANCE
        history = self._history
        if history is None:
            history = self._history = self._history_now(wait)
        with transaction(self._engine, wait=wait) as connection:
            row = connection.execute(_BEGIN, {"lock_timeout": f"{seconds * 1000:.0f}"}).one()
            attempt.begun = _Begun(row.xid, row.pid, history)
            if holders is None:
                attempt.results.append(work(connection))
            else:
                with _watched(self._engine, connection, row.pid, holders):
                    attempt.results.append(work(connection))
        return attempt.results[0]

    def _history_now(self, wait: Wait) -> str:
        try:
            with transaction(self._engine, wait=wait) as connection:
                return str(connection.execute(_HISTORY).scalar_one())
        except (ConfigurationError, FatalError):
            return ""

    def _was_committed(self, begun: _Begun, committing: bool, wait: Wait) -> bool:
        """Whether a transaction whose connection was lost is known to be committed; it is over when this returns."""
        while True:
            failure: ClosingbellError
            try:
                history = self._history = self._history_now(wait)
                if history and begun.history and history != begun.history:
                    return False
                fate = self._fate(begun, committing, wait)
            except AwayError as error:
                failure = error
            except RefusedError:  # a number that the server has not given out: lost in a crash, with all it did
                return False
            else:
                if fate not in ("in progress", "recovering"):
                    return fate == "committed" and committing and bool(history and begun.history)
                what = "nobody knows yet whether the commit was made" if committing else "a lost session has not ended"
                failure = AwayError(what, value=f"transaction {begun.xid}, {fate}")
            failure.__context__ = None
            wait.bear(failure)

    def _fate(self, begun: _Begun, committing: bool, wait: Wait) -> str | None:
        """What became of a transaction; where its session is still there without its client, that is ended."""
        with transaction(self._engine, wait=wait) as connection:
            fate: str | None = connection.execute(_FATE, {"xid": begun.xid}).scalar_one()
            if fate == "in progress":
                connection.execute(_END_ORPHAN, {"xid": begun.xid, "pid": begun.pid, "committing": committing})
        return fate


def again(engine: sa.Engine, work: Callable[[], T], retries: int = 3) -> T:
    """Do something again that is one transaction by itself and may be done twice, such as a read, when it is cut short.

    Raises:
        ClosingbellError: as :class:`Redo`.
    """
    wait = Wait(patience_of(engine))
    wait.begin()
    for lost in itertools.count():
        try:
            return work()
        except (AwayError, LockedError) as error:
            failure: ClosingbellError = error
        except RaceError as error:
            if lost >= retries:
                raise
            failure = error
        except ReadOnlyError as error:
            if not patience_of(engine).written:
                raise
            engine.dispose()  # a new connection may find the new primary
            failure = error
        failure.__context__ = None
        wait.bear(failure)
    raise AssertionError("unreachable")


class _HasEngine(Protocol):
    _engine: sa.Engine


S = TypeVar("S", bound=_HasEngine)


def persistent(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that is one transaction and may be done twice, done with :func:`again`."""

    @wraps(method)
    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return again(self._engine, lambda: method(self, *args, **kwargs))

    return wrapped


def undo(connection: sa.Connection) -> None:
    """Roll back a transaction that was only to find something out; it then ends as if it had been committed."""
    begun = connection.get_transaction()
    if begun is not None:
        begun.rollback()


@contextmanager
def _watched(engine: sa.Engine, connection: sa.Connection, pid: int, holders: list[str]) -> Iterator[None]:
    """Look, beside the block, who keeps the session ``pid`` waiting; tell it, and keep it in ``holders``.

    A run that is being stopped does not wait for the lock: the statement is cancelled.
    """
    over = threading.Event()
    driver: Any = connection.connection.driver_connection
    patience = patience_of(engine)

    def look() -> None:
        told = ""
        while not over.wait(_LOOK):
            if patience.over:
                driver.cancel()
                return
            try:
                with engine.connect() as other:
                    rows = other.execute(_HOLDERS, {"pid": pid}).all()
            except (sa.exc.SQLAlchemyError, psycopg2.Error):
                continue  # whoever waits for the lock will hear of it
            if rows:
                holders[:] = [_holder(*row) for row in rows]
                if ", ".join(holders) != told:
                    told = ", ".join(holders)
                    log.warning("waiting for a lock that is held by %s", told)

    thread = threading.Thread(target=look, name="who-holds-it", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_GLANCE)


def _holder(pid: int, user: str | None, application: str | None, state: str | None, since: Any) -> str:
    """A session in words, as far as we may know it."""
    if not pid:
        return "a prepared transaction"
    known = [f"user {user}" if user else "", application or "", state or ""]
    told = ", ".join([*filter(None, known), *([f"since {since:%Y-%m-%d %H:%M:%S %Z}"] if since else [])])
    return f"pid {pid} ({told})" if told else f"pid {pid}"


def _named(failure: LockedError, holders: list[str]) -> LockedError:
    """The same error with who holds the lock."""
    if not holders:
        return failure
    value = f"{failure.value}; held by {', '.join(holders)}"
    return LockedError(failure.what, value=value, fix=failure.fix)
