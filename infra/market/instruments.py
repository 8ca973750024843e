"""Who traded under which ticker when: renames, and tickers that go from one instrument to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from closingbell.bars import Bars
from infra.market.listing import asset_of
from infra.market.source import Dividend, Listed, Source, Split

BEGINNING: Final = "0001-01-01"
END: Final = "9999-12-31"

_Range = Callable[[str, np.datetime64, np.datetime64], Bars]


@dataclass(frozen=True, slots=True)
class Tenure:
    """An instrument trades under ``ticker`` from ``first`` until the day before ``end``, ISO dates.

    Attributes:
        told: the date that the vendor's ticker events give for ``first``, if they give another one.
    """

    ticker: str
    first: str = BEGINNING
    end: str = END
    told: str | None = None

    @property
    def first_day(self) -> np.datetime64:
        """``first`` as numpy has it."""
        return np.datetime64(self.first, "D")

    @property
    def end_day(self) -> np.datetime64:
        """``end`` as numpy has it."""
        return np.datetime64(self.end, "D")

    def holds(self, day: str) -> bool:
        """Whether the day is one of it."""
        return self.first <= day < self.end


@dataclass(frozen=True, slots=True)
class Instrument:
    """One security, whatever it is called: its series of bars, its names, its tickers in order of time."""

    figi: str
    cik: str
    name: str
    series: str
    tenures: tuple[Tenure, ...]


class Instruments:
    """A source in which some tickers are held by scripted instruments, and by nobody else.

    A ticker that no instrument was ever scripted to hold is as it was: an instrument of its own, whose key is
    the ticker. A scripted instrument's key is its FIGI.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[str, Instrument] = {}
        self._held: dict[str, list[tuple[Tenure, Instrument]]] = {}

    def put(self, instrument: Instrument) -> None:
        """Script an instrument, in place of the one with its FIGI if there is one.

        Raises:
            ValueError: its tenures overlap, or another instrument holds one of its tickers meanwhile.
        """
        known = {**self._known, instrument.figi: instrument}
        held: dict[str, list[tuple[Tenure, Instrument]]] = {}
        for one in known.values():
            if not one.tenures or any(t.first >= t.end for t in one.tenures):
                raise ValueError("an instrument needs tenures, and each needs a day")
            if any(before.end > after.first for before, after in pairwise(one.tenures)):
                raise ValueError("an instrument's tenures must be in order of time, and one at a time")
            for tenure in one.tenures:
                held.setdefault(tenure.ticker, []).append((tenure, one))
        for ticker, holders in held.items():
            if asset_of(ticker) != "stocks" and self._source.find(ticker) is None:
                raise ValueError(f"{ticker!r} is not a stock's ticker")
            holders.sort(key=lambda holder: holder[0].first)
            for (before, _), (after, _) in pairwise(holders):
                if before.end > after.first:
                    raise ValueError(f"{ticker} is held twice on {after.first}")
        self._known, self._held = known, held

    def clear(self) -> None:
        """Forget every scripted instrument."""
        self._known, self._held = {}, {}

    def with_figi(self, figi: str) -> Instrument | None:
        """The scripted instrument of that FIGI, if there is one."""
        return self._known.get(figi)

    def instrument(self, ticker: str, day: str) -> Instrument | None:
        """Who holds the scripted ticker on a day, or held it last; None before anyone did."""
        begun = [one for tenure, one in self._held.get(ticker, ()) if tenure.first <= day]
        return begun[-1] if begun else None

    def scripted(self, ticker: str) -> bool:
        """Whether the ticker is held by scripted instruments only."""
        return ticker in self._held

    def holder(self, ticker: str, day: str) -> str:
        """The key of who holds the ticker on a day; the ticker itself when nobody scripted does."""
        return next((one.figi for tenure, one in self._held.get(ticker, ()) if tenure.holds(day)), ticker)

    def tenures(self, key: str) -> tuple[Tenure, ...]:
        """The tickers of the instrument with that key, oldest first."""
        return self._known[key].tenures if key in self._known else () if key in self._held else (Tenure(key),)

    def positions(self, tickers: Sequence[str], day: str) -> dict[str, int]:
        """The position of each instrument's ticker of the day."""
        out = {ticker: at for at, ticker in enumerate(tickers)}
        for ticker in self._held.keys() & out.keys():
            at = out.pop(ticker)
            if (key := self.holder(ticker, day)) != ticker:
                out[key] = at
        return out

    def related(self, ticker: str) -> set[str]:
        """The ticker, and every other one of the instruments that have ever held it."""
        return {ticker, *(tenure.ticker for _, one in self._held.get(ticker, ()) for tenure in one.tenures)}

    def began(self, one: Instrument, tenure: Tenure) -> str | None:
        """The date of a tenure's first bar; None when it has always been."""
        life = self._source.find(one.series) if tenure.first == BEGINNING else None
        return (life.listed if life else None) if tenure.first == BEGINNING else tenure.first

    @property
    def name(self) -> str:
        return self._source.name

    def days(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        return self._spliced(self._source.days, ticker, first, last)

    def minutes(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        return self._spliced(self._source.minutes, ticker, first, last)

    def market_day(self, asset: str, session: np.datetime64) -> Bars:
        bars = self._source.market_day(asset, session)
        if asset != "stocks" or not self._held:
            return bars
        gone = [at for at, ticker in enumerate(bars.tickers) if ticker in self._held]
        rest = Bars(bars.tickers, bars.rows[~np.isin(bars.rows["ticker"], gone)])
        now = [self.days(ticker, session, session) for ticker in sorted(self._held)]
        return Bars.concat([rest, *(one for one in now if len(one))])

    def splits(self, ticker: str | None = None) -> Sequence[Split]:
        if ticker is None:
            own = [split for split in self._source.splits() if split.ticker not in self._held]
            return sorted([*own, *(split for name in self._held for split in self.splits(name))]) if self._held else own
        if ticker not in self._held:
            return self._source.splits(ticker)
        return [
            replace(split, ticker=ticker)
            for tenure, one in self._held[ticker]
            for split in self._source.splits(one.series)
            if tenure.holds(split.execution_date)
        ]

    def dividends(self, ticker: str | None, first: np.datetime64, last: np.datetime64) -> Sequence[Dividend]:
        if ticker is None:
            own = [paid for paid in self._source.dividends(None, first, last) if paid.ticker not in self._held]
            return [*own, *(paid for name in self._held for paid in self.dividends(name, first, last))]
        if ticker not in self._held:
            return self._source.dividends(ticker, first, last)
        return [
            replace(paid, ticker=ticker)
            for tenure, one in self._held[ticker]
            for paid in self._source.dividends(one.series, first, last)
            if tenure.holds(paid.ex_date)
        ]

    def listed(self, asset: str) -> Sequence[Listed]:
        rest = self._source.listed(asset)
        if asset != "stocks" or not self._held:
            return rest
        return [*(item for item in rest if item.ticker not in self._held), *self._listings(self._held)]

    def find(self, ticker: str, day: str = END) -> Listed | None:
        """As a source's; of a scripted ticker, who holds it on ``day`` or held it last."""
        if ticker not in self._held:
            return self._source.find(ticker)
        begun = [item for item in self._listings([ticker]) if (item.listed or BEGINNING) <= day]
        return begun[-1] if begun else None

    def series_of(self, figi: str, tickers: Sequence[str]) -> str:
        return self._source.series_of(figi, tickers)

    def _spliced(self, bars: _Range, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        """The bars of whoever held the ticker, one after the other."""
        if ticker not in self._held:
            return bars(ticker, first, last)
        parts = [bars("", last, first)]  # none, but of the right timeframe
        for tenure, one in self._held[ticker]:
            since, until = max(first, tenure.first_day), min(last, tenure.end_day - np.timedelta64(1, "D"))
            if since <= until:
                parts.append(bars(one.series, since, until))
        return Bars((ticker,), np.concatenate([part.rows for part in parts]), parts[0].timeframe)

    def _listings(self, tickers: Iterable[str]) -> list[Listed]:
        out = []
        for ticker in tickers:
            for tenure, one in self._held[ticker]:
                life = self._source.find(one.series)
                listed = self.began(one, tenure)
                delisted = (life.delisted if life else None) if tenure.end == END else tenure.end
                out.append(Listed(ticker, "stocks", listed, delisted, one.figi, one.cik, one.name))
        return out
