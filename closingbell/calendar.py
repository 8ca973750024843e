"""Sessions, their opens and closes, and which of them the vendor should have published by now.

A *session* is a date of the calendar of a ticker's asset class; the ticker's prefix says which class it is:

========  =========  ==========================================  ================================
class     ticker     sessions                                    a session's bars lie within
========  =========  ==========================================  ================================
stocks    ``AAPL``   XNYS, by exchange-calendars, half days      09:30 New York to the day's close
crypto    ``X:...``  every UTC day                               00:00Z to 24:00Z
fx        ``C:...``  every UTC day but Saturday                  00:00Z to 24:00Z
futures   ``NQ.v.0`` CME trading dates, of any of its products   17:00 Chicago, the day before, to
                                                                 the day's close, mostly 16:00
========  =========  ==========================================  ================================

The currency market is open from Sunday 17:00 to Friday 17:00, New York, all of it on the UTC days Sunday to Friday.
The vendor cuts its daily bars at midnight UTC, has one for Sundays (a few thousand quotes) and none but leftovers for
Saturdays: in a genuine body for EURUSD, January 2023, Saturday's bar held 2 quotes and its neighbours 207,800 and
4,731. Hence Saturday is no session: a bar there is outside of every cell. Holidays are sessions, for the same body
has a bar on 1 January.

Futures are continuous symbols: a root, the rule by which it rolls (``v`` volume, ``c`` calendar, ``n`` open interest)
and the rank. A trading date begins at 17:00 Chicago of the evening before, so Sunday's evening is Monday's. The
sessions are those of pandas-market-calendars' CME_Equity and CMEGlobex_FX together: where products differ (Good Friday
2015, the mourning of 2025-01-09) a date of any of them is a session, for one too many is a gap with a reason, and one
too few would keep genuine bars out. CMES of exchange-calendars lacks the shortened Good Fridays of late years, and
closes an hour later than the market does.

The ``ts`` of a daily bar is its session's open as given by :meth:`Calendar.opens`, whatever instant the vendor stamps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from closingbell.errors import ConfigurationError
from closingbell.schedules import EXCHANGES, FIRST_DAY, LAST_DAY, Schedule, schedule_of
from closingbell.zones import CHICAGO, NEW_YORK, Instants, offsets_at

AssetClass = Literal["stocks", "crypto", "fx", "futures"]

#: Arrays of session dates.
Days = NDArray[np.datetime64]

#: A continuous future: root, roll rule, rank.
FUTURE: Final = re.compile(r"[A-Z0-9]{1,4}\.(?P<rule>[vcn])\.(?P<rank>\d{1,2})")

#: Chicago's clock shows 17:00 as a trading date begins: so much later it would be midnight of that date.
_EVENING: Final = np.timedelta64(7, "h")

#: A session's bars are due this long after 00:00Z of its date: at 05:00Z on the next day. The vendor's free plan serves
#: end-of-day data: it refuses "today" (403), and has yesterday by about 05:00Z.
PUBLISHED_AFTER: Final = timedelta(days=1, hours=5)

#: The free plan reaches two years back.
HISTORY_YEARS: Final = 2

_DAY: Final = np.timedelta64(1, "D")
_WEEKMASKS: Final[dict[str, str]] = {"crypto": "1111111", "fx": "1111101"}  # Monday first


def asset_class(ticker: str) -> AssetClass:
    """The asset class that a ticker's prefix names; a ticker without one is a stock (or an ETF).

    Raises:
        ConfigurationError: an index (``I:``) or an option (``O:``), which have no calendar here; a future whose rule or
            rank is none.
    """
    prefix, colon, _ = ticker.partition(":")
    if not colon:
        return "futures" if _is_future(ticker) else "stocks"
    if prefix == "X":
        return "crypto"
    if prefix == "C":
        return "fx"
    raise _no_calendar({"I": "indices", "O": "options"}.get(prefix, f"the prefix {prefix + ':'!r}"), ticker)


def by_asset_class(tickers: Iterable[str]) -> dict[AssetClass, list[str]]:
    """The tickers of each asset class, in their order.

    Raises:
        ConfigurationError: as :func:`asset_class` says.
    """
    found: dict[AssetClass, list[str]] = {}
    for ticker in tickers:
        found.setdefault(asset_class(ticker), []).append(ticker)
    return found


@dataclass(frozen=True, slots=True)
class Calendar:
    """The sessions of one asset class, from :data:`FIRST_DAY` to :data:`LAST_DAY`; get it by :func:`calendar_for`.

    Session dates are ``datetime64[D]`` arrays and instants ``datetime64[us]`` arrays in UTC. Single dates are
    ``datetime.date``. ``now`` is always an aware ``datetime``, of any zone; a naive one raises ``ConfigurationError``.
    """

    asset_class: AssetClass

    def sessions(self, start: date, end: date) -> Days:
        """The sessions from ``start`` to ``end``, both included, ascending; empty if ``end`` is before ``start``.

        Raises:
            ConfigurationError: a date outside of the years that the calendar knows.
        """
        first, last = _known(start), _known(end)
        if self.asset_class in EXCHANGES:
            days = self._schedule.days
            low, high = np.searchsorted(days, [first, last + _DAY])
            return days[low:high].copy()
        days = np.arange(first, max(first, last + _DAY), dtype="M8[D]")
        return days[self.is_session(days)]

    def is_session(self, days: ArrayLike) -> NDArray[np.bool_]:
        """Which of ``days`` (any shape, ``datetime64[D]``) are sessions; NaT and unknown years are not."""
        asked = np.asarray(days, "M8[D]")
        known = (asked >= np.datetime64(FIRST_DAY)) & (asked <= np.datetime64(LAST_DAY))
        if self.asset_class in EXCHANGES:
            listed = self._schedule.days
            position = np.searchsorted(listed, asked).clip(max=len(listed) - 1)
            return np.asarray(known & (listed[position] == asked))
        return np.asarray(known & np.is_busday(asked, _WEEKMASKS[self.asset_class]))

    def opens(self, sessions: ArrayLike) -> Instants:
        """The instants at which ``sessions`` open, in their shape: also the ``ts`` of their daily bars.

        Raises:
            ValueError: one of them is not a session.
        """
        return self._instants(sessions, lambda schedule: schedule.opens, np.timedelta64(0, "D"))

    def closes(self, sessions: ArrayLike) -> Instants:
        """The instants at which ``sessions`` close, in their shape; a bar of the session opens before it.

        Raises:
            ValueError: one of them is not a session.
        """
        return self._instants(sessions, lambda schedule: schedule.closes, _DAY)

    def session_of(self, instants: ArrayLike) -> Days:
        """The date to which bars opening at ``instants`` (``datetime64[us]``, UTC) belong, in their shape.

        For stocks the date in New York, so that 00:00 New York, pre-market and after-hours all fall on their session;
        for futures the date in Chicago, or the next one from 17:00 on; else the date in UTC. The result need not be a
        session: ask :meth:`is_session`.
        """
        utc = np.asarray(instants, "M8[us]")
        if self.asset_class == "stocks":
            return np.asarray((utc + offsets_at(NEW_YORK, utc)).astype("M8[D]"))
        if self.asset_class == "futures":
            return np.asarray((utc + offsets_at(CHICAGO, utc) + _EVENING).astype("M8[D]"))
        return utc.astype("M8[D]")

    def last_closed(self, now: datetime) -> date:
        """The last session whose close is at or before ``now``."""
        instant = _utc(now)
        if self.asset_class in EXCHANGES:
            schedule = self._schedule
            return _day(schedule.days[np.searchsorted(schedule.closes, instant, side="right") - 1])
        return self._on_or_before(instant.astype("M8[D]") - _DAY)

    def last_due(self, now: datetime) -> date:
        """The last session that the vendor should have published by ``now``; see :data:`PUBLISHED_AFTER`."""
        return self._on_or_before((_utc(now) - np.timedelta64(PUBLISHED_AFTER)).astype("M8[D]"))

    def default_start(self, now: datetime) -> date:
        """The first session the free plan serves: on or after today in New York, less two years, plus a day."""
        _utc(now)
        today = now.astimezone(NEW_YORK).date()
        leap = (today.month, today.day) == (2, 29)
        then = today.replace(year=today.year - HISTORY_YEARS, day=28 if leap else today.day) + timedelta(days=1)
        # No calendar here is closed for longer than this: the New York exchange's longest was a week, in 2001.
        return _day(self.sessions(then, then + timedelta(days=14))[0])

    @property
    def _schedule(self) -> Schedule:
        return schedule_of(self.asset_class)

    def _on_or_before(self, day: np.datetime64) -> date:
        last = _day(day)
        return _day(self.sessions(last - timedelta(days=14), last)[-1])

    def _instants(self, sessions: ArrayLike, column: Callable[[Schedule], Instants], shift: np.timedelta64) -> Instants:
        asked = np.asarray(sessions, "M8[D]")
        mask = self.is_session(asked)
        if not mask.all():
            raise ValueError(f"{asked[~mask].flat[0]} is not a session of the {self.asset_class} calendar")
        if self.asset_class in EXCHANGES:
            schedule = self._schedule
            return np.asarray(column(schedule)[np.searchsorted(schedule.days, asked)])
        moved: Instants = (asked + shift).astype("M8[us]")
        return moved


@cache
def calendar_for(asset_class: AssetClass) -> Calendar:
    """The calendar of an asset class, made once in a process.

    Raises:
        ConfigurationError: there is no such asset class.
    """
    if asset_class not in EXCHANGES and asset_class not in _WEEKMASKS:
        raise ConfigurationError(
            "there is no calendar for this asset class",
            value=repr(asset_class),
            fix=f"Use one of {', '.join([*_WEEKMASKS, *EXCHANGES])}.",
        )
    return Calendar(asset_class)


def _is_future(ticker: str) -> bool:
    """Whether it is a continuous future, ``NQ.v.0``; a stock's dot is before its class, ``BRK.B``.

    Raises:
        ConfigurationError: it looks like one, and has no such rule or rank.
    """
    if FUTURE.fullmatch(ticker):
        return True
    if ticker.count(".") == 2 and ticker.rpartition(".")[2].isdigit():
        raise ConfigurationError(
            "this is no continuous future",
            value=repr(ticker),
            fix="Write the root, the rule it rolls by (v volume, c calendar, n open interest) and the rank: NQ.v.0.",
        )
    return False


def _known(day: date) -> np.datetime64:
    if isinstance(day, datetime) or not FIRST_DAY <= day <= LAST_DAY:
        raise ConfigurationError(
            "the calendar does not know this date", value=day, fix=f"Use dates from {FIRST_DAY} to {LAST_DAY}."
        )
    return np.datetime64(day, "D")


def _utc(now: datetime) -> np.datetime64:
    if now.tzinfo is None or now.utcoffset() is None:
        raise ConfigurationError(
            "the calendar was asked with a time that has no time zone",
            value=now.isoformat(),
            fix="Pass an aware instant, such as datetime.now(UTC).",
        )
    instant = now.astimezone(UTC)
    _known(instant.date())
    return np.datetime64(instant.replace(tzinfo=None), "us")


def _day(day: np.datetime64) -> date:
    converted: date = day.astype("M8[D]").item()
    return converted


def _no_calendar(what: str, ticker: str) -> ConfigurationError:
    return ConfigurationError(
        f"there is no calendar for {what}",
        value=repr(ticker),
        fix="Use stocks and ETFs (AAPL), crypto (X:BTCUSD), currencies (C:EURUSD) or futures (NQ.v.0).",
    )
