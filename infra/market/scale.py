"""What splits do to numbers: prices divided, volumes multiplied, and nothing rounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from closingbell.bars import Bars
from infra.market.hashing import Floats
from infra.market.instruments import Instruments
from infra.market.source import Split

Rows = np.ndarray[tuple[int], np.dtype[np.void]]

#: The values of a bar that are prices.
PRICES: Final = ("open", "high", "low", "close", "vwap")


def ratios(bars: Bars, splits: Iterable[Split], held: Instruments, *, later: bool) -> Floats:
    """For each row, the product of the ratios of its instrument's splits that come later than it, shape (n,).

    A split is its instrument's: of whoever held the split's ticker on its execution date, under all its tickers.

    Args:
        bars: of one ticker, or of one session.
        splits: each counts, repeated or not.
        held: who held which ticker when.
        later: False takes the splits that have already happened at the row's session, that day included.
    """
    sessions = bars.rows["session"]
    if len(bars.tickers) > 1:
        session = str(sessions[0])
        positions = held.positions(bars.tickers, session)
        scale = np.ones(len(bars.tickers))
        for split in splits:
            at = positions.get(held.holder(split.ticker, split.execution_date))
            if at is not None and (split.execution_date > session) == later:
                scale[at] *= split.ratio
        of_each: Floats = scale[bars.rows["ticker"]]
        return of_each
    out = np.ones(len(sessions))
    for split in splits:
        day = np.datetime64(split.execution_date, "D")
        for tenure in held.tenures(held.holder(split.ticker, split.execution_date)):
            if tenure.ticker in bars.tickers:
                mine = (sessions >= tenure.first_day) & (sessions < tenure.end_day)
                out[mine & ((sessions < day) if later else (sessions >= day))] *= split.ratio
    return out


def rescaled(rows: Rows, ratio: Floats) -> Rows:
    """Prices divided by a ratio each, volumes multiplied by it, to the last bit of a float."""
    if (ratio == 1.0).all():
        return rows
    out = rows.copy()
    for name in PRICES:
        out[name] = rows[name] / ratio
    out["volume"] = rows["volume"] * ratio
    return out
