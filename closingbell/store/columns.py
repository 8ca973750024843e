"""Blocks of bars as the databases want them: joined, each bar once, columns as Python values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import NO_TRADES, Bars

#: A bar opens no further than this from the midnight that its session is named after.
_NEAR: Final = timedelta(days=7)


def joined(blocks: Sequence[Bars]) -> Bars:
    """One block of all, in their order."""
    parts = [block for block in blocks if len(block)]
    if len(parts) <= 1:
        return parts[0] if parts else Bars(())
    return Bars.concat(parts)


def by_ticker(blocks: Sequence[Bars]) -> Sequence[Bars]:
    """Blocks of one ticker each in the order of their tickers, so that their rows need not be sorted; else as they are.

    Those of one ticker stay in their order.
    """
    filled = [block for block in blocks if len(block)]
    if all(len(block.tickers) == 1 for block in filled):
        filled.sort(key=lambda block: block.tickers[0].encode())
    return filled


def in_order(bars: Bars) -> NDArray[np.intp]:
    """The positions of the bars by ticker, byte by byte, and instant; those of one key stay as they are; shape (n,)."""
    place = np.empty(len(bars.tickers), np.int32)
    place[np.argsort(np.array([ticker.encode() for ticker in bars.tickers]), kind="stable")] = np.arange(len(place))
    tickers, instants = place[bars.rows["ticker"]], np.ascontiguousarray(bars.rows["ts"])
    if ascends(tickers, instants):
        return np.arange(len(bars))
    # Most blocks hold each ticker's bars in the order of time; small integers are sorted without comparing them.
    small = np.uint16 if len(place) < 2**16 else np.int32
    order = np.argsort(tickers.astype(small), kind="stable")
    return order if ascends(tickers[order], instants[order]) else np.lexsort((instants, tickers))


def ascends(tickers: NDArray[np.int32], instants: NDArray[np.datetime64]) -> bool:
    """Whether rows are in the order of these numbers of their tickers, and of their instants; each of shape (n,)."""
    same, later = tickers[1:] == tickers[:-1], instants[1:] >= instants[:-1]
    return bool(((tickers[1:] > tickers[:-1]) | (same & later)).all())


def ordered(bars: Bars) -> Bars:
    """The bars in the order of the key of ``bar``, in which a database stores them fastest."""
    order = in_order(bars)
    sorted_already = bool((order[1:] > order[:-1]).all())
    return bars if sorted_already else Bars(bars.tickers, bars.rows[order], bars.timeframe)


def in_key_order(blocks: Sequence[Bars]) -> Sequence[Bars]:
    """Blocks of bars, one after the other in the order of the key of ``bar``: these, where they are, and else one."""
    return blocks if len(blocks) > 1 and _are_in_key_order(blocks) else [ordered(joined(blocks))]


def _are_in_key_order(blocks: Sequence[Bars]) -> bool:
    """Whether each block is of one ticker, after that of the one before, its bars in the order of time."""
    if any(len(block.tickers) != 1 for block in blocks):
        return False
    names = [block.tickers[0].encode() for block in blocks]
    in_turn = all(early < late for early, late in pairwise(names))
    return in_turn and all(ascends(block.rows["ticker"], block.rows["ts"]) for block in blocks)


def latest(bars: Bars) -> Bars:
    """Each bar once: of several answers in one flush the last one counts, and a MERGE takes no row twice."""
    return bars.where(is_latest(bars))


def apart(fresh: Sequence[Bars], others: Bars) -> tuple[Sequence[Bars], Bars]:
    """The same, each bar once: what a later answer brought again takes the place of what an earlier one did."""
    if not fresh or not len(others):
        return fresh, others
    both = joined([*fresh, others])
    kept, end = is_latest(both), len(both) - len(others)
    new = Bars(both.tickers, both.rows[:end][kept[:end]], both.timeframe)
    known = Bars(both.tickers, both.rows[end:][kept[end:]], both.timeframe)
    return [new] if len(new) else [], known


def is_latest(bars: Bars) -> NDArray[np.bool_]:
    """Which bars have none of the same ticker and instant after them; shape (n,)."""
    order = in_order(bars)
    tickers, instants = bars.rows["ticker"][order], bars.rows["ts"][order]
    last = np.ones(len(order), np.bool_)
    last[:-1] = (tickers[1:] != tickers[:-1]) | (instants[1:] != instants[:-1])
    kept = np.empty(len(order), np.bool_)
    kept[order] = last
    return kept


def nullable(values: NDArray[Any]) -> list[Any]:
    """Python numbers, None for what the vendor did not send."""
    absent = np.isnan(values) if values.dtype.kind == "f" else values == NO_TRADES
    return [None if gone else value for value, gone in zip(values.tolist(), absent, strict=True)]


def instants(values: NDArray[np.datetime64]) -> list[datetime]:
    """UTC instants as aware Python ones."""
    return [value.replace(tzinfo=UTC) for value in values.tolist()]


def bounds(values: NDArray[np.datetime64]) -> tuple[datetime, datetime]:
    """The first and the last of some UTC instants, as aware Python ones: by them a planner knows partitions."""
    first, last = instants(np.array([values.min(), values.max()]))
    return first, last


def around(first: date, last: date) -> tuple[datetime, datetime]:
    """Instants, UTC, between which every bar of these sessions opens: the key of ``bar`` has ``ts``, no session."""
    lo, hi = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first, last))
    return lo - _NEAR, hi + _NEAR
