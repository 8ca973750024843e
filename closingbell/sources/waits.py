"""How long a vendor asks to be left alone."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

#: No Retry-After is followed for longer than this: more looks like a hang, and a later run will ask again anyway.
LONGEST_WAIT: Final = 3600.0

#: A wait of more than a day is no quota's: such a Retry-After says nothing.
_BELIEVED: Final = 86_400.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that ``Retry-After`` asks for, from 0 to :data:`LONGEST_WAIT`; None if absent or not to be believed.

    Both forms of RFC 9110, 10.2.3 are read: seconds, and an HTTP date, which counts from the answer's own ``Date`` if
    there is one, so that it does not matter whether this machine's clock is right.
    """
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        until, now = _instant(text), _instant(headers.get("Date", ""))
        if until is None:
            return None
        seconds = until - (time.time() if now is None else now)
    if math.isnan(seconds) or seconds > _BELIEVED:
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _instant(text: str) -> float | None:
    """An HTTP date as seconds since 1970; None if it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
