"""From base bars (minutes or days) to the bars asked for: five minutes, an hour, a week, a quarter."""

from __future__ import annotations

from typing import Final

import numpy as np

from closingbell.bars import NO_TRADES
from infra.market.hashing import Floats, Ints
from infra.market.hours import MINUTE_MS, midnights
from infra.market.scale import Rows, rescaled

#: Each timespan's base bar; a page's limit counts those.
BASE: Final = {
    "minute": "minute",
    "hour": "minute",
    "day": "day",
    "week": "day",
    "month": "day",
    "quarter": "day",
    "year": "day",
}

_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}
_A_SUNDAY: Final = np.datetime64("1970-01-04")


def starts(rows: Rows, asset: str, count: int, timespan: str, anchor: np.datetime64) -> Ints:
    """Epoch ms at which the window of each base bar starts, ascending, shape (n,).

    Args:
        rows: the base bars.
        asset: whose local midnight days start at.
        count: how many timespans are in one window.
        timespan: a key of :data:`BASE`.
        anchor: the date from which windows of several days are counted.
    """
    if BASE[timespan] == "minute":
        midnight = midnights(asset, rows["session"])
        length = MINUTE_MS * count * (60 if timespan == "hour" else 1)
        at = rows["ts"].astype("M8[ms]").astype(np.int64)
        return midnight + (at - midnight) // length * length
    days = rows["session"]
    if timespan in _MONTHS:
        months = days.astype("M8[M]").astype(np.int64)
        length = _MONTHS[timespan] * count
        first = (months // length * length).astype("M8[M]").astype("M8[D]")
    else:
        origin = _A_SUNDAY if timespan == "week" else anchor
        length = count * (7 if timespan == "week" else 1)
        first = origin + (days - origin).astype(np.int64) // length * length
    return midnights(asset, np.maximum(first, np.datetime64("2003-01-02")))


def merge(rows: Rows, keys: Ints, ratio: Floats) -> tuple[Rows, Ints]:
    """One bar a window, adjusted: its rows, and the windows' starts. Base bars without a trade count as no trades.

    A window is put together of raw bars and then adjusted as a whole, so that it is the raw window's bar
    rescaled, exactly; one in which the scale changes is put together of adjusted bars.

    Args:
        rows: the base bars, raw.
        keys: the start of each one's window.
        ratio: what each one's price is divided by.
    """
    if not len(rows):
        return rows, keys
    new = np.flatnonzero(np.r_[True, np.diff(keys) != 0])
    if len(new) == len(rows):
        return rescaled(rows, ratio), keys
    merged = rescaled(_merged(rows, new), ratio[new])
    mixed = np.maximum.reduceat(ratio, new) != np.minimum.reduceat(ratio, new)
    if mixed.any():
        merged[mixed] = _merged(rescaled(rows, ratio), new)[mixed]
    return merged, keys[new]


def _merged(rows: Rows, new: Ints) -> Rows:
    merged = rows[new].copy()
    merged["high"] = np.fmax.reduceat(rows["high"], new)
    merged["low"] = np.fmin.reduceat(rows["low"], new)
    merged["close"] = rows["close"][np.r_[new[1:], len(rows)] - 1]
    merged["volume"] = np.round(np.add.reduceat(rows["volume"], new), 6)
    known = ~np.isnan(rows["vwap"])
    weight = np.add.reduceat(np.where(known, rows["volume"], 0.0), new)
    money = np.add.reduceat(np.where(known, rows["vwap"], 0.0) * rows["volume"], new)
    merged["vwap"] = np.where(weight > 0, np.round(money / np.where(weight > 0, weight, 1.0), 4), np.nan)
    trades = np.add.reduceat(np.where(rows["trades"] == NO_TRADES, 0, rows["trades"]), new)
    merged["trades"] = np.where(weight > 0, trades, NO_TRADES)
    return merged
