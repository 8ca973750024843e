"""The ledger's arithmetic: what a call's outcome changes in watermarks and gaps.

Plain values in, plain values out. The law it keeps: after every transaction each session of a watermark has
either its bar or a gap with a reason, and no session outside it has a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars
from closingbell.cells import ABSENT, REASONS, RETRYABLE, Cells, Days, Gap, Ledger, Watermark, accounted
from closingbell.healing import AGAIN, is_due
from closingbell.outcome import Outcome
from closingbell.plan import MarketDay

#: Gives the sessions of a ticker's calendar strictly between two dates: shape (k,), datetime64[D].
SessionsBetween = Callable[[str, date, date], Days]

#: As long as the column ``gap.last_error``.
ERROR_LENGTH: Final = 500

#: A reason gives way to one of at least its weight: answers outweigh refusals, these outweigh failures, and
#: a call that was not made says nothing.
_WEIGHT: Final = {"pending": 0, "failed": 1, "unpublished": 1, "unentitled": 2, "empty": 3, "quarantined": 3}

#: After so many sessions in a row that were asked for by name and empty, a ticker is taken for gone: that it is not on
#: a market day then says nothing new. Before, it may have had a day without a trade, as OTC stocks have.
GONE_AFTER: Final = 5

#: Reaches that many sessions before any session, and the one before in any case.
LOOK_BACK: Final = timedelta(days=21)


@dataclass(slots=True)
class Settlement:
    """What has to be written, after :meth:`settle` has seen every outcome of a transaction.

    Attributes:
        marks: the watermark of every ticker seen, as it is now.
        gaps: the gaps of the cells seen, as they are now.
        sessions_between: the calendar.
        at: the instant of the outcomes, aware.
        absent: cells whose stored bar was not in an answer that should have it.
    """

    marks: dict[str, Watermark]
    gaps: dict[tuple[str, date], Gap]
    sessions_between: SessionsBetween
    at: datetime
    absent: list[tuple[str, date]] = field(default_factory=list)
    _marks_before: dict[str, Watermark] = field(init=False)
    _gaps_before: dict[tuple[str, date], Gap] = field(init=False)

    def __post_init__(self) -> None:
        self._marks_before, self._gaps_before = dict(self.marks), dict(self.gaps)

    @property
    def new_marks(self) -> dict[str, Watermark]:
        """Watermarks to insert or change."""
        return {t: mark for t, mark in self.marks.items() if mark != self._marks_before.get(t)}

    @property
    def new_gaps(self) -> list[Gap]:
        """Gaps to insert or change."""
        return [gap for key, gap in self.gaps.items() if gap != self._gaps_before.get(key)]

    @property
    def closed_gaps(self) -> list[tuple[str, date]]:
        """Gaps to delete: their cell got its bar."""
        return [key for key in self._gaps_before if key not in self.gaps]

    def holes(self, outcomes: Iterable[Outcome]) -> int:
        """How many cells of calls that failed, or were not made, have no bar now."""
        in_vain = (outcome for outcome in outcomes if outcome.failed or outcome.reason == "pending")
        return sum(cell in self.gaps for outcome in in_vain for cell in outcome.call.cells)

    def settle(self, outcome: Outcome) -> NDArray[np.bool_]:
        """Take in one outcome.

        Returns:
            Which of its accepted bars belong to cells that had no bar, as far as the ledger knows; shape
            (len(accepted),), bool.
        """
        cells = Cells.all(outcome.tickers, outcome.sessions)
        had_bar = accounted(cells, self._as_ledger(outcome), again=REASONS)
        got = _cells_of(outcome.verdict.accepted, cells)
        kept_apart = _cells_of(outcome.verdict.quarantined, cells)
        said = _said(outcome)
        accepted = outcome.verdict.accepted
        positions = _positions(accepted, cells)
        fresh = ~had_bar[positions] if len(accepted) else np.zeros(0, np.bool_)
        if self.gaps:  # a first load has none: half a million cells need no look
            for i, j in zip(*np.nonzero(got & ~had_bar), strict=True):
                self.gaps.pop((cells.tickers[i], cells.sessions[j].item()), None)
        for i, j in zip(*np.nonzero(~got & ~had_bar), strict=True):
            ticker, session = cells.tickers[i], cells.sessions[j].item()
            if kept_apart[i, j]:
                self._open(ticker, session, "quarantined", said.get((ticker, session), outcome.error))
            else:
                self._absent(outcome, ticker, j)
        if not outcome.failed and outcome.reason == "empty":
            gone = np.nonzero(had_bar & ~got & ~kept_apart)
            self.absent += [(cells.tickers[i], cells.sessions[j].item()) for i, j in zip(*gone, strict=True)]
        for ticker in outcome.tickers:
            self._extend(ticker, outcome.sessions)
        return np.asarray(fresh)

    def _as_ledger(self, outcome: Outcome) -> Ledger:
        marks = {t: self.marks[t] for t in outcome.tickers if t in self.marks}
        return Ledger(marks, list(self.gaps.values()))

    def _absent(self, outcome: Outcome, ticker: str, position: np.intp) -> None:
        """Say why a cell has no bar, where the answer may have been short of it.

        A ticker that is not on a market day may be late, halted, or not carried there at all, as OTC stocks are:
        the next run asks for it by name. One that is known to have been empty for :data:`GONE_AFTER` sessions is
        empty still, and is asked for again when the last one is.
        """
        session: date = outcome.sessions[position].item()
        if outcome.doubtful is None or not outcome.doubtful[position]:
            return self._open(ticker, session, outcome.reason, outcome.error)
        old = self.gaps.get((ticker, session))
        if old and is_due(old, self.at):  # asked again, and there is still no bar
            return self._open(ticker, session, old.reason, old.last_error)
        earlier = self.sessions_between(ticker, session - LOOK_BACK, session)
        known = [self.gaps.get((ticker, day)) for day in earlier[-GONE_AFTER:].tolist()]
        before = known[-1] if known else None
        if before is None or len(known) < GONE_AFTER or any(gap is None or gap.reason != "empty" for gap in known):
            whole_market = isinstance(outcome.call, MarketDay) and not outcome.failed
            self._open(ticker, session, "unpublished", ABSENT if whole_market else outcome.error)
        elif old is None:
            self.gaps[ticker, session] = replace(before, session=session)
        else:
            self._open(ticker, session, "empty", outcome.error)

    def _open(self, ticker: str, session: date, reason: str, error: str | None) -> None:
        """Say why a cell has no bar. A call that failed does not unsay what an answer once said.

        ``attempts`` counts the calls made in vain; of an answer, how often it was given. One that is known counts again
        only in its time.
        """
        old, last_error = self.gaps.get((ticker, session)), _text(error)
        attempts = old.attempts if old else 0
        if old:
            again = is_due(old, self.at)
            if old.reason == reason and reason not in ("failed", "unpublished") and not again:
                return
            if _WEIGHT[reason] < _WEIGHT[old.reason]:
                if reason in RETRYABLE or not again:
                    return
                # A refusal does not unsay an answer, but it was asked for: else it would be again every night.
                reason, last_error = old.reason, old.last_error
            if reason in AGAIN and reason != old.reason:
                attempts = 0
        self.gaps[ticker, session] = Gap(ticker, session, reason, attempts + (reason != "pending"), last_error, self.at)

    def _extend(self, ticker: str, sessions: Days) -> None:
        """Stretch the watermark over the sessions asked; what it takes in that nobody asked for is ``pending``."""
        first, last = sessions[0].item(), sessions[-1].item()
        mark = self.marks.get(ticker)
        if mark is None:
            new = [(first, last)]
            self.marks[ticker] = Watermark(first, last)
        else:
            new = [(first, mark.first), (mark.last, last)]
            self.marks[ticker] = Watermark(min(first, mark.first), max(last, mark.last))
        for after, before in new:
            if (before - after).days > 1:
                days = self.sessions_between(ticker, after, before)
                for day in days[~np.isin(days, sessions)].tolist():
                    self.gaps[ticker, day] = Gap(ticker, day, "pending", asked_at=self.at)


def _text(error: str | None) -> str | None:
    """An error as the database can hold it: vendors' words may have characters that no text column takes."""
    if not error:
        return None
    return error.replace("\0", "").encode(errors="replace").decode()[:ERROR_LENGTH]


