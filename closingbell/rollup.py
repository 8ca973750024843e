"""Minute bars rolled up to daily ones, and held against those the vendor made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

from closingbell.bars import BAR, NO_TRADES, Bars
from closingbell.calendar import asset_class, calendar_for

#: How far, as a share of the daily value, a rolled-up one may be from it. A daily bar of stocks takes its open and
#: close from the auctions and leaves out some trades that minute bars have, so prices differ by a little; its volume
#: counts trades that are reported late and are in no minute.
TOLERANCE: Final = {"open": 0.005, "high": 0.005, "low": 0.005, "close": 0.005, "volume": 0.05}


@dataclass(frozen=True, slots=True)
class Difference:
    """A daily value that its minutes do not bear out.

    Attributes:
        ticker: as the vendor writes it.
        session: the bar's.
        name: open, high, low, close or volume.
        daily: as the daily bar has it; NaN where there is no daily bar.
        minutes: as the minutes make it; NaN where there are none.
    """

    ticker: str
    session: date
    name: str
    daily: float
    minutes: float

    def __str__(self) -> str:
        return f"{self.ticker} {self.session} {self.name} {self.daily:g}, of its minutes {self.minutes:g}"


def roll_up(minutes: Bars) -> Bars:
    """Daily bars of minute bars: prices of the regular trading hours, volume and trades of the whole session.

    Args:
        minutes: bars of any intraday timeframe, of one asset class; sessions without a minute in regular hours are
            left out. ``vwap`` is weighted by volume.
    """
    if not len(minutes):
        return Bars(minutes.tickers)
    calendar = calendar_for(asset_class(minutes.tickers[0]))
    rows = minutes.rows[np.lexsort((minutes.rows["ts"], minutes.rows["ticker"]))]
    starts = np.ones(len(rows), np.bool_)
    starts[1:] = (rows["ticker"][1:] != rows["ticker"][:-1]) | (rows["session"][1:] != rows["session"][:-1])
    first = np.flatnonzero(starts)
    sessions = rows["session"][first]
    group = np.cumsum(starts) - 1
    regular = (rows["ts"] >= calendar.opens(sessions)[group]) & (rows["ts"] < calendar.closes(sessions)[group])
    traded = rows[regular]
    if not len(traded):
        return Bars(minutes.tickers)
    _, at, kept = np.unique(group[regular], return_index=True, return_inverse=True)
    ends = np.append(at[1:], len(traded)) - 1
    days = np.empty(len(at), BAR)
    days["ticker"], days["session"] = traded["ticker"][at], traded["session"][at]
    days["ts"] = calendar.opens(days["session"])
    days["open"], days["close"] = traded["open"][at], traded["close"][ends]
    days["high"], days["low"] = np.maximum.reduceat(traded["high"], at), np.minimum.reduceat(traded["low"], at)
    whole = np.unique(group[regular])
    days["volume"] = np.add.reduceat(rows["volume"], first)[whole]
    known = np.where(rows["trades"] == NO_TRADES, 0, rows["trades"])
    days["trades"] = np.add.reduceat(known, first)[whole]
    weight = np.bincount(kept, traded["volume"])
    money = np.bincount(kept, np.nan_to_num(traded["vwap"], nan=0.0) * traded["volume"])
    days["vwap"] = np.divide(money, weight, out=np.full(len(at), np.nan), where=weight > 0)
    return Bars(minutes.tickers, days)


def differences(daily: Bars, rolled: Bars) -> list[Difference]:
    """Where daily bars and rolled-up ones are further apart than :data:`TOLERANCE`, by ticker and session."""
    ours = {(daily.tickers[row["ticker"]], row["session"].item()): row for row in daily.rows}
    theirs = {(rolled.tickers[row["ticker"]], row["session"].item()): row for row in rolled.rows}
    found = []
    for cell in sorted(ours.keys() | theirs.keys()):
        for name, tolerance in TOLERANCE.items():
            a, b = (float(rows[cell][name]) if cell in rows else np.nan for rows in (ours, theirs))
            if not abs(a - b) <= tolerance * abs(a):
                found.append(Difference(*cell, name, a, b))
    return found
