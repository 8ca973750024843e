"""What takes the place of the vendor client's connection pool, so that every call is seen, gated, bounded and typed.

The client (polygon-api-client 1.16.3) builds its timeouts but never applies them, retries statuses 413, 429, 499 and
5xx by itself within the second, and drops status and headers of errors. All of its requests go through
``client.client.request``; :class:`Transport` offers that method and none of those habits.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

import urllib3
from urllib3.util import Retry, Timeout

from closingbell.errors import ClosingbellError, MalformedResponseError, RetryableError
from closingbell.quota import Gate
from closingbell.sources.polygon import body as bodies
from closingbell.sources.polygon import errors
from closingbell.sources.polygon.deadline import Deadline, pool_manager

#: One attempt and no more; every status, redirects among them, comes back to us as it is.
_ONCE: Final = Retry(
    total=0, redirect=0, raise_on_redirect=False, raise_on_status=False, respect_retry_after_header=False
)

_KINDS: Final = {
    "/v2/aggs/ticker/": "range",
    "/v2/aggs/grouped/": "market_day",
    "/v3/reference/splits": "splits",
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
        pause: seconds for which a 429 without a Retry-After stops every caller.
    """

    connect: float
    read: float
    call: float
    bytes: int
    pause: float


class Tally:
    """Calls by kind and seconds by stage, counted from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._seconds = {"waiting": 0.0, "api": 0.0, "decoding": 0.0}

    def call(self, kind: str) -> None:
        """Count one HTTP attempt."""
        with self._lock:
            self._calls[kind] += 1

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the body's duration to ``stage``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Add ``seconds`` to ``stage``."""
        with self._lock:
            self._seconds[stage] += seconds

    @property
    def calls(self) -> dict[str, int]:
        """A copy of the counts."""
        with self._lock:
            return dict(self._calls)

    @property
    def seconds(self) -> dict[str, float]:
        """A copy of the sums."""
        with self._lock:
            return dict(self._seconds)


class Redactor:
    """Takes the key out of texts that others wrote, such as an error message that quotes it."""

    def __init__(self, key: str) -> None:
        self._forms = {key, quote(key, safe="")}

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "(key)")
        return text

    def clean(self, error: ClosingbellError) -> ClosingbellError:
        """``error`` itself, its text without the key."""
        error.args = (self(str(error)),)
        if isinstance(error.value, str):
            error.value = self(error.value)
        return error


class Transport:
    """The proxy for ``client.client``; safe for use from many threads.

    Args:
        gate: what every attempt passes.
        limits: what one call may take.
        pool_size: connections kept open; as many as there are threads.
        redact: takes the key out of error texts.
        tally: where calls and seconds are counted.
    """

    def __init__(self, gate: Gate, limits: Limits, pool_size: int, redact: Redactor, tally: Tally) -> None:
        self._gate = gate
        self._limits = limits
        self._redact = redact
        self._tally = tally
        self._pools = pool_manager(pool_size)

    def request(
        self, method: str, url: str, fields: Any = None, headers: Mapping[str, str] | None = None, **_: Any
    ) -> Answer:
        """Make one attempt, and return its answer if that is a complete one with status 200.

        Raises:
            ClosingbellError: every other outcome, as :mod:`closingbell.sources.polygon.errors` says.
        """
        path = urlsplit(url).path
        kind = next((kind for prefix, kind in _KINDS.items() if path.startswith(prefix)), "other")
        outcome = self._attempt(kind, method, url, path, fields, headers)
        if isinstance(outcome, ClosingbellError):
            # Raised here, where nothing is being handled: the library's own exception, whose pool carries the
            # Authorization header, must not travel along as the context of ours.
            if isinstance(outcome, RetryableError) and outcome.status == 429:
                self._gate.pause(self._limits.pause if outcome.retry_after is None else outcome.retry_after)
            raise self._redact.clean(outcome)
        return outcome

    def close(self) -> None:
        """Close the idle connections."""
        self._pools.clear()

    def _attempt(
        self, kind: str, method: str, url: str, path: str, fields: Any, headers: Mapping[str, str] | None
    ) -> Answer | ClosingbellError:
        asked = time.perf_counter()
        deadline = Deadline(self._limits.call)
        with self._gate.call():
            started = time.perf_counter()
            self._tally.add("waiting", started - asked)
            self._tally.call(kind)
            deadline.start()
            head = self._head(method, url, path, fields, headers, deadline)
        try:
            return head if isinstance(head, ClosingbellError) else self._body(head, path, deadline)
        finally:
            deadline.stop()
            self._tally.add("api", time.perf_counter() - started)

    def _head(
        self, method: str, url: str, path: str, fields: Any, headers: Mapping[str, str] | None, deadline: Deadline
    ) -> urllib3.BaseHTTPResponse | ClosingbellError:
        try:
            return self._pools.request(
                method,
                url,
                fields=fields,
                headers=headers,
                retries=_ONCE,
                redirect=False,
                preload_content=False,
                timeout=Timeout(connect=min(self._limits.connect, self._limits.call), read=self._limits.read),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return errors.of_exception(error, path, deadline.exceeded)

    def _body(self, response: urllib3.BaseHTTPResponse, path: str, deadline: Deadline) -> Answer | ClosingbellError:
        try:
            if response.status != 200:
                return errors.of_status(response.status, path, response.headers, bodies.read_error(response))
            data = bodies.read(response, path, self._limits.bytes)
        except MalformedResponseError as error:
            return error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return errors.of_exception(error, path, deadline.exceeded)
        finally:
            response.close()  # a complete answer's connection is back in the pool by now, and stays open
        if deadline.expired:
            # A body without a length ends where its connection does, so the cut looks like its end.
            return errors.of_exception(TimeoutError(), path, deadline.exceeded)
        return Answer(data, response.headers)
