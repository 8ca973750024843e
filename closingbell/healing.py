"""Which gaps are asked for again, and when: holes neither persist nor cost calls every night.

``pending``, ``failed`` and ``unpublished`` cells are asked for by the next run. An answer stands longer: a cell that
the vendor said is empty, that it does not let us have, or whose bar broke a rule is asked for again on a schedule
that slows down with each answer that says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final

from closingbell.cells import Gap, Ledger, Watermark

Cell = tuple[str, date]

#: Days until an answer is asked for again: after the first of its kind, the second, and so on; the last one repeats.
#: Vendors mend bad bars within days; a bar that was never there comes, if ever, with a later delivery of history.
AGAIN: Final[Mapping[str, tuple[int, ...]]] = {
    "quarantined": (1, 7, 30, 90, 365),
    "empty": (30, 90, 365),
    "unentitled": (30, 90, 365),
}

#: No cell was asked for more often.
MOST: Final = 2**31 - 1


def is_due(gap: Gap, now: datetime) -> bool:
    """Whether an answer has stood for long enough to be asked for again."""
    days = AGAIN.get(gap.reason)
    if days is None or gap.asked_at is None:
        return False
    return now - gap.asked_at >= timedelta(days=days[min(max(gap.attempts, 1), len(days)) - 1])


def due_by(now: datetime) -> list[tuple[str, int, int, datetime]]:
    """The same as a query has it: reason, fewest and most attempts, and the latest instant at which it was asked."""
    return [
        (reason, 0 if i == 0 else i + 1, MOST if i == len(days) - 1 else i + 1, now - timedelta(days=wait))
        for reason, days in AGAIN.items()
        for i, wait in enumerate(days)
    ]


def due(gaps: Iterable[Gap], now: datetime) -> list[Cell]:
    """The cells whose answer is to be asked for again by now."""
    return [(gap.ticker, gap.session) for gap in gaps if is_due(gap, now)]


@dataclass(frozen=True, slots=True)
class Damage:
    """Where bars and ledger contradict each other: somebody changed one of them behind the other's back.

    Attributes:
        lost: cells inside a watermark with neither a bar nor a gap.
        contradicted: cells with both, and the bar of the same vendor.
        orphans: tickers that lost their watermark, and what it spanned.
        unproven: cells whose bar is said to be in quarantine, and is not.
    """

    lost: tuple[Cell, ...] = ()
    contradicted: tuple[Cell, ...] = ()
    orphans: Mapping[str, Watermark] = field(default_factory=dict)
    unproven: tuple[Cell, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.lost or self.contradicted or self.orphans or self.unproven)

    @property
    def per_ticker(self) -> dict[str, int]:
        """How many cells are wrong, by ticker; a lost watermark counts as one."""
        found: dict[str, int] = dict.fromkeys(self.orphans, 1)
        for ticker, _ in (*self.lost, *self.contradicted, *self.unproven):
            found[ticker] = found.get(ticker, 0) + 1
        return dict(sorted(found.items()))

    def counts(self) -> dict[str, int]:
        """How much of each kind there is, without what there is none of."""
        kinds = {"lost": self.lost, "contradicted": self.contradicted, "unproven": self.unproven}
        counts = {name: len(cells) for name, cells in kinds.items() if cells}
        return {**counts, "watermarks": len(self.orphans)} if self.orphans else counts

    def __str__(self) -> str:
        words = (
            (len(self.lost), "cell", "with neither a bar nor a gap"),
            (len(self.contradicted), "cell", "with both"),
            (len(self.unproven), "cell", "in quarantine without their bar"),
            (len(self.orphans), "ticker", "without a watermark"),
        )
        return ", ".join(f"{n:,} {what}{'s' if n != 1 else ''} {how}" for n, what, how in words if n)

    def mended(self, ledger: Ledger) -> Ledger:
        """The ledger as it will be when this is mended: what is lost is ``pending``, what has a bar is no gap."""
        wrong = {*self.contradicted, *self.unproven}
        gaps = [gap for gap in ledger.gaps if (gap.ticker, gap.session) not in wrong]
        gaps += [Gap(ticker, session, "pending") for ticker, session in (*self.lost, *self.unproven)]
        return Ledger({**ledger.watermarks, **self.orphans}, gaps)
