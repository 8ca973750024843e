"""A transaction that writes, done exactly once in effect, whatever becomes of its connection.

A database that is away, locked by somebody or failing over is waited for; a race that was lost is run again. A
commit whose answer was lost is looked up, as each kind of database can be asked about it: what was committed is not
done again. Where nobody knows any more (another server took over), it is; the writes are made for that.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa

from closingbell.errors import ClosingbellError
from closingbell.store.database import database_of
from closingbell.store.faults import (
    AwayError,
    LockedError,
    OvertakenError,
    RaceError,
    ReadOnlyError,
    RefusedError,
    driver_errors,
    seconds_for_lock,
    transaction,
)
from closingbell.store.patience import Wait, log, patience_of

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that a transaction waits for a lock at least when somebody looks who holds it.
_GLANCE: Final = 1.0

#: How often is looked who holds a lock that a transaction waits for.
_LOOK: Final = 0.25


#: How often a transaction is begun again at once, because others that are done were quicker, before that is a race.
_OVERTAKEN: Final = 5


class _Attempt(Generic[T]):
    """One try of a transaction, and how far it came."""

    def __init__(self) -> None:
        self.begun: Any = None  # what the database looks it up by
        self.results: list[T] = []

    @property
    def committing(self) -> bool:
        """Whether all was done but the commit: without its answer nobody knows what became of it."""
        return bool(self.results)


def _nothing(_: ClosingbellError) -> None:
    """Whom nobody tells."""


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
        self._database = database_of(engine)
        self._patience = patience_of(engine)
        self._retries = retries
        self._delay = delay
        self._lock_timeout = lock_timeout

    def __call__(self, work: Callable[[sa.Connection], T], lost: Callable[[ClosingbellError], None] = _nothing) -> T:
        """Do a transaction.

        Args:
            work: what to do in it. May be called several times; nothing of the calls before remains in the database.
            lost: is told why, each time that it is about to be done again.

        Returns:
            What ``work`` returned in the transaction that was committed.

        Raises:
            ClosingbellError: as :func:`closingbell.store.faults.transaction`, when neither patience nor retries help.
            RunEndingError: the run is being stopped while it would have to wait.
        """
        wait = Wait(self._patience)
        races = locked = overtaken = 0
        holders: list[str] = []
        while True:
            attempt = _Attempt[T]()
            try:
                result = self._try(work, attempt, wait, locked, holders)
            except RaceError as error:
                failure: ClosingbellError = error
            except (AwayError, LockedError, ReadOnlyError) as error:
                failure = error
            else:
                self._patience.written = True
                self._database.committed(attempt.begun)
                if wait.seconds:
                    log.warning("the database took it after %.0f s", wait.seconds)
                return result
            failure.__context__ = None
            if not isinstance(failure, RaceError | LockedError):
                self._database.lost()
            if isinstance(failure, OvertakenError) and overtaken < _OVERTAKEN:
                overtaken += 1
            elif isinstance(failure, RaceError):
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
                locked += 1
            elif isinstance(failure, ReadOnlyError):
                if not self._patience.written:
                    raise failure
                self._engine.dispose()  # a new connection may find the new primary
                wait.bear(failure)
            else:
                wait.bear(failure)
                if attempt.begun is not None and self._was_committed(attempt, wait):
                    log.warning("the connection was lost, but the commit had been made")
                    return attempt.results[0]
            lost(failure)

    def _try(
        self,
        work: Callable[[sa.Connection], T],
        attempt: _Attempt[T],
        wait: Wait,
        locked: int,
        holders: list[str],
    ) -> T:
        seconds = self._lock_timeout
        if locked:
            only_look = not self._patience.seconds and not self._database.bounds_statements
            seconds = _GLANCE if only_look else max(seconds, _GLANCE)
        with (
            transaction(self._engine, wait=wait) as connection,
            self._patience.noting(connection.connection.driver_connection, keeps=True) as noted,
        ):
            seconds = seconds_for_lock(self._engine, seconds)
            noted.session = begun = attempt.begun = self._database.begin(connection, seconds, locked)
            with _watched(self._engine, connection, begun, holders) if locked else nullcontext():
                attempt.results.append(work(connection))
        return attempt.results[0]

    def _was_committed(self, attempt: _Attempt[T], wait: Wait) -> bool:
        """Whether a transaction whose connection was lost is known to be committed; it is over when this returns."""
        while True:
            try:
                with transaction(self._engine, wait=wait) as connection:
                    return self._database.fate(connection, attempt.begun, committing=attempt.committing)
            except (AwayError, LockedError, RaceError) as error:
                failure: ClosingbellError = error
            except RefusedError:  # of what the server knows nothing: lost in a crash, with all it did
                return False
            failure.__context__ = None
            wait.bear(failure)


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
def _watched(engine: sa.Engine, connection: sa.Connection, begun: Any, holders: list[str]) -> Iterator[None]:
    """Look, beside the block, who keeps its transaction waiting; tell it, and keep it in ``holders``.

    A run that is being stopped does not wait for the lock: the statement is cancelled.
    """
    over = threading.Event()
    driver: Any = connection.connection.driver_connection
    patience = patience_of(engine)

    def look() -> None:
        told = ""
        while not over.wait(_LOOK):
            try:
                with engine.connect() as other:
                    if patience.over:
                        database_of(engine).cancel(other, driver, begun)
                        return
                    found = database_of(engine).holders(other, begun)
            except driver_errors(engine):
                continue  # whoever waits for the lock will hear of it
            if found:
                holders[:] = found
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


def _named(failure: LockedError, holders: list[str]) -> LockedError:
    """The same error with who holds the lock."""
    if not holders:
        return failure
    value = f"{failure.value}; held by {', '.join(holders)}"
    return LockedError(failure.what, value=value, fix=failure.fix)
