"""A block of bars put between those that are already stored around it, with the known splits beside them.

Everything is columns: a market day of all tickers or 50,000 minutes of one are joined without a loop over bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: The ratios that splits, units and decimal points make; beside them counts that of a split known close by.
FACTORS: Final = (1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 25, 30, 40, 50, 100, 1_000, 10_000)

#: Below it no step and no bar's own span is looked at.
BREAK: Final = 1.35

#: From here on a known split has to be seen in the price.
VISIBLE: Final = 1.5

#: After so many days without a bar the ticker may be another issuer's: nothing from beyond is evidence.
APART: Final = 45

#: Prices of fewer ticks than one by this say nothing: every move of theirs is a whole factor.
COARSE: Final = 1 / 8

#: The tick of prices that are all the same, as far as anyone can tell.
_TICK: Final = 0.0001

_PRICES: Final = ("open", "high", "low", "close")


class KnownSplit(Protocol):
    """What has to be known of a split: on and after ``execution_date``, ``split_from`` shares are ``split_to``."""

    @property
    def ticker(self) -> str: ...
    @property
    def execution_date(self) -> date: ...
    @property
    def split_from(self) -> float: ...
    @property
    def split_to(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Splits:
    """Known splits, each once; arrays of shape (k,).

    Attributes:
        ticker: position among the block's tickers.
        day: the first session in the new scale, in days since 1970.
        ratio: log of new per old shares: adding it to a log price from ``day`` on divides the split out.
    """

    ticker: Ints
    day: Ints
    ratio: Floats

    @classmethod
    def of(cls, splits: Sequence[KnownSplit], number: Mapping[str, int]) -> Splits:
        # Some splits are listed twice: the later entry counts.
        known = {(number[s.ticker], s.execution_date): s for s in splits if s.ticker in number}
        return cls(
            np.array([ticker for ticker, _ in known], np.int64),
            np.array([day for _, day in known], "M8[D]").astype(np.int64),
            np.log(np.array([s.split_to / s.split_from for s in known.values()], np.float64)),
        )


@dataclass(frozen=True, slots=True)
class Series:
    """Usable bars by ticker and time, no two of one ticker and instant; arrays of shape (n,).

    Attributes:
        row: the bar's position in the block; -1 for a stored one.
        ticker: position among the block's tickers.
        day: session, in days since 1970.
        prices: shape (4, n): open, high, low, close.
        low: the least of the four.
        high: the greatest.
        middle: halfway between the other two: one wrong price hardly moves it.
        split: the sum of ``known.ratio`` up to the bar, over all tickers: only differences within one mean something.
        known: the splits.
    """

    row: Ints
    ticker: Ints
    day: Ints
    prices: Floats
    low: Floats
    high: Floats
    middle: Floats
    split: Floats
    known: Splits

    def __len__(self) -> int:
        return len(self.row)

    def where(self, mask: Mask) -> Series:
        """The bars for which ``mask`` is true."""
        if mask.all():
            return self
        names = ("row", "ticker", "day", "low", "high", "middle", "split")
        return Series(**{n: getattr(self, n)[mask] for n in names}, prices=self.prices[:, mask], known=self.known)

    def levels(self) -> Floats:
        """The log of each bar's middle price, splits divided out."""
        return np.asarray(np.log(self.middle) + self.split)

    def uneven(self, factor: float) -> Ints:
        """The tickers with a step from bar to bar, or a span of one bar, beyond a factor, splits divided out."""
        ratio = self.middle[1:] / self.middle[:-1]
        if len(self.known.ticker):
            ratio *= np.exp(np.diff(self.split))
        stepped = ((ratio > factor) | (ratio < 1 / factor)) & (self.ticker[1:] == self.ticker[:-1])
        uneven = self.high > self.low * factor
        uneven[1:] |= stepped
        return np.unique(self.ticker[uneven])


