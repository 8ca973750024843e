"""Coarser bars made of finer ones, without a call: 5m, 15m, 30m and 1h of 1m, and 1d where the vendor's rule allows.

A bucket is the UTC instant floored to the timeframe, as pandas' ``resample`` cuts it, and never spans two sessions.
Prices equal pandas' to the bit. Volumes are added by Neumaier's summation, in the order of time, which gives the exact
sum rounded once (https://en.wikipedia.org/wiki/Kahan_summation_algorithm); pandas' own sums of fractions are a few
units in the last place (under 1e-15 of them) away from it, those of whole numbers are the same. Nothing depends on what
else is in the block: a history resampled in chunks of whole sessions equals one resampled at once.

Where the vendor's own coarser bars may differ:

- *Daily bars of stocks* take open and close from the auctions, high and low from regular hours by the rules of the
  tape, and count trades that are in no minute: they are not derived here at all. Daily bars of crypto and currencies
  are cut at midnight UTC, as their minutes are, and are. Those of futures run from 17:00 to 16:00 Chicago and settle
  at a price that no trade made: not derived either.
- *Corrections* reach the vendor's bars of each timeframe at times of its own.
- The vendor makes its bars of trades, each with its own conditions: a late trade may count towards an hour's volume and
  no minute's. Its minutes have a bar only where there was an eligible trade, which costs an hour nothing but volume.
- ``vwap`` of minutes is rounded by the vendor to four places or so: their weighted mean is off by that much at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import BAR, NO_TRADES, TIMEFRAMES, Bars
from closingbell.calendar import asset_class, by_asset_class
from closingbell.errors import ConfigurationError

#: How long a bar of each intraday timeframe is.
LENGTH: Final = {
    "1m": np.timedelta64(1, "m"),
    "5m": np.timedelta64(5, "m"),
    "15m": np.timedelta64(15, "m"),
    "30m": np.timedelta64(30, "m"),
    "1h": np.timedelta64(60, "m"),
}

#: What the stored bars are made of that are derived.
FINER: Final = "1m"

#: The asset classes whose daily bars are nothing but their minutes: from 00:00Z to 24:00Z.
DAILY_OF_MINUTES: Final = ("crypto", "fx")

_Floats = NDArray[np.float64]
_Positions = NDArray[np.intp]
_Rows = NDArray[Any]


def resample(bars: Bars, timeframe: str) -> Bars:
    """Bars of a coarser timeframe, of the same tickers, sorted by ticker and ``ts``.

    Args:
        bars: of an intraday timeframe that divides the other, in any order, of any number of tickers and sessions;
            each (ticker, ts) once. Only whole sessions make whole bars: what is missing at the end is not waited for.
        timeframe: the coarser one. The same as that of ``bars`` gives ``bars`` back.

    Returns:
        Each with the first open, the last close, the highest high, the lowest low (absent ones are passed over), and
        the sum of volumes; NaN where all are absent. ``vwap`` is weighted by volume, ``trades`` is summed: absent
        (NaN, :data:`NO_TRADES`) where a bar that traded has none, for a part of them would be a wrong one.

    Raises:
        ConfigurationError: bars of this timeframe cannot be made of those.
    """
    if timeframe == bars.timeframe:
        return bars
    check(bars.timeframe, timeframe, bars.tickers)
    if not len(bars):
        return Bars(bars.tickers, timeframe=timeframe)
    rows = _in_order(bars.rows)
    bucket = _buckets(rows, timeframe)
    new = np.ones(len(rows), np.bool_)
    new[1:] = (
        (np.diff(rows["ticker"]) != 0) | (rows["session"][1:] != rows["session"][:-1]) | (bucket[1:] != bucket[:-1])
    )
    first = np.flatnonzero(new)
    made = np.empty(len(first), BAR)
    made["ticker"], made["session"] = rows["ticker"][first], rows["session"][first]
    made["ts"] = bucket[first]
    _prices(rows, first, made)
    _traded(rows, first, made)
    return Bars(bars.tickers, made, timeframe)


def check(finer: str, coarser: str, tickers: tuple[str, ...] = ()) -> None:
    """Whether bars of one timeframe can be made of those of another.

    Raises:
        ConfigurationError: the one does not divide the other, or these tickers' daily bars are not their minutes'.
    """
    whole = finer in LENGTH and (coarser == "1d" or (coarser in LENGTH and not LENGTH[coarser] % LENGTH[finer]))
    if not whole or finer == coarser:
        raise ConfigurationError(
            f"bars of {coarser} cannot be made of bars of {finer}",
            value=f"{finer} -> {coarser}",
            fix="Make 5m, 15m, 30m, 1h or 1d of 1m bars, or of others that are finer and divide it.",
        )
    if coarser == "1d" and (other := [t for t in tickers if asset_class(t) not in DAILY_OF_MINUTES]):
        raise ConfigurationError(
            f"daily bars of {', '.join(by_asset_class(other))} are not made of their minutes",
            value=", ".join(other[:5]),
            fix="Their open and close are the exchange's, not a minute's: ingest the vendor's daily bars (1d).",
        )


def split(timeframes: Sequence[str], tickers: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of timeframes that are asked for: those to fetch, and those to make of minutes, each in their order.

    Daily bars are made of minutes only where all the tickers' are nothing but their minutes.

    Raises:
        ConfigurationError: a ticker has no calendar.
    """
    daily = all(asset_class(ticker) in DAILY_OF_MINUTES for ticker in tickers)
    made = tuple(name for name in timeframes if name != FINER and (name in LENGTH or (daily and name == "1d")))
    return tuple(name for name in timeframes if name not in made), made


