"""What an answer other than 200, or no answer, means: one table from status and message to a typed error.

=======  =====================================================  ======================================
status   message                                                error
=======  =====================================================  ======================================
401      any                                                    ConfigurationError
403      "Attempted to request today's data before end of day"  NotYetPublishedError
403      "... data timeframe"                                   NotEntitledError
403      "You are not entitled", or any other JSON              NotEntitledError
403      HTML or nothing: from something before the vendor      RetryableError
404      status NOT_FOUND, for a ticker                         UnknownTickerError
404      any other: perhaps a wrong address; never "empty"      RetryableError
429      any, or none                                           RetryableError, with ``retry_after``
301 308  moved for good                                         ConfigurationError
others   any (5xx, 400, other redirects)                        RetryableError, with ``status``
none     no connection, broken off, or silent                   RetryableError
=======  =====================================================  ======================================

The messages are the vendor's own, as users reported them. A 400 is a RetryableError because it must cost no other
ticker its bars, although asking again the same way will not help: a caller may look at ``status``.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import urllib3
from urllib3 import exceptions as http

from closingbell.errors import (
    ClosingbellError,
    ConfigurationError,
    NotEntitledError,
    NotYetPublishedError,
    RetryableError,
    UnexpectedError,
    UnknownTickerError,
)
from closingbell.sources.waits import retry_after

#: Where a path names a ticker that may be unknown.
_OF_A_TICKER: Final = ("/v2/aggs/ticker/", "/vX/reference/tickers/")


class _Failure(msgspec.Struct):
    status: str = ""
    error: str = ""
    message: str = ""


def of_status(status: int, path: str, headers: Mapping[str, str], body: bytes) -> ClosingbellError:
    """The error that an answer other than 200 means.

    Args:
        status: of the HTTP answer.
        path: what was asked, without host and query.
        headers: of the answer.
        body: as far as it could be read.
    """
    parsed = _parse(body)
    message = " ".join((parsed.error or parsed.message or parsed.status).split())[:300] if parsed else ""
    shown = f"HTTP {status} for {path}" + (f" ({message})" if message else "")
    lower = message.lower()
    if status == 401 or (status == 403 and "api key" in lower):
        return ConfigurationError("the vendor refuses the key", value=shown, fix="Set POLYGON_API_KEY to a valid key")
    if status == 403 and parsed:
        return _forbidden(lower, shown)
    if status == 404 and parsed and parsed.status == "NOT_FOUND" and path.startswith(_OF_A_TICKER):
        return UnknownTickerError("the vendor knows no such ticker", value=shown, fix="Check its spelling and case")
    if status in (301, 308):
        where = f"{shown} to {_host(headers.get('Location', ''))}"
        return ConfigurationError(
            "the vendor's address has moved", value=where, fix="Set POLYGON_BASE_URL to the new one"
        )
    what, fix = _retryable(status)
    return RetryableError(what, value=shown, fix=fix, retry_after=retry_after(headers), status=status)


def _host(url: str) -> str:
    """Whose address it is; the rest may hold the key."""
    try:
        return urllib3.util.parse_url(url).host or "no address"
    except http.LocationParseError:
        return "no address"


def _parse(body: bytes) -> _Failure | None:
    try:
        return msgspec.json.decode(body, type=_Failure)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _forbidden(message: str, shown: str) -> ClosingbellError:
    if "before end of day" in message:
        return NotYetPublishedError(
            "the vendor has not published this day yet", value=shown, fix="The next run will ask again"
        )
    if "data timeframe" in message:
        return NotEntitledError(
            "the plan does not reach these dates",
            value=shown,
            fix="They are before the plan's history or in the future: start later, or use a key with more history",
        )
    return NotEntitledError(
        "the plan does not include this data", value=shown, fix="Use a key of a plan that does, or drop the ticker"
    )


def _retryable(status: int) -> tuple[str, str]:
    if status == 429:
        return "the vendor's quota is exceeded", "Lower POLYGON_CALLS_PER_MINUTE if another program shares the key"
    if status >= 500:
        return "the vendor's server failed", "Ask again; see the vendor's status page if it lasts"
    if status == 403:
        return "something in front of the vendor refuses the call", "Check proxies and firewalls, and POLYGON_BASE_URL"
    if status == 404:
        return "the address does not serve this call", "Check POLYGON_BASE_URL"
    if 300 <= status < 400:
        return "the vendor redirects the call elsewhere", "Check proxies, and POLYGON_BASE_URL"
    return "the vendor does not accept the call", "See the message; asking the same again may not help"


def of_exception(error: Exception, path: str, expired: float | None) -> RetryableError:
    """The error that no answer, or a broken one, means.

    Args:
        error: as the HTTP library or the operating system raised it.
        path: what was asked, without host and query.
        expired: the call's time limit in seconds, if that is why the connection was shut.
    """
    if expired is not None:
        return _unanswered(f"{path}: not complete after {expired:g} s")
    reason = error.reason if isinstance(error, http.MaxRetryError) and error.reason else error
    if isinstance(reason, http.NameResolutionError):
        return _unreachable("the vendor's address cannot be resolved", path)
    if isinstance(reason, http.NewConnectionError):
        return _unreachable("no connection to the vendor", f"{path}: {_cause(reason)}")
    if isinstance(reason, http.TimeoutError | TimeoutError):
        stage = "connecting" if isinstance(reason, http.ConnectTimeoutError) else "silent for too long"
        return _unanswered(f"{path}: {stage}")
    if isinstance(reason, http.SSLError):
        return _unreachable("no secure connection to the vendor", f"{path}: {_cause(reason)}")
    return RetryableError("the connection to the vendor broke off", value=f"{path}: {_cause(reason)}", fix="Ask again")


def of_bug(bug: Exception, path: str) -> UnexpectedError:
    """The error that one nobody foresaw means: where it happened, but not its text, which may quote what was sent."""
    at = traceback.extract_tb(bug.__traceback__)[-1]
    where = f"{type(bug).__name__} at {Path(at.filename).name}:{at.lineno}"
    return UnexpectedError("a bug in closingbell", value=f"{path}: {where}", fix="Report it.")


def _unanswered(value: str) -> RetryableError:
    return RetryableError(
        "the vendor did not answer in time", value=value, fix="Ask again; if it lasts, raise POLYGON_CALL_TIMEOUT"
    )


def _unreachable(what: str, value: str) -> RetryableError:
    return RetryableError(what, value=value, fix="Check the network and POLYGON_BASE_URL")


def _cause(error: BaseException) -> str:
    """The innermost cause's own words: those of the outer ones repeat hosts, ports and objects."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__} {error}".strip()[:200]