def join(bars: Bars, around: Bars, splits: Sequence[KnownSplit]) -> Series:
    """Put a block between the stored bars of its tickers; its own bars replace the stored ones of their instants.

    Bars with an absent, infinite, zero or negative price are left out, and bars that came twice with differing
    prices. The outcome does not depend on the order of rows.
    """
    number: dict[str, int] = {}
    own = np.array([number.setdefault(ticker, len(number)) for ticker in bars.tickers], np.int64)
    rows, near = bars.rows, around.rows
    place = np.array([number.get(ticker, -1) for ticker in around.tickers], np.int64)[near["ticker"]]
    near, place = near[place >= 0], place[place >= 0]

    def column(name: str) -> NDArray[np.generic]:
        return np.concatenate((rows[name], near[name])) if len(near) else np.ascontiguousarray(rows[name])

    ticker = np.concatenate((own[rows["ticker"]], place))
    ts, day = column("ts").view(np.int64), column("session").view(np.int64)
    row = np.arange(len(ticker))
    row[len(rows) :] = -1
    prices = np.stack([column(name) for name in _PRICES])
    low, high, middle = _sorted(prices)
    usable = (low > 0) & (high < np.inf) & (day != np.iinfo(np.int64).min)
    ascending = (ticker[1:] > ticker[:-1]) | ((ticker[1:] == ticker[:-1]) & (ts[1:] > ts[:-1]))
    if not (ascending.all() and usable.all()):
        order = np.argsort(ts, kind="stable")
        order = order[np.argsort(ticker[order].astype(np.int16 if len(number) < 2**15 else np.int64), kind="stable")]
        order = _once(order[usable[order]], ticker, ts, row, prices)
        row, ticker, day = row[order], ticker[order], day[order]
        prices, low, high, middle = prices[:, order], low[order], high[order], middle[order]
    known = Splits.of(splits, number)
    return Series(row, ticker, day, prices, low, high, middle, _summed(known, ticker, day), known)


def _sorted(prices: Floats) -> tuple[Floats, Floats, Floats]:
    """The least, the greatest, and halfway between the two others."""
    opened, high, low, close = prices
    a, b = np.minimum(opened, high), np.maximum(opened, high)
    c, d = np.minimum(low, close), np.maximum(low, close)
    return np.minimum(a, c), np.maximum(b, d), (np.maximum(a, c) + np.minimum(b, d)) / 2


def _once(order: Ints, ticker: Ints, ts: Ints, row: Ints, prices: Floats) -> Ints:
    """``order`` with each bar once: the block's rather than the stored one, none if the block's copies differ."""

    def copies(order: Ints) -> Mask:
        copy = np.zeros(len(order), np.bool_)
        copy[1:] = (ticker[order][1:] == ticker[order][:-1]) & (ts[order][1:] == ts[order][:-1])
        return copy

    order = order[~(copies(order) & (row[order] < 0))]  # sorting was stable: the block's come first
    copy = copies(order)
    if not copy.any():
        return order
    differs = copy.copy()
    differs[1:] &= (prices[:, order[1:]] != prices[:, order[:-1]]).any(axis=0)
    group = np.cumsum(~copy) - 1
    return np.asarray(order[~copy & (np.bincount(group, differs)[group] == 0)])


def _summed(known: Splits, ticker: Ints, day: Ints) -> Floats:
    """The sum of the splits of the ticker up to each bar, on top of those of the tickers before."""
    ratios = np.zeros(len(ticker))
    if len(known.ticker) and len(ticker):
        first = np.searchsorted((ticker << 32) + day, (known.ticker << 32) + known.day)
        inside = first < len(ticker)
        inside[inside] = ticker[first[inside]] == known.ticker[inside]
        np.add.at(ratios, first[inside], known.ratio[inside])
    return np.asarray(np.cumsum(ratios))


def too_coarse(prices: Floats, lowest: float) -> bool:
    """Whether prices are so few ticks that an ordinary move of them is a whole factor: 0.0001 to 0.0003."""
    between = np.diff(np.sort(prices, axis=None))
    between = between[between > 1e-9 * lowest]
    return bool((between.min() if len(between) else _TICK) > COARSE * lowest)
