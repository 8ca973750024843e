"""Missing cells -> the cheapest calls that fill them, exactly.

Two kinds of call fill a daily cell: a *ticker range* (one ticker, first to last missing session) and a
*market day* (one session, every ticker). Every cell needs the range of its ticker or the market day of its
session, so the cheapest plan is a minimum-weight vertex cover of the bipartite graph of missing cells, which
by König's theorem is a minimum cut (Schrijver, *Combinatorial Optimization*, ch. 21).

What a plan costs is first of all its calls: they are what a quota counts. Calls also take time, the quota's interval
for each page and the rows they make us read, and a market day brings thousands of rows that nobody asked for. So both
covers are worked out, the one of the fewest calls and the quickest one, and the quickest wins only where the fewest
calls would take more than twice as long: two years of an index at 5 calls a minute come by market days, at 100 a second
by ranges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from closingbell.cells import Cells, Watermark
from closingbell.quota import Rates

T = TypeVar("T")

Ints = NDArray[np.int64]

#: Rows a second from the socket into the database: about half of what decoding and checking alone reach on two
#: cores (python -m benchmarks decode).
ROWS_PER_SECOND: Final = 250_000.0

#: Rows on one market day of the US stock market, as the vendor serves it.
MARKET_DAY_ROWS: Final = 11_000

#: Base bars in one page of the range endpoint (the vendor's maximum for ``limit``).
PAGE_ROWS: Final = 50_000

#: So many calls are worth a batch of their own.
_SHARE: Final = 5

#: Lines of a flat file of minutes, and how fast they are unzipped, parsed and, but for those wanted, let go (1.7 to
#: 2.2 million a second on two busy cores). How many it has is not documented: 11,000 tickers with a trade in 150
#: minutes each, on average.
FLAT_FILE_LINES: Final = 1_650_000
LINES_PER_SECOND: Final = 1_500_000.0

#: Whose quota flat files use up: not the REST API's.
FLAT_FILES: Final = "flatfiles"

#: A plan of more calls has to be so many times as quick as the one of the fewest.
PATIENCE: Final = 2.0

#: Seconds that a call takes whatever the quota and however few its rows: the limiter's answer, a transaction.
CALL_SECONDS: Final = 0.02

#: The solver counts in whole millionths, in 32 bits: nothing may weigh more than half of that.
_MILLIONTHS: Final = 1_000_000
_HEAVIEST: Final = 2**30


@dataclass(frozen=True, slots=True)
class TickerRange:
    """One ticker, many sessions: ``cells`` are the sessions it is asked to account for."""

    ticker: str
    sessions: tuple[date, ...]
    pages: int = 1
    rows: int = 0
    timeframe: str = "1d"

    @property
    def cells(self) -> list[tuple[str, date]]:
        """Every (ticker, session) this call accounts for."""
        return [(self.ticker, session) for session in self.sessions]

    @property
    def count(self) -> int:
        """How many those are."""
        return len(self.sessions)

    def __str__(self) -> str:
        of = "" if self.timeframe == "1d" else f" {self.timeframe}"
        return f"range {self.ticker}{of} {self.sessions[0]}..{self.sessions[-1]}"


@dataclass(frozen=True, slots=True)
class MarketDay:
    """One session, every ticker: ``tickers`` are those it is asked to account for."""

    session: date
    tickers: tuple[str, ...]
    asset_class: str = "stocks"
    pages: int = 1
    rows: int = MARKET_DAY_ROWS
    timeframe: str = "1d"

    @property
    def cells(self) -> list[tuple[str, date]]:
        """Every (ticker, session) this call accounts for."""
        return [(ticker, self.session) for ticker in self.tickers]

    @property
    def count(self) -> int:
        """How many those are."""
        return len(self.tickers)

    def __str__(self) -> str:
        return f"market day {self.session}"


@dataclass(frozen=True, slots=True)
class FlatFile(MarketDay):
    """A market day that comes as a file: one session, every stock's minutes, without vwap, and a quota of its own.

    ``rows`` are those of the tickers wanted.
    """

    timeframe: str = "1m"

    def __str__(self) -> str:
        return f"flat file {self.timeframe} {self.session}"


Call = TickerRange | MarketDay


@dataclass(frozen=True, slots=True)
class CallCost:
    """What a call costs, in seconds.

    Attributes:
        interval: seconds of quota that one page uses up.
        rows_per_second: how fast rows are read.
        market_day_rows: rows that one market day brings; None where the vendor has no such call.
        rows_per_session: base bars that one session of a range has at most (1 for daily bars): pages are counted in
            them.
        rows_per_bar: how many of those are in one bar.
        flat_interval: seconds of their own quota that one flat file uses up; None where there are none of such bars.
    """

    interval: float
    rows_per_second: float = ROWS_PER_SECOND
    market_day_rows: int | None = MARKET_DAY_ROWS
    rows_per_session: int = 1
    rows_per_bar: int = 1
    flat_interval: float | None = None

    @property
    def page_sessions(self) -> int:
        """How many sessions of a range fit into one page."""
        return max(1, PAGE_ROWS // self.rows_per_session)

    def brought(self, sessions: Ints) -> Ints:
        """Rows that ranges over so many sessions bring at most."""
        return -(-sessions * self.rows_per_session // self.rows_per_bar)

    def of_files(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds that flat files with so many rows of the tickers wanted take, each."""
        interval = max(self.flat_interval or 0.0, CALL_SECONDS)
        return interval + FLAT_FILE_LINES / LINES_PER_SECOND + rows / self.rows_per_second

    def of(self, pages: int, rows: int) -> float:
        """Seconds that ``pages`` pages with ``rows`` rows in all take."""
        return pages * max(self.interval, CALL_SECONDS) + rows / self.rows_per_second


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls that fill a set of missing cells at the lowest cost.

    Attributes:
        calls: market days first, oldest first, or as :meth:`outward` says; then ranges in the order of the tickers.
        cells: how many cells they account for.
        seconds: the expected duration at the quota, were calls made one after the other.
        splits: calls that look at splits.
        minutes: calls for minutes to hold daily bars against.
        usd: what the vendor will charge, in US dollars; None where it charges nothing by the call.
    """

    calls: tuple[Call, ...]
    cells: int
    seconds: float
    splits: int = 0
    minutes: int = 0
    usd: float | None = None

    @property
    def ranges(self) -> int:
        """How many ticker ranges."""
        return sum(isinstance(call, TickerRange) for call in self.calls)

    @property
    def market_days(self) -> int:
        """How many market days."""
        return sum(isinstance(call, MarketDay) for call in self.calls) - self.flat_files

    @property
    def flat_files(self) -> int:
        """How many flat files."""
        return sum(isinstance(call, FlatFile) for call in self.calls)

    def outward(self, marks: Iterable[Watermark]) -> Plan:
        """The same calls, those market days that lie before what is stored last, and from there backwards.

        A watermark has no holes. Were the oldest made first, all sessions from there to what is stored would have to be
        gaps until they come: a row of the ledger for each cell, written and deleted again.

        Args:
            marks: the watermarks of the tickers; where they begin on several days, the middle one counts.
        """
        firsts = sorted(mark.first for mark in marks)
        begin = firsts[len(firsts) // 2] if firsts else date.min
        days = [call for call in self.calls if isinstance(call, MarketDay)]
        before = [call for call in days if call.session < begin]
        ordered = [*days[len(before) :], *reversed(before), *self.calls[len(days) :]]
        return replace(self, calls=tuple(ordered)) if before else self

    @property
    def planned_calls(self) -> int:
        """Calls in all: every page is one."""
        return sum(call.pages for call in self.calls) + self.splits + self.minutes

    @property
    def rows(self) -> int:
        """Rows that the calls are expected to bring."""
        return sum(call.rows for call in self.calls)

    def summary(self) -> dict[str, float | int]:
        """The plan in numbers, as the report and the commands show it."""
        return {
            "planned_calls": self.planned_calls,
            "pages": sum(call.pages for call in self.calls),
            "market_days": self.market_days,
            "flat_files": self.flat_files,
            "ranges": self.ranges,
            "splits": self.splits,
            "minutes": self.minutes,
            "cells": self.cells,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            **({} if self.usd is None else {"usd": round(self.usd, 4)}),
        }


def cheapest(
    cells: Cells,
    cost: CallCost,
    asset_class: str = "stocks",
    by_name: NDArray[np.bool_] | None = None,
    timeframe: str = "1d",
    by_file: NDArray[np.bool_] | None = None,
) -> Plan:
    """The cheapest plan that fills ``cells``: no set of ranges and market days that covers them has fewer calls, nor
    as many and fewer rows; or, where that is more than :data:`PATIENCE` times as slow, none takes less time.

    A ticker's range spans its first to last missing session, and weighs as much whatever else is planned. A cell
    covered by both kinds is taken from the range, so that each has one call to answer for it, and a new ticker's
    history comes in one piece. A range that does not fit into one page is cut into calls that do, one after the
    other, so that none holds more than a page and each is committed by itself.

    Args:
        cells: what is missing.
        cost: of a call.
        asset_class: of all tickers in ``cells``.
        by_name: tickers that need a range whatever it costs, shape (n,), bool: market days do not carry them.
        timeframe: of the bars.
        by_file: cells that may come by flat file, in the grid's shape, bool; None: none. Where there are market days
            no flat file is planned: it is one call as well, and brings no vwap.
    """
    tickers, days = np.nonzero(cells.mask.any(axis=1))[0], np.nonzero(cells.mask.any(axis=0))[0]
    whole = (len(tickers), len(days)) == cells.mask.shape
    mask = cells.mask if whole else cells.mask[np.ix_(tickers, days)]
    if not mask.size:
        return Plan((), 0, 0.0)
    span = _span(mask, days)
    rows, pages = cost.brought(span), -(-span // cost.page_sessions)
    files = cost.market_day_rows is None and cost.flat_interval is not None and by_file is not None
    if by_file is not None and files:
        forced = np.asarray((mask & ~by_file[np.ix_(tickers, days)]).any(axis=1))
        if by_name is not None:
            forced |= by_name[tickers]
        open_to_files = mask & ~forced[:, None]
        each = cost.of_files(open_to_files.sum(axis=0, dtype=np.float64) * float(cost.brought(np.ones(1, np.int64))[0]))
        by_range, by_day = _cover(open_to_files, pages, rows, cost, FLAT_FILE_LINES, each)
        by_range |= forced
    elif cost.market_day_rows is None:
        by_range, by_day = np.ones(len(tickers), np.bool_), np.zeros(len(days), np.bool_)
    else:
        forced = np.zeros(len(tickers), np.bool_) if by_name is None else by_name[tickers]
        by_range, by_day = _cover(
            mask & ~forced[:, None] if forced.any() else mask,
            pages,
            rows,
            cost,
            cost.market_day_rows,
            np.full(len(days), cost.of(1, cost.market_day_rows)),
        )
        by_range |= forced
    calls: list[Call] = []
    pieces: dict[bytes, list[tuple[tuple[date, ...], int]]] = {}
    for j in np.nonzero(by_day)[0]:
        wanted = tickers[mask[:, j] & ~by_range]
        session, names = cells.sessions[days[j]].item(), tuple(cells.tickers[i] for i in wanted)
        if files:
            calls.append(FlatFile(session, names, asset_class, 1, len(names) * cost.rows_per_session, timeframe))
        else:
            calls.append(MarketDay(session, names, asset_class, 1, cost.market_day_rows or 0))
    for i in np.nonzero(by_range)[0]:
        asked = mask[i].tobytes()
        if asked not in pieces:  # most ranges ask for the same sessions: each has the same tuple, not dates of its own
            pieces[asked] = _pieces(cells, days[mask[i]], cost)
        calls += _ranges(cells.tickers[tickers[i]], pieces[asked], timeframe)
    seconds = sum(cost.of(call.pages, call.rows) for call in calls if not isinstance(call, FlatFile))
    seconds += float(cost.of_files(np.array([call.rows for call in calls if isinstance(call, FlatFile)])).sum())
    return Plan(tuple(calls), int(np.count_nonzero(mask)), seconds)


def sample(
    cells: Cells, cost: CallCost, count: int, seed: int, asset_class: str = "stocks", timeframe: str = "1d"
) -> Plan:
    """The calls that ask for a sample of ``cells`` both ways: ``count`` tickers by range, ``count`` market days.

    Whichever way a cell came, it may be asked for the other way here.

    Args:
        cells: those to choose from.
        cost: of a call.
        count: tickers, and as many sessions where the vendor has market days.
        seed: of the choice.
        asset_class: of all tickers in ``cells``.
        timeframe: of the bars.
    """
    chance = np.random.default_rng(seed)
    tickers, days = np.flatnonzero(cells.mask.any(axis=1)), np.flatnonzero(cells.mask.any(axis=0))
    tickers = np.sort(chance.choice(tickers, min(count, len(tickers)), replace=False))
    if cost.market_day_rows is None:
        days = days[:0]
    days = np.sort(chance.choice(days, min(count, len(days)), replace=False))
    calls: list[Call] = []
    for j in days:
        names = tuple(cells.tickers[i] for i in np.flatnonzero(cells.mask[:, j]) if i not in tickers)
        if names:
            calls.append(MarketDay(cells.sessions[j].item(), names, asset_class, 1, cost.market_day_rows or 0))
    for i in tickers:
        calls += _ranges(cells.tickers[i], _pieces(cells, np.flatnonzero(cells.mask[i]), cost), timeframe)
    seconds = sum(cost.of(call.pages, call.rows) for call in calls)
    return Plan(tuple(calls), sum(len(call.cells) for call in calls), seconds)


def _pieces(cells: Cells, asked: NDArray[np.intp], cost: CallCost) -> list[tuple[tuple[date, ...], int]]:
    """Sessions to be asked for, by their positions in the grid, cut into as few pages as there can be; the rows of
    each."""
    found = []
    begin = 0
    while begin < len(asked):
        end = int(np.searchsorted(asked, asked[begin] + cost.page_sessions))
        span = asked[end - 1 : end] - asked[begin] + 1
        found.append((tuple(cells.sessions[asked[begin:end]].tolist()), int(cost.brought(span)[0])))
        begin = end
    return found


def _ranges(ticker: str, pieces: Iterable[tuple[tuple[date, ...], int]], timeframe: str) -> list[Call]:
    return [TickerRange(ticker, sessions, 1, rows, timeframe) for sessions, rows in pieces]


def _cover(
    mask: NDArray[np.bool_],
    pages: NDArray[np.int64],
    rows: NDArray[np.int64],
    cost: CallCost,
    day_rows: int,
    day_seconds: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The ranges and whole days of the cheapest plan; ``pages`` and ``rows`` are those of each ticker's range."""
    range_seconds = pages * cost.of(1, 0) + rows / cost.rows_per_second
    # All rows together weigh less than one call, so that they only decide between plans of equal calls.
    share = 1 / (2.0 * (rows.sum() + day_rows * mask.shape[1]) + 1)
    fewest = minimum_cover(mask, pages + rows * share, np.full(mask.shape[1], 1 + day_rows * share))
    quickest = minimum_cover(mask, range_seconds, day_seconds)

    def seconds(cover: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> float:
        return float(range_seconds[cover[0]].sum() + day_seconds[cover[1]].sum())

    return quickest if seconds(fewest) > PATIENCE * seconds(quickest) else fewest


def _span(mask: NDArray[np.bool_], days: NDArray[np.intp]) -> NDArray[np.int64]:
    """Sessions from the first to the last missing one, for each ticker; ``days`` are positions in the grid."""
    first = days[mask.argmax(axis=1)]
    last = days[mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)]
    return np.asarray(last - first + 1, np.int64)


