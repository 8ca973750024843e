"""Calls that store no bars: dividends, what a ticker's instrument was called before, minutes to hold a day against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Literal, TypeAlias

from closingbell.healing import Cell

Kind: TypeAlias = Literal["dividends", "names", "minutes"]

#: Dividends a day in the whole market: an estimate, and no harm where it is wrong but to the plan's count of calls.
DIVIDENDS_A_DAY: Final = 150
_PAGE: Final = 1_000

#: Dividends are announced weeks ahead, and corrected: each look at the whole market goes back this far.
MARGIN: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Look:
    """One thing to look up.

    Attributes:
        kind: ``dividends``; ``names``: under which tickers the instrument has traded; ``minutes`` of one session, to
            hold its daily bar against.
        ticker: whose; None: the whole market's.
        first: the first day of a look at dividends, or the session.
        last: the last one, included.
        pages: how many calls it is expected to take.
    """

    kind: Kind
    ticker: str | None
    first: date
    last: date
    pages: int = 1

    def __str__(self) -> str:
        days = {"dividends": f" {self.first}..{self.last}", "minutes": f" {self.first}"}
        return f"{self.kind} of {self.ticker or 'the whole market'}{days.get(self.kind, '')}"


def plan(
    tickers: Sequence[str], kinds: Sequence[Kind], first: date, last: date, seen: tuple[date, date] | None
) -> tuple[Look, ...]:
    """The fewest calls that tell these facts: a call for each ticker, or the whole market's dividends at once.

    Args:
        tickers: whose facts.
        kinds: which.
        first: the first ex-date of interest.
        last: the last one.
        seen: the ex-dates for which the whole market's dividends are known.
    """
    looks: list[Look] = []
    if "dividends" in kinds:
        known = seen is not None and seen[0] <= first
        since = max(first, seen[1] - MARGIN) if seen is not None and known else first
        pages = 1 + ((last - since).days + 1) * DIVIDENDS_A_DAY // _PAGE
        if pages < len(tickers):
            looks.append(Look("dividends", None, since, last, pages))
        else:
            looks += (Look("dividends", ticker, first, last) for ticker in tickers)
    if "names" in kinds:
        looks += (Look("names", ticker, first, last) for ticker in tickers)
    return tuple(looks)


def at_minutes(cells: Iterable[Cell]) -> tuple[Look, ...]:
    """A look at the minutes of each of these cells."""
    return tuple(Look("minutes", ticker, session, session) for ticker, session in cells)
