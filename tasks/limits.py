"""A quota's global concurrency limit as the Prefect server has it: look at it, take slots, give them back.

The server's own book-keeping can go wrong in three ways, each mended here so that a slot may be missing for a
while, and none is ever counted free that is in use:

- Its leases are gone after a restart, unless they are kept in files, while the slots stay counted. Who holds such a
  slot learns it from the server, and gives it back without the lease.
- An answer is lost when the server dies or stalls. A release that may have happened is never just repeated: the
  server would count the same slots free twice.
- The slots of a holder that died together with the leases belong to nobody. They are given back when nothing has
  changed in the limit for longer than any lease lasts.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings

from closingbell.errors import ConfigurationError
from closingbell.hosts import is_here
from closingbell.quota import Quota
from closingbell.settings import DATABENTO
from tasks.endurance import retrying
from tasks.slots import Lease

log = logging.getLogger("closingbell.limiter")

#: Prefect grants no shorter lease than a minute, and no longer one than a day.
SHORTEST_LEASE: Final = 60.0
LONGEST_LEASE: Final = 86_400.0
#: How long one answer of the server may take. A request that is given up may still be carried out, so long.
_ANSWER: Final = 120.0
#: A lease that ends sooner than this is left to the server: two that give it back at once would count it twice.
_TOO_LATE: Final = 5.0
#: For how long a count that nobody can account for has to stay the same, before our eyes, to be put right. The
#: server looks for leases that ran out every 15 s.
_WATCHED: Final = 60.0
#: Clocks that differ by less are taken for equal: the server tells its time in whole seconds.
_SAME_TIME: Final = 2.0


class AwayError(Exception):
    """The Prefect server does not answer, or answers that it cannot just now."""


def steady() -> float:
    """Seconds on a clock that nobody can set, and that goes on while the machine sleeps, where it has one."""
    return time.clock_gettime(_STEADY) if _STEADY is not None else time.monotonic()


_STEADY: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def limit_name(quota: Quota, asset_class: str = "stocks", key: str = "") -> str:
    """The name of the limit that holds a quota; it says what a slot stands for, as the limit's row cannot.

    Args:
        quota: its window is part of the name, its number of calls is the limit's own.
        asset_class: whose calls it counts.
        key: the name of the vendor's key, where several are in use; ``databento`` for the second source.
    """
    window = {60.0: "minute", 1.0: "second", 3600.0: "hour"}.get(quota.seconds, f"{quota.seconds:g}s")
    vendor = "" if key == DATABENTO else "polygon"
    return "-".join(part for part in (vendor, key, asset_class, "calls-per", window) if part)


def variable_name(limit: str, what: str) -> str:
    """The name of a Prefect variable that belongs to a limit; no dot may be in it, as in a limit's."""
    return re.sub(r"[^a-z0-9_-]", "_", f"{limit}-{what}")


def remember(client: SyncPrefectClient, name: str, value: Any) -> None:
    """Create or change a Prefect variable."""
    if client.read_variable_by_name(name):
        client.update_variable(VariableUpdate(name=name, value=value))
        return
    with suppress(ObjectAlreadyExists):  # someone else did, just now; whoever minds looks again
        client.create_variable(VariableCreate(name=name, value=value, tags=["closingbell"]))


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


@contextmanager
def readable() -> Iterator[None]:
    """Turn what the server or the way to it says into what to do about it.

    Raises:
        AwayError: ask again later.
        ConfigurationError: it refuses us.
    """
    try:
        yield
    except httpx.TransportError as error:
        raise AwayError(type(error).__name__) from None
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if error.response.is_server_error or status in (408, 429):
            raise AwayError(f"HTTP {status}") from None
        fix = "Check PREFECT_API_URL (it ends in /api), PREFECT_API_KEY or PREFECT_API_AUTH_STRING."
        raise ConfigurationError(
            "the Prefect server refuses the quota's limit", value=f"HTTP {status}", fix=fix
        ) from None


