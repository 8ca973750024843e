"""Minutes of a future, as a market would trade them, and what can be wrong with some."""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

from closingbell.calendar import calendar_for
from tests.databento.gateway import records

#: How many of each kind of bad minute :func:`spoiled` makes of 64.
KINDS = {"missing_value": 16, "out_of_bounds": 24, "ohlc_order": 24}


def of_sessions(first: date, last: date, count: int | None = None) -> NDArray[np.datetime64]:
    """The minutes of the sessions of futures from their open to their close, at most so many; shape (n,)."""
    calendar = calendar_for("futures")
    days = calendar.sessions(first, last)
    spans = zip(calendar.opens(days), calendar.closes(days), strict=True)
    return np.concatenate([np.arange(a, b, np.timedelta64(1, "m")) for a, b in spans])[:count]


def walk(ts: NDArray[np.datetime64], level: float = 20_000.0, seed: int = 7) -> NDArray[np.float64]:
    """Prices in quarter points: open, high, low, close; shape (n, 4)."""
    chance = np.random.default_rng(seed)
    close = level + np.cumsum(np.rint(chance.normal(0, 8, len(ts)))) * 0.25
    opened = np.concatenate([[level], close[:-1]])
    high = np.maximum(opened, close) + np.rint(chance.exponential(6, len(ts))) * 0.25
    low = np.minimum(opened, close) - np.rint(chance.exponential(6, len(ts))) * 0.25
    return np.stack([opened, high, low, close], axis=1)


def spoiled(prices: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The same with 64 of them bad, and which; the kinds are in :data:`KINDS`."""
    bad = np.linspace(100, len(prices) - 100, 64).astype(np.intp)
    found = prices.copy()
    found[bad[:16], 3] = np.nan
    found[bad[16:40], 2] = 999.75
    found[bad[40:], 1] = found[bad[40:], 2] - 1
    return found, bad


def series(first: date, last: date, count: int | None = None) -> NDArray[np.void]:
    """Records of whole sessions; at the last third the contract is another one."""
    ts = of_sessions(first, last, count)
    instrument = np.where(np.arange(len(ts)) < len(ts) * 2 // 3, 118, 4358)
    return records(ts, walk(ts), volume=np.arange(len(ts)) % 97 + 1, instrument=instrument)
