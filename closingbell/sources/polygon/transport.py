"""What takes the place of the vendor client's connection pool, so that every call is seen, gated, bounded and typed.

The client (polygon-api-client 1.16.3) builds its timeouts but never applies them, retries statuses 413, 429, 499 and
5xx by itself within the second, and drops status and headers of errors. All of its requests go through
``client.client.request``; :class:`Transport` offers that method and none of those habits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.util import Retry, Timeout

from closingbell.calendar import asset_class
from closingbell.errors import ClosingbellError, MalformedResponseError, RetryableError, RunEndingError
from closingbell.quota import Gate, Gates
from closingbell.sources.polygon import body as bodies
from closingbell.sources.polygon import errors
from closingbell.sources.polygon.deadline import Deadline, pool_manager
from closingbell.sources.redact import Redactor
from closingbell.sources.tally import Tally

#: One attempt and no more; every status, redirects among them, comes back to us as it is.
_ONCE: Final = Retry(
    total=0, redirect=0, raise_on_redirect=False, raise_on_status=False, respect_retry_after_header=False
)

_ENDING: Final = "the run is ending"

_KINDS: Final = {
    "/v2/aggs/ticker/": "range",
    "/v2/aggs/grouped/": "market_day",
    "/v3/reference/splits": "splits",
    "/v3/reference/dividends": "dividends",
    "/vX/reference/tickers/": "events",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with status 200, in the shape that the vendor's client looks at."""

    data: bytes
    headers: Mapping[str, str]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may take.

    Attributes:
        connect: seconds for a connection.
        read: seconds of silence.
        call: seconds in all, from the gate's permission to the last byte.
        bytes: of the body, before and after unzipping.
    """

    connect: float
    read: float
    call: float
    bytes: int


class _Hidden(str):
    """A text whose repr does not tell it: a traceback that prints local variables shows headers."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'(hidden)'"


class Transport:
    """The proxy for ``client.client``; safe for use from many threads.

    Args:
        key: sent in the Authorization header of every request, in place of the client's own.
        gates: what every attempt passes, by asset class.
        limits: what one call may take.
        pool_size: connections kept open; as many as there are threads.
        redact: takes the key out of error texts.
        tally: where calls and seconds are counted.
        own: what one call of an asset class may take, where that is not ``limits``.
    """

    def __init__(
        self,
        key: str,
        gates: Gates,
        limits: Limits,
        pool_size: int,
        redact: Redactor,
        tally: Tally,
        own: Mapping[str, Limits],
    ) -> None:
        self._authorization = _Hidden(f"Bearer {key}")
        self._gates = gates
        self._limits = limits
        self._own = own
        self._redact = redact
        self._tally = tally
        self._pools = pool_manager(pool_size)
        self._lock = threading.Lock()
        self._under_way: set[Deadline] = set()
        self._aborted = False

    def request(
        self, method: str, url: str, fields: Any = None, headers: Mapping[str, str] | None = None, **_: Any
    ) -> Answer:
        """Make one attempt, and return its answer if that is a complete one with status 200.

        Raises:
            ClosingbellError: every other outcome, as :mod:`closingbell.sources.polygon.errors` says.
        """
        path = urlsplit(url).path
        kind = next((kind for prefix, kind in _KINDS.items() if path.startswith(prefix)), "other")
        whose = _asset_class(path)
        gate, limits = self._gates.of(whose), self._own.get(whose, self._limits)
        outcome = self._attempt(gate, limits, kind, method, url, path, fields, headers)
        if isinstance(outcome, ClosingbellError):
            # Raised here, where nothing is being handled: the library's own exception, whose pool carries the
            # Authorization header, must not travel along as the context of ours.
            if isinstance(outcome, RetryableError) and outcome.status == 429:
                gate.pause(outcome.retry_after)
            raise self._redact.clean(outcome)
        return outcome

    def abort(self) -> None:
        """End the calls on their way, and let none begin any more: each ends with a RunEndingError."""
        with self._lock:
            self._aborted = True
            for deadline in self._under_way:
                deadline.expire()

    def close(self) -> None:
        """Close the idle connections."""
        self._pools.clear()

    def _attempt(
        self,
        gate: Gate,
        limits: Limits,
        kind: str,
        method: str,
        url: str,
        path: str,
        fields: Any,
        headers: Mapping[str, str] | None,
    ) -> Answer | ClosingbellError:
        asked = time.perf_counter()
        started: float | None = None
        deadline = Deadline(limits.call)
        try:
            with gate.call():
                with self._lock:
                    if self._aborted:
                        return RunEndingError(_ENDING)
                    self._under_way.add(deadline)
                started = time.perf_counter()
                self._tally.call(kind)
                deadline.start()
                head = self._head(limits, method, url, path, fields, headers, deadline)
            answer = head if isinstance(head, ClosingbellError) else self._body(head, path, deadline)
            return RunEndingError(_ENDING) if self._aborted and isinstance(answer, ClosingbellError) else answer
        finally:
            with self._lock:
                self._under_way.discard(deadline)
            deadline.stop()
            ended = time.perf_counter()
            started = ended if started is None else started
            self._tally.add("waiting", started - asked)
            self._tally.add("api", ended - started)

    def _head(
        self,
        limits: Limits,
        method: str,
        url: str,
        path: str,
        fields: Any,
        headers: Mapping[str, str] | None,
        deadline: Deadline,
    ) -> urllib3.BaseHTTPResponse | ClosingbellError:
        try:
            return self._pools.request(
                method,
                url,
                fields=fields,
                headers={**(headers or {}), "Authorization": self._authorization},
                retries=_ONCE,
                redirect=False,
                preload_content=False,
                timeout=Timeout(connect=min(limits.connect, limits.call), read=limits.read),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return errors.of_exception(error, path, deadline.exceeded)
        except Exception as bug:  # noqa: BLE001  (its text and its frames may hold the key: it goes no further)
            return errors.of_bug(bug, path)

    def _body(self, response: urllib3.BaseHTTPResponse, path: str, deadline: Deadline) -> Answer | ClosingbellError:
        try:
            if response.status != 200:
                return errors.of_status(response.status, path, response.headers, bodies.read_error(response))
            data = bodies.read(response, path, self._limits.bytes)
        except MalformedResponseError as error:
            return error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return errors.of_exception(error, path, deadline.exceeded)
        except Exception as bug:  # noqa: BLE001  (as above)
            return errors.of_bug(bug, path)
        finally:
            response.close()  # a complete answer's connection is back in the pool by now, and stays open
        if deadline.expired:
            # A body without a length ends where its connection does, so the cut looks like its end.
            return errors.of_exception(TimeoutError(), path, deadline.exceeded)
        return Answer(data, response.headers)


def _asset_class(path: str) -> str:
    """Whose quota a call uses up: that of the ticker or the market in its path; facts are the stocks'."""
    parts = unquote(path).split("/")
    if path.startswith("/v2/aggs/ticker/"):
        return asset_class(parts[4])
    # /v2/aggs/grouped/locale/{us|global}/market/{market}/{date}
    return parts[7] if path.startswith("/v2/aggs/grouped/") and len(parts) > 7 else "stocks"
