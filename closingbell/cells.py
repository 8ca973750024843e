"""Cells: (ticker, session) pairs as one boolean grid, and which of them a run has to fetch.

Everything here takes values and returns values; the grids are columns, so 11,000 tickers by five years are
one array of 14 million booleans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Why a cell inside the watermark has no bar.
REASONS: Final = ("empty", "unpublished", "unentitled", "failed", "quarantined", "pending")

#: Reasons that the next run tries again by itself; the others wait for their time, see ``closingbell/healing.py``.
RETRYABLE: Final = ("failed", "unpublished", "pending")

#: What the ledger says of a cell whose ticker was not on its market day.
ABSENT: Final = "not on the market day, to be asked for by name"

#: How the ledger's words begin for a cell of which some bars are stored, and the others are still to come: a range that
#: is committed in batches may be broken off between them. It is no bar yet, and is asked for again.
PARTIAL: Final = "some of its bars are stored, not all"

#: So many cells of a grid are worked on at once.
BLOCK: Final = 1_000_000

Days = NDArray[np.datetime64]


@dataclass(frozen=True, slots=True)
class Watermark:
    """``first``..``last``: the sessions of one ticker that are all accounted for, inclusive."""

    first: date
    last: date

    def over(self, other: Watermark) -> Watermark:
        """Stretched over another one."""
        return Watermark(min(self.first, other.first), max(self.last, other.last))


@dataclass(frozen=True, slots=True)
class Gap:
    """One cell inside the watermark with no bar, and why.

    Attributes:
        ticker: as the vendor writes it.
        session: a date of its calendar.
        reason: one of :data:`REASONS`.
        attempts: calls made in vain; of an answer (``empty``, ``unentitled``, ``quarantined``), how often it was given.
        last_error: what the vendor or the network said last.
        asked_at: the instant of the last of those calls, aware, UTC; None where nobody kept it.
    """

    ticker: str
    session: date
    reason: str
    attempts: int = 0
    last_error: str | None = None
    asked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the store knows about some tickers of one source and timeframe."""

    watermarks: Mapping[str, Watermark]
    gaps: Sequence[Gap]


@dataclass(frozen=True, slots=True)
class Cells:
    """A set of cells: ``mask[i, j]`` says whether (``tickers[i]``, ``sessions[j]``) is in it.

    Attributes:
        tickers: n tickers, as the vendor writes them.
        sessions: shape (m,), datetime64[D], ascending.
        mask: shape (n, m), bool.
    """

    tickers: tuple[str, ...]
    sessions: Days
    mask: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """How many cells are in the set."""
        return int(np.count_nonzero(self.mask))

    @classmethod
    def all(cls, tickers: Sequence[str], sessions: Days) -> Cells:
        """Every cell of these tickers and sessions."""
        return cls(tuple(tickers), sessions, np.ones((len(tickers), len(sessions)), np.bool_))

    def only(self, mask: NDArray[np.bool_]) -> Cells:
        """The cells that are also in ``mask``, shape (n, m)."""
        return Cells(self.tickers, self.sessions, self.mask & mask)


def accounted(cells: Cells, ledger: Ledger, again: Sequence[str] = RETRYABLE) -> NDArray[np.bool_]:
    """Which cells the ledger already accounts for; shape (n, m), bool.

    Args:
        cells: the grid to judge; its mask is not looked at.
        ledger: watermarks and gaps of the grid's tickers.
        again: gap reasons that do not count as accounted for, because the cell shall be fetched again.
    """
    row = {ticker: i for i, ticker in enumerate(cells.tickers)}
    never = np.datetime64("9999-12-31")
    first = np.full(len(row), never)
    last = np.full(len(row), np.datetime64("0001-01-01"))
    for ticker, mark in ledger.watermarks.items():
        if ticker in row:
            first[row[ticker]], last[row[ticker]] = mark.first, mark.last
    known = np.empty(cells.mask.shape, np.bool_)
    for some in in_blocks(len(cells.tickers), len(cells.sessions)):
        np.greater_equal(cells.sessions, first[some, None], out=known[some])
        known[some] &= cells.sessions <= last[some, None]
    open_gaps = ((gap.ticker, gap.session) for gap in ledger.gaps if gap.reason in again)
    known[positions(cells.tickers, cells.sessions, open_gaps)] = False
    return known


def positions(
    tickers: Sequence[str], sessions: Days, wanted: Iterable[tuple[str, date]]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of those cells that lie in a grid.

    Args:
        tickers: the grid's.
        sessions: the grid's, ascending.
        wanted: ticker and session of each cell.
    """
    row = {ticker: i for i, ticker in enumerate(tickers)}
    known = [(row[ticker], session) for ticker, session in wanted if ticker in row]
    rows = np.array([position for position, _ in known], np.intp)
    days = np.array([session for _, session in known], "M8[D]")
    columns = np.searchsorted(sessions, days)
    inside = columns < len(sessions)
    inside[inside] = sessions[columns[inside]] == days[inside]
    return rows[inside], columns[inside]


def in_blocks(n: int, m: int) -> Iterator[slice]:
    """The rows of a grid of n tickers and m sessions, some at a time: about :data:`BLOCK` cells.

    What is worked out of all cells at once would take several times the memory of the grid for a moment.
    """
    step = max(1, BLOCK // max(m, 1))
    return (slice(begin, begin + step) for begin in range(0, n, step))


def halves(cells: Cells) -> list[Cells]:
    """The same cells, those of the first half of the tickers and those of the others."""
    middle = len(cells.tickers) // 2
    return [
        Cells(cells.tickers[rows], cells.sessions, cells.mask[rows]) for rows in (slice(middle), slice(middle, None))
    ]


def to_ask_by_name(cells: Cells, ledger: Ledger) -> NDArray[np.bool_]:
    """Which tickers of the grid have a cell that only their own range can answer; shape (n,), bool."""
    absent = {gap.ticker for gap in ledger.gaps if gap.reason == "unpublished" and gap.last_error == ABSENT}
    return np.array([ticker in absent for ticker in cells.tickers], np.bool_)


def mask_of(cells: Cells, wanted: Iterable[tuple[str, date]]) -> NDArray[np.bool_]:
    """Those of some (ticker, session) cells that lie in the grid; shape (n, m), bool."""
    found = np.zeros(cells.mask.shape, np.bool_)
    found[positions(cells.tickers, cells.sessions, wanted)] = True
    return found


def missing(cells: Cells, ledger: Ledger, recheck_sessions: int = 0, again: Iterable[tuple[str, date]] = ()) -> Cells:
    """The cells to fetch: those not accounted for, and those of the last sessions once more.

    Args:
        cells: what is asked for and due.
        ledger: what is known about it.
        recheck_sessions: how many of the grid's last sessions are fetched again although they are stored,
            because vendors correct bars for days.
        again: cells that are accounted for and whose time to be asked again has come.
    """
    wanted = accounted(cells, ledger)
    np.logical_not(wanted, out=wanted)
    wanted[positions(cells.tickers, cells.sessions, again)] = True
    if recheck_sessions:
        wanted[:, -recheck_sessions:] = True
    wanted &= cells.mask
    return replace(cells, mask=wanted)
