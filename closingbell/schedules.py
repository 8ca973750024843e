"""Every session of an exchange: its date, open and close.

The libraries that know them bring pandas and take half a second to say so, in every process. What they say is kept in
the package instead (``data/holidays.csv``: weekdays without a session, and early closes; ``make calendar`` writes it),
and believed where just those versions of them are installed that said it; any others are asked themselves.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from io import StringIO
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from closingbell.zones import CHICAGO, NEW_YORK, Instants, offsets_at

#: The sessions that are known. The vendor's history starts in 2003 and index membership in 1996; the far end costs
#: little and spares a long-lived process from running out of calendar.
FIRST_DAY: Final = date(1990, 1, 1)
LAST_DAY: Final = date(2099, 12, 31)

#: Where they are kept, in the package.
KEPT: Final = ("data", "holidays.csv")

_DAY: Final = np.timedelta64(1, "D")
_MINUTE: Final = np.timedelta64(1, "m")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every session of an exchange: date, open (UTC), close (UTC); one position each, ascending."""

    days: NDArray[np.datetime64]
    opens: Instants
    closes: Instants

    def __post_init__(self) -> None:
        for array in (self.days, self.opens, self.closes):
            array.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Whose sessions they are.

    Attributes:
        library: the distribution that knows them.
        zone: of its clocks.
        opens, closes: minutes from midnight, there, of a session's date: of every session, and of those that do not
            close early.
        ask: asks the library.
    """

    library: str
    zone: ZoneInfo
    opens: int
    closes: int
    ask: Callable[[], Schedule]


def _xnys() -> Schedule:
    from exchange_calendars import get_calendar

    # The default range is the last 20 years only. Building this one takes 0.11 s.
    schedule: Any = get_calendar("XNYS", start=FIRST_DAY.isoformat(), end=LAST_DAY.isoformat()).schedule
    return Schedule(
        schedule.index.to_numpy().astype("M8[D]"),
        schedule["open"].dt.tz_localize(None).to_numpy().astype("M8[us]"),
        schedule["close"].dt.tz_localize(None).to_numpy().astype("M8[us]"),
    )


def _cme() -> Schedule:
    from pandas_market_calendars import get_calendar

    # Building these two takes 0.2 s. A session that only one of them has closes as it says.
    closes: dict[np.datetime64, np.datetime64] = {}
    for name in ("CME_Equity", "CMEGlobex_FX"):
        schedule: Any = get_calendar(name).schedule(FIRST_DAY.isoformat(), LAST_DAY.isoformat())
        days = schedule.index.to_numpy().astype("M8[D]")
        ends = schedule["market_close"].dt.tz_localize(None).to_numpy().astype("M8[us]")
        for day, end in zip(days, ends, strict=True):
            closes[day] = max(end, closes.get(day, end))
    days = np.array(sorted(closes), "M8[D]")
    evening = np.full(len(days), -7 * 60)  # 17:00 of the evening before
    return Schedule(days, _instants(CHICAGO, days, evening), np.array([closes[day] for day in days], "M8[us]"))


#: The exchange of each asset class that has one.
EXCHANGES: Final = {
    "stocks": Exchange("exchange-calendars", NEW_YORK, 9 * 60 + 30, 16 * 60, _xnys),
    "futures": Exchange("pandas-market-calendars", CHICAGO, -7 * 60, 16 * 60, _cme),
}


@cache
def schedule_of(asset_class: str) -> Schedule:
    """The sessions of an asset class from :data:`FIRST_DAY` to :data:`LAST_DAY`, found once in a process."""
    exchange = EXCHANGES[asset_class]
    said_by, kept = _kept()
    if said_by.get(exchange.library) != version(exchange.library):
        return exchange.ask()
    weekdays = np.arange(np.datetime64(FIRST_DAY), np.datetime64(LAST_DAY) + _DAY)
    weekdays = weekdays[np.is_busday(weekdays)]
    other = [(day, close) for name, day, close in kept if name == asset_class]
    at = np.searchsorted(weekdays, np.array([day for day, _ in other], "M8[D]"))
    closes = np.full(len(weekdays), exchange.closes)
    closes[at] = [_minutes(close) if close else -1 for _, close in other]
    days, closes = weekdays[closes >= 0], closes[closes >= 0]
    opens = np.full(len(days), exchange.opens)
    return Schedule(days, _instants(exchange.zone, days, opens), _instants(exchange.zone, days, closes))


def written() -> str:
    """What the libraries say now, as it is kept.

    Raises:
        ValueError: a session is not as the form has it: on a weekend, or with an opening time of its own.
    """
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    for exchange in EXCHANGES.values():
        lines.writerow(("library", exchange.library, version(exchange.library)))
    for name, exchange in EXCHANGES.items():
        lines.writerows((name, day, close) for day, close in _others(name, exchange))
    return text.getvalue()


def _others(name: str, exchange: Exchange) -> Iterator[tuple[str, str]]:
    """The weekdays that are not as usual: without a session (""), or with an early close (HH:MM, local)."""
    said = exchange.ask()
    opens, closes = ((_local(exchange.zone, at) - said.days) // _MINUTE for at in (said.opens, said.closes))
    if not np.is_busday(said.days).all() or (opens != exchange.opens).any():
        raise ValueError(f"a session of the {name} is on a weekend, or opens at another time")
    weekdays = np.arange(np.datetime64(FIRST_DAY), np.datetime64(LAST_DAY) + _DAY)
    early = dict(zip(said.days.tolist(), closes.tolist(), strict=True))
    for day in weekdays[np.is_busday(weekdays)].tolist():
        close = early.get(day)
        if close is None:
            yield day.isoformat(), ""
        elif close != exchange.closes:
            yield day.isoformat(), f"{close // 60:02}:{close % 60:02}"


@cache
def _kept() -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """The versions of the libraries that said it, and what they said: asset class, day, early close."""
    text = files("closingbell").joinpath(*KEPT).read_text(encoding="utf-8")
    rows = [(name, day, close) for name, day, close in csv.reader(text.splitlines())]
    said_by = {library: which for name, library, which in rows if name == "library"}
    return said_by, [row for row in rows if row[0] != "library"]


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return 60 * int(hours) + int(minutes)


def _instants(zone: ZoneInfo, days: NDArray[np.datetime64], minutes: NDArray[np.int64]) -> Instants:
    """The instants at which a zone's clocks show so many minutes after the midnights of some days."""
    local: Instants = np.asarray(days.astype("M8[us]") + minutes.astype("m8[m]"))
    # What its clocks were ahead of UTC at about that moment: they change at 02:00 only.
    about: Instants = np.asarray(local + np.timedelta64(6, "h"))
    return np.asarray(local - offsets_at(zone, about))


def _local(zone: ZoneInfo, utc: Instants) -> Instants:
    return np.asarray(utc + offsets_at(zone, utc))