def told(timeframes: Sequence[str]) -> str:
    """What will be done, for the plan."""
    coarse = sorted(timeframes, key=TIMEFRAMES.index, reverse=True)
    return f"{', '.join(coarse)} made of stored {FINER} bars, without a call"


def _in_order(rows: _Rows) -> _Rows:
    """The rows by ticker and time; they nearly always are."""
    same = rows["ticker"][1:] == rows["ticker"][:-1]
    if ((rows["ticker"][1:] > rows["ticker"][:-1]) | (same & (rows["ts"][1:] > rows["ts"][:-1]))).all():
        return rows
    return rows[np.lexsort((rows["ts"], rows["ticker"]))]


def _buckets(rows: _Rows, timeframe: str) -> NDArray[np.datetime64]:
    """The instant at which each row's coarser bar opens, shape (n,), datetime64[us] in UTC."""
    if timeframe == "1d":
        return np.asarray(rows["session"].astype("M8[us]"))
    length = LENGTH[timeframe].astype("m8[us]").astype(np.int64)
    ts = rows["ts"].astype(np.int64)
    return np.asarray((ts - ts % length).astype("M8[us]"))


def _prices(rows: _Rows, first: _Positions, made: _Rows) -> None:
    ends = np.append(first[1:], len(rows))
    made["high"] = np.fmax.reduceat(rows["high"], first)
    made["low"] = np.fmin.reduceat(rows["low"], first)
    made["open"], made["close"] = rows["open"][first], rows["close"][ends - 1]
    for name, late in (("open", False), ("close", True)):
        absent = np.isnan(rows[name])
        if absent.any():
            at = np.where(absent, -1 if late else len(rows), np.arange(len(rows)))
            found = (np.maximum if late else np.minimum).reduceat(at, first)
            some = (found >= 0) & (found < len(rows))
            made[name] = np.where(some, rows[name][found.clip(0, len(rows) - 1)], np.nan)


def _traded(rows: _Rows, first: _Positions, made: _Rows) -> None:
    volume, trades = rows["volume"], rows["trades"]
    known = ~np.isnan(volume)
    sums = _sum(np.where(known, volume, 0.0), first)
    made["volume"] = np.where(np.logical_or.reduceat(known, first), sums, np.nan)
    # A bar without volume has no vwap and no count, and weighs nothing.
    traded = ~known | (volume > 0)
    unknown = np.logical_or.reduceat(traded & (trades == NO_TRADES), first)
    counted = np.add.reduceat(np.where(trades == NO_TRADES, 0, trades), first)
    none = np.logical_and.reduceat(trades == NO_TRADES, first)
    made["trades"] = np.where(unknown | none, NO_TRADES, counted)
    priced = ~np.isnan(rows["vwap"])
    money = _sum(np.where(priced & known & traded, rows["vwap"] * volume, 0.0), first)
    unknown = np.logical_or.reduceat(traded & ~(priced & known), first) | ~(sums > 0)
    made["vwap"] = np.divide(money, sums, out=np.full(len(first), np.nan), where=~unknown)


def _sum(values: _Floats, first: _Positions) -> _Floats:
    """The sum of each group, in order and by Neumaier, shape (groups,)."""
    lengths = np.diff(np.append(first, len(values)))
    # Groups by length, longest first: the k-th step then adds the k-th value of those that have one.
    order = np.argsort(-lengths, kind="stable")
    starts, many = first[order], np.searchsorted(-lengths[order], -np.arange(1, lengths.max() + 1), side="right")
    total, lost = np.zeros(len(first)), np.zeros(len(first))
    for k, n in enumerate(many):
        value, before = values[starts[:n] + k], total[:n]
        after = before + value
        larger = np.abs(before) >= np.abs(value)
        lost[:n] += np.where(larger, before, value) - after + np.where(larger, value, before)
        total[:n] = after
    result = np.empty(len(first))
    result[order] = total + lost
    return result
