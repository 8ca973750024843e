"""What a refusal of Databento, or no answer, means: one table to typed errors.

=========  ==================================================  ======================================
status     case in the body                                    error
=========  ==================================================  ======================================
401        any                                                 ConfigurationError
402        any: no credit left                                 ConfigurationError
403        any                                                 NotEntitledError
422        ``data_end_after_available_end`` and its like       NotYetPublishedError
422, 400   ``symbology...``, ``...symbol...``, not found       UnknownTickerError
404        any                                                 UnknownTickerError
429        any                                                 RetryableError, with ``retry_after``
others     any (5xx, 408, other 4xx)                           RetryableError, with ``status``
none       no connection, no trusted certificate, broken off   RetryableError
=========  ==================================================  ======================================

Statuses and cases are those that the client (0.87) knows and the vendor's documentation of its errors names.
"""

from __future__ import annotations

from typing import Any, Final

import requests

from closingbell.errors import (
    ClosingbellError,
    ConfigurationError,
    MalformedResponseError,
    NotEntitledError,
    NotYetPublishedError,
    RetryableError,
    UnknownTickerError,
)
from closingbell.sources.waits import retry_after

#: Cases of a 422 that say that the range lies beyond what is there yet.
_NOT_YET: Final = ("after_available_end", "end_after", "schema_not_fully_available")

_ASK_AGAIN: Final = "Ask again; see the vendor's status page if it lasts"


def of_status(status: int, body: Any, headers: Any, subject: str) -> ClosingbellError:
    """The error that an answer of 400 or more means.

    Args:
        status: of the HTTP answer.
        body: as JSON, if it was any.
        headers: of the answer.
        subject: what was asked.
    """
    case, message = _told(body)
    shown = f"HTTP {status} for {subject}" + (f" ({' '.join(message.split())[:300]})" if message else "")
    if status == 401:
        return ConfigurationError("the vendor refuses the key", value=shown, fix="Set DATABENTO_API_KEY to a valid key")
    if status == 402:
        return ConfigurationError(
            "the vendor's account cannot pay", value=shown, fix="See billing in the vendor's portal"
        )
    if status == 403:
        return NotEntitledError(
            "the plan does not include this data", value=shown, fix="See the licences in the vendor's portal"
        )
    lower = f"{case} {message}".lower()
    if status == 422 and any(word in lower for word in _NOT_YET):
        return NotYetPublishedError("the vendor has not published this yet", value=shown, fix="The next run asks again")
    if status == 404 or (status in (400, 422) and "symbol" in lower):
        return UnknownTickerError("the vendor knows no such symbol", value=shown, fix="Check root, rule and rank")
    if status == 429:
        return RetryableError(
            "the vendor's quota is exceeded",
            value=shown,
            fix="Lower DATABENTO_CALLS if another program shares the key",
            retry_after=retry_after(headers),
            status=status,
        )
    what = "the vendor's server failed" if status >= 500 else "the vendor does not accept the call"
    return RetryableError(what, value=shown, fix=_ASK_AGAIN, retry_after=retry_after(headers), status=status)


def of_transport(error: requests.RequestException, subject: str) -> RetryableError:
    """The error that no answer means; none of its words are the library's, which may quote what was sent."""
    kind = type(error).__name__
    if isinstance(error, requests.exceptions.SSLError):
        return RetryableError(
            "no secure connection to the vendor",
            value=f"{subject}: {kind}",
            fix="Check the network; REQUESTS_CA_BUNDLE names the certificates that are trusted",
        )
    if isinstance(error, requests.Timeout):
        return RetryableError("the vendor did not answer in time", value=f"{subject}: {kind}", fix="Ask again")
    return RetryableError("the vendor cannot be reached", value=f"{subject}: {kind}", fix="Check the network")


def malformed(why: str, subject: str) -> MalformedResponseError:
    """The error that an answer means which is broken, short or of something else."""
    return MalformedResponseError("the vendor's answer is broken", value=f"{subject}: {why}", fix="Ask again")


def _told(body: Any) -> tuple[str, str]:
    """The vendor's case and message, of whichever form its body has."""
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(detail, dict):
        return str(detail.get("case") or ""), str(detail.get("message") or "")
    return "", str(detail or "")
