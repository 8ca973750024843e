"""What a call's bars are judged by besides themselves: stored neighbours, known splits, other tickers' bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final

import numpy as np

from closingbell.bars import Bars
from closingbell.calendar import asset_class
from closingbell.intraday import is_intraday
from closingbell.outcome import tickers
from closingbell.plan import Call, FlatFile, MarketDay
from closingbell.scale import SHARED_BY_TWO
from closingbell.sources.base import Split
from closingbell.store import Store
from closingbell.twins import Sight, Twins, sight, telling

#: Stored bars this far before and after a block are its neighbours: about ten sessions; and of intraday bars, which are
#: many, the next ones over a long weekend.
NEAR: Final = timedelta(days=15)
NEAR_INTRADAY: Final = timedelta(days=4)

#: With more market days than this, a run's stored bars are too few and too scattered to judge by while it goes on:
#: they are swept when all have come.
FEW: Final = 10

#: So many bars of a new ticker are looked for under the others.
_PROBES: Final = 3


def known_splits(store: Store, source: str, tickers: Iterable[str]) -> dict[str, list[Split]]:
    """The splits of these tickers that a vendor is known to have told of, by ticker."""
    splits: dict[str, list[Split]] = {}
    for split in store.facts.splits(source, tickers):
        splits.setdefault(split.ticker, []).append(split)
    return splits


def _alone(call: Call, market_days: int) -> bool:
    """Whether a call's bars are judged without those beside them: too many tickers, or too scattered ones."""
    return isinstance(call, FlatFile) or (isinstance(call, MarketDay) and market_days > FEW)


@dataclass(slots=True)
class Context:
    """The neighbourhood of a run's bars; safe to use from several threads.

    Attributes:
        store: where stored bars are.
        source: the vendor of the run; another one's bars are no measure for its own.
        timeframe: of the run's bars.
        known: tickers that had bars before the run.
        splits: the known splits of each ticker.
        market_days: how many the run's plan has.
        twins: the ranges that came so far.
        copied: tickers whose bars came under another one as well.
        shared: pairs of tickers for which the same bars came in two processes, neither of which knew.
        sights: where other processes fetch for the same run: what they are to be told of the ranges that came here.
        names: the known ones in order.
    """

    store: Store
    source: str
    timeframe: str
    known: frozenset[str]
    splits: Mapping[str, Sequence[Split]]
    market_days: int
    twins: Twins = field(default_factory=Twins)
    copied: set[str] = field(default_factory=set)
    shared: set[tuple[str, str]] = field(default_factory=set)
    sights: list[Sight] | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.names = tuple(sorted(self.known))

    def around(self, call: Call, bars: Bars) -> Bars:
        """Stored bars beside and between those of a block; none where nothing can be stored yet."""
        names = [ticker for ticker in tickers(call) if ticker in self.known]
        if not len(bars) or not names or _alone(call, self.market_days):
            return Bars((), timeframe=self.timeframe)
        first: date = bars.rows["session"].min().item()
        last: date = bars.rows["session"].max().item()
        near = NEAR_INTRADAY if is_intraday(self.timeframe) else NEAR
        return self.store.records.series(self.source, self.timeframe, names, first - near, last + near)

    def splits_of(self, call: Call) -> list[Split]:
        """The known splits of a call's tickers."""
        return [split for ticker in tickers(call) for split in self.splits.get(ticker, ())]

    def twin(self, call: Call, bars: Bars) -> str | None:
        """Another ticker that the bars of a range belong to just as well; market days are compared in themselves."""
        if isinstance(call, MarketDay) or asset_class(call.ticker) == "futures":
            return None  # NQ.v.0 and NQ.c.0 are one contract for weeks
        seen = sight(call.ticker, bars)
        if self.sights is not None:
            self.sights.append(seen)
        other = self.twins.meet(seen)
        if other is not None:
            # Nothing tells which of the two it belongs to: what came first in this run is taken out at its end.
            self.copied.add(other)
            return other
        if not self.known or self.known == {call.ticker}:
            return None
        rows = telling(bars)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(_PROBES, len(rows))).astype(np.intp))]
        if not len(rows) or (len(rows) == 1 and rows["volume"][0] < SHARED_BY_TWO):
            return None
        return self.store.records.owner(self.timeframe, self.names, call.ticker, rows, min(2, len(rows)))

    def told(self) -> dict[str, Any]:
        """What another process has to know to judge the run's bars as this one does: a context's first arguments."""
        return {name: getattr(self, name) for name in ("source", "timeframe", "known", "splits", "market_days")}

    def meet(self, sights: Iterable[Sight]) -> None:
        """Hold the ranges that came in other processes against each other: each knew but its own."""
        for seen in sights:
            other = self.twins.meet(seen)
            if other is not None:
                self.copied.update((other, seen.ticker))
                self.shared.add((other, seen.ticker))
