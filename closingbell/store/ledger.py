"""The ledger's arithmetic: what a call's outcome changes in watermarks and gaps.

Plain values in, plain values out. The law it keeps: after every transaction each session of a watermark has
either its bar or a gap with a reason, and no session outside it has a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars
from closingbell.cells import ABSENT, PARTIAL, RETRYABLE, Days, Gap, Watermark
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

#: Of a ticker that has no watermark: it spans nothing.
_NOWHERE: Final = Watermark(date.max, date.min)

#: The open gaps of a ticker that has none.
_NONE: Final = frozenset[date]()

_EPOCH: Final = date(1970, 1, 1).toordinal()

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
    _gaps_before: dict[tuple[str, date], Gap] = field(init=False)
    _open_of: dict[str, set[date]] = field(init=False)  # the sessions of the gaps, by ticker

    def __post_init__(self) -> None:
        self._gaps_before = dict(self.gaps)
        self._open_of = {}
        for ticker, session in self.gaps:
            self._open_of.setdefault(ticker, set()).add(session)

    @property
    def new_gaps(self) -> list[Gap]:
        """Gaps to insert or change."""
        before = self._gaps_before
        return [gap for key, gap in self.gaps.items() if (old := before.get(key)) is not gap and old != gap]

    @property
    def closed_gaps(self) -> list[tuple[str, date]]:
        """Gaps to delete: their cell got its bar."""
        return [key for key in self._gaps_before if key not in self.gaps]

    def holes(self, outcomes: Iterable[Outcome]) -> dict[str, int]:
        """How many cells of each call that failed, or was not made, have no bar now."""
        in_vain = [outcome.call for outcome in outcomes if outcome.failed or outcome.reason == "pending"]
        return {str(call): sum(cell in self.gaps for cell in call.cells) for call in in_vain}

    def settle(self, outcome: Outcome) -> NDArray[np.bool_]:
        """Take in one outcome.

        Returns:
            Which of its accepted bars belong to cells that had no bar, as far as the ledger knows; shape
            (len(accepted),), bool.
        """
        tickers, sessions, accepted = outcome.tickers, outcome.sessions, outcome.verdict.accepted
        row = {ticker: i for i, ticker in enumerate(tickers)}
        had_bar = self._spanned(outcome)
        days = set[date](sessions.tolist()) if self.gaps else set[date]()
        # Sets meet at the cost of the smaller one: a ticker may have thousands of open gaps, a market day one session.
        of_gaps = [(i, day) for ticker, i in row.items() for day in self._open_of.get(ticker, _NONE) & days]
        gaps = _inside(sessions, [i for i, _ in of_gaps], np.array([day for _, day in of_gaps], "M8[D]"))
        had_bar[gaps] = False
        places = _positions(accepted, row, sessions)
        got = np.zeros(had_bar.shape, np.bool_)
        got[places] = True
        if outcome.partial:
            got[:, -1] = False
        kept_apart = np.zeros(had_bar.shape, np.bool_)
        kept_apart[_positions(outcome.verdict.quarantined, row, sessions)] = True
        closed = got[gaps]
        for i, day in zip(gaps[0][closed].tolist(), sessions[gaps[1][closed]].tolist(), strict=True):
            del self.gaps[tickers[i], day]
            self._open_of[tickers[i]].discard(day)
        without, gone = ~got & ~had_bar, had_bar & ~got & ~kept_apart
        if outcome.partial:
            self._begin([ticker for ticker, open_ in zip(tickers, without[:, -1], strict=True) if open_], sessions[-1])
            without[:, -1] = gone[:, -1] = False
        self._explain(outcome, np.nonzero(without), kept_apart)
        if not outcome.failed and outcome.reason == "empty":
            self.absent += [(tickers[i], sessions[j].item()) for i, j in zip(*np.nonzero(gone), strict=True)]
        self._extend(tickers, sessions)
        return np.asarray(~had_bar[places])

    def _spanned(self, outcome: Outcome) -> NDArray[np.bool_]:
        """Which of an outcome's cells lie in watermarks; shape (tickers, sessions)."""
        marks = [mark or _NOWHERE for mark in map(self.marks.get, outcome.tickers)]
        each = {id(mark): mark for mark in marks}  # few: of most tickers it is the same
        days = outcome.sessions.astype(np.int64) + _EPOCH  # numpy takes its time to read dates
        inside = [(days >= mark.first.toordinal()) & (days <= mark.last.toordinal()) for mark in each.values()]
        if len(each) == 1:
            return np.repeat(inside, len(marks), axis=0)
        row = {mark: i for i, mark in enumerate(each)}
        return np.array(inside)[[row[id(mark)] for mark in marks]]

    def _explain(self, outcome: Outcome, where: tuple[NDArray[np.intp], ...], kept_apart: NDArray[np.bool_]) -> None:
        """Say why cells have no bar, given by their rows and columns."""
        rows, columns = where
        if not len(rows):
            return
        said, error = _said(outcome), _text(outcome.error)
        doubtful = np.zeros(len(outcome.sessions), np.bool_) if outcome.doubtful is None else outcome.doubtful
        told = (rows, outcome.sessions[columns], kept_apart[where], doubtful[columns])
        for i, session, is_kept, is_doubtful in zip(*(part.tolist() for part in told), strict=True):
            ticker = outcome.tickers[i]
            if is_kept:
                self._open(ticker, session, "quarantined", _text(said.get((ticker, session))) or error)
            elif is_doubtful:
                self._absent(outcome, ticker, session, error)
            else:
                self._open(ticker, session, outcome.reason, error)

    def _absent(self, outcome: Outcome, ticker: str, session: date, error: str | None) -> None:
        """Say why a cell has no bar whose answer may have been short of it.

        A ticker that is not on a market day may be late, halted, or not carried there at all, as OTC stocks are:
        the next run asks for it by name. One that is known to have been empty for :data:`GONE_AFTER` sessions is
        empty still, and is asked for again when the last one is.
        """
        old = self.gaps.get((ticker, session))
        if old and is_due(old, self.at):  # asked again, and there is still no bar
            return self._open(ticker, session, old.reason, old.last_error)
        earlier = self.sessions_between(ticker, session - LOOK_BACK, session)
        known = [self.gaps.get((ticker, day)) for day in earlier[-GONE_AFTER:].tolist()]
        before = known[-1] if known else None
        if before is None or len(known) < GONE_AFTER or any(gap is None or gap.reason != "empty" for gap in known):
            whole_market = isinstance(outcome.call, MarketDay) and not outcome.failed
            self._open(ticker, session, "unpublished", ABSENT if whole_market else error)
        elif old is None:
            self._put(replace(before, session=session))
        else:
            self._open(ticker, session, "empty", error)

    def _begin(self, tickers: Iterable[str], session: np.datetime64) -> None:
        """Say of cells that they have some of their bars, and are to be asked for again all the same."""
        day: date = session.astype(object)
        for ticker in tickers:
            old = self.gaps.get((ticker, day))
            self._put(Gap(ticker, day, "pending", old.attempts if old else 0, PARTIAL, self.at))

    def _put(self, gap: Gap) -> None:
        old = self.gaps.get((gap.ticker, gap.session))
        if old and is_partial(old.last_error) and not is_partial(gap.last_error):
            # Whatever came of asking again, what is stored of it is still not all.
            gap = replace(gap, last_error=_text(f"{PARTIAL}; {gap.last_error}" if gap.last_error else PARTIAL))
        self.gaps[gap.ticker, gap.session] = gap
        self._open_of.setdefault(gap.ticker, set()).add(gap.session)

    def _open(self, ticker: str, session: date, reason: str, last_error: str | None) -> None:
        """Say why a cell has no bar. A call that failed does not unsay what an answer once said.

        ``attempts`` counts the calls made in vain; of an answer, how often it was given. One that is known counts again
        only in its time.
        """
        old = self.gaps.get((ticker, session))
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
        self._put(Gap(ticker, session, reason, attempts + (reason != "pending"), last_error, self.at))

    def _extend(self, tickers: Sequence[str], sessions: Days) -> None:
        """Stretch the watermarks over the sessions asked; what they take in that nobody asked for is ``pending``."""
        asked = Watermark(sessions[0].item(), sessions[-1].item())
        alike: dict[int, list[str]] = {}  # by the watermark: of most tickers it is the same
        for ticker, mark in zip(tickers, map(self.marks.get, tickers), strict=True):
            alike.setdefault(id(mark), []).append(ticker)
        for these in alike.values():
            mark = self.marks.get(these[0])
            if mark is not None and mark.first <= asked.first and asked.last <= mark.last:
                continue
            new, pending = self._stretched(these[0], mark, asked, sessions)
            self.marks |= dict.fromkeys(these, new)
            for ticker in these if pending else ():
                for day in pending:
                    self._put(Gap(ticker, day, "pending", asked_at=self.at))

    def _stretched(
        self, ticker: str, mark: Watermark | None, asked: Watermark, sessions: Days
    ) -> tuple[Watermark, list[date]]:
        """A watermark over what was asked, and the sessions in it that nobody has ever asked for."""
        if mark is None:
            new, between = asked, [(asked.first, asked.last)]
        else:
            new, between = mark.over(asked), [(asked.first, mark.first), (mark.last, asked.last)]
        pending: list[date] = []
        for after, before in between:
            if (before - after).days <= 1:
                continue
            days = self.sessions_between(ticker, after, before)
            if not np.array_equal(days, sessions[1:-1]):  # what is between the first and the last one asked
                pending += days[~_are_in(days, sessions)].tolist()
        return new, pending


