"""Coarser bars made of stored ones, as a series of their own with a ledger of its own: which cells, and what of.

A derived series has the source ``<source of the minutes>:1m``, such as ``polygon:1m``: what a bar was made of is
read beside it, and what the vendor made itself is never mixed with it unsaid. Sessions for which somebody else's bars
of the same ticker and timeframe are stored are left to them: the derived series' ledger counts them as stored.

A cell of minutes that is stored gives a cell that is stored; one that is a gap, a gap with the same reason. Bars of
minutes that were accepted keep every rule by construction: they are not judged once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell import cells
from closingbell.bars import Bars
from closingbell.cells import REASONS, Cells, Days, Gap, Ledger
from closingbell.errors import ConfigurationError
from closingbell.intraday import LONGEST
from closingbell.outcome import Outcome
from closingbell.plan import TickerRange
from closingbell.quality import Verdict
from closingbell.resample import FINER, resample
from closingbell.store.derived import Known, Making
from closingbell.store.origin import MADE

#: The rule under which a derived bar is taken out whose minutes are no longer there.
NO_MINUTES: Final = "no_minutes"

#: Minutes read at once, and so what the memory is bounded by: about 18 MB.
ROWS: Final = 200_000

_Mask = NDArray[np.bool_]


def making(source: str, timeframe: str) -> Making:
    """The series of a timeframe that is made of a source's minutes."""
    return Making(source, FINER, source + MADE, timeframe)


