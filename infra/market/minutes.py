"""A day's bar taken apart into minutes, so that putting them together again gives the day.

The first minute opens at the day's open, the last closes at its close, the highest high and the lowest low are
the day's, and the volumes add up.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from closingbell.bars import BAR
from infra.market import hashing
from infra.market.hashing import Floats, Hashes
from infra.market.hours import MINUTE_MS, Hours

_STREAM: Final = 64
_ROOM: Final = 2048

Rows = np.ndarray[tuple[int], np.dtype[np.void]]


def minute_rows(hashes: Hashes, hours: Hours, daily: Rows) -> Rows:
    """The minute bars of one ticker's daily bars, of regular trading hours only.

    Args:
        hashes: the ticker's hash, shape (1,).
        hours: when its market trades.
        daily: its daily bars, shape (m,); those without a trade have no minutes.
    """
    daily = daily[daily["volume"] > 0]
    if not len(daily):
        return np.empty(0, BAR)
    at = np.searchsorted(hours.sessions, daily["session"])
    counts = (hours.closes[at] - hours.opens[at]) // MINUTE_MS
    minute = np.arange(int(counts.max()))[None, :]
    counter = at[:, None] * _ROOM + minute
    grid = {name: daily[name][:, None] for name in ("open", "high", "low", "close", "volume", "trades")}

    def draw(stream: int) -> Floats:
        return hashing.uniform(hashes, _STREAM + stream, counter)

    lively = np.minimum(1.0, grid["trades"] / 2.0 / counts[:, None])
    kept = (minute < counts[:, None]) & (draw(0) < lively)
    kept[:, 0] |= ~kept.any(axis=1)
    lonely = kept.sum(axis=1) < 2
    kept[lonely, 1] = True
    days = np.arange(len(daily))
    first = kept.argmax(axis=1)
    last = kept.shape[1] - 1 - kept[:, ::-1].argmax(axis=1)

    through = np.clip((minute - first[:, None]) / np.maximum(1, last - first)[:, None], 0.0, 1.0)
    spread = grid["high"] - grid["low"]
    wander = sum(np.sqrt(p) * hashing.noise(hashes, _STREAM + 8 + p, counter, p) for p in (1, 4, 16, 64))
    tied = np.minimum(1.0, 8.0 * through * (1.0 - through))  # the path starts and ends where the day did
    price = grid["open"] + (grid["close"] - grid["open"]) * through + spread * 0.03 * tied * wander
    ticks = 1e5 if hours.asset == "fx" else np.where(grid["low"] < 1.0, 1e4, 1e2)  # a unit's smallest steps
    close = np.clip(np.rint(price * ticks) / ticks, grid["low"], grid["high"])
    close[days, last] = daily["close"]
    open_ = np.concatenate([grid["open"], close[:, :-1]], axis=1)
    open_[days, first] = daily["open"]
    reach = spread * 0.02
    high = np.minimum(np.rint((np.maximum(open_, close) + reach * draw(1)) * ticks) / ticks, grid["high"])
    low = np.maximum(np.rint((np.minimum(open_, close) - reach * draw(2)) * ticks) / ticks, grid["low"])
    high, low = np.maximum(high, np.maximum(open_, close)), np.minimum(low, np.minimum(open_, close))
    high[days, np.where(kept, draw(3), -1.0).argmax(axis=1)] = daily["high"]
    low[days, np.where(kept, draw(4), -1.0).argmax(axis=1)] = daily["low"]

    busy = kept * (0.4 + draw(5) + 1.2 * (2.0 * through - 1.0) ** 2)
    rows = np.zeros(kept.shape, BAR)
    rows["session"] = daily["session"][:, None]
    starts = hours.opens[at][:, None] + minute * MINUTE_MS
    rows["ts"] = starts.astype("M8[ms]")
    for name, values in (("open", open_), ("high", high), ("low", low), ("close", close)):
        rows[name] = values
    fractional = daily["volume"] != np.floor(daily["volume"])
    rows["volume"] = _shared(grid["volume"], busy, kept, np.where(fractional, 4, 0))
    rows["trades"] = _shared(grid["trades"].astype(np.float64), busy, kept, np.zeros(len(daily), np.int64))
    rows["vwap"] = np.round((high + low + close) / 3.0, 4)
    return rows[kept]


def _shared(
    total: Floats, weights: Floats, kept: np.ndarray[tuple[int, int], np.dtype[np.bool_]], digits: object
) -> Floats:
    """Parts of each day's total, at least 1 each, that add up to it; fractions only where ``digits`` says so."""
    spare = np.maximum(0.0, total - kept.sum(axis=1, keepdims=True))
    unit = 10.0 ** np.asarray(digits)[:, None]
    running = np.cumsum(weights, axis=1)
    running = np.floor(running / running[:, -1:] * spare * unit + 0.5) / unit
    parts = np.diff(running, axis=1, prepend=0.0)
    return np.where(kept, np.round(parts, 4) + 1.0, 0.0)