def is_all_new(outcomes: Iterable[Outcome], marks: Mapping[str, Watermark]) -> bool:
    """Whether outcomes have a bar for each of their cells, all of which lie outside of the watermarks.

    No gap has a say in such ones: there is none outside of a watermark, and no absent bar to explain.
    """
    return all(_is_whole(outcome) and _is_outside(outcome, marks) for outcome in outcomes)


def _is_whole(outcome: Outcome) -> bool:
    tickers, sessions, bars = outcome.tickers, outcome.sessions, outcome.verdict.accepted
    if outcome.failed or outcome.partial or len(bars) < len(tickers) * len(sessions):
        return False
    got = np.zeros((len(tickers), len(sessions)), np.bool_)
    got[_positions(bars, {ticker: i for i, ticker in enumerate(tickers)}, sessions)] = True
    return bool(got.all())


def _is_outside(outcome: Outcome, marks: Mapping[str, Watermark]) -> bool:
    first, last = outcome.sessions[0].item(), outcome.sessions[-1].item()
    theirs = {id(mark): mark for mark in map(marks.get, outcome.tickers)}.values()
    return all(mark is None or last < mark.first or mark.last < first for mark in theirs)


def is_partial(last_error: str | None) -> bool:
    """Whether the ledger says that a cell has some of its bars, not all."""
    return (last_error or "").startswith(PARTIAL)


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


