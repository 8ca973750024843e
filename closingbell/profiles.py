"""What a future's bars have to keep besides the rules of every bar: bounds of the instrument, and, where nobody knows
where they come from, discontinuities.

A clean table gets basic integrity and the bounds, no more: a market that opens 600 points lower is a market. The
heuristics are for tables of uncertain origin only, and are asked for (``uncertain``). They look for bars that do not
belong where they stand, not for the step itself: a short stretch (:data:`SHORT`) between two discontinuities, whose
neighbours go on from each other. A step that lasts, as over a weekend or at a roll, has but one side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars
from closingbell.calendar import FUTURE

Mask = NDArray[np.bool_]

_PRICES: Final = ("open", "high", "low", "close")

#: For each root the lowest and the highest price that is not corrupt, in the contract's points. Equity indices: below
#: what any of them has traded at since 2009, and about ten times their height of 2025. Of these crude oil alone has
#: traded below zero (-40.32, on 2020-04-20).
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    **dict.fromkeys(("NQ", "MNQ"), (1_000.0, 250_000.0)),
    **dict.fromkeys(("ES", "MES"), (300.0, 70_000.0)),
    **dict.fromkeys(("YM", "MYM"), (3_000.0, 500_000.0)),
    **dict.fromkeys(("RTY", "M2K"), (200.0, 25_000.0)),
    **dict.fromkeys(("CL", "MCL"), (-100.0, 1_000.0)),
    **dict.fromkeys(("GC", "MGC"), (200.0, 50_000.0)),
    "6E": (0.5, 2.5),
}

#: Of a root that is not listed: above zero.
ANY: Final = (1e-9, np.inf)

#: A jump is a corrupt bar's from here on, in points; see the module's words on what a jump is.
JUMP: Final = 500.0

#: So small is the range of a bar that a gap beside it, from :data:`GAP` points on, says that it is another price's.
SMALL_RANGE: Final = 10.0
GAP: Final = 150.0

#: Of a bar whose four prices are one, the step beside it.
FLAT_STEP: Final = 50.0

#: So many steps one after the other are looked at together.
_STEPS: Final = 4

#: So many bars between two discontinuities are a stretch that does not belong there; more are a level.
SHORT: Final = 30


def out_of_bounds(bars: Bars) -> Mask:
    """Which bars of continuous futures have a price beyond their instrument's bounds; shape (n,)."""
    rows = bars.rows
    limits = np.array([_bounds(ticker) for ticker in bars.tickers] or [(-np.inf, np.inf)])
    low, high = limits[rows["ticker"]].T if len(rows) else (np.empty(0), np.empty(0))
    return np.asarray(np.logical_or.reduce([(rows[name] < low) | (rows[name] > high) for name in _PRICES]))


def _bounds(ticker: str) -> tuple[float, float]:
    root, _, _ = ticker.partition(".")
    return BOUNDS.get(root, ANY) if FUTURE.fullmatch(ticker) else (-np.inf, np.inf)


def price_jump(bars: Bars) -> Mask:
    """Which bars stand apart from those around them by a jump of more than :data:`JUMP` points, or reach that far
    beyond their own open and close; shape (n,)."""
    rows = bars.rows
    top, bottom = np.maximum(rows["open"], rows["close"]), np.minimum(rows["open"], rows["close"])
    wick = (rows["high"] - top > JUMP) | (bottom - rows["low"] > JUMP)
    return np.asarray(_apart(bars, JUMP, within=True) | wick)


def gap_beside_small_range(bars: Bars) -> Mask:
    """Which bars of a small range stand apart by more than :data:`GAP` points; shape (n,)."""
    return np.asarray(_apart(bars, GAP) & (bars.rows["high"] - bars.rows["low"] <= SMALL_RANGE))


def flat_and_apart(bars: Bars) -> Mask:
    """Which bars whose four prices are one stand apart by more than :data:`FLAT_STEP` points; shape (n,)."""
    rows = bars.rows
    flat = np.logical_and.reduce([rows[name] == rows["open"] for name in _PRICES])
    return np.asarray(_apart(bars, FLAT_STEP) & flat)


def _apart(bars: Bars, points: float, *, within: bool = False) -> Mask:
    """Which bars lie in a short stretch between two steps of more than so many points; shape (n,).

    A step leads from a bar's close to the next one's open, or from a bar's own open to its close where steps
    ``within`` count. What is before the stretch and after it goes on from each other. At the end of a block nobody
    knows what comes after, and nothing is said.
    """
    found = np.zeros(len(bars), np.bool_)
    for number in range(len(bars.tickers)):
        mine = np.flatnonzero(bars.rows["ticker"] == number)
        mine = mine[np.argsort(bars.rows["ts"][mine], kind="stable")]
        path = np.stack([bars.rows["open"][mine], bars.rows["close"][mine]], axis=1).ravel()
        steps = np.flatnonzero(np.abs(np.diff(path)) > points) + 1
        steps = steps if within else steps[steps % 2 == 0]
        # From a step to one of the next few: between them there may be steps from one wrong price to another.
        edges = np.zeros(len(mine) + 1, np.int64)
        for ahead in range(1, min(_STEPS, len(steps) - 1) + 1):
            begin, end = steps[:-ahead], steps[ahead:]
            short = (np.abs(path[end] - path[begin - 1]) <= points) & (end - begin <= 2 * SHORT)
            np.add.at(edges, begin[short] // 2, 1)
            np.add.at(edges, (end[short] - 1) // 2 + 1, -1)
        found[mine] = np.cumsum(edges[:-1]) > 0
    return found
