"""What came of a call: bars, and for each asked cell a bar or a reason.

This is what a source's answer becomes after the checks, and what the store writes in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars, Roll
from closingbell.calendar import AssetClass
from closingbell.cells import Days
from closingbell.errors import ClosingbellError, NotYetPublishedError
from closingbell.intraday import of_regular_hours
from closingbell.neighbours import KnownSplit
from closingbell.plan import Call, MarketDay
from closingbell.quality import EXAMPLES, NOTHING, REFUSED, Asked, Verdict, check, profile_of

#: So long an empty market day means that it is not published; after that, that nothing was traded.
FRESH: Final = np.timedelta64(7, "D")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A call's outcome, for the store.

    Attributes:
        call: the call.
        verdict: its bars, judged; empty when it failed.
        tickers: the tickers it answers for.
        sessions: shape (k,), datetime64[D]: the sessions it answers for, for each of the tickers.
        reason: why a cell that got no bar has none.
        error: what the vendor or the network said, where the call failed.
        rows: rows read, those of other tickers included.
        doubtful: shape (k,), bool: on which sessions an absent bar may be late rather than not exist; None: none.
        partial: of the last session more bars are to come, with the next batch of the same answer.
        settles: how many of the call's cells it accounts for; None: all.
        rolls: where a continuous future changed its contract.
    """

    call: Call
    verdict: Verdict
    tickers: tuple[str, ...]
    sessions: Days
    reason: str
    error: str | None = None
    rows: int = 0
    doubtful: NDArray[np.bool_] | None = None
    partial: bool = False
    settles: int | None = None
    rolls: tuple[Roll, ...] = ()

    @property
    def done(self) -> int:
        """How many of the call's cells it accounts for."""
        return self.call.count if self.settles is None else self.settles

    @property
    def failed(self) -> bool:
        """Whether the call brought nothing that can be relied on."""
        return self.error is not None

    def without(self, refused: Mapping[int, str]) -> Outcome:
        """The same with some of its accepted bars kept apart, as the database refuses them.

        Args:
            refused: what the database said of each, by its position in ``verdict.accepted``.
        """
        if not refused:
            return self
        verdict = self.verdict
        positions = sorted(refused)
        bad = np.zeros(len(verdict.accepted), np.bool_)
        bad[positions] = True
        apart = verdict.accepted.where(bad)
        rows = apart.rows[:EXAMPLES]
        named = tuple(f"{apart.tickers[row['ticker']]} {row['session']}" for row in rows)
        before = verdict.messages or (None,) * len(verdict.quarantined)
        judged = replace(
            verdict,
            accepted=verdict.accepted.where(~bad),
            quarantined=Bars.concat([verdict.quarantined, apart]) if len(verdict.quarantined) else apart,
            rules=(*verdict.rules, *(REFUSED for _ in positions)),
            examples={**verdict.examples, REFUSED: named},
            messages=(*before, *(refused[position] for position in positions)),
        )
        return replace(self, verdict=judged)

    def only(self, tickers: Collection[str]) -> Outcome | None:
        """What it says of some tickers; None where it says nothing of any of them."""
        names = tuple(ticker for ticker in self.tickers if ticker in tickers)
        if not names or len(names) == len(self.tickers):
            return self if names else None
        call = self.call
        if isinstance(call, MarketDay):
            call = replace(call, tickers=tuple(ticker for ticker in call.tickers if ticker in tickers))
        verdict = self.verdict
        kept = _of(verdict.quarantined, tickers)
        judged = replace(
            verdict,
            accepted=verdict.accepted.only(_of(verdict.accepted, tickers)),
            quarantined=verdict.quarantined.only(kept),
            rules=tuple(rule for rule, here in zip(verdict.rules, kept, strict=True) if here),
            messages=tuple(text for text, here in zip(verdict.messages, kept, strict=False) if here),
        )
        return replace(self, call=call, tickers=names, verdict=judged)

    def empty_handed(self, error: str) -> Outcome:
        """The same call as one that failed with ``error``."""
        return Outcome(self.call, NOTHING, self.tickers, self.sessions, "failed", error)


