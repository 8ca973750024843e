"""What must hold of an answer before its rows are believed; a breach is a failure, never an empty success.

Each check raises :class:`~closingbell.errors.MalformedResponseError` with a sentence of its own, which is the same for
every ticker, and the particulars in ``value``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from closingbell.errors import MalformedResponseError
from closingbell.sources.base import TickerChange
from closingbell.sources.polygon.question import Listing, is_ticker
from closingbell.sources.polygon.wire import BarsEnvelope, Envelope, Event, EventsBody, Instrument

#: ``DELAYED`` is what a plan with delayed data calls a good answer.
_GOOD: Final = ("OK", "DELAYED")

_FIGI: Final = re.compile(r"[A-Z0-9]{12}")
_CIK: Final = re.compile(r"0*([1-9][0-9]{0,9})")

Row = TypeVar("Row")


def status(body: Envelope, subject: str) -> None:
    """The answer calls itself good; a 200 may carry an error all the same."""
    if body.status not in _GOOD:
        said = body.error or body.message
        raise _malformed(
            "the answer's status is not OK", f"{subject}: {body.status!r}" + (f" ({said[:300]})" if said else "")
        )


def count(body: BarsEnvelope, rows: Sequence[object] | None, subject: str) -> None:
    """There are as many rows as the answer says; if none, it says so."""
    told, got = body.resultsCount, len(rows or ())
    if told is None:
        raise _malformed("the answer does not say how many rows it has", f"{subject}: {got:,} came")
    if told != got:
        raise _malformed("the answer has not the number of rows it says", f"{subject}: {got:,} came, {told:,} said")


def ticker(body: BarsEnvelope, asked: str, subject: str) -> None:
    """The answer is of the ticker asked, letter for letter: ``PEBpE`` and ``PEBPE`` are different shares."""
    if body.ticker != asked:
        raise _malformed("the answer is of another ticker", f"{subject}: {body.ticker!r}")


def order(ts: NDArray[np.datetime64], subject: str) -> None:
    """The bars ascend. Whole series have been seen twice in one body, end to end; that has a sentence of its own.

    A few bars that share an instant pass: the quality rule for duplicates judges those, at no other bar's cost.

    Args:
        ts: shape (n,), the vendor's instants.
        subject: what was asked.
    """
    half, odd = divmod(len(ts), 2)
    if half > 1 and not odd and (np.array_equal(ts[:half], ts[half:]) or np.array_equal(ts[::2], ts[1::2])):
        raise _malformed("the answer has its whole series twice", f"{subject}: {half:,} bars, each two times")
    falls = np.flatnonzero(ts[1:] < ts[:-1])
    if len(falls):
        at = int(falls[0])
        raise _malformed("the answer's bars are out of order", f"{subject}: {ts[at + 1]}Z comes after {ts[at]}Z")


def within(sessions: NDArray[np.datetime64], first: date, last: date, subject: str) -> None:
    """No bar is of a session that was not asked.

    Args:
        sessions: shape (n,), the bars' dates.
        first: the first date asked.
        last: the last date asked.
        subject: what was asked.
    """
    outside = sessions[(sessions < np.datetime64(first)) | (sessions > np.datetime64(last))]
    if len(outside):
        raise _malformed("the answer has bars outside of the range asked", f"{subject}: {outside[0]}")


def follows(ts: NDArray[np.datetime64], previous: np.datetime64 | None, subject: str) -> None:
    """A page starts after the last bar of the page before it."""
    if previous is not None and len(ts) and ts[0] <= previous:
        raise _malformed("a page goes back to bars of the page before", f"{subject}: {ts[0]}Z after {previous}Z")


def on_day(days: NDArray[np.datetime64], session: date, subject: str) -> None:
    """At least one row of a market day is of the day asked.

    A day on which every stamp is of another date is another day's answer. A single stale row is not reason enough to
    lose the market: it keeps its own date, and the quality rules judge it.

    Args:
        days: shape (n,), the rows' dates.
        session: the date asked.
        subject: what was asked.
    """
    if len(days) and not np.any(days == np.datetime64(session)):
        raise _malformed("the answer is of another day", f"{subject}: {days[0]}")


def tickers_once(tickers: Sequence[str], subject: str) -> None:
    """A market day is not there twice; a ticker that is, is left to the quality rules."""
    half, odd = divmod(len(tickers), 2)
    if half > 1 and not odd and (tickers[:half] == tickers[half:] or tickers[::2] == tickers[1::2]):
        raise _malformed("the answer has its whole market twice", f"{subject}: {half:,} tickers, each two times")


def listed(rows: list[Row] | None, listing: Listing) -> list[Row]:
    """An answer about splits or dividends has a list, be it an empty one."""
    if rows is None:
        raise _malformed(f"the answer has no list of {listing.facts}", str(listing))
    return rows


def asked(ticker: str, day: date, listing: Listing) -> None:
    """A split or a dividend is of the dates and of the ticker asked."""
    if not listing.covers(ticker, day):
        raise _malformed(f"the answer has {listing.facts} that were not asked for", f"{listing}: {ticker} {day}")


def instrument(body: EventsBody, subject: str) -> tuple[Instrument, str]:
    """An answer about a ticker's events says whose they are: the instrument, and its id.

    One without an id cannot be told from the next to use its ticker.
    """
    told = body.results
    if told is None:
        raise _malformed("the answer tells of no instrument", subject)
    if told.composite_figi and _FIGI.fullmatch(told.composite_figi):
        return told, f"FIGI:{told.composite_figi}"
    if told.cik and (number := _CIK.fullmatch(told.cik)):
        return told, f"CIK:{number[1]:0>10}"
    ids = f"{subject}: FIGI {told.composite_figi!r}, CIK {told.cik!r}"
    raise _malformed("the answer's instrument has no id", ids)


def changes(events: Sequence[Event], asked: str, subject: str) -> list[TickerChange]:
    """The changes of ticker among ``events``, by day; one of them is to the ticker asked.

    A day with two tickers is refused: nothing tells which of them came first.
    """
    found = set[TickerChange]()
    for event in events:
        if event.type == "ticker_change":
            if event.day is None or event.ticker_change is None:
                raise _malformed("the answer has a change of ticker without its day or its ticker", subject)
            if not is_ticker(event.ticker_change.ticker):
                name = repr(event.ticker_change.ticker[:60])
                raise _malformed("the answer has a change to what cannot be a ticker", f"{subject}: {name}")
            found.add(TickerChange(event.ticker_change.ticker, event.day))
    if not found:
        raise _malformed("the answer names no ticker of its instrument", subject)
    if asked not in {change.ticker for change in found}:
        raise _malformed("the answer is of another ticker", f"{subject}: {sorted({c.ticker for c in found})}")
    ordered = sorted(found, key=lambda change: change.day)
    for one, next_one in pairwise(ordered):
        if one.day == next_one.day:
            raise _malformed("the answer has two tickers from the same day on", f"{subject}: {one.day}")
    return ordered


def _malformed(what: str, value: str) -> MalformedResponseError:
    return MalformedResponseError(what, value=value, fix="Ask again; it is not counted as empty")
