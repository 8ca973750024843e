"""Reading what the caller asked: dates, instants, limits, cursors; and refusing in the vendor's words."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import numpy as np

from infra.market.hours import FIRST_DAY, LAST_DAY, MINUTE_MS, Hours, midnights

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_INSTANT: Final = re.compile(r"\d{9,16}")

NOT_ENTITLED: Final = "You are not entitled to this data. Please upgrade your plan at https://polygon.io/pricing"
WRONG_TIMEFRAME: Final = (
    "Your plan doesn't include this data timeframe. Please upgrade your plan at https://polygon.io/pricing"
)
NOT_YET: Final = (
    "Attempted to request today's data before end of day. Please upgrade your plan at https://polygon.io/pricing"
)
TOO_MANY: Final = (
    "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue. "
    "https://polygon.io/pricing"
)


class RefusedError(Exception):
    """An answer other than 200.

    Args:
        status: the HTTP status.
        text: the vendor's message.
        headers: more headers.
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, dict(headers or {})

    def body(self, request_id: str) -> dict[str, Any]:
        """The vendor's body: ``message`` on 403 and 404, ``error`` on the rest."""
        word = {403: "NOT_AUTHORIZED", 404: "NOT_FOUND"}.get(self.status)
        if word:
            return {"status": word, "request_id": request_id, "message": self.text}
        return {"status": "ERROR", "request_id": request_id, "error": self.text}


def calendar_day(text: str, name: str) -> np.datetime64:
    """A ``YYYY-MM-DD``.

    Raises:
        RefusedError: 400, it is not one.
    """
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        return min(max(np.datetime64(date.fromisoformat(text), "D"), FIRST_DAY), LAST_DAY)
    except ValueError:
        raise RefusedError(
            400, f"Could not parse the time parameter: '{name}'. Use YYYY-MM-DD or Unix MS Timestamps"
        ) from None


def instants(first: str, last: str, hours: Hours) -> tuple[int, int]:
    """The epoch milliseconds from and to, both included, of a range's dates or epoch milliseconds.

    Raises:
        RefusedError: 400, one cannot be read, or they are the wrong way round.
    """
    low = int(first) if _INSTANT.fullmatch(first) else _begins(calendar_day(first, "from"), hours)
    high = int(last) if _INSTANT.fullmatch(last) else _begins(calendar_day(last, "to") + 1, hours) - 1
    earliest, latest = _begins(FIRST_DAY, hours), _begins(LAST_DAY, hours)
    low, high = min(max(low, earliest), latest), min(max(high, earliest), latest)
    if high < low:
        raise RefusedError(400, "The parameter 'to' cannot be a time that occurs before 'from'")
    return low, high


def _begins(day: np.datetime64, hours: Hours) -> int:
    return int(midnights(hours.asset, np.array([min(day, LAST_DAY)]))[0])


def floor_minute(instant: int) -> int:
    """The start of an instant's minute."""
    return instant // MINUTE_MS * MINUTE_MS


def count(params: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A number from 1 to ``most``.

    Raises:
        RefusedError: 400, it is not one.
    """
    text = params.get(name, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise RefusedError(400, f"The parameter '{name}' must be a number between 1 and {most}")
    return int(text)


def flag(params: Mapping[str, str], name: str, default: bool) -> bool:
    """``true`` or ``false``.

    Raises:
        RefusedError: 400, it is neither.
    """
    text = params.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise RefusedError(400, f"The parameter '{name}' must be true or false")
    return text == "true"


def cursor(params: Mapping[str, str]) -> str:
    """Parameters as the vendor's cursor: sorted, urlencoded, unpadded base64url."""
    return base64.urlsafe_b64encode(urlencode(sorted(params.items())).encode()).decode().rstrip("=")


def with_cursor(params: Mapping[str, str]) -> dict[str, str]:
    """The parameters, with those of a cursor unfolded.

    Raises:
        RefusedError: 400, the cursor is not one of ours.
    """
    given = dict(params)
    given.pop("apiKey", None)
    text = given.pop("cursor", "")
    if not text:
        return given
    try:
        inner = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
        return {**dict(parse_qsl(inner, keep_blank_values=True, strict_parsing=True)), **given}
    except (ValueError, UnicodeDecodeError):
        raise RefusedError(400, "The parameter 'cursor' is not valid") from None
