"""How long a database that is away is waited for, and how the waiting is told and ended."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from closingbell.errors import ClosingbellError, RunEndingError

log = logging.getLogger("closingbell.store")

#: Seconds before the first new try, which double, and the longest that two tries are apart.
FIRST: Final = 0.1
LONGEST: Final = 15.0

#: A database that has never answered may have a wrong address as well: it is waited for no longer than a restart takes.
FIRST_CONTACT: Final = 30.0

#: Seconds that a run which is being stopped waits for a lock: its own last transactions may hold it.
HURRIED: Final = 5.0

#: How often a wait looks whether it has to end.
_TICK: Final = 0.1

_OPTION: Final = "closingbell_patience"


@dataclass(slots=True, eq=False)
class UnderWay:
    """A transaction that is under way.

    Attributes:
        driver: its connection, as the driver has it.
        keeps: it writes what a call has brought, and is let through; any other may be broken off at any time.
        session: what the database knows it by, once it does.
    """

    driver: Any
    keeps: bool
    session: Any = None
    _over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def while_under_way(self, do: Callable[[UnderWay], None]) -> None:
        """Do something with it, unless it is over; its connection is nobody else's meanwhile."""
        with self._lock:
            if not self._over:
                do(self)

    def end(self) -> None:
        """It is over."""
        with self._lock:
            self._over = True


@dataclass(slots=True)
class Patience:
    """How one process bears with its database; shared by all its threads.

    Attributes:
        seconds: how long it may be away, or refuse for a reason that passes, before the caller hears of it.
        lock_timeout: seconds that a transaction waits for a lock before it is rolled back; 0: for as long as it takes.
        stopped: says that the run is being stopped: a wait then ends at once. May be called often, from any thread.
        met: whether the database has answered before.
        written: whether a transaction that wrote has been committed before.
        under_way: the transactions that are.
    """

    seconds: float = 0.0
    stopped: Callable[[], bool] | None = None
    lock_timeout: float = 0.0
    met: bool = False
    written: bool = False
    under_way: set[UnderWay] = field(default_factory=set)

    def option(self) -> dict[str, Patience]:
        """What binds it to an engine, as its execution options."""
        return {_OPTION: self}

    @property
    def over(self) -> bool:
        """Whether the run is being stopped."""
        return self.stopped is not None and self.stopped()

    def for_lock(self, seconds: float) -> float:
        """How long a lock is waited for that else would be for so many seconds; 0: for as long as it takes."""
        return min(seconds or HURRIED, HURRIED) if self.over else seconds

    @contextmanager
    def noting(self, driver: Any, *, keeps: bool = False) -> Iterator[UnderWay]:
        """Note a transaction as under way for the time of the block; see :class:`UnderWay`."""
        one = UnderWay(driver, keeps)
        self.under_way.add(one)
        try:
            yield one
        finally:
            one.end()
            self.under_way.discard(one)


def patience_of(engine: sa.Engine) -> Patience:
    """The patience bound to an engine; none where nobody bound one."""
    found = engine.get_execution_options().get(_OPTION)
    return found if isinstance(found, Patience) else Patience()


class Wait:
    """One wait of one caller, over as many tries as it takes.

    Args:
        patience: whose.
        first: seconds before the first new try.
    """

    def __init__(self, patience: Patience, first: float = FIRST) -> None:
        self._patience = patience
        self._pause = first
        self._begun: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has taken so far; 0 where nothing had to be waited for."""
        return time.monotonic() - self._begun if self._begun is not None else 0.0

    def begin(self) -> None:
        """Let the time run from now on, and not only from the first failure."""
        self._begun = time.monotonic()

    def bear(self, failure: ClosingbellError, *, stranger: bool = False) -> None:
        """Wait for the next try, a little longer each time.

        Args:
            failure: why; it is what the caller gets when the patience is over.
            stranger: it may be no database at all.

        Raises:
            ClosingbellError: ``failure``, when the patience is over.
            RunEndingError: the run is being stopped.
        """
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        seconds = min(self._patience.seconds, FIRST_CONTACT) if stranger else self._patience.seconds
        left = self._begun + seconds - now
        if left <= 0:
            raise failure
        pause = min(_jittered(self._pause), left)
        self._pause = min(2 * self._pause, LONGEST)
        log.warning("%s; trying again in %.1f s, for at most %.0f s more", _plain(failure), pause, left)
        self.sleep(pause, failure)

    def sleep(self, seconds: float, failure: ClosingbellError) -> None:
        """Sleep, unless the run is being stopped.

        Raises:
            RunEndingError: it is.
        """
        until = time.monotonic() + seconds
        while not self._patience.over:
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_TICK, left))
        raise RunEndingError("the run was stopped while it waited for the database", value=failure.what)


def _jittered(seconds: float) -> float:
    """Up to a quarter more or less, so that those who failed together do not come back together."""
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311  (no secret)


def _plain(failure: ClosingbellError) -> str:
    """A failure without its advice, which is for when nothing helps."""
    return failure.what if failure.value is None else f"{failure.what}: {failure.value}"
