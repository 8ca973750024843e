"""The morning after: whether the last session that should be there is, ticker by ticker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from closingbell.calendar import by_asset_class, calendar_for
from closingbell.cells import RETRYABLE
from closingbell.report import named
from closingbell.request import Request
from closingbell.store.records import Records


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of the sessions that should be published by now.

    Attributes:
        sessions: the last one of each asset class.
        expected: cells: each ticker's last session, of each timeframe.
        missing: tickers whose cell has no bar although another call may bring one, by the reason; ``not asked for``
            where the ledger knows nothing of it.
    """

    sessions: tuple[date, ...]
    expected: int
    missing: dict[str, tuple[str, ...]]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    def __str__(self) -> str:
        of = " and ".join(map(str, self.sessions))
        if self.complete:
            return f"the session of {of} is complete: {self.expected:,} cells accounted for"
        counts = Counter({reason: len(tickers) for reason, tickers in self.missing.items()})
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
        tickers = sorted({ticker for some in self.missing.values() for ticker in some})
        few = named(tickers)
        return f"the session of {of} is not complete: {counts.total():,} of {self.expected:,} cells ({reasons}): {few}"


def look(records: Records, source: str, tickers: Sequence[str], timeframes: Iterable[str], now: datetime) -> Found:
    """Hold the last session that is due of each ticker against the database.

    Args:
        records: reads the database.
        source: the vendor's name in the tables.
        tickers: each once.
        timeframes: of the bars.
        now: the present instant.
    """
    sessions: set[date] = set()
    missing: dict[str, list[str]] = {}
    expected = 0
    for name, some in by_asset_class(tickers).items():
        due = calendar_for(name).last_due(now)
        sessions.add(due)
        for timeframe in timeframes:
            asked = Request(tuple(some), due, due, source=source, timeframes=(timeframe,))
            found = records.reconcile(source, timeframe, [grid for _, grid in asked.grids(now)])
            expected += found.expected
            for ticker in found.unexplained:
                missing.setdefault("not asked for", []).append(ticker)
            if any(found.gaps.get(reason) for reason in RETRYABLE):
                wanted = set(some)
                for gap in records.gaps(source, timeframe, RETRYABLE):
                    if gap.session == due and gap.ticker in wanted:
                        missing.setdefault(gap.reason, []).append(gap.ticker)
    return Found(tuple(sorted(sessions)), expected, {reason: tuple(them) for reason, them in missing.items()})
