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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError, RunEndingError
from closingbell.quota import Quota
from tasks.leases import LeaseBook
from tasks.slots import Lease, Slots

log = logging.getLogger("closingbell.limiter")

#: Prefect grants no shorter lease than a minute, and no longer one than a day.
_SHORTEST_LEASE: Final = 60.0
_LONGEST_LEASE: Final = 86_400.0
#: How long slots are lent to one call after another before other processes have a chance of them.
_TENURE: Final = 20.0
#: On leaving, windows up to this long are waited out; the slots of longer ones are left to their leases.
_WORTH_WAITING: Final = 10.0
#: How often the limit is read anew, so that a change of it is honoured.
_LOOK_AGAIN: Final = 1.0
#: How often what is held is looked over.
_TICK: Final = 0.05
#: Slots are taken ahead for as many calls as this time last saw.
_AHEAD: Final = 0.1
#: How long a Prefect server may be away before the waiting calls give up, and how long one answer may take.
_PATIENCE: Final = 600.0
_ANSWER: Final = 30.0


class _AwayError(Exception):
    """The Prefect server does not answer, or answers that it cannot just now."""


def limit_name(quota: Quota, asset_class: str = "stocks") -> str:
    """The name of the limit that holds a quota; it says what a slot stands for, as the limit's row cannot."""
    window = {60.0: "minute", 1.0: "second", 3600.0: "hour"}.get(quota.seconds, f"{quota.seconds:g}s")
    return f"polygon-{asset_class}-calls-per-{window}"


def require_limit(client: SyncPrefectClient, name: str) -> GlobalConcurrencyLimitResponse:
    """The limit of that name, fit to hold a quota.

    Raises:
        ConfigurationError: it is missing, inactive, decaying or empty: calls would not be limited, not exactly
            limited, or wait for ever.
    """
    try:
        limit = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        fix = "Run: python -m deployments.bootstrap"
        raise ConfigurationError("the quota's concurrency limit is missing in Prefect", value=name, fix=fix) from None
    if not limit.active:
        fix = f"Switch it on in the Prefect UI, or: prefect gcl update {name} --enable"
        raise ConfigurationError("the quota's concurrency limit is inactive in Prefect", value=name, fix=fix)
    if limit.slot_decay_per_second:
        fix = f"Slots are held for the quota's window: prefect gcl update {name} --slot-decay-per-second 0"
        raise ConfigurationError("the quota's concurrency limit has a slot decay", value=name, fix=fix)
    if limit.limit < 1:
        fix = f"Give it the calls of one window: prefect gcl update {name} --limit 5"
        raise ConfigurationError("the quota's concurrency limit allows no call", value=name, fix=fix)
    return limit