def minimum_cover(
    mask: NDArray[np.bool_], row_cost: NDArray[np.float64], column_cost: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The cheapest rows and columns such that every true cell lies in one of them.

    Args:
        mask: shape (n, m), bool.
        row_cost: shape (n,), in any unit.
        column_cost: shape (m,), in the same.

    Returns:
        Which rows and which columns are chosen: shapes (n,) and (m,), bool. Costs are rounded to a
        millionth of the unit (coarser when equal rows or columns together exceed a thousand units).
    """
    # Rows with the same cells are covered together or not at all, and so are columns: a night's grid of
    # 523 x 502 usually folds to a handful of either, which is what makes 11,000 tickers x 5 years quick.
    row_class, rows_folded = _fold(mask)
    column_class, folded = _fold(rows_folded.T)
    folded = folded.T
    weight = np.concatenate([np.bincount(row_class, row_cost), np.bincount(column_class, column_cost)])
    unit = min(_MILLIONTHS, _HEAVIEST / max(weight.max(), 1e-9))
    capacity = np.maximum(1, np.rint(weight * unit)).astype(np.int32)
    n, m = folded.shape
    source, sink = n + m, n + m + 1
    i, j = np.nonzero(folded)
    heads = np.concatenate([np.full(n, source), np.arange(n, n + m), i])
    tails = np.concatenate([np.arange(n), np.full(m, sink), n + j])
    # A cell's own edge must never be the cheapest to cut: one more than what can ever flow through it.
    through = np.minimum(capacity[i], capacity[n + j]) + 1
    edges = np.concatenate([capacity[:n], capacity[n:], through]).astype(np.int32)
    graph = csr_array((edges, (heads, tails)), shape=(n + m + 2, n + m + 2))
    residual = csr_array(graph - maximum_flow(graph, source, sink).flow)
    residual.eliminate_zeros()
    reached = np.zeros(n + m + 2, np.bool_)
    reached[breadth_first_order(residual, source, return_predecessors=False)] = True
    # König: the cover is the rows cut off from the source and the columns still reached from it.
    return ~reached[:n][row_class], reached[n : n + m][column_class]


def _fold(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Equal rows made one: the class of each row, and the distinct rows."""
    packed = np.packbits(mask, axis=1)
    keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, classes = np.unique(keys, return_index=True, return_inverse=True)
    return classes.ravel(), mask[first]


def join(plans: Iterable[tuple[str, Plan]], rates: Rates, splits: int = 0, minutes: int = 0) -> Plan:
    """One plan from those of several asset classes, with the calls that bring no bars.

    Its duration is what the slowest quota makes of its calls, for a whole window's calls may begin at once.

    Args:
        plans: of each asset class.
        rates: the quotas; splits and minutes are the stocks' calls.
        splits, minutes: calls that bring no bars.
    """
    parts = list(plans)
    calls = tuple(call for _, part in parts for call in part.calls)
    pages = Counter({"stocks": splits + minutes})
    for name, part in parts:
        files = part.flat_files
        pages[rates.holder(name)] += sum(call.pages for call in part.calls) - files
        pages[FLAT_FILES] += files
    quotas = [(count, rates.of(name)) for name, count in pages.items() if count]
    waits = [(count - 1) // quota.calls * quota.seconds for count, quota in quotas]
    seconds = max(waits, default=0.0) + sum(call.rows for call in calls) / ROWS_PER_SECOND
    seconds += pages[FLAT_FILES] * FLAT_FILE_LINES / LINES_PER_SECOND
    return Plan(calls, sum(part.cells for _, part in parts), seconds, splits, minutes)


def batches(calls: Sequence[T], size: int, at_once: int = 1) -> list[tuple[T, ...]]:
    """The calls, at most ``size`` to a batch; fewer where some of those who work on them would else have none.

    Args:
        calls: in the order in which they are best made.
        size: of a batch, 1 or more.
        at_once: so many batches in a row are worked on at once: they go through the calls together, so that what is
            in hand at any moment are neighbours. Sessions then come one after the other, and hardly any is skipped
            over for a time, which the ledger would have to note.
    """
    found: list[tuple[T, ...]] = []
    for i in range(0, len(calls), size * at_once):
        these = calls[i : i + size * at_once]
        count = max(-(-len(these) // size), min(at_once, len(these) // _SHARE))
        found += [tuple(these[j::count]) for j in range(count)]
    return found
