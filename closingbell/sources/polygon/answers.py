"""An answer's bytes in, checked values out; pure, so that it needs no server to be tested."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars
from closingbell.calendar import AssetClass, asset_class, calendar_for
from closingbell.sources.base import Dividend, Identity, MarketDayPage, Split, TickerChange
from closingbell.sources.polygon import checks
from closingbell.sources.polygon.question import Listing, is_ticker
from closingbell.sources.polygon.wire import (
    DividendsBody,
    EventsBody,
    MarketDayBody,
    RangeBody,
    SplitsBody,
    columns,
    decode,
)
from closingbell.text import visible

_log = logging.getLogger(__name__)

#: Characters of a name or an id that are kept.
_LONGEST: Final = 200


def bars_of_range(
    data: bytes, ticker: str, first: date, last: date, timeframe: str, previous: np.datetime64 | None, subject: str
) -> tuple[Bars, str | None]:
    """One page of one ticker's bars, and the address of the next page if there is one.

    Args:
        data: the body.
        ticker: the one asked.
        first: the first session asked.
        last: the last session asked.
        timeframe: one of :data:`~closingbell.bars.TIMEFRAMES`.
        previous: the ``ts`` of the last bar of the page before, if there was one.
        subject: what was asked, for the errors' texts.

    Raises:
        MalformedResponseError: one of :mod:`~closingbell.sources.polygon.checks` fails.
    """
    body = decode(data, RangeBody, subject)
    checks.status(body, subject)
    checks.ticker(body, ticker, subject)
    checks.count(body, body.results, subject)
    kind = asset_class(ticker)
    _warn_if_adjusted(body, kind, subject)
    rows = columns(body.results or ())
    checks.order(rows["ts"], subject)
    rows["session"] = calendar_for(kind).session_of(rows["ts"])
    checks.within(rows["session"], first, last, subject)
    if timeframe == "1d":
        _open_at_the_bell(rows, kind)
    checks.follows(rows["ts"], previous, subject)
    return Bars((ticker,), rows, timeframe), body.next_url


def market_day(data: bytes, session: date, kind: AssetClass, wanted: Collection[str], subject: str) -> MarketDayPage:
    """One session of a market, restricted to ``wanted``; the vendor's order and any duplicates are kept.

    A row is keyed by the date asked when its stamp (the close, 16:00 New York) is on that date, as it should be.

    Raises:
        MalformedResponseError: one of :mod:`~closingbell.sources.polygon.checks` fails.
    """
    body = decode(data, MarketDayBody, subject)
    checks.status(body, subject)
    checks.count(body, body.results, subject)
    _warn_if_adjusted(body, kind, subject)
    results = body.results or []
    checks.tickers_once([row.T for row in results], subject)
    stamps = np.array([row.t for row in results], np.float64).astype(np.int64).astype("M8[ms]")
    checks.on_day(calendar_for(kind).session_of(stamps), session, subject)
    chosen = [row for row in results if row.T in wanted]
    number: dict[str, int] = {}
    positions = [number.setdefault(row.T, len(number)) for row in chosen]
    rows = columns(chosen)
    rows["ticker"] = positions
    rows["session"] = calendar_for(kind).session_of(rows["ts"])
    _open_at_the_bell(rows, kind)
    return MarketDayPage(session, Bars(tuple(number), rows), len(results), len(results) - len(chosen))


def splits(data: bytes, listing: Listing) -> tuple[list[Split], str | None]:
    """One page of splits, and the address of the next page if there is one.

    Raises:
        MalformedResponseError: the status is not good, there is no list, or an entry was not asked for.
    """
    body = decode(data, SplitsBody, str(listing))
    checks.status(body, str(listing))
    rows = checks.listed(body.results, listing)
    for row in rows:
        checks.asked(row.ticker, row.execution_date, listing)
    kept = [row for row in rows if is_ticker(row.ticker) and _possible(row.split_from / row.split_to)]
    _say_left_out(len(kept), len(rows), listing)
    return [Split(r.ticker, r.execution_date, r.split_from, r.split_to, _word(r.id)) for r in kept], body.next_url


def dividends(data: bytes, listing: Listing) -> tuple[list[Dividend], str | None]:
    """One page of dividends, and the address of the next page if there is one.

    Raises:
        MalformedResponseError: as for :func:`splits`; an entry without an ex-date, or of less than nothing, is none.
    """
    body = decode(data, DividendsBody, str(listing))
    checks.status(body, str(listing))
    rows = checks.listed(body.results, listing)
    for row in rows:
        checks.asked(row.ticker, row.ex_dividend_date, listing)
    # What pays nothing changes no price.
    kept = [row for row in rows if is_ticker(row.ticker) and _possible(row.cash_amount)]
    _say_left_out(len(kept), len(rows), listing)
    found = [
        Dividend(
            row.ticker,
            row.ex_dividend_date,
            row.cash_amount,
            _word(row.currency) or "USD",
            _word(row.dividend_type) or "CD",
            row.pay_date,
            _word(row.id),
        )
        for row in kept
    ]
    return found, body.next_url


def identity(data: bytes, ticker: str, subject: str) -> Identity:
    """The instrument that trades under ``ticker``, with every ticker that it has had.

    Raises:
        MalformedResponseError: the status is not good, the instrument has no id, its tickers are not dated one after
            the other, or the one asked is not among them.
    """
    body = decode(data, EventsBody, subject)
    checks.status(body, subject)
    told, instrument_id = checks.instrument(body, subject)
    changes: list[TickerChange] = []
    for change in checks.changes(told.events, ticker, subject):
        if not changes or changes[-1].ticker != change.ticker:
            changes.append(change)
    return Identity(instrument_id, _word(told.name) or "", tuple(changes))


def _possible(amount: float) -> bool:
    """Whether a ratio of shares, or an amount paid, can be one: others would overflow in what is computed from it."""
    return 1e-9 < amount < 1e9


def _say_left_out(kept: int, came: int, listing: Listing) -> None:
    """What cannot be is left out one by one: to refuse the page for it would cost every other ticker its facts."""
    if kept < came:
        _log.warning("Left out %d of the %d %s of an answer to %s.", came - kept, came, listing.facts, listing)


def _word(text: str | None) -> str | None:
    """A name or an id as it may be stored and shown: a database refuses a NUL, a terminal obeys an escape."""
    return None if text is None else visible(text)[:_LONGEST]


def _open_at_the_bell(rows: NDArray[np.void], kind: AssetClass) -> None:
    """Let daily bars open with their session; one on a day that is no session keeps the vendor's instant."""
    calendar = calendar_for(kind)
    known = calendar.is_session(rows["session"])
    ts = rows["ts"]
    ts[known] = calendar.opens(rows["session"][known])


def _warn_if_adjusted(body: RangeBody | MarketDayBody, kind: AssetClass, subject: str) -> None:
    """We ask for raw prices always; only stocks split."""
    if body.adjusted and body.results and kind == "stocks":
        _log.warning("The vendor calls the prices of %s adjusted, though raw ones were asked for.", subject)
