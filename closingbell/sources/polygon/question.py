"""What may be asked; refused before a call is spent on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from closingbell.errors import UnknownTickerError

#: The letters of every kind of symbol that the vendor lists, e.g. ``BRK.B``, ``PEBpE``, ``X:BTCUSD``.
_TICKER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_+\-]{0,39}")


@dataclass(frozen=True, slots=True)
class Listing:
    """A question for a list of dated facts about shares.

    Attributes:
        facts: ``splits`` or ``dividends``.
        since: the first date wanted.
        until: the last one; None for all that is announced.
        ticker: as the vendor writes it; None for every one.

    Raises:
        TypeError: an instant was given for a date.
        ValueError: the dates are the wrong way round.
        UnknownTickerError: it cannot be a ticker.
    """

    facts: str
    since: date
    until: date | None = None
    ticker: str | None = None

    def __post_init__(self) -> None:
        check_dates(self.since, self.until or self.since)
        if self.ticker is not None:
            check_ticker(self.ticker)

    def __str__(self) -> str:
        return f"{self.facts} {f'{self.ticker} ' if self.ticker else ''}since {self.since}"

    def covers(self, ticker: str, day: date) -> bool:
        """Whether a fact of that ticker and date was asked for."""
        return self.since <= day and (self.until is None or day <= self.until) and self.ticker in (None, ticker)


def check_dates(first: date, last: date) -> None:
    """Sessions are dates, in order."""
    for day in (first, last):
        if isinstance(day, datetime) or not isinstance(day, date):
            raise TypeError(f"a session is a date, not {day!r}")
    if last < first:
        raise ValueError(f"the last session {last} is before the first, {first}")


def is_ticker(text: str) -> bool:
    """Whether it could be a symbol of the vendor's."""
    return _TICKER.fullmatch(text) is not None


def check_ticker(ticker: str) -> None:
    """Let nothing into a URL's path that could make it another path."""
    if not is_ticker(ticker):
        raise UnknownTickerError(
            "this cannot be a ticker", value=repr(ticker[:60]), fix="Write it as the vendor does, such as BRK.B"
        )