class PrefectGate:
    """One process's way through the limit: callers wait, one thread takes slots and gives them back.

    Args:
        quota: the window (its number of calls is the limit's own, which a person may change at run time).
        asset_class: whose quota.
        call_timeout: seconds a call may take at most; a lease outlives it by a window.
        books: the folder of this machine's books of leases (:mod:`tasks.leases`), so that what a killed process
            held comes back one window after it is found missing; None: when its leases run out.

    Raises:
        ConfigurationError: no Prefect server is configured, or its limit is not fit to hold a quota.
        RetryableError: the Prefect server does not answer.
    """

    def __init__(
        self, quota: Quota, asset_class: str = "stocks", *, call_timeout: float = 120.0, books: Path | None = None
    ) -> None:
        self.name = limit_name(quota, asset_class)
        self.quota = quota
        # A call begun on the last instant of a lease's tenure still has its time and its window under the lease.
        self._lease_seconds = max(_SHORTEST_LEASE, _TENURE + call_timeout + quota.seconds)
        self._poll = min(0.3, max(0.1, quota.seconds / 200))
        self._slots = Slots(quota.seconds)
        self._waiting = 0
        self._paused_until = 0.0
        self._failure: ClosingbellError | None = None
        self._closing = False
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._callers = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        # What only the keeper reads and writes.
        self._limit = self._active = 0
        self._looked = 0.0
        self._ask_at = 0.0
        self._away_since: float | None = None
        self._refused_since: float | None = None
        if not get_current_settings().api.url:
            fix = "Set PREFECT_API_URL, for instance http://127.0.0.1:4200/api."
            raise ConfigurationError("no Prefect server is configured", fix=fix)
        try:
            with get_client(sync_client=True) as client, _readable():
                self._look(client)
        except _AwayError as error:
            fix = "Start it (prefect server start), or correct PREFECT_API_URL."
            raise RetryableError("the Prefect server does not answer", value=error, fix=fix) from None
        self._book: LeaseBook | None = None
        self._inherit_at = 0.0
        if books:
            try:
                self._book = LeaseBook(books / self.name)
            except OSError as error:
                log.warning("there is no book of leases (%s); a killed run's slots come back late", error)
        # Prefect's settings are context variables, which a new thread does not inherit by itself.
        keep = contextvars.copy_context().run
        self._keeper = threading.Thread(target=keep, args=(self._keep,), name=f"gate {self.name}", daemon=True)
        self._keeper.start()

    @property
    def in_force(self) -> Quota:
        """The quota as the limit has it: a person may have changed its number of calls in the Prefect UI."""
        return Quota(self._limit, self.quota.seconds)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Wait for a slot; hold it while the body sends one request, and for the window after that.

        Raises:
            ConfigurationError: the limit is gone or inactive.
            RetryableError: the Prefect server has been away for too long.
            RunEndingError: the gate is closed.
        """
        lease = self._take()
        try:
            yield
        finally:
            with self._lock:
                self._slots.finish(lease, time.monotonic())
                self._callers.notify()  # whoever wakes waits for the end of this window

    def pause(self, seconds: float) -> None:
        """Let no further call begin for this long. Calls on their way are not held up.

        Other processes are held up too, as far as may be without talking to them: meanwhile this one keeps what
        it holds and takes every slot that comes free.
        """
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)
            self._work.notify()

    def close(self) -> None:
        """Give the slots back: at the end of a short window, else by letting their leases run out."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closing = True
            self._callers.notify_all()
            self._work.notify()
        self._keeper.join(_WORTH_WAITING + 5)

    def __enter__(self) -> PrefectGate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> Lease:
        if os.getpid() != self._process:
            raise FatalError("a quota's gate was taken into a forked process", fix="Open one in each process.")
        with self._lock:
            self._waiting += 1
            self._work.notify()
            try:
                while True:
                    if self._failure:
                        raise _copy(self._failure)
                    if self._closing:
                        raise RunEndingError("the run is ending")
                    now = time.monotonic()
                    if now < self._paused_until:
                        wake = self._paused_until
                    elif lease := self._slots.lend(now):
                        return lease
                    else:
                        wake = self._slots.next_free() or now + _PATIENCE
                    self._callers.wait(max(0.0, wake - now))
            finally:
                self._waiting -= 1

    def _paused(self) -> float:
        """Seconds that are left of a pause."""
        return max(0.0, self._paused_until - time.monotonic())

    # What follows runs in the keeper's thread.

    def _keep(self) -> None:
        """The keeper's whole life: give back what is spent, take what is waited for, sleep until either."""
        try:
            # Prefect's client would sleep and repeat for a minute, during which nobody could close the gate.
            with (
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
                get_client(sync_client=True, httpx_settings={"timeout": httpx.Timeout(_ANSWER)}) as client,
            ):
                try:
                    self._serve_callers(client)
                except ClosingbellError as error:
                    self._fail(error)
                self._leave(client)
        except Exception as error:  # noqa: BLE001  (whoever waits has to learn of it, whatever it is)
            self._fail(FatalError("the quota's keeper failed", value=repr(error)))

    def _fail(self, error: ClosingbellError) -> None:
        with self._lock:
            self._failure = self._failure or error
            self._callers.notify_all()

    def _serve_callers(self, client: SyncPrefectClient) -> None:
        while True:
            pause = self._step(client)
            with self._lock:
                if self._closing:
                    return
                self._work.wait(pause)

    def _step(self, client: SyncPrefectClient) -> float | None:
        """Do what there is to do; return for how many seconds there is nothing more, None: until someone comes."""
        if self._away_since is not None and time.monotonic() < self._ask_at:
            return _TICK
        try:
            with _readable():
                self._inherit()
                self._give_back(client)
                while self._serve(client):
                    pass
            if self._away_since is not None:
                log.warning("the Prefect server is back; calls go on")
            self._away_since = None
        except _AwayError as error:
            self._wait_for_server(error)
        with self._lock:
            # Every waiting caller has its own alarm for the next free slot; this is for one that slept through.
            self._callers.notify(min(self._waiting, self._slots.ready(time.monotonic())))
            return _TICK if self._waiting or self._slots.held or self._paused() else None

    def _inherit(self) -> None:
        """Take over the leases of processes that were killed on this machine."""
        now = time.monotonic()
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

    def _give_back(self, client: SyncPrefectClient) -> None:
        now = time.monotonic()
        with self._lock:
            self._slots.forget_expired(now)
            spent = [] if self._paused() else self._slots.spent(now, self._poll)
        for lease in spent:
            client.release_concurrency_slots_with_lease(lease.id)
            self._note(lease.id, gone=True)
            with self._lock:
                self._slots.drop(lease)
                hungry = self._waiting
            self._active -= lease.slots
            # After you: whoever else waits for a slot looks more often than this.
            self._ask_at = time.monotonic() + (2 * self._poll if hungry else 0.0)

    def _serve(self, client: SyncPrefectClient) -> bool:
        """Take some slots, if any are wanted and free; True if there may be more to do at once."""
        now = time.monotonic()
        with self._lock:
            pause = self._paused()
            held = self._slots.held
            wanted = self._limit if pause else self._waiting - self._slots.ready(now)
            lately = self._slots.lent_lately(now, _AHEAD)
            waiting = self._waiting
        if now < self._ask_at or not (waiting or held or pause):
            return False
        if now - self._looked > (_TICK if wanted > 0 else _LOOK_AGAIN):
            self._look(client)
        if wanted <= 0:
            return False
        if self.quota.seconds <= _TENURE:
            wanted += lately  # few fast callers, too, are served together; a longer window would hold what is not used
        # Small leases, for all of a lease's windows have to end before it can be given back.
        size = min(wanted, self._limit - self._active, max(1, self._limit // 10))
        if size > 0 and self._acquire(client, size, pause):
            self._refused_since = None
            return True
        # Where all slots are our own there is no more to be had, unless someone raises the limit.
        self._ask_at = time.monotonic() + (_LOOK_AGAIN if held >= self._limit else self._poll)
        if not held and not pause:
            self._wonder(now)
        return False

    def _look(self, client: SyncPrefectClient) -> None:
        """Read the limit; what is held is lent no more when it was lowered below what is taken."""
        limit = require_limit(client, self.name)
        self._limit, self._active, self._looked = limit.limit, limit.active_slots, time.monotonic()
        if self._active > self._limit:
            with self._lock:
                self._slots.retire(time.monotonic())

    def _acquire(self, client: SyncPrefectClient, size: int, extra: float) -> bool:
        """Take ``size`` slots under one lease; False when the limit has not as many free."""
        seconds = min(_LONGEST_LEASE, self._lease_seconds + extra)
        begun = time.monotonic()
        try:
            response = client.increment_concurrency_slots_with_lease([self.name], size, "concurrency", seconds)
        except PrefectHTTPStatusError as error:
            # Someone was quicker, or the limit was lowered below what was asked for.
            if error.response.status_code in (httpx.codes.LOCKED, httpx.codes.UNPROCESSABLE_ENTITY):
                return False
            raise
        lease = Lease(UUID(response.json()["lease_id"]), size, begun, begun + seconds)
        self._note(lease.id)
        with self._lock:
            self._slots.add(lease, begun)
        # Prefect grants without counting while a limit is missing or inactive: nothing is lent before it was
        # seen to be in force.
        self._look(client)
        if self._active <= self._limit:
            with self._lock:
                lease.old = begun + _TENURE + extra
                self._callers.notify_all()
        return True

    def _wait_for_server(self, error: _AwayError) -> None:
        """Calls are delayed while the server is away, never let through."""
        now = time.monotonic()
        self._ask_at = now + 1.0
        if self._away_since is None:
            self._away_since = now
            log.warning("the Prefect server does not answer (%s); calls wait for it", error)
        if now - self._away_since > _PATIENCE:
            raise RetryableError(
                "the Prefect server does not answer",
                value=f"for {_PATIENCE:.0f} s",
                fix="Start it; the next run goes on where this one stopped.",
            )

    def _wonder(self, now: float) -> None:
        """Say so when others hold every slot for longer than a dead process could."""
        if self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since > self._lease_seconds + self.quota.seconds + _SHORTEST_LEASE:
            log.warning(
                "no slot of %s has come free for %.0f s. If nothing else runs, the Prefect server has lost"
                " their leases: prefect gcl update %s --active-slots 0",
                self.name,
                now - self._refused_since,
                self.name,
            )
            self._refused_since = None

    def _leave(self, client: SyncPrefectClient) -> None:
        """Unused slots go back at once, used ones when their window ends if that is soon."""
        deadline = time.monotonic() + _WORTH_WAITING
        try:
            while leases := self._remaining():
                now = time.monotonic()
                for lease, cooled in leases:
                    if now < deadline and (cooled is None or now < cooled <= deadline):
                        continue
                    with self._lock:
                        self._slots.drop(lease)
                    with suppress(PrefectHTTPStatusError):  # it ran out, or runs out
                        if cooled is not None and cooled <= now:
                            client.release_concurrency_slots_with_lease(lease.id)
                        elif cooled is not None:
                            client.renew_concurrency_lease(lease.id, max(_SHORTEST_LEASE, cooled - now))
                time.sleep(_TICK / 5)
            if self._book:
                self._book.close()
        except httpx.TransportError as error:
            log.warning("slots are left to their leases (%s)", type(error).__name__)

    def _remaining(self) -> list[tuple[Lease, float | None]]:
        with self._lock:
            self._slots.retire(time.monotonic())
            self._slots.ready(time.monotonic())
            return [(lease, self._slots.cooled_at(lease)) for lease in self._slots.leases]


@contextmanager
def _readable() -> Iterator[None]:
    """Turn what the server or the way to it says into what to do about it."""
    try:
        yield
    except httpx.TransportError as error:
        raise _AwayError(type(error).__name__) from None
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if error.response.is_server_error or status in (408, 429):
            raise _AwayError(f"HTTP {status}") from None
        fix = "Check PREFECT_API_URL (it ends in /api), PREFECT_API_KEY or PREFECT_API_AUTH_STRING."
        raise ConfigurationError(
            "the Prefect server refuses the quota's limit", value=f"HTTP {status}", fix=fix
        ) from None


def _copy(error: ClosingbellError) -> ClosingbellError:
    """The same error for another thread: one that is raised twice mixes two tracebacks."""
    return type(error)(error.what, value=error.value, fix=error.fix)
