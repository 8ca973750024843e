"""What bars within a day have that daily ones have not: minutes under them, and hours beyond the regular ones."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars
from closingbell.calendar import AssetClass, Days, calendar_for
from closingbell.resample import LENGTH
from closingbell.zones import NEW_YORK, Instants

#: Minutes that a session has at most: 04:00 to 20:00 New York with the extended hours of stocks, the whole UTC day of
#: crypto and currencies, 23 hours of futures. The vendor counts its pages in them, whatever the timeframe.
MINUTES: Final = {"stocks": 960, "crypto": 1_440, "fx": 1_440, "futures": 1_380}

#: Of the longest of them.
LONGEST: Final = max(MINUTES.values())

#: After its close, a session's bars may still open for so long.
_MARGIN: Final = np.timedelta64(1, "h")

_ONE_DAY: Final = np.timedelta64(1, "D")

#: From the end of the extended hours, 20:00 New York, to midnight.
_AFTER_HOURS: Final = timedelta(hours=4)

#: No exchange here is closed for longer; New York's longest was a week, in 2001.
_CLOSED: Final = timedelta(days=14)


def is_intraday(timeframe: str) -> bool:
    """Whether a session has many bars of this timeframe."""
    return timeframe in LENGTH


def base_bars(asset_class: AssetClass, timeframe: str) -> int:
    """The bars of one session that the vendor's page limit counts: its minutes, or the one of a day."""
    return MINUTES[asset_class] if is_intraday(timeframe) else 1


def minutes_a_bar(timeframe: str) -> int:
    """How many of those are in one bar."""
    return int(LENGTH[timeframe] / np.timedelta64(1, "m")) if is_intraday(timeframe) else 1


def bars_a_session(timeframe: str) -> int:
    """The bars of the longest session of any asset class."""
    return LONGEST // minutes_a_bar(timeframe) if is_intraday(timeframe) else 1


def last_over(asset_class: AssetClass, timeframe: str, now: datetime, *, extended_hours: bool = True) -> date:
    """The last session of which no bar is yet to come.

    Of a stock's session with its extended hours that is so at 20:00 New York, else when it has closed.

    Args:
        asset_class: whose sessions.
        timeframe: of the bars.
        now: the present instant, aware.
        extended_hours: whether bars outside of regular hours are wanted.
    """
    calendar = calendar_for(asset_class)
    if asset_class != "stocks" or not extended_hours or not is_intraday(timeframe):
        return calendar.last_closed(now)
    last = (now.astimezone(NEW_YORK) + _AFTER_HOURS).date() - timedelta(days=1)
    found: date = calendar.sessions(last - _CLOSED, last)[-1].item()
    return found


def reach(asset_class: AssetClass, sessions: Days) -> tuple[Instants, Instants]:
    """Instants from which and before which every bar of some sessions opens; those of neighbours may too.

    Args:
        asset_class: whose sessions.
        sessions: shape (k,), datetime64[D].
    """
    if asset_class == "futures":
        calendar = calendar_for(asset_class)
        return calendar.opens(sessions), calendar.closes(sessions) + _MARGIN
    midnight = sessions.astype("M8[us]")
    # New York's midnight is at 04:00Z in summer and at 05:00Z in winter.
    begin, end = (4, 29) if asset_class == "stocks" else (0, 24)
    early, late = ((midnight + np.timedelta64(hours, "h")).astype("M8[us]") for hours in (begin, end))
    return early, late


def of_regular_hours(bars: Bars, asset_class: AssetClass) -> NDArray[np.bool_]:
    """Which bars have something of regular hours, from the session's open to its close; shape (n,).

    The bar of 09:00 to 10:00 New York is one. All are that are not of stocks, whose sessions have no other hours; and
    those on days that are no session, for the rules to judge.
    """
    rows = bars.rows
    if asset_class != "stocks" or not is_intraday(bars.timeframe):
        return np.ones(len(rows), np.bool_)
    calendar = calendar_for(asset_class)
    sessions, at = np.unique(rows["session"], return_inverse=True)
    known = calendar.is_session(sessions)
    begin, end = sessions.astype("M8[us]"), (sessions + _ONE_DAY).astype("M8[us]")
    begin[known], end[known] = calendar.opens(sessions[known]), calendar.closes(sessions[known])
    return ~known[at] | ((rows["ts"] + LENGTH[bars.timeframe] > begin[at]) & (rows["ts"] < end[at]))