def pieces(grid: Cells) -> Iterator[Cells]:
    """A grid in pieces of so many cells that their minutes fit into memory."""
    most = max(1, ROWS // LONGEST)
    width = min(most, max(1, len(grid.sessions)))
    height = max(1, most // width)
    for top in range(0, len(grid.tickers), height):
        rows = slice(top, top + height)
        for left in range(0, len(grid.sessions), width):
            columns = slice(left, left + width)
            piece = Cells(grid.tickers[rows], grid.sessions[columns], grid.mask[rows, columns])
            if piece.count:
                yield piece


@dataclass(frozen=True, slots=True)
class Todo:
    """What is to be done about the cells of a grid.

    Attributes:
        make: cells whose bars are to be made, or made again.
        again: those of them that have derived bars already.
        gaps: gaps of the minutes that the derived series has to have as well.
        remove: cells with derived bars whose minutes are a gap now.
        left: cells that have somebody else's bars.
        adopt: those of them that the derived series does not account for yet.
        known: cells that the minutes' ledger accounts for.
    """

    make: Cells
    again: Cells
    gaps: tuple[Gap, ...]
    remove: Cells
    left: Cells
    adopt: Cells
    known: Cells


def todo(grid: Cells, known: Known) -> Todo:
    """What is to be done about the cells of a grid, by what is known of them."""
    fine_known, fine = _ledger_of(grid, known.finer)
    made = _ledger_of(grid, known.made)[1]
    others = np.zeros_like(grid.mask)
    for ledger in known.others.values():
        others |= _ledger_of(grid, ledger)[1]
    mine = grid.mask & ~others
    make = mine & fine & (~made | cells.mask_of(grid, known.changed))
    remove = mine & fine_known & ~fine & made
    before = {(gap.ticker, gap.session): gap for gap in known.made.gaps}
    copied = (
        cells.mask_of(grid, [(gap.ticker, gap.session) for gap in known.finer.gaps]) & mine & fine_known & ~fine & ~made
    )
    wanted = {(grid.tickers[i], grid.sessions[j].item()) for i, j in zip(*np.nonzero(copied), strict=True)}
    gaps = tuple(
        gap
        for gap in known.finer.gaps
        if (cell := (gap.ticker, gap.session)) in wanted and not _same(before.get(cell), gap)
    )
    left = grid.mask & others & fine_known
    masks = (make, make & made, remove, left, left & ~made, grid.mask & fine_known)
    wanted_of = [grid.only(mask) for mask in masks]
    return Todo(wanted_of[0], wanted_of[1], gaps, *wanted_of[2:])


def _ledger_of(grid: Cells, ledger: Ledger) -> tuple[_Mask, _Mask]:
    """Which cells a ledger accounts for, and which of them have bars."""
    return cells.accounted(grid, ledger, again=()), cells.accounted(grid, ledger, again=REASONS)


def _same(made: Gap | None, finer: Gap) -> bool:
    """Whether a derived gap says what the minutes' says; one whose bars were taken out says it for good."""
    if made is None:
        return False
    return made.reason == "quarantined" or (made.reason, made.last_error) == (finer.reason, finer.last_error)


def outcomes(wanted: Cells, minutes: Bars, timeframe: str) -> list[Outcome]:
    """The coarser bars of whole cells, ready to be written: an outcome a ticker.

    Args:
        wanted: the cells to make.
        minutes: their minutes at least, of the same tickers.
        timeframe: of the bars to make.
    """
    return _by_ticker(wanted, resample(_inside(minutes, wanted), timeframe))


def adopted(wanted: Cells, blocks: Sequence[Bars]) -> list[Outcome]:
    """Somebody else's stored bars of whole cells, as they are: written again they change nothing but the ledger.

    Args:
        wanted: the cells.
        blocks: the bars of each source, of the same tickers; at least one block.
    """
    bars = _inside(Bars.concat(blocks), wanted)
    order = np.argsort(bars.rows["ticker"], kind="stable")
    return _by_ticker(wanted, Bars(bars.tickers, bars.rows[order], bars.timeframe))


def _by_ticker(wanted: Cells, bars: Bars) -> list[Outcome]:
    """Bars of some cells, sorted by ticker: an outcome for each."""
    number = {ticker: i for i, ticker in enumerate(bars.tickers)}
    bounds = np.searchsorted(bars.rows["ticker"], np.arange(len(bars.tickers) + 1))
    found = []
    for i in np.flatnonzero(wanted.mask.any(axis=1)).tolist():
        ticker, sessions = wanted.tickers[i], wanted.sessions[wanted.mask[i]]
        at = number[ticker]
        rows = bars.rows[bounds[at] : bounds[at + 1]].copy()
        rows["ticker"] = 0
        accepted = Bars((ticker,), rows, bars.timeframe)
        found.append(_outcome(ticker, sessions, bars.timeframe, accepted, "pending", None))
    return found


def gaps_of(gaps: Sequence[Gap], timeframe: str) -> list[Outcome]:
    """Gaps of minutes as the same gaps of a coarser timeframe: an outcome for each reason of a ticker."""
    groups: dict[tuple[str, str, str | None], list[Gap]] = {}
    for gap in gaps:
        groups.setdefault((gap.ticker, gap.reason, gap.last_error), []).append(gap)
    none = Bars((), timeframe=timeframe)
    return [
        _outcome(ticker, np.sort(np.array([gap.session for gap in group], "M8[D]")), timeframe, none, reason, error)
        for (ticker, reason, error), group in groups.items()
    ]


def _outcome(ticker: str, sessions: Days, timeframe: str, accepted: Bars, reason: str, error: str | None) -> Outcome:
    call = TickerRange(ticker, tuple(sessions.tolist()), timeframe=timeframe)
    verdict = Verdict(accepted, Bars((), timeframe=timeframe), (), {})
    return Outcome(call, verdict, (ticker,), sessions, reason, error, len(accepted))


def gone(stored: Bars, made: Sequence[Outcome], remake: Cells, remove: Cells) -> Bars:
    """The stored derived bars that are none any more, of cells that are made again or lost their minutes.

    Args:
        stored: the derived bars of the grid's cells, as they are stored.
        made: the outcomes of the cells that were made.
        remake: the cells that were made again.
        remove: the cells whose minutes are a gap now.
    """
    if not len(stored):
        return stored
    keys = {
        (outcome.tickers[0], ts)
        for outcome in made
        for ts in outcome.verdict.accepted.rows["ts"].astype(np.int64).tolist()
    }
    names = [stored.tickers[i] for i in stored.rows["ticker"].tolist()]
    stays = [key in keys for key in zip(names, stored.rows["ts"].astype(np.int64).tolist(), strict=True)]
    again, lost = (_inside_mask(stored, each) for each in (remake, remove))
    return stored.where(lost | (again & ~np.array(stays, np.bool_)))


def _inside_mask(bars: Bars, wanted: Cells) -> _Mask:
    """Which bars are of some cells; shape (len(bars),)."""
    if not len(bars) or not wanted.count:
        return np.zeros(len(bars), np.bool_)
    row = {ticker: i for i, ticker in enumerate(wanted.tickers)}
    rows = np.array([row.get(ticker, -1) for ticker in bars.tickers], np.intp)[bars.rows["ticker"]]
    columns = np.searchsorted(wanted.sessions, bars.rows["session"]).clip(max=len(wanted.sessions) - 1)
    inside = (rows >= 0) & (wanted.sessions[columns] == bars.rows["session"])
    return np.asarray(inside & wanted.mask[rows, columns])


def _inside(bars: Bars, wanted: Cells) -> Bars:
    return bars.where(_inside_mask(bars, wanted))


def nothing_stored(tickers: Sequence[str], source: str) -> ConfigurationError:
    """The error of a run that only derives, and finds nothing to derive from."""
    return ConfigurationError(
        f"there are no stored {FINER} bars of {source} to derive from",
        value=", ".join(tickers[:5]),
        fix=f"Fetch them as well: add --timeframe {FINER}.",
    )
