"""One series under several tickers, across the calls of a run: each range is held against those before it."""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars
from closingbell.scale import SHARED, SHARED_BY_TWO

_NAMES: Final = ("ts", "open", "high", "low", "close", "volume")

#: Of each series the last bars are remembered, and one in so many sessions: memory stays small, overlaps are found.
_LAST: Final = 8
_ONE_IN: Final = 16


class Twins:
    """Remembers a few bars of each ticker; safe to use from several threads."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}
        self._lock = threading.Lock()

    def claim(self, ticker: str, bars: Bars) -> str | None:
        """Remember a ticker's bars; returns the ticker that the same bars came for before, if one did.

        Two bars have to be the same, or the only one that says enough and has a volume of five digits: flat,
        untraded and small bars are often alike by chance.
        """
        rows = telling(bars)
        keys = [row.tobytes() for row in _sampled(rows)[list(_NAMES)]]
        with self._lock:
            found = [other for key in keys if (other := self._seen.setdefault(key, ticker)) != ticker]
        alone = len(rows) == 1 and bool(rows["volume"][0] >= SHARED_BY_TWO)
        return found[0] if len(found) >= 2 or (found and alone) else None


def telling(bars: Bars) -> NDArray[np.void]:
    """The bars that two tickers do not share by chance: of at least three prices, and traded."""
    rows = bars.rows
    inside = [(rows[name] > rows["low"]) & (rows[name] < rows["high"]) for name in ("open", "close")]
    chosen: NDArray[np.void] = rows[np.logical_or.reduce(inside) & (rows["volume"] >= SHARED)]
    return chosen


def _sampled(rows: NDArray[np.void]) -> NDArray[np.void]:
    regular = rows["session"].astype(np.int64) % _ONE_IN == 0
    regular[-_LAST:] = True
    if len(rows) <= 4 * _LAST:
        regular[:] = True
    chosen: NDArray[np.void] = rows[regular]
    return chosen
