"""When each market trades, how its bars are stamped, and what is published by an instant.

Instants are epoch milliseconds in UTC, as on the wire; sessions are ``datetime64[D]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import exchange_calendars
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.market.hashing import Ints

Days = NDArray[np.datetime64]

NEW_YORK: Final = ZoneInfo("America/New_York")

#: Sessions are numbered from here on; the first bar served is later.
FIRST_DAY: Final = np.datetime64("2003-01-02")
LAST_DAY: Final = np.datetime64("2034-12-29")
FIRST_BAR: Final = np.datetime64("2003-09-10")

DAY_MS: Final = 86_400_000
MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, eq=False)
class Hours:
    """One asset class's trading days.

    Attributes:
        asset: ``stocks``, ``crypto`` or ``fx``.
        zone: where its days begin.
        sessions: its trading days, ascending, shape (n,).
        opens, closes: epoch ms of each session's open and close, shape (n,).
        stamps: epoch ms that a range's daily bar of each session carries: its midnight.
        market_stamps: epoch ms that the same bar carries on a market day.
    """

    asset: str
    zone: ZoneInfo
    sessions: Days
    opens: Ints
    closes: Ints
    stamps: Ints
    market_stamps: Ints

    def between(self, first: np.datetime64, last: np.datetime64) -> slice:
        """The positions of the sessions from ``first`` to ``last``, both included."""
        low = int(np.searchsorted(self.sessions, first, "left"))
        return slice(low, max(low, int(np.searchsorted(self.sessions, last, "right"))))

    def position(self, day: np.datetime64) -> int | None:
        """The session's number, or None when the market is closed that day."""
        at = int(np.searchsorted(self.sessions, day))
        return at if at < len(self.sessions) and self.sessions[at] == day else None

    def today(self, now: datetime) -> np.datetime64:
        """The date where this market trades."""
        return np.datetime64(now.astimezone(self.zone).date(), "D")

    def last_published(self, now: datetime, delay_seconds: float) -> np.datetime64:
        """The last session whose bars are out: closed at least ``delay_seconds`` ago."""
        due = now.timestamp() * 1000 - delay_seconds * 1000
        closed = int(np.searchsorted(self.closes, due, "right"))
        last: np.datetime64 = self.sessions[closed - 1] if closed else FIRST_DAY - np.timedelta64(1, "D")
        return last

    def day_of(self, instant_ms: int) -> np.datetime64:
        """The local date of an instant."""
        return np.datetime64(datetime.fromtimestamp(instant_ms / 1000, UTC).astimezone(self.zone).date(), "D")


@cache
def hours(asset: str) -> Hours:
    """The hours of ``stocks`` (XNYS), ``crypto`` (every UTC day) or ``fx`` (Monday to Friday, UTC days)."""
    if asset == "stocks":
        schedule = exchange().schedule
        days = schedule.index
        local = pd.DatetimeIndex(days).tz_localize(None)
        return Hours(
            asset,
            NEW_YORK,
            local.to_numpy().astype("M8[D]"),
            _ms(schedule["open"]),
            _ms(schedule["close"]),
            _ms(local.tz_localize(NEW_YORK)),
            _ms((local + pd.Timedelta(hours=16)).tz_localize(NEW_YORK)),
        )
    sessions = np.arange(FIRST_DAY, LAST_DAY + 1)
    if asset == "fx":
        sessions = sessions[np.is_busday(sessions)]
    midnight = sessions.astype("M8[ms]").astype(np.int64)
    return Hours(asset, ZoneInfo("UTC"), sessions, midnight, midnight + DAY_MS, midnight, midnight + DAY_MS - 1)


@cache
def exchange() -> Any:
    """The New York exchange's calendar, built once (a third of a second)."""
    return exchange_calendars.get_calendar("XNYS", start=str(FIRST_DAY), end=str(LAST_DAY))


@cache
def _midnights() -> Ints:
    days = pd.date_range(str(FIRST_DAY), str(LAST_DAY))
    return _ms(days.tz_localize(NEW_YORK))


def midnights(asset: str, days: Days) -> Ints:
    """Epoch ms at which any days (sessions or not, within the calendar's years) begin, where the asset trades."""
    if asset == "stocks":
        return _midnights()[(days - FIRST_DAY).astype(np.int64)]
    return days.astype("M8[ms]").astype(np.int64)


def _ms(times: Any) -> Ints:
    return pd.DatetimeIndex(times).tz_convert("UTC").tz_localize(None).to_numpy().astype("M8[ms]").astype(np.int64)
