"""The vendor's lists of splits and dividends."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from infra.market import paging, query
from infra.market.hours import FIRST_DAY
from infra.market.market import Ask, Market
from infra.market.source import Dividend
from infra.market.wire import Payload

#: Dividends are announced up to this long ahead.
_AHEAD: Final = 120
#: So many days of everyone's dividends are put together at a time.
_STRIDE: Final = 92

_FILTERS: Final = (
    "ticker",
    "ex_dividend_date",
    "record_date",
    "declaration_date",
    "pay_date",
    "cash_amount",
    "dividend_type",
)
_SORTS: Final = ("ticker", "ex_dividend_date", "record_date", "declaration_date", "pay_date", "cash_amount")


def splits(market: Market, ask: Ask) -> Payload:
    """``/v3/reference/splits``: past and announced ones, newest first unless asked otherwise."""
    rows: list[dict[str, Any]] = [
        {
            "id": split.id,
            "execution_date": split.execution_date,
            "split_from": _shares(split.split_from),
            "split_to": _shares(split.split_to),
            "ticker": split.ticker,
        }
        for split in market.source.splits(ask.params.get("ticker"), market.clock.now())
    ]
    kept = paging.chosen(ask, rows, ("execution_date", "ticker"))
    return paging.page(ask, kept, ("ticker", "execution_date"), "execution_date", "desc")


def dividends(market: Market, ask: Ask) -> Payload:
    """``/v3/reference/dividends``: past and announced ones, newest first unless asked otherwise."""
    sort, order = paging.ordering(ask, _SORTS, "ex_dividend_date", "desc")
    limit = query.count(ask.params, "limit", paging.USUAL, paging.MOST)
    ticker = ask.params.get("ticker")
    low, high = _ex_dates(market, ask)
    # Everyone's dividends are put together from the page's end of time on, and no further than the page reaches.
    stride = high - low if ticker or sort != "ex_dividend_date" else np.timedelta64(_STRIDE, "D")
    reached = ask.params.get("ap", "").split(" ")[0] if sort == "ex_dividend_date" else ""
    if reached:
        at = np.datetime64(reached, "D")
        low, high = (low, min(high, at)) if order == "desc" else (max(low, at), high)
    rows: list[dict[str, Any]] = []
    while low <= high and sum(row["ex_dividend_date"] != reached for row in rows) <= limit:
        if order == "desc":
            first, last = max(low, high - stride), high
            high = first - np.timedelta64(1, "D")
        else:
            first, last = low, min(high, low + stride)
            low = last + np.timedelta64(1, "D")
        listed = market.source.dividends(ticker, first, last, market.clock.now())
        rows += paging.chosen(ask, [_dividend(paid) for paid in listed], _FILTERS)
    return paging.page(ask, rows, _SORTS, "ex_dividend_date", "desc")


def _ex_dates(market: Market, ask: Ask) -> tuple[np.datetime64, np.datetime64]:
    """The ex-dates that a request for dividends can mean, both included."""
    low, high = FIRST_DAY, market.today("stocks") + np.timedelta64(_AHEAD, "D")
    for suffix in ("", ".gte", ".gt", ".lte", ".lt"):
        if (text := ask.params.get(f"ex_dividend_date{suffix}")) is not None:
            day = query.calendar_day(text, f"ex_dividend_date{suffix}")
            low = low if suffix.startswith(".l") else max(low, day)
            high = high if suffix.startswith(".g") else min(high, day)
    return low, high


def _shares(number: float) -> float:
    """Whole numbers without a point, as the vendor writes them."""
    return int(number) if number == int(number) else number


def _dividend(paid: Dividend) -> dict[str, Any]:
    return {
        "id": paid.id,
        "cash_amount": paid.cash_amount,
        "currency": paid.currency,
        "declaration_date": paid.declared,
        "dividend_type": paid.kind,
        "ex_dividend_date": paid.ex_date,
        "frequency": paid.frequency,
        "pay_date": paid.pay_date,
        "record_date": paid.record_date,
        "ticker": paid.ticker,
    }
