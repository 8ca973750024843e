"""The gate that every call passes: the quota, held as slots of a Prefect global concurrency limit.

A call takes a slot before it is sent, and its slot is free again one quota window after its answer has begun.
As every call that the vendor counted in the last window still holds its slot, no rolling window ever sees more
calls than the limit has slots, over all threads, processes and machines that share the Prefect server. Nothing
is paced: a night of three calls waits for nothing.

Prefect's own ``rate_limit`` is a token bucket: it lets more calls through in a rolling window than the limit
says, and a refused caller waits longer than it has to.

A process lends its slots to one call after another, without asking the server each time, and gives them back
after a while or when it has no use for them, so that other processes get theirs. Slots are held under leases.
Whatever happens to this process, the leases run out and the server takes the slots back.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError, RunEndingError
from closingbell.quota import Quota
from tasks.leases import LeaseBook
from tasks.limits import LONGEST_LEASE, SHORTEST_LEASE, AwayError, Limit, limit_name, readable, steady
from tasks.pauses import Pause
from tasks.slots import Lease, Slots

log = logging.getLogger("closingbell.limiter")

#: How long slots are lent to one call after another before other processes have a chance of them.
_TENURE: Final = 20.0
#: On leaving, windows up to this long are waited out; the slots of longer ones are left to their leases.
_WORTH_WAITING: Final = 10.0
#: How long an interrupted run waits for the server on leaving.
_IN_A_HURRY: Final = 2.0
#: How often the limit is read anew, so that a change of it is honoured.
_LOOK_AGAIN: Final = 1.0
#: How often what is held is looked over.
_TICK: Final = 0.05
#: Slots are taken ahead for as many calls as this time last saw; of a short window, whose slots come back soon.
_AHEAD: Final = 0.1
#: The same of any window, while they are no more than a hundredth of what is free: nobody misses those.
_FAR_AHEAD: Final = 1.0
_NOBODYS: Final = 100
#: How long a Prefect server may be away before the waiting calls give up.
_PATIENCE: Final = 600.0


class PrefectGate:
    """One process's way through one limit: callers wait, one thread takes slots and gives them back.

    Args:
        quota: the window (its number of calls is the limit's own, which a person may change at run time).
        asset_class: whose quota.
        key: the name of the vendor's key, where several are in use.
        call_timeout: seconds a call may take at most; a lease outlives it by a window.
        books: the folder of this machine's books of leases (:mod:`tasks.leases`), so that what a killed process
            held comes back one window after it is found missing, and a pause reaches every process at once; None:
            when its leases run out, and within a second.

    Raises:
        ConfigurationError: no Prefect server is configured, or its limit is not fit to hold a quota.
        RetryableError: the Prefect server does not answer.
    """

    def __init__(
        self,
        quota: Quota,
        asset_class: str = "stocks",
        *,
        key: str = "",
        call_timeout: float = 120.0,
        books: Path | None = None,
    ) -> None:
        self.name = limit_name(quota, asset_class, key)
        self.quota = quota
        # A call begun on the last instant of a lease's tenure still has its time and its window under the lease.
        self._lease_seconds = min(LONGEST_LEASE, max(SHORTEST_LEASE, _TENURE + call_timeout + quota.seconds))
        self._poll = min(0.3, max(0.1, quota.seconds / 200))
        self._listen = min(1.0, max(0.5, quota.seconds / 10))
        self._slots = Slots(quota.seconds)
        self._waiting = 0
        self._expected = 0
        self._failure: ClosingbellError | None = None
        self._refusing = self._closing = False
        self._patient = True
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._callers = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        # What only the keeper reads and writes.
        self._limit = Limit(self.name, self._lease_seconds)
        self._ask_at = self._listen_at = self._inherit_at = self._forgotten_until = 0.0
        self._away_since: float | None = None
        if not get_current_settings().api.url:
            fix = "Set PREFECT_API_URL, for instance http://127.0.0.1:4200/api."
            raise ConfigurationError("no Prefect server is configured", fix=fix)
        try:
            with self._limit.connected(), readable():
                self._limit.look()
        except AwayError as error:
            fix = "Start it (prefect server start), or correct PREFECT_API_URL."
            raise RetryableError("the Prefect server does not answer", value=error, fix=fix) from None
        self._book: LeaseBook | None = None
        if books:
            try:
                self._book = LeaseBook(books / self.name)
            except OSError as error:
                log.warning("there is no book of leases (%s); a killed run's slots come back late", error)
        self._pause = Pause(self.name, books / self.name if self._book and books else None)
        # Prefect's settings are context variables, which a new thread does not inherit by itself.
        keep = contextvars.copy_context().run
        self._keeper = threading.Thread(target=keep, args=(self._keep,), name=f"gate {self.name}", daemon=True)
        self._keeper.start()

    @property
    def in_force(self) -> Quota:
        """The quota as the limit has it: a person may have changed its number of calls in the Prefect UI."""
        return Quota(self._limit.calls, self.quota.seconds)

    @property
    def away(self) -> bool:
        """Whether the Prefect server does not answer just now, so that calls wait for it."""
        return self._away_since is not None

    def of(self, asset_class: str) -> PrefectGate:
        """This gate, for every asset class."""
        return self

    @contextmanager
    def call(self) -> Iterator[None]:
        """Wait for a slot; hold it while the body sends one request, and for the window after that.

        Raises:
            ConfigurationError: the limit is gone or inactive.
            FatalError: the Prefect server has been away for too long.
            RunEndingError: the gate is closed, or the run is stopped.
        """
        lease = self._take()
        try:
            yield
        finally:
            with self._lock:
                self._slots.finish(lease, steady())
                self._callers.notify()  # whoever wakes waits for the end of this window

    def expect(self, calls: int) -> None:
        """Be ready for so many calls: where slots are plenty, some are taken ahead."""
        with self._lock:
            self._expected += calls

    def pause(self, seconds: float | None) -> None:
        """Let no further call of this quota begin for this long, None: for its window. Calls on their way go on.

        Every process of this machine obeys at once, every other one that shares the Prefect server within a second.
        """
        if os.getpid() != self._process:
            return
        with self._lock:
            self._pause.begin(self.quota.seconds if seconds is None else seconds, self._limit.ahead)
            self._work.notify()

    def stop(self) -> None:
        """Let no further call begin: who waits, and whoever comes, gets a RunEndingError at once."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._refusing = True
            self._callers.notify_all()

    def leave(self, *, wait: bool = True) -> None:
        """Begin to give the slots back, which goes on by itself; :meth:`close` waits for it.

        Args:
            wait: as for :meth:`close`.
        """
        if os.getpid() != self._process:
            return
        self.stop()
        with self._lock:
            self._closing = True
            self._patient = self._patient and wait
            self._work.notify()

    def close(self, *, wait: bool = True) -> None:
        """Give the slots back.

        Args:
            wait: until the end of a short window; the slots of a longer one, and so few that nobody misses them, are
                left to their leases. If not, every slot whose window has not ended is left to whoever comes next on
                this machine, else to its lease.
        """
        if os.getpid() != self._process:
            return
        self.leave(wait=wait)
        self._keeper.join(_WORTH_WAITING + 5 if wait else _IN_A_HURRY)

    def __enter__(self) -> PrefectGate:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(wait=kind is None)

    def _take(self) -> Lease:
        if os.getpid() != self._process:
            raise FatalError("a quota's gate was taken into a forked process", fix="Open one in each process.")
        with self._lock:
            lease, wake = self._lend()
            if lease:  # without waking the keeper: it would have the lock while it waits for the interpreter
                return lease
            self._waiting += 1
            self._work.notify()
            try:
                while lease is None:
                    self._callers.wait(max(0.0, wake - steady()))
                    lease, wake = self._lend()
                return lease
            finally:
                self._waiting -= 1

    def _lend(self) -> tuple[Lease | None, float]:
        """A slot, or until when to wait for one; with the lock."""
        if self._failure:
            raise _copy(self._failure)
        if self._refusing:
            raise RunEndingError("the run is ending")
        now, paused = steady(), self._pause.until()
        if now < paused:
            return None, paused
        lease = self._slots.lend(now)
        self._expected -= bool(lease and self._expected)
        return lease, self._slots.next_free() or now + _PATIENCE

    # What follows runs in the keeper's thread.

    def _keep(self) -> None:
        """The keeper's whole life: give back what is spent, take what is waited for, sleep until either."""
        try:
            with self._limit.connected():
                try:
                    self._serve_callers()
                    self._leave()
                except ClosingbellError as error:
                    self._fail(error)
                finally:
                    self._put_book_away()
        except Exception as error:  # noqa: BLE001  (whoever waits has to learn of it, whatever it is)
            self._fail(FatalError("the quota's keeper failed", value=repr(error)))

    def _fail(self, error: ClosingbellError) -> None:
        with self._lock:
            self._failure = self._failure or error
            self._callers.notify_all()

    def _serve_callers(self) -> None:
        while True:
            pause = self._step()
            with self._lock:
                if self._closing:
                    return
                self._work.wait(pause)

    def _step(self) -> float | None:
        """Do what there is to do; return for how many seconds there is nothing more, None: until someone comes."""
        if self._away_since is not None and steady() < self._ask_at:
            return _TICK
        try:
            with readable():
                self._exchange_pauses()
                self._inherit()
                self._give_back()
                while self._serve():
                    pass
            if self._away_since is not None:
                log.warning("the Prefect server is back; calls go on")
            self._away_since = None
        except AwayError as error:
            self._wait_for_server(error)
        with self._lock:
            # Every waiting caller has its own alarm for the next free slot; this is for one that slept through.
            self._callers.notify(min(self._waiting, self._slots.ready(steady())))
            return _TICK if self._waiting or self._slots.held or self._pause.untold else None

    def _exchange_pauses(self) -> None:
        """Tell and hear of pauses, while there is anyone whom they concern."""
        with self._lock:
            idle = not (self._waiting or self._slots.held or self._pause.untold)
        if idle or steady() < self._listen_at:
            return
        told = self._pause.exchange(self._limit)
        with self._lock:
            self._pause.hear(told, self._limit.ahead)
        self._listen_at = steady() + self._listen

    def _inherit(self) -> None:
        """Take over the leases of processes that were killed on this machine."""
        now = steady()
        if self._book is None or now < self._inherit_at:
            return
        self._inherit_at = now + _LOOK_AGAIN
        with suppress(OSError):
            for orphan in self._book.orphans():
                self._note(orphan)
                with self._lock:
                    self._slots.inherit(orphan, now)

    def _note(self, lease: UUID, *, gone: bool = False) -> None:
        if self._book:
            with suppress(OSError):  # a full disk costs the convenience, not the run
                (self._book.gave if gone else self._book.took)(lease)

    def _give_back(self) -> None:
        now = steady()
        with self._lock:
            self._slots.forget_expired(now)
            spent = self._slots.spent(now, self._poll)
        for lease in spent:
            if not self._limit.give_back(lease, now):
                continue
            self._note(lease.id, gone=True)
            with self._lock:
                self._slots.drop(lease)
                hungry = self._waiting
            # After you: whoever else waits for a slot looks more often than this.
            self._ask_at = steady() + (2 * self._poll if hungry else 0.0)

    def _serve(self) -> bool:
        """Take some slots, if any are wanted and free; True if there may be more to do at once."""
        now = steady()
        with self._lock:
            held = self._slots.held
            wanted = 0 if now < self._pause.until() else self._waiting - self._slots.ready(now)
            lately, before = (self._slots.lent_lately(now, seconds) for seconds in (_AHEAD, _FAR_AHEAD))
            waiting, expected = self._waiting, self._expected
        if now < self._ask_at or not (waiting or held):
            return False
        limit = self._limit
        if now - limit.looked > (_TICK if wanted > 0 and limit.active >= limit.calls else _LOOK_AGAIN):
            self._look()
        if wanted <= 0 or now < self._forgotten_until:
            return False
        if not held and limit.stale():
            self._ask_at = now + _LOOK_AGAIN
            limit.recount()
            return False
        # Few fast callers, too, are served together; a long window would hold what is then not used.
        free = limit.calls - limit.active
        plenty = min(max(before, expected), free // _NOBODYS)
        wanted += max(plenty, lately if self.quota.seconds <= _TENURE else 0)
        # Small leases, for all of a lease's windows have to end before it can be given back.
        size = min(wanted, free, max(1, limit.calls // 10))
        if size > 0 and self._acquire(size):
            return True
        # Where all slots are our own there is no more to be had, unless someone raises the limit.
        self._ask_at = steady() + (_LOOK_AGAIN if held >= limit.calls else self._poll)
        return False

    def _look(self) -> None:
        """Read the limit; what is held is lent no more when less is allowed than is taken, or it is not counted."""
        self._limit.look()
        now, limit = steady(), self._limit
        with self._lock:
            if limit.active > limit.calls:
                self._slots.retire(now)
            if limit.another or limit.active < self._slots.counted:
                # Someone deleted it and made it anew, or set its count back: what we hold may be granted to others.
                log.warning("the limit %s no longer counts what is held; nothing is called for a window", self.name)
                self._slots.disown(now, harmless=limit.another)
                self._forgotten_until = now + self.quota.seconds

    def _acquire(self, size: int) -> bool:
        """Take ``size`` slots under one lease; False when the limit has not as many free."""
        begun = steady()
        taken = self._limit.take(size, self._lease_seconds)
        if taken is None:
            self._limit.looked = 0.0  # others have taken what was free
            return False
        lease = Lease(taken, size, begun, begun + self._lease_seconds)
        self._note(lease.id)
        with self._lock:
            self._slots.add(lease, begun)
        # Prefect grants without counting while a limit is missing or inactive: nothing is lent before it was
        # seen to be in force.
        try:
            self._look()
        except ConfigurationError:
            with self._lock:
                self._slots.drop(lease)
            self._limit.disown(taken)
            self._note(taken, gone=True)
            raise
        if self._limit.active <= self._limit.calls and not lease.asked:
            with self._lock:
                lease.old = begun + _TENURE
                self._callers.notify_all()
        return True

    def _wait_for_server(self, error: AwayError) -> None:
        """Calls are delayed while the server is away, never let through."""
        now = steady()
        self._ask_at = now + 1.0
        self._limit.lost_contact()
        with self._lock:
            self._slots.doubt()
        if self._away_since is None:
            self._away_since = now
            log.warning("the Prefect server does not answer (%s); calls wait for it", error)
        if now - self._away_since > _PATIENCE:
            raise FatalError(
                "the Prefect server does not answer",
                value=f"for {_PATIENCE:.0f} s",
                fix="Start it; the next run goes on where this one stopped.",
            )

    def _leave(self) -> None:
        """Unused slots go back at once, used ones when their window ends if that is soon and anybody misses them."""
        begun = steady()
        with self._lock:  # others may leave some, too
            missed = max(self._slots.held, self._limit.active) * _NOBODYS > self._limit.calls
        try:
            while leases := self._remaining():
                now = steady()
                # Calls that are being broken off end any moment.
                deadline = begun + (_WORTH_WAITING if self._patient else _IN_A_HURRY / 2)
                for lease, cooled in leases:
                    soon = cooled is None or (missed and self._patient and cooled <= deadline)
                    if now < deadline and soon and (cooled is None or now < cooled):
                        continue
                    with self._lock:
                        self._slots.drop(lease)
                    with suppress(PrefectHTTPStatusError):  # it ran out, or runs out
                        self._let_go(lease, cooled, now)
                with self._lock:
                    self._work.wait(_TICK / 5)
        except httpx.TransportError as error:
            log.warning("slots are left to their leases (%s)", type(error).__name__)

    def _put_book_away(self) -> None:
        """What is left in it goes back by whoever finds it, another window later."""
        for lease, cooled in self._remaining():
            if cooled is None:  # its call may go on for longer than that
                self._note(lease.id, gone=True)
        if self._book:
            self._book.close()

    def _let_go(self, lease: Lease, cooled: float | None, now: float) -> None:
        """Give a lease back if its windows are over; else let it end with them."""
        if cooled is not None and cooled <= now:
            self._limit.give_back(lease, now)
        elif cooled is not None:
            self._limit.prolong(lease, max(SHORTEST_LEASE, cooled - now), now)
            if not self._patient:
                return  # it stays in the book: whoever finds it there gives it back after another window
        self._note(lease.id, gone=True)

    def _remaining(self) -> list[tuple[Lease, float | None]]:
        with self._lock:
            self._slots.retire(steady())
            self._slots.ready(steady())
            return [(lease, self._slots.cooled_at(lease)) for lease in self._slots.leases]


def _copy(error: ClosingbellError) -> ClosingbellError:
    """The same error for another thread: one that is raised twice mixes two tracebacks."""
    return type(error)(error.what, value=error.value, fix=error.fix)
