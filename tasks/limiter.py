"""The gate that every call passes: the quota, held as slots of a Prefect global concurrency limit.

A call takes a slot before it is sent and gives it back one quota window after its answer has begun. As every
call that the vendor counted in the last window still holds its slot, no rolling window ever sees more calls
than the limit has slots, over all threads, processes and machines that share the Prefect server. Nothing is
paced: a night of three calls waits for nothing.

Prefect's own ``rate_limit`` is a token bucket: it lets more calls through in a rolling window than the limit
says, and a refused caller waits longer than it has to.

A slot is held under a lease. Whatever happens to this process, the lease runs out and the server takes the
slot back.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError
from closingbell.quota import Quota

log = logging.getLogger("closingbell.limiter")

#: Prefect refuses a lease shorter than a minute.
_SHORTEST_LEASE: Final = 60.0
#: On leaving, windows up to this long are waited out; the slots of longer ones are left to their leases.
_WORTH_WAITING: Final = 10.0
#: How often the limit is read anew, so that one that was removed or switched off stops the run.
_LOOK_AGAIN: Final = 5.0
#: How long a Prefect server may be away before the waiting calls give up.
_PATIENCE: Final = 600.0


def limit_name(quota: Quota, asset_class: str = "stocks") -> str:
    """The name of the limit that holds a quota; it says what a slot stands for, as the limit's row cannot."""
    window = {60.0: "minute", 1.0: "second", 3600.0: "hour"}.get(quota.seconds, f"{quota.seconds:g}s")
    return f"polygon-{asset_class}-calls-per-{window}"


def require_limit(client: SyncPrefectClient, name: str) -> GlobalConcurrencyLimitResponse:
    """The limit of that name, fit to hold a quota.

    Raises:
        ConfigurationError: it is missing, inactive or decaying: calls would not be limited, or not exactly.
    """
    fix = "Run: python -m deployments.bootstrap"
    try:
        limit = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        raise ConfigurationError("the quota's concurrency limit is missing in Prefect", value=name, fix=fix) from None
    if not limit.active:
        fix = f"Switch it on in the Prefect UI, or: prefect gcl update {name} --enable"
        raise ConfigurationError("the quota's concurrency limit is inactive in Prefect", value=name, fix=fix)
    if limit.slot_decay_per_second:
        fix = f"Slots are held for the quota's window: prefect gcl update {name} --slot-decay-per-second 0"
        raise ConfigurationError("the quota's concurrency limit has a slot decay", value=name, fix=fix)
    return limit


@dataclass(slots=True)
class _Block:
    """Slots that were taken together, and are given back together when the last call's window has passed."""

    lease: UUID
    slots: int
    unfinished: int


@dataclass(order=True, slots=True)
class _Release:
    at: float
    block: _Block = field(compare=False)