def _positions(bars: Bars, row: Mapping[str, int], sessions: Days) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The cell of each bar in the grid of the tickers and sessions, as rows and columns; others are passed over."""
    if not len(bars):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    rows = np.array([row[ticker] for ticker in bars.tickers], np.intp)[bars.rows["ticker"]]
    return _inside(sessions, rows, bars.rows["session"])


def _inside(
    sessions: Days, rows: NDArray[np.intp] | list[int], days: Days
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of those cells whose day is one of the sessions."""
    rows = np.asarray(rows, np.intp)
    columns = np.searchsorted(sessions, days)
    inside = sessions[np.minimum(columns, len(sessions) - 1)] == days
    return (rows, columns) if inside.all() else (rows[inside], columns[inside])


def _are_in(days: Days, sessions: Days) -> NDArray[np.bool_]:
    """Which days are among the sessions, both ascending; shape (len(days),)."""
    return np.asarray(sessions[np.minimum(np.searchsorted(sessions, days), len(sessions) - 1)] == days)


def spans(outcomes: Iterable[Outcome]) -> Mapping[str, Watermark]:
    """First and last session that outcomes answer for, by ticker."""
    found: dict[str, Watermark] = {}
    for outcome in outcomes:
        span = Watermark(outcome.sessions[0].item(), outcome.sessions[-1].item())
        over: dict[int, tuple[Watermark | None, Watermark]] = {}  # by the span so far: of most tickers it is the same
        for ticker in outcome.tickers:
            old = found.get(ticker)
            known = over.get(id(old))
            if known is None:
                known = over[id(old)] = old, span if old is None else old.over(span)
            found[ticker] = known[1]
    return found
