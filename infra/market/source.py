"""What the stand-in needs from a place that has bars: a small interface, two implementations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np

from closingbell.bars import Bars


@dataclass(frozen=True, slots=True, order=True)
class Split:
    """``split_to`` shares replace ``split_from`` at the open of ``execution_date``."""

    execution_date: str
    ticker: str
    split_from: float
    split_to: float
    copy: int = 0

    @property
    def id(self) -> str:
        """The vendor's kind of identifier; a repeated row has another one."""
        return _identifier(self.ticker, self.execution_date, self.split_from, self.split_to, self.copy)

    @property
    def ratio(self) -> float:
        """What one share becomes: earlier prices are divided by it, earlier volumes multiplied."""
        return self.split_to / self.split_from


@dataclass(frozen=True, slots=True, order=True)
class Dividend:
    """Who holds a share at the close before ``ex_date`` is paid ``cash_amount`` for it; dates are ISO."""

    ex_date: str
    ticker: str
    cash_amount: float
    declared: str
    record_date: str
    pay_date: str
    kind: str = "CD"
    currency: str = "USD"
    frequency: int = 4
    copy: int = 0

    @property
    def id(self) -> str:
        """The vendor's kind of identifier."""
        return _identifier(self.ticker, self.ex_date, self.cash_amount, self.kind, self.copy)


@dataclass(frozen=True, slots=True)
class Listed:
    """A ticker of the reference list, as one instrument holds it.

    Attributes:
        listed, delisted: the first day, and the first one after the last; ISO, None where unknown or still listed.
        figi, cik, name: who holds it; None for what is made up from the ticker.
    """

    ticker: str
    asset: str
    listed: str | None = None
    delisted: str | None = None
    figi: str | None = None
    cik: str | None = None
    name: str | None = None


class Source(Protocol):
    """Raw (unadjusted) bars by ticker or by day. Every block's rows ascend in time within a ticker.

    ``ts`` of a daily bar is not looked at: the wire stamps it from its session.
    """

    @property
    def name(self) -> str:
        """What it is, for people."""

    def days(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        """The ticker's daily bars of the sessions from ``first`` to ``last``, both included."""

    def minutes(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        """The ticker's minute bars of those sessions; ``ts`` is the minute's start in UTC."""

    def market_day(self, asset: str, session: np.datetime64) -> Bars:
        """The daily bars of every listed ticker of one asset class on one day."""

    def splits(self, ticker: str | None = None) -> Sequence[Split]:
        """The splits of one ticker, or of every listed one, ascending by date; past and announced."""

    def dividends(self, ticker: str | None, first: np.datetime64, last: np.datetime64) -> Sequence[Dividend]:
        """The dividends of one ticker, or of every listed one, with an ex-date from ``first`` to ``last``."""

    def listed(self, asset: str) -> Sequence[Listed]:
        """The listed tickers of one asset class."""

    def find(self, ticker: str) -> Listed | None:
        """What the reference data say of a ticker, or None when it is unknown."""

    def series_of(self, figi: str, tickers: Sequence[str]) -> str:
        """What to ask for to get the bars of a scripted instrument that is not said to have another's."""


def _identifier(*parts: object) -> str:
    return "E" + blake2b("|".join(map(str, parts)).encode(), digest_size=32).hexdigest()
