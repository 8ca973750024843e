"""Time zones, and what their clocks are ahead of UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

#: Arrays of instants in UTC.
Instants = NDArray[np.datetime64]

NEW_YORK: Final = ZoneInfo("America/New_York")
CHICAGO: Final = ZoneInfo("America/Chicago")


def in_utc(instant: datetime) -> datetime:
    """An aware instant as bars have theirs: in UTC, without a time zone."""
    return instant.astimezone(UTC).replace(tzinfo=None)


def offsets_at(zone: ZoneInfo, utc: Instants) -> NDArray[np.timedelta64]:
    """What a zone's clocks are ahead of UTC at some instants, in their shape."""
    changes, offsets = _offsets(zone)
    position = np.searchsorted(changes, utc, side="right") - 1
    return np.asarray(offsets[position.clip(min=0)])


@cache
def _offsets(zone: ZoneInfo) -> tuple[Instants, NDArray[np.timedelta64]]:
    """From which instants on (UTC, ascending) a zone has which offset; before the first one it has the first."""
    step, hour = timedelta(weeks=4), timedelta(hours=1)
    begin, last = datetime(1970, 1, 1, tzinfo=UTC), datetime(2287, 1, 1, tzinfo=UTC)  # all that the vendor can stamp
    offset = _offset(zone, begin)
    found = [(begin, offset)]
    while begin < last:
        # It changes on the hour, and never twice within a step.
        low, high = begin, begin + step
        then = _offset(zone, high)
        if then != offset:
            while high - low > hour:
                middle = low + (high - low) // hour // 2 * hour
                low, high = (middle, high) if _offset(zone, middle) == offset else (low, middle)
            found.append((high, then))
        begin, offset = begin + step, then
    instants = np.array([instant.replace(tzinfo=None) for instant, _ in found], "M8[us]")
    return instants, np.array([offset for _, offset in found], "m8[us]")


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None  # noqa: S101 - a zone has one
    return offset