def _said(outcome: Outcome) -> dict[tuple[str, date], str]:
    """What the database said of the bars that it refused, by cell."""
    bars = outcome.verdict.quarantined
    return {
        (bars.tickers[row["ticker"]], row["session"].item()): text
        for row, text in zip(bars.rows, outcome.verdict.messages, strict=False)
        if text
    }


def _positions(bars: Bars, cells: Cells) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The cell of each bar, as rows and columns of the grid; every bar has to lie in it."""
    number = {ticker: i for i, ticker in enumerate(cells.tickers)}
    rows = np.array([number[ticker] for ticker in bars.tickers], np.intp)[bars.rows["ticker"]]
    return rows, np.searchsorted(cells.sessions, bars.rows["session"])


def _cells_of(bars: Bars, cells: Cells) -> NDArray[np.bool_]:
    """Which cells of the grid the bars belong to; shape (n, m). Bars outside the grid are passed over."""
    mask = np.zeros(cells.mask.shape, np.bool_)
    inside = bars.where(np.isin(bars.rows["session"], cells.sessions))
    if len(inside):
        mask[_positions(inside, cells)] = True
    return mask


def spans(outcomes: Iterable[Outcome]) -> Mapping[str, Watermark]:
    """First and last session that outcomes answer for, by ticker."""
    found: dict[str, Watermark] = {}
    for outcome in outcomes:
        first, last = outcome.sessions[0].item(), outcome.sessions[-1].item()
        for ticker in outcome.tickers:
            old = found.get(ticker, Watermark(first, last))
            found[ticker] = Watermark(min(old.first, first), max(old.last, last))
    return found
