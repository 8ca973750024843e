"""What every source offers, and the plain values that it hands on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from closingbell.bars import Bars


@dataclass(frozen=True, slots=True)
class Page:
    """One call's worth of one ticker's bars.

    Attributes:
        bars: the page's bars, ascending by ``ts``; empty when the vendor has none, and says so.
        rows: rows read.
        next: where the next page is (a path with its query, never a host); None on the last page.
    """

    bars: Bars
    rows: int
    next: str | None = None


@dataclass(frozen=True, slots=True)
class MarketDayPage:
    """One session of a whole market, restricted to the tickers wanted.

    Attributes:
        session: the date asked.
        bars: daily bars of the wanted tickers, in the vendor's order; a ticker that came twice is there twice.
        rows: rows read, of whatever ticker.
        ignored: rows of tickers that nobody asked for.
    """

    session: date
    bars: Bars
    rows: int
    ignored: int


@dataclass(frozen=True, slots=True)
class Split:
    """A stock split: on and after ``execution_date``, ``split_from`` old shares are ``split_to`` new ones.

    Attributes:
        ticker: as the vendor writes it.
        execution_date: the first session in the new scale.
        split_from: shares before, greater than 0; not always whole.
        split_to: shares after, greater than 0; not always whole.
        id: the vendor's identifier, if it sent one.
    """

    ticker: str
    execution_date: date
    split_from: float
    split_to: float
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Dividend:
    """A cash dividend: who holds a share at the close before ``ex_date`` gets ``cash_amount`` for it.

    Attributes:
        ticker: as the vendor writes it.
        ex_date: the first session without the right to it.
        cash_amount: for one share of that day's scale, not adjusted for later splits, greater than 0.
        currency: of the amount, such as ``USD``.
        kind: the vendor's word: ``CD`` regular cash, ``SC`` special, ``LT`` and ``ST`` capital gains.
        pay_date: when it is paid, if told.
        id: the vendor's identifier; a company may pay several on one day.
    """

    ticker: str
    ex_date: date
    cash_amount: float
    currency: str = "USD"
    kind: str = "CD"
    pay_date: date | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class TickerChange:
    """From ``day`` on, the instrument trades under ``ticker``, until its next change."""

    ticker: str
    day: date


@dataclass(frozen=True, slots=True)
class Identity:
    """Who trades under a ticker, and what it was called before.

    Attributes:
        instrument_id: stable over renames: ``FIGI:BBG000MM2P62`` with the composite FIGI, else ``CIK:0001326801`` with
            the company's SEC number, 10 digits, which all of its share classes have in common.
        name: the company's or fund's; empty if not told.
        changes: its tickers, oldest first, each once a period, no two from one day on; the last one is today's.
    """

    instrument_id: str
    name: str
    changes: tuple[TickerChange, ...]


class Source(Protocol):
    """A vendor of bars.

    All methods may be used from many threads at once. Every one of them raises the errors of
    :mod:`closingbell.errors` and no others for what the vendor or the network does.
    """

    name: str

    def range(self, ticker: str, first: date, last: date, timeframe: str = "1d") -> Iterator[Page]:
        """The bars of one ticker from session ``first`` to session ``last``, both included; each page is one call."""

    def fetch_range(self, ticker: str, first: date, last: date, timeframe: str = "1d") -> Bars:
        """All pages of :meth:`range` in one block; all of them or an error."""

    def market_day(
        self, session: date, asset_class: str = "stocks", wanted: Collection[str] = frozenset()
    ) -> MarketDayPage:
        """The daily bars of ``wanted`` tickers on one session; one call, however many tickers."""

    def splits(self, since: date, until: date | None = None, ticker: str | None = None) -> list[Split]:
        """The splits executed from ``since`` to ``until``, both included."""

    def dividends(self, since: date, until: date | None = None, ticker: str | None = None) -> list[Dividend]:
        """The cash dividends whose ex-date is from ``since`` to ``until``, both included."""

    def identity(self, ticker: str) -> Identity:
        """Who trades under the ticker now, or did last, under which tickers and since when; one call."""

    @property
    def calls(self) -> Mapping[str, int]:
        """HTTP attempts so far, by kind of call."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds so far, summed over threads: ``waiting`` for the quota, in the ``api``, ``decoding``."""
