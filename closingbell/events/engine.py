"""Derives the events of one ticker: in chunks of whole sessions, each committed with the mark that says so.

Whoever ends it at any moment loses the chunk at work; the next run goes on from the mark. A chunk begins with the bars
before it that its detector may look back at, so that where chunks begin makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Final
from uuid import UUID

import numpy as np

from closingbell.bars import Bars
from closingbell.errors import ConfigurationError
from closingbell.events.base import Detector
from closingbell.events.history import History, Reads
from closingbell.events.tally import Tally
from closingbell.events.todo import planned, rest
from closingbell.intraday import bars_a_session
from closingbell.resample import check
from closingbell.store.events import Derived, Events, Mark, Span, Standing

#: Stored bars of a chunk: about 60 MB while they are read.
CHUNK: Final = 250_000

#: Is told of each chunk that was committed: sessions done, of how many, and what there is so far.
Told = Callable[[int, int, Tally], None]


class Derivation:
    """The events of one ticker, by one detector.

    Args:
        bars: reads stored bars.
        events: where events are kept.
        detector: what finds them.
        ticker: whose.
        source: of the stored bars.
        timeframe: that the detector looks at.
        from_timeframe: of the stored bars; where it is another, they are resampled on the way.
        chunk: stored bars of a chunk.

    Raises:
        ConfigurationError: such bars cannot be made of those.
    """

    def __init__(
        self,
        bars: Reads,
        events: Events,
        detector: Detector,
        *,
        ticker: str,
        source: str,
        timeframe: str,
        from_timeframe: str,
        chunk: int = CHUNK,
    ) -> None:
        if timeframe != from_timeframe:
            check(from_timeframe, timeframe, (ticker,))
        self.of = Derived(ticker, timeframe, detector.name, detector.version, source, from_timeframe)
        self.tally = Tally()
        self._events, self._detector = events, detector
        self._history = History(bars, self.of, detector.warm_up, self.tally)
        self._chunk = chunk
        self._step = max(1, chunk // bars_a_session(from_timeframe))  # sessions of a chunk

    def look(self, start: date | None = None, end: date | None = None, *, purge: bool = False) -> tuple[Standing, Mark]:
        """What is derived, and the mark as it has to become; writes nothing.

        Args:
            start: first session; None: the first one stored.
            end: last session; None: the last one stored.
            purge: derive again what is asked for.

        Raises:
            ConfigurationError: no bar is stored of what is asked for.
        """
        standing = self._events.standing(self.of)
        bars, of = standing.bars, self.of
        whole = None if bars is None else (max(start or bars.first, bars.first), min(end or bars.last, bars.last))
        if bars is not None:
            self._history.reaches(bars.first, bars.last)
        if whole is None or whole[0] > whole[1]:
            span = f", {start or 'the first'} to {end or 'the last'}" if start or end else ""
            raise ConfigurationError(
                "no bars are stored to derive events from",
                value=f"{of.source} {of.ticker} {of.from_timeframe}{span}",
                fix="Ingest them first: closingbell status TICKER shows what is stored.",
            )
        new = planned(standing, self._history.sessions, whole, self._history.until, purge=purge)
        return standing, new or _kept(standing)

    def count(self, mark: Mark) -> int:
        """How many sessions are to do."""
        return sum(len(self._history.within(first, last)) for first, last in mark.todo)

    def derive(
        self,
        run_id: UUID,
        start: date | None = None,
        end: date | None = None,
        *,
        purge: bool = False,
        told: Told | None = None,
        stop: Callable[[], None] | None = None,
    ) -> Tally:
        """Derive what is asked for and not derived, and again what depends on bars that have changed.

        Args:
            run_id: the run that does it.
            start: first session; None: the first one stored.
            end: last session; None: the last one stored.
            purge: delete what is derived of it, and derive it again.
            told: is told of each commit.
            stop: is called between two chunks; raises to end it there.

        Raises:
            ConfigurationError: no bar is stored of what is asked for.
            ClosingbellError: as the store says.
        """
        while True:
            standing, mark = self.look(start, end, purge=purge)
            if mark is standing.mark and not mark.todo:
                return self.tally
            if mark is not standing.mark:
                span = (max(start or date.min, mark.first), min(end or date.max, mark.last)) if purge else None
                with self.tally.spent("database"):
                    removed = self._events.settle(self.of, run_id, standing.mark, mark, span)
                if removed is None:
                    self.tally.overtaken += 1
                    continue
                self.tally.removed += removed
                purge = False
            if self._work_off(run_id, mark, told, stop):
                return self.tally

    def _work_off(self, run_id: UUID, mark: Mark, told: Told | None, stop: Callable[[], None] | None) -> bool:
        """Derive all that a mark says is to do; False: another run has changed it meanwhile."""
        whole, done = self.count(mark), 0
        before: tuple[date, Bars, date] | None = None  # what the next chunk begins with, if it begins there
        while mark.todo:
            if stop:
                stop()
            first, last = self._next(mark.todo[0])
            bars = self._history.read(first, last)
            if before is None or before[0] != first:
                before = (first, *self._history.warm(first))
            _, warm, reach = before
            looked = _joined(warm, self._history.made(bars))
            with self.tally.spent("detect"):
                found = self._detector.detect(looked)
            found = found[found["session"] >= np.datetime64(first)]
            mark = replace(mark, todo=rest(mark.todo, last), reach=min(mark.reach, reach), turn=mark.turn + 1)
            with self.tally.spent("database"):
                wrote = self._events.replace(self.of, run_id, mark, (first, last), self._detector.kinds, found)
            if wrote is None:
                self.tally.overtaken += 1
                return False
            sessions = self._history.within(first, last)
            done += len(sessions)
            self._note((first, last), len(sessions), len(bars), *wrote)
            self._step = _stepped(self._step, len(sessions), len(bars), self._chunk)
            after = self._history.sessions[self._history.sessions > np.datetime64(last)]
            if len(after):
                tail = looked.rows[-self._detector.warm_up :]
                # What has fewer bars than it may look back at has all there are, from ``reach`` on.
                since = tail["session"][0].item() if len(tail) == self._detector.warm_up else reach
                before = (after[0].item(), Bars(looked.tickers, tail.copy(), looked.timeframe), since)
            if told:
                told(done, whole, self.tally)
        return True

    def _note(self, span: Span, sessions: int, bars: int, removed: int, inserted: int) -> None:
        tally = self.tally
        tally.sessions += sessions
        tally.bars += bars
        tally.removed += removed
        tally.inserted += inserted
        tally.commits += 1
        windows = tally.windows
        if windows and len(self._history.within(windows[-1][1], span[0])) <= 2 and windows[-1][1] < span[0]:
            windows[-1] = (windows[-1][0], span[1])
        else:
            windows.append(span)

    def _next(self, span: Span) -> Span:
        """The first sessions of a span, as many as make a chunk."""
        there = self._history.within(*span)
        return span if len(there) <= self._step else (span[0], there[self._step - 1].item())


def _kept(standing: Standing) -> Mark:
    assert standing.mark is not None  # noqa: S101  (what has none is to be derived)
    return standing.mark


def _stepped(step: int, sessions: int, bars: int, chunk: int) -> int:
    """How many sessions the next chunk takes, going by what the last one held; at most four times as many."""
    return max(1, min(4 * step, chunk * sessions // max(bars, 1)))


def _joined(warm: Bars, bars: Bars) -> Bars:
    if not len(warm):
        return bars
    return Bars(bars.tickers, np.concatenate([warm.rows, bars.rows]), bars.timeframe)