@dataclass(slots=True)
class FlushResult:
    """What one transaction changed.

    Attributes:
        inserted: bars that were not there before.
        rewritten: bars whose values changed; each left a revision.
        stored: bars accepted, changed or not.
        quarantined: bars kept apart.
        gaps: gap rows written or changed.
        holes: of each call that failed or was not made, in words: how many of its cells have no bar.
        absent: cells whose stored bar was not in the answer; it stands.
        refused: tickers whose answer the database does not take, and what it says. Their cells are gaps now or, where
            it takes not even these, not accounted for.
        examples: the first bars that broke each rule: ticker and session.
        commits: transactions.
        retries: transactions that were lost, with a connection or a race, and done again.
    """

    inserted: int = 0
    rewritten: int = 0
    stored: int = 0
    quarantined: int = 0
    gaps: int = 0
    holes: dict[str, int] = field(default_factory=dict)
    absent: list[tuple[str, date]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    commits: int = 0
    retries: int = 0

    def add(self, other: FlushResult) -> None:
        """Take in what another transaction of the same flush changed."""
        for name in ("inserted", "rewritten", "stored", "quarantined", "gaps", "commits", "retries"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for call, count in other.holes.items():
            self.holes[call] = self.holes.get(call, 0) + count
        self.absent += other.absent
        self.refused |= other.refused
        for rule, named in other.examples.items():
            self.examples[rule] = [*self.examples.get(rule, []), *named][:EXAMPLES]


@dataclass(slots=True)
class Judge:
    """Turns answers into outcomes by the rules of one asset class.

    Attributes:
        asset_class: whose profile applies.
        calendar_sessions: shape (m,), datetime64[D], ascending: every session of the run's span.
        closed_by: the last session that is over.
        due_by: the last session that the vendor should have published by now.
        extended_hours: whether a stock's intraday bars from outside of regular hours are wanted.
        uncertain: nobody knows where the bars come from.
    """

    asset_class: AssetClass
    calendar_sessions: Days
    closed_by: np.datetime64
    due_by: np.datetime64
    extended_hours: bool = True
    uncertain: bool = False

    def answered(
        self,
        call: Call,
        bars: Bars,
        rows: int,
        around: Bars | None = None,
        splits: Sequence[KnownSplit] = (),
        twin: str | None = None,
    ) -> Outcome:
        """The outcome of a call that was answered in full.

        A range answers for every session from its first to its last, also those that were not missing: their
        bars came along, and serve as a recheck.

        Args:
            call: the call.
            bars: what it brought, of the tickers asked for.
            rows: rows read, those of other tickers included.
            around: stored bars of these tickers, before, between and after.
            splits: the known splits of these tickers.
            twin: another ticker, under which the very same bars came.

        Raises:
            NotYetPublishedError: a market day of the last days has no row at all.
        """
        sessions = self._answers_for(call)
        whole_market = isinstance(call, MarketDay)
        if whole_market and not rows and sessions[-1] > self.closed_by - FRESH:
            # A session that is over has bars; "there are none" can only mean "not yet".
            raise NotYetPublishedError("the market day is empty", value=call, fix="The next run asks again.")
        doubtful = np.full(len(sessions), True) if whole_market else sessions > self.due_by
        if not self.extended_hours:
            bars = bars.where(of_regular_hours(bars, self.asset_class))
        asked = Asked(sessions, self.closed_by, NOTHING.accepted if around is None else around, splits)
        verdict = check(bars, asked, profile_of(self.asset_class, call.timeframe, uncertain=self.uncertain))
        if twin is not None:
            named = (f"{bars.tickers[0]} as {twin}",)
            verdict = Verdict(NOTHING.accepted, bars, ("same_series",) * len(bars), {}, {"same_series": named})
        return Outcome(call, verdict, tickers(call), sessions, "empty", None, rows, doubtful)

    def failed(self, call: Call, error: ClosingbellError) -> Outcome:
        """The outcome of a call that failed: only the cells it was made for are touched.

        An error that says the vendor has no such ticker is an answer, not a failure.
        """
        reason = error.reason or "failed"
        return Outcome(call, NOTHING, tickers(call), asked_sessions(call), reason, str(error))

    def not_tried(self, call: Call) -> Outcome:
        """The outcome of a call that was not made, because the run has to stop."""
        return Outcome(call, NOTHING, tickers(call), asked_sessions(call), "pending")

    def _answers_for(self, call: Call) -> Days:
        first, last = (call.session,) * 2 if isinstance(call, MarketDay) else (call.sessions[0], call.sessions[-1])
        low = np.searchsorted(self.calendar_sessions, np.datetime64(first, "D"), side="left")
        high = np.searchsorted(self.calendar_sessions, np.datetime64(last, "D"), side="right")
        return np.asarray(self.calendar_sessions[low:high])


def _of(bars: Bars, tickers: Collection[str]) -> NDArray[np.bool_]:
    """Which bars are of some tickers; shape (n,)."""
    wanted = np.array([ticker in tickers for ticker in bars.tickers], np.bool_)
    return wanted[bars.rows["ticker"]] if len(bars) else np.zeros(0, np.bool_)


def tickers(call: Call) -> tuple[str, ...]:
    """The tickers a call answers for."""
    return call.tickers if isinstance(call, MarketDay) else (call.ticker,)


def asked_sessions(call: Call) -> Days:
    """The sessions a call was made for; shape (k,), datetime64[D], ascending."""
    sessions: Sequence[object] = [call.session] if isinstance(call, MarketDay) else call.sessions
    return np.array(sessions, "M8[D]")