class PrefectGate:
    """One process's way through the limit: callers wait, one thread takes and gives back the slots.

    Waiting callers are served together, as many as wait in one request, which is what carries a quota of 100
    calls a second over a server that grants one request in 20 ms.

    Args:
        quota: the window (its number of calls is the limit's own, which a person may change at run time).
        asset_class: whose quota.
        call_timeout: seconds a call may take at most; a lease outlives it by a window.
    """

    def __init__(self, quota: Quota, asset_class: str = "stocks", *, call_timeout: float = 120.0) -> None:
        self.name = limit_name(quota, asset_class)
        self.quota = quota
        self._window = quota.seconds
        self._lease_seconds = max(_SHORTEST_LEASE, quota.seconds + call_timeout)
        self._poll = min(1.0, max(0.05, quota.seconds / 50))
        with get_client(sync_client=True) as client:
            self._limit = require_limit(client, self.name).limit
        self._changed = threading.Condition()
        self._waiting = 0
        self._held = 0
        self._permits: list[_Block] = []
        self._releases: list[_Release] = []
        self._paused_until = 0.0
        self._looked = time.monotonic()
        self._away_since: float | None = None
        self._failure: ClosingbellError | None = None
        self._closing = False
        self._keeper = threading.Thread(target=self._keep, name=f"gate {self.name}", daemon=True)
        self._keeper.start()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Wait for a slot; hold it while the body sends one request, and for the window after that.

        Raises:
            ConfigurationError: the limit is gone or inactive.
            RetryableError: the Prefect server has been away for too long, or the gate is closed.
        """
        block = self._take()
        try:
            yield
        finally:
            with self._changed:
                block.unfinished -= 1
                if not block.unfinished:
                    heapq.heappush(self._releases, _Release(time.monotonic() + self._window, block))
                self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Take no further slot for this long. Calls on their way are not held up."""
        with self._changed:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def close(self) -> None:
        """Give the slots back: at the end of a short window, else by letting their leases run out."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._keeper.join()

    def __enter__(self) -> PrefectGate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> _Block:
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._permits or self._failure or self._closing)
                if self._failure:
                    raise self._failure
                if not self._permits:
                    raise RetryableError("the run is ending")
                return self._permits.pop()
            finally:
                self._waiting -= 1

    def _keep(self) -> None:
        """The keeper's whole life: give back what is due, take what is waited for, sleep until either."""
        with get_client(sync_client=True) as client:
            try:
                while not self._closing:
                    self._give_back(client)
                    pause = self._serve(client)
                    with self._changed:
                        if not self._closing and pause > 0:
                            self._changed.wait(pause)
            except ClosingbellError as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001  (whoever waits has to learn of it, whatever it is)
                self._fail(FatalError("the quota's keeper failed", value=repr(error)))
            finally:
                self._leave(client)

    def _fail(self, error: ClosingbellError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _serve(self, client: SyncPrefectClient) -> float:
        """Take slots for those who wait; return how many seconds there is nothing to do."""
        now = time.monotonic()
        with self._changed:
            wanted = self._waiting - len(self._permits)
        due = self._releases[0].at - now if self._releases else self._poll
        if wanted <= 0:
            return due if self._releases else _LOOK_AGAIN
        if self._paused_until > now:
            return min(self._paused_until - now, due)
        try:
            if now - self._looked > _LOOK_AGAIN:
                self._limit = require_limit(client, self.name).limit
                self._looked = now
            # What this process holds itself needs no question; what others hold shows in a refusal.
            size = min(wanted, max(0, self._limit - self._held))
            if not size:
                return max(0.001, min(due, _LOOK_AGAIN))
            while size and not self._acquire(client, size):
                size //= 2
            self._away_since = None
        except httpx.TransportError as error:
            return self._wait_for_server(error)
        return 0.0 if size else max(0.001, min(due, self._poll))

    def _acquire(self, client: SyncPrefectClient, slots: int) -> bool:
        """Take ``slots`` slots under one lease and hand them out; False when the limit has not as many free."""
        try:
            response = client.increment_concurrency_slots_with_lease(
                [self.name], slots, "concurrency", self._lease_seconds
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code == httpx.codes.LOCKED:
                return False
            if error.response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
                # The limit was lowered below what was asked for: read it again before the next try.
                self._looked = 0.0
                return False
            if error.response.is_server_error:
                raise httpx.TransportError(str(error)) from None
            raise
        answer = response.json()
        if not answer["limits"]:
            raise ConfigurationError(
                "the quota's concurrency limit is missing in Prefect",
                value=self.name,
                fix="Run: python -m deployments.bootstrap",
            )
        block = _Block(UUID(answer["lease_id"]), slots, slots)
        self._held += slots
        with self._changed:
            self._permits.extend([block] * slots)
            self._changed.notify_all()
        return True

    def _wait_for_server(self, error: Exception) -> float:
        """Calls are delayed while the server is away, never let through."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("the Prefect server does not answer (%s); calls wait for it", type(error).__name__)
        if now - self._away_since > _PATIENCE:
            raise RetryableError(
                "the Prefect server does not answer",
                value=f"for {_PATIENCE:.0f} s",
                fix="Start it; the next run goes on where this one stopped.",
            )
        return 1.0

    def _give_back(self, client: SyncPrefectClient) -> None:
        while self._releases and self._releases[0].at <= time.monotonic():
            with self._changed:
                block = heapq.heappop(self._releases).block
            self._held -= block.slots
            try:
                client.release_concurrency_slots_with_lease(block.lease)
            except httpx.HTTPError as error:
                # The lease runs out by itself: the slots are late, not lost.
                log.warning("slots are left to their lease (%s)", type(error).__name__)

    def _leave(self, client: SyncPrefectClient) -> None:
        """Unused slots go back at once, used ones when their window ends if that is soon."""
        with self._changed:
            for block in self._permits:
                block.unfinished -= 1
                if not block.unfinished:
                    heapq.heappush(self._releases, _Release(0.0, block))
            self._permits.clear()
        while self._releases:
            first = self._releases[0]
            if first.at - time.monotonic() > _WORTH_WAITING:
                self._shorten(client, heapq.heappop(self._releases))
                continue
            time.sleep(max(0.0, first.at - time.monotonic()))
            self._give_back(client)

    def _shorten(self, client: SyncPrefectClient, release: _Release) -> None:
        left = max(_SHORTEST_LEASE, release.at - time.monotonic())
        try:
            client.renew_concurrency_lease(release.block.lease, left)
        except httpx.HTTPError as error:
            log.warning("slots are left to their lease (%s)", type(error).__name__)
