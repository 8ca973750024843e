"""One series under several tickers, across the calls of a run: each range is held against those before it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars
from closingbell.intraday import is_intraday
from closingbell.resample import LENGTH
from closingbell.scale import SHARED, SHARED_BY_TWO

_NAMES: Final = ("ts", "open", "high", "low", "close", "volume")

#: Of each series the last bars are remembered, and one in so many sessions, or in so many bars within a day: memory
#: stays small, overlaps are found.
_LAST: Final = 8
_ONE_IN: Final = 16
_ONE_BAR_IN: Final = 1021

#: Spreads what differs over all bits of a product: 2^64 by the golden ratio (Knuth, TAOCP 3, 6.4).
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)

#: The last bits of a remembered key say whose it is: a million tickers; 44 bits are left to tell bars apart.
_WHOSE: Final = np.uint64((1 << 20) - 1)

#: Blocks of keys are joined up to so many: to sort millions of them takes several times their memory.
_MOST: Final = 65_536

Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is remembered of a range: small, and fit to be handed from one process to another.

    Attributes:
        ticker: whose it is.
        timeframe: of its bars.
        keys: shape (k,), ascending: a number for each of some of its bars.
        enough: so many of them in another ticker's range are no chance.
    """

    ticker: str
    timeframe: str
    keys: Keys = field(repr=False)
    enough: int


def sight(ticker: str, bars: Bars) -> Sight:
    """What to remember of a ticker's range.

    Two bars have to be the same, or the only one that says enough and has a volume of five digits: flat,
    untraded and small bars are often alike by chance. So are some of thousands of minutes: of bars within a day
    half have to be the same.
    """
    places = np.flatnonzero(_tells(bars))
    keys = _keys(bars.rows[places[_remembered(bars, places)]])
    if len(places) == 1 and bars.rows["volume"][places[0]] >= SHARED_BY_TWO:
        enough = 1
    else:
        enough = max(2, -(-len(keys) // 2)) if is_intraday(bars.timeframe) else 2
    return Sight(ticker, bars.timeframe, keys, enough)


class Twins:
    """Remembers a few bars of each ticker, 8 bytes each; safe to use from several threads."""

    def __init__(self) -> None:
        # Sorted blocks of keys, each half full at least, or larger than all after it together, or nearly: few to look
        # in.
        self._blocks: list[Keys] = []
        self._tickers: list[str] = []
        self._places: dict[str, int] = {}
        self._lock = threading.Lock()

    def claim(self, ticker: str, bars: Bars) -> str | None:
        """Remember a ticker's bars; returns the ticker that the same bars came for before, if one did."""
        return self.meet(sight(ticker, bars))

    def meet(self, seen: Sight) -> str | None:
        """The same of a range that may have come in another process."""
        with self._lock:
            owners = self._owners(seen.keys)
            self._remember(seen.ticker, seen.keys[owners < 0])
            found = [name for owner in owners[owners >= 0].tolist() if (name := self._tickers[owner]) != seen.ticker]
        return found[0] if len(found) >= seen.enough else None

    def _owners(self, keys: Keys) -> NDArray[np.int64]:
        """Whose each key is, as a position among the tickers; -1: nobody's. Shape (n,)."""
        owners = np.full(len(keys), -1)
        for known in self._blocks:
            nearest = known[np.minimum(np.searchsorted(known, keys), len(known) - 1)]
            same = nearest & ~_WHOSE == keys
            owners[same] = nearest[same] & _WHOSE
        return owners

    def _remember(self, ticker: str, keys: Keys) -> None:
        if not len(keys):
            return
        place = self._places.setdefault(ticker, len(self._tickers))
        if place == len(self._tickers):
            self._tickers.append(ticker)
        self._blocks.append(keys | np.uint64(place))
        while len(self._blocks) > 1 and _are_joined(*map(len, self._blocks[-2:])):
            joined = np.concatenate(self._blocks[-2:])
            joined.sort()
            self._blocks[-2:] = [joined]


def _are_joined(early: int, late: int) -> bool:
    """Whether blocks of so many keys, one after the other, become one."""
    return early < 2 * late and early + late <= _MOST


def telling(bars: Bars) -> NDArray[np.void]:
    """The bars that two tickers do not share by chance: of at least three prices, and traded."""
    chosen: NDArray[np.void] = bars.rows[_tells(bars)]
    return chosen


def _tells(bars: Bars) -> NDArray[np.bool_]:
    """Which bars :func:`telling` is about; shape (n,)."""
    rows = bars.rows
    low, high = rows["low"].copy(), rows["high"].copy()  # lie close together, unlike in rows
    inside = [(rows[name] > low) & (rows[name] < high) for name in ("open", "close")]
    return np.asarray((inside[0] | inside[1]) & (rows["volume"] >= SHARED))


def _remembered(bars: Bars, places: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of the bars at some places are remembered; shape (k,)."""
    if is_intraday(bars.timeframe):
        length = LENGTH[bars.timeframe].astype("m8[us]").astype(np.int64)
        regular = bars.rows["ts"][places].astype(np.int64) // length % _ONE_BAR_IN == 0
    else:
        regular = bars.rows["session"][places].astype(np.int64) % _ONE_IN == 0
    regular[-_LAST:] = True
    if len(places) <= 4 * _LAST:
        regular[:] = True
    return np.asarray(regular)


def _keys(rows: NDArray[np.void]) -> Keys:
    """A number for each bar, the same for the same instant and values, byte by byte, and hardly ever for others.

    Ascending, each once: that is the order in which they are found the quickest among others. Shape (k,).
    """
    mixed = np.zeros(len(rows), np.uint64)
    for name in _NAMES:
        mixed = (mixed ^ np.ascontiguousarray(rows[name]).view(np.uint64)) * _ODD
        mixed ^= mixed >> np.uint64(32)
    return np.unique(mixed & ~_WHOSE)
