"""Bars that come again on another scale than they are stored: adjusted prices sent for raw ones.

A correction changes a bar, or some of its values. A vendor that adjusts its history for a split moves every price
before it by one factor, and would take the stored raw series with it.
"""

from __future__ import annotations

from math import log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars

#: From this factor on; smaller ones are dividends' and corrections'.
SCALE: Final = 1.2

#: How far the factors of one scale may be apart, as a share: prices are rounded to cents.
ALIKE: Final = 0.01

#: So many bars of one ticker, one after the other, have to have moved by one factor: fewer may be corrections of bad
#: ones, or two series that have nothing to do with each other and are the same factor apart by chance.
BARS: Final = 8

_PRICES: Final = ("open", "high", "low", "close")


def restated(bars: Bars, around: Bars) -> NDArray[np.bool_]:
    """Which bars of a block have a stored version on another scale, as the ones beside them have.

    Args:
        bars: the block.
        around: stored bars, those of the same tickers and instants among them.

    Returns:
        shape (n,), bool.
    """
    found = np.zeros(len(bars), np.bool_)
    here, there = _pairs(bars, around)
    if len(here) < BARS:
        return found
    with np.errstate(all="ignore"):
        steps = np.log([bars.rows[name][here] / around.rows[name][there] for name in _PRICES])
    factor = np.median(steps, axis=0)
    moved = (np.ptp(steps, axis=0) < ALIKE) & (np.abs(factor) > log(SCALE))
    order = np.lexsort((bars.rows["ts"][here], bars.rows["ticker"][here]))
    here, factor, moved = here[order], factor[order], moved[order]
    tickers = bars.rows["ticker"][here]
    apart = (tickers[1:] != tickers[:-1]) | (np.abs(np.diff(factor)) > ALIKE / 2) | (moved[1:] != moved[:-1])
    group = np.append(0, np.cumsum(apart))
    found[here[moved & (np.bincount(group)[group] >= BARS)]] = True
    return found


def _pairs(bars: Bars, around: Bars) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions in the block, and of the stored version of the same bars."""
    number = {ticker: i for i, ticker in enumerate(bars.tickers)}
    names = np.array([number.get(ticker, -1) for ticker in around.tickers], np.int64)
    theirs = names[around.rows["ticker"]] if len(names) else np.zeros(0, np.int64)
    instants, ranks = np.unique(np.concatenate([bars.rows["ts"], around.rows["ts"]]), return_inverse=True)
    ours = bars.rows["ticker"].astype(np.int64) * len(instants) + ranks[: len(bars)]
    known = theirs * len(instants) + ranks[len(bars) :]
    _, here, there = np.intersect1d(ours, np.where(theirs < 0, -1, known), return_indices=True)
    return here, there