class Limit:
    """One limit, seen through one connection. Not safe for use from several threads at once.

    Its methods raise what the Prefect client raises; :func:`readable` sorts that.

    Args:
        name: as :func:`limit_name` makes it.
        longest: seconds that a lease on it is granted for at most.

    Attributes:
        calls: of a window, as a person may have set them by now.
        active: slots that the server counts as taken.
        looked: when, by :func:`steady`.
        another: whether the last look found another limit of the same name, which counts nothing of what is held.
        ahead: seconds by which the server's clock is ahead of this machine's; 0.0 where they agree.
    """

    def __init__(self, name: str, longest: float) -> None:
        self.name = name
        self.calls = self.active = 0
        self.looked = 0.0
        self.another = False
        self.ahead = 0.0
        self._longest = longest
        self._updated: datetime | None = None
        self._touched = False
        self._id: UUID | None = None
        self._seen_since: tuple[datetime | None, float] = (None, 0.0)
        self._client: SyncPrefectClient | None = None

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connect for the time of the block."""
        settings: dict[str, Any] = {
            "timeout": httpx.Timeout(_ANSWER, connect=10.0),
            "event_hooks": {"response": [self._note_time]},
        }
        server = urlsplit(get_current_settings().api.url or "")
        if server.scheme == "http" and is_here(server.hostname or ""):
            # It speaks no TLS, for which Prefect would read some hundred certificates, and take 20 ms and more.
            settings["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Prefect's client would sleep and repeat for a minute, during which nobody could close the gate.
        with (
            retrying(0),
            get_client(sync_client=True, httpx_settings=settings) as client,
        ):
            self._client = client
            try:
                yield
            finally:
                self._client = None

    @property
    def client(self) -> SyncPrefectClient:
        """The connection."""
        assert self._client is not None  # noqa: S101 - used within connected()
        return self._client

    def look(self) -> None:
        """Read the limit.

        Raises:
            ConfigurationError: it is not fit to hold a quota.
        """
        limit = require_limit(self.client, self.name)
        self.another, self._id = self._id not in (None, limit.id), limit.id
        self.calls, self.active, self._updated, self.looked = limit.limit, limit.active_slots, limit.updated, steady()
        if self._updated != self._seen_since[0]:
            self._seen_since = (self._updated, self.looked)
        self._touched = False

    def lost_contact(self) -> None:
        """Forget for how long the count has stayed the same: it may have changed meanwhile."""
        self._seen_since = (None, 0.0)

    def take(self, size: int, seconds: float) -> UUID | None:
        """Take ``size`` slots under one lease of so many seconds; None when the limit has not as many free."""
        self._touched = True
        try:
            response = self.client.increment_concurrency_slots_with_lease([self.name], size, "concurrency", seconds)
        except PrefectHTTPStatusError as error:
            # Someone was quicker, or the limit was lowered below what was asked for.
            if error.response.status_code in (httpx.codes.LOCKED, httpx.codes.UNPROCESSABLE_ENTITY):
                return None
            raise
        return UUID(response.json()["lease_id"])

    def disown(self, lease: UUID) -> None:
        """Give back what was granted while the limit was switched off, when the server counts nothing either way."""
        self._touched = True
        self.client.release_concurrency_slots_with_lease(lease)

    def give_back(self, lease: Lease, now: float) -> bool:
        """Give a lease back, once, whatever became of the server meanwhile; False: not yet, try again."""
        if lease.expires - now < _TOO_LATE:
            return now >= lease.expires
        if lease.doubted:
            known = self.prolong(lease, SHORTEST_LEASE, now)
            if lease.asked and self._untouched(lease):
                lease.asked = False
            if not known:
                # If we asked already, it was given back or, at worst, its slots belong to nobody now.
                if not lease.asked and not lease.left_behind:
                    self._ask(lease, lambda: self.client.release_concurrency_slots([self.name], lease.slots, 1.0))
                return True
            if lease.asked and not self._cover(lease):
                return False
        self._ask(lease, lambda: self.client.release_concurrency_slots_with_lease(lease.id))
        self.active -= lease.slots
        return True

    def _ask(self, lease: Lease, request: Callable[[], object]) -> None:
        """Ask the server to take slots back, and remember it if no answer says what came of it."""
        lease.asked, lease.before = True, None if self._touched else self._updated
        self._touched = True
        try:
            request()
        except httpx.TimeoutException:
            lease.before = None  # it may be carried out yet
            raise
        except PrefectHTTPStatusError as error:
            # So the server answers whose database was busy, and did nothing.
            lease.asked = error.response.status_code != httpx.codes.SERVICE_UNAVAILABLE
            raise

    def prolong(self, lease: Lease, seconds: float, now: float) -> bool:
        """Let a lease end so many seconds from now; False when the server does not know it."""
        try:
            self.client.renew_concurrency_lease(lease.id, seconds)
        except PrefectHTTPStatusError as error:
            if error.response.status_code == httpx.codes.GONE:
                return False
            raise
        lease.expires = now + seconds
        return True

    def _untouched(self, lease: Lease) -> bool:
        """Whether nothing has happened to the limit since the server was asked to take the lease back."""
        self.look()
        return lease.before is not None and lease.before == self._updated

    def _cover(self, lease: Lease) -> bool:
        """Take as many slots again as a lease has that may be counted free already, though it is still there.

        The lease can then be given back in either case; what was taken too much is put right with the rest of what
        nobody holds.
        """
        self._touched = True
        try:
            self.client.increment_concurrency_slots([self.name], lease.slots, "concurrency")
        except PrefectHTTPStatusError as error:
            if error.response.status_code in (httpx.codes.LOCKED, httpx.codes.UNPROCESSABLE_ENTITY):
                return False
            raise
        lease.asked = False
        return True

    def stale(self) -> bool:
        """Whether slots are counted, by the last look, of which none can be held, if none is by us.

        Every slot taken is given back, or taken back by the server, before its lease ends, and either shows in the
        limit's row. So nobody holds any when the row has not changed for longer than the longest lease. Other
        machines may have a longer limit for calls, so that theirs are taken to last twice as long.
        """
        if not self.active or self._updated is None:
            return False
        unchanged = time.time() + self.ahead - self._updated.timestamp()
        return unchanged > 2 * self._longest + SHORTEST_LEASE

    def recount(self) -> None:
        """Give back slots that nobody can hold, once the server has had time to do it by itself."""
        if self._updated is None or steady() - self._seen_since[1] < _WATCHED:
            return
        updated, taken = self._updated, self.active
        # Of all processes that see this one may act, once: the others would count free what has been taken since.
        turn = int((time.time() + self.ahead - updated.timestamp()) // self._longest)
        mark = variable_name(self.name, f"recount-{updated.astimezone(UTC):%Y%m%d-%H%M%S-%f}-{turn}")
        try:
            self.client.create_variable(VariableCreate(name=mark, value=taken, tags=["closingbell"]))
        except ObjectAlreadyExists:
            return
        self.look()
        if self._updated == updated:
            self.client.release_concurrency_slots([self.name], taken, 1.0)
            log.warning("the Prefect server counted %d slots of %s that nobody holds: they are free", taken, self.name)
            self.look()
        with suppress(ObjectNotFound):
            self.client.delete_variable_by_name(mark)

    def _note_time(self, response: httpx.Response) -> None:
        with suppress(KeyError, ValueError, TypeError):
            ahead = parsedate_to_datetime(response.headers["Date"]).timestamp() + 0.5 - time.time()
            self.ahead = ahead if abs(ahead) > _SAME_TIME else 0.0
