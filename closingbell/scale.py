"""Bars on another scale than their neighbours, found across sessions and across tickers.

Prices are stored raw, so a split moves them by its ratio on its day. Known splits are divided out, and what
remains is looked at: a bar on another scale than both of its sides, or a step that nothing explains. Two laws
keep good bars safe: a step that lasts is never refused, because real splits are announced late; and what is
refused is the minority, so that one bad bar never costs the good ones after it.

All bars are compared at once; only where the price steps by :data:`~closingbell.neighbours.BREAK` are they looked
at one by one: bars in part on another scale in :mod:`closingbell.halves`, and whole ones in :mod:`closingbell.runs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Final

import numpy as np

from closingbell.bars import Bars
from closingbell.halves import half_split
from closingbell.neighbours import BREAK, VISIBLE, Floats, KnownSplit, Mask, Series, join
from closingbell.runs import off_runs

#: The rules that look across sessions and tickers and keep a bar apart, in order of precedence.
ACROSS: Final = ("half_split", "hundredfold", "off_scale", "same_series")

#: From here on a step that no known split explains is worth a person's look.
JUMP: Final = 1.8

#: The volume from which on equal bars of two tickers are no chance: with an equal vwap, or of three; and without.
SHARED: Final = 1_000
SHARED_BY_TWO: Final = 10_000

_NONE: Final = Bars(())


@dataclass(slots=True)
class Scale:
    """A block between its neighbours. All rules are worked out together, when the first one is asked for.

    Attributes:
        bars: the block to judge.
        around: stored bars of its tickers; one that the block has too is ignored.
        splits: the known splits of its tickers.
    """

    bars: Bars
    around: Bars = _NONE
    splits: Sequence[KnownSplit] = ()
    _found: tuple[dict[str, Mask], Floats] | None = field(default=None, init=False, repr=False)

    def breaks(self, rule: str) -> Mask:
        """Which bars of the block break a rule; shape (n,)."""
        broken = self._all()[0].get(rule)
        return np.zeros(len(self.bars), np.bool_) if broken is None else broken

    def factors(self) -> Floats:
        """By what the close moved from the bar before, splits divided out; shape (n,), 1 where nobody looked."""
        return self._all()[1]

    def _all(self) -> tuple[dict[str, Mask], Floats]:
        if self._found is None:
            with np.errstate(all="ignore"):
                self._found = self._look()
        return self._found

    def _look(self) -> tuple[dict[str, Mask], Floats]:
        broken: dict[str, Mask] = {}
        factors = np.ones(len(self.bars))
        series = join(self.bars, self.around, self.splits)

        def file(rule: str, found: Mask) -> None:
            rows = series.row[found]
            broken[rule] = np.zeros(len(self.bars), np.bool_)
            broken[rule][rows[rows >= 0]] = True

        if len(self.bars.tickers) > 1:
            same = _same_series(self.bars, series)
            file("same_series", same)
            series = series.where(~same)
        series = series.where(np.isin(series.ticker, series.uneven(BREAK)))
        if not len(series):
            return broken, factors
        half = half_split(series)
        file("half_split", half)
        series = series.where(~half)
        hundredfold, off_scale = off_runs(series)
        file("hundredfold", hundredfold)
        file("off_scale", off_scale)
        series = series.where(~(hundredfold | off_scale))
        step, split = _steps(series, series.middle)
        unmoved = (np.abs(split) > log(VISIBLE) - 1e-9) & (np.abs(step - split) < np.abs(split) / 2)
        file("split_without_jump", unmoved)
        close = _steps(series, series.prices[3])[0]
        stayed = close * np.sign(step) > log(VISIBLE)
        file("unexplained_jump", ~unmoved & stayed & (np.abs(step) > log(JUMP) - 1e-9))
        own = series.row >= 0
        factors[series.row[own]] = np.exp(close[own])
        return broken, factors


def sweep(bars: Bars, splits: Sequence[KnownSplit], profile: Mapping[str, str]) -> tuple[Mask, tuple[str, ...]]:
    """Judge stored bars, all their neighbours among them, by those of :data:`ACROSS` that the profile quarantines.

    A bar that was the newest when it came could be compared to one side only; now both are there.

    Returns:
        Which bars break a rule, shape (n,); and for each of those, the first rule it breaks.
    """
    scale = Scale(bars, _NONE, splits)
    filed = np.full(len(bars), -1)
    for number, name in enumerate(ACROSS):
        if profile[name] == "quarantine":
            filed[scale.breaks(name) & (filed < 0)] = number
    return filed >= 0, tuple(ACROSS[number] for number in filed[filed >= 0])


def _steps(series: Series, prices: Floats) -> tuple[Floats, Floats]:
    """The log step of a price to each bar from the one before, splits divided out; the splits between the two."""
    step, split = np.zeros(len(series)), np.zeros(len(series))
    follows = series.ticker[1:] == series.ticker[:-1]
    split[1:] = np.where(follows, np.diff(series.split), 0.0)
    step[1:] = np.where(follows, np.diff(np.log(prices)), 0.0) + split[1:]
    return step, split


# -- one series under several names ------------------------------------------------------------------------------


def _same_series(bars: Bars, series: Series) -> Mask:
    """Bars of several tickers that are the same, where that is no chance.

    At most one of them is right, and nothing tells surely which: a level that fits may fit by chance.

    Flat and untraded bars are often alike, and small ones of funds that hold nothing but cash. So there have to
    be three different prices and some volume; and for two tickers, the same vwap too or a volume of five digits. Of
    three tickers, bars with two prices and such a volume are no chance either.
    """
    same = np.zeros(len(series), np.bool_)
    at = np.flatnonzero(series.row >= 0)
    rows = bars.rows[series.row[at]]
    inside = ((series.prices[:, at] > series.low[at]) & (series.prices[:, at] < series.high[at])).any(axis=0)
    two_prices = ~inside & (series.high[at] > series.low[at])
    traded = (rows["volume"] >= SHARED) & inside | (rows["volume"] >= SHARED_BY_TWO) & two_prices
    at, rows, two_prices = at[traded], rows[traded], two_prices[traded]
    names = ("ts", "volume", "open", "high", "low", "close")
    mixed = np.zeros(len(at), np.uint64)
    for name in names:
        mixed = (mixed ^ np.ascontiguousarray(rows[name]).view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed)
    at, rows, mixed, two_prices = at[order], rows[order], mixed[order], two_prices[order]
    equal = mixed[1:] == mixed[:-1]
    if not equal.any():
        return same
    for name in names:
        equal &= rows[name][1:] == rows[name][:-1]
    group = np.append(0, np.cumsum(~equal))
    size = np.bincount(group)
    starts = np.append(0, np.flatnonzero(~equal) + 1)
    vwap = np.where((rows["vwap"] >= series.low[at]) & (rows["vwap"] <= series.high[at]), rows["vwap"], np.nan)
    told = np.bincount(group, ~np.isnan(vwap))
    alike = np.fmin.reduceat(vwap, starts) == np.fmax.reduceat(vwap, starts)
    by_two = np.where(told >= 2, alike, rows["volume"][starts] >= SHARED_BY_TWO)
    sure = (size >= 3) | ((size == 2) & by_two & ~two_prices[starts])
    same[at] = sure[group]
    return same
