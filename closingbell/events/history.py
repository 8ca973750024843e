"""The stored bars of one ticker as a detector looks at them: whole sessions, resampled, with what lies before."""

from __future__ import annotations

from datetime import date
from typing import Protocol

import numpy as np

from closingbell.bars import Bars
from closingbell.calendar import Days, asset_class, calendar_for
from closingbell.events.tally import Tally
from closingbell.intraday import bars_a_session
from closingbell.resample import resample
from closingbell.store.events import Derived


class Reads(Protocol):
    """What reads stored bars: :class:`closingbell.store.records.Records`."""

    def series(self, source: str, timeframe: str, tickers: tuple[str, ...], first: date, last: date) -> Bars: ...


class History:
    """Bars of one ticker, read when they are asked for.

    Args:
        bars: reads stored bars.
        of: whose, and of which timeframes.
        warm_up: how many bars back a detector may look.
        tally: is told of the time that it takes.

    Attributes:
        sessions: those that are stored, ascending, shape (n,), datetime64[D].
    """

    def __init__(self, bars: Reads, of: Derived, warm_up: int, tally: Tally) -> None:
        self._bars, self._of, self._warm_up, self._tally = bars, of, warm_up, tally
        self._calendar = calendar_for(asset_class(of.ticker))
        self._ahead = 1 + 4 * warm_up // bars_a_session(of.timeframe)  # sessions that the warm-up may take
        self.sessions: Days = np.zeros(0, "M8[D]")

    def reaches(self, first: date, last: date) -> None:
        """Say from when to when bars are stored."""
        self.sessions = self._calendar.sessions(first, last)

    def within(self, first: date, last: date) -> Days:
        low, high = np.searchsorted(self.sessions, np.array([first, last], "M8[D]"))
        high += bool(high < len(self.sessions) and self.sessions[high] == np.datetime64(last))
        return self.sessions[low:high]

    def warm(self, first: date) -> tuple[Bars, date]:
        """The bars before a session that a detector may look back at, and the first session looked at for them."""
        before, wanted = self.sessions[self.sessions < np.datetime64(first)], self._warm_up
        if not len(before):
            return Bars((self._of.ticker,), timeframe=self._of.timeframe), first
        count = self._ahead
        while True:
            begin = before[-count:][0].item()
            bars = self.made(self.read(begin, before[-1].item()))
            if len(bars) >= wanted:
                rows = bars.rows[-wanted:].copy()
                return Bars(bars.tickers, rows, bars.timeframe), rows["session"][0].item()
            if count >= len(before):
                return bars, begin
            count *= 4

    def until(self, session: date, last: date) -> date:
        """The last session, not after ``last``, with events that may depend on the bars of a session."""
        after, wanted = self.within(session, last), self._warm_up
        after, count = after[after > np.datetime64(session)], self._ahead
        while len(after):
            bars = self.made(self.read(after[0].item(), after[:count][-1].item()))
            if len(bars) >= wanted:
                end: date = bars.rows["session"][wanted - 1].item()
                return end
            if count >= len(after):
                return last
            count *= 4
        return min(session, last)

    def read(self, first: date, last: date) -> Bars:
        of = self._of
        with self._tally.spent("read"):
            return self._bars.series(of.source, of.from_timeframe, (of.ticker,), first, last)

    def made(self, bars: Bars) -> Bars:
        with self._tally.spent("resample"):
            return resample(bars, self._of.timeframe)
