"""The vendor's reference data: splits, dividends, tickers, their events, and the market's status."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from infra.market import query, wire
from infra.market.hashing import ticker_hashes, uniform
from infra.market.hours import NEW_YORK, exchange, hours
from infra.market.market import Ask, Market
from infra.market.query import RefusedError
from infra.market.source import Listed
from infra.market.wire import Payload

#: Splits are announced this long before they happen.
_ANNOUNCED: Final = timedelta(days=14)

_COMPARE: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "": lambda a, b: a == b,
    ".gte": lambda a, b: a >= b,
    ".gt": lambda a, b: a > b,
    ".lte": lambda a, b: a <= b,
    ".lt": lambda a, b: a < b,
}


def splits(market: Market, ask: Ask) -> Payload:
    """``/v3/reference/splits``: past and announced ones, newest first unless asked otherwise."""
    horizon = str((market.clock.now() + _ANNOUNCED).date())
    rows = [
        {
            "id": split.id,
            "execution_date": split.execution_date,
            "split_from": split.split_from,
            "split_to": split.split_to,
            "ticker": split.ticker,
        }
        for split in market.source.splits(ask.params.get("ticker"))
        if split.execution_date <= horizon
    ]
    return _page(ask, rows, ("execution_date", "ticker"), ("ticker", "execution_date"), "execution_date", "desc")


def dividends(market: Market, ask: Ask) -> Payload:
    """``/v3/reference/dividends``: four a year for two thirds of the stocks; prices do not react to them."""
    ticker = ask.params.get("ticker")
    names = [ticker] if ticker else [item.ticker for item in market.source.listed("stocks")[:500]]
    hashes = ticker_hashes(names, 0)
    pays, amount = uniform(hashes, 90, np.array(0)), uniform(hashes, 90, np.array(1))
    year = market.clock.now().year
    rows = [
        {
            "id": f"E{ticker_hashes([f'{name}{day}'], 1).tobytes().hex()}",
            "cash_amount": round(0.05 + float(cash), 4),
            "currency": "USD",
            "declaration_date": str(day - 30),
            "dividend_type": "CD",
            "ex_dividend_date": str(day),
            "frequency": 4,
            "pay_date": str(day + 21),
            "record_date": str(day + 1),
            "ticker": name,
        }
        for name, pay, cash in zip(names, pays.tolist(), amount.tolist(), strict=True)
        if pay < 0.66
        for day in (np.datetime64(f"{y}-{m:02d}-15") for y in range(year - 10, year + 1) for m in (2, 5, 8, 11))
    ]
    return _page(ask, rows, ("ex_dividend_date", "ticker"), ("ticker", "ex_dividend_date"), "ex_dividend_date", "desc")


def tickers(market: Market, ask: Ask) -> Payload:
    """``/v3/reference/tickers``: those listed on ``date`` (today by default) with the ``active`` asked for."""
    day = str(query.calendar_day(ask.params.get("date", str(market.today("stocks"))), "date"))
    active = query.flag(ask.params, "active", True)
    wanted = ask.params.get("market")
    assets = [wanted] if wanted in ("stocks", "crypto", "fx") else [] if wanted else ["stocks", "crypto", "fx"]
    search = ask.params.get("search", "").lower()
    rows = [
        _described(item, day)
        for asset in assets
        for item in market.source.listed(asset)
        if (item.listed or "") <= day
        and ((item.delisted or "9999") > day) == active
        and search in f"{item.ticker} {_company(item)}".lower()
    ]
    return _page(ask, rows, ("ticker",), ("ticker", "type"), "ticker", "asc", usual=100, counted=True)


def ticker(market: Market, ask: Ask, name: str) -> Payload:
    """``/v3/reference/tickers/{name}``. Raises: RefusedError: 404, there is no such ticker."""
    found = _find(market, name)
    day = str(query.calendar_day(ask.params.get("date", str(market.today("stocks"))), "date"))
    row = _described(found, day) | {"list_date": found.listed or "1990-01-02"}
    return Payload({}, wire.quote(row), 1, {"status": "OK", "request_id": None})


def events(market: Market, ask: Ask, name: str) -> Payload:
    """``/vX/reference/tickers/{name}/events``. Raises: RefusedError: 404, there is no such ticker."""
    found = _find(market, name)
    event = {"ticker_change": {"ticker": name}, "type": "ticker_change", "date": found.listed or "2003-09-10"}
    row = {"name": _company(found), "composite_figi": _figi(name), "cik": _cik(name), "events": [event]}
    return Payload({}, wire.quote(row), 1, {"status": "OK", "request_id": None})


def upcoming(market: Market, ask: Ask) -> Payload:
    """``/v1/marketstatus/upcoming``: holidays and half days of the next year, as a bare array."""
    today = market.today("stocks")
    names = exchange().regular_holidays.holidays(str(today), str(today + 370), return_name=True)
    rows: list[dict[str, str]] = []
    for day in np.arange(today, today + 370):
        if not np.is_busday(day):
            continue
        at = hours("stocks").position(day)
        if at is None:
            row = {"name": str(names.get(str(day), "Market holiday")), "date": str(day), "status": "closed"}
        elif hours("stocks").closes[at] < hours("stocks").market_stamps[at]:
            opens, closes = (_iso(int(times[at])) for times in (hours("stocks").opens, hours("stocks").closes))
            row = {"name": "Early close", "date": str(day), "status": "early-close", "open": opens, "close": closes}
        else:
            continue
        rows += [{"exchange": place, **row} for place in ("NYSE", "NASDAQ")]
    return Payload(raw=wire.quote(rows).encode(), rows=len(rows))


def now(market: Market, ask: Ask) -> Payload:
    """``/v1/marketstatus/now``."""
    instant = market.clock.now()
    at = hours("stocks").position(market.today("stocks"))
    minute = instant.astimezone(NEW_YORK).hour * 60 + instant.astimezone(NEW_YORK).minute
    trading = at is not None and hours("stocks").opens[at] <= instant.timestamp() * 1000 < hours("stocks").closes[at]
    early = at is not None and 240 <= minute < 570
    after = at is not None and not trading and 570 <= minute < 1200
    state = "open" if trading else "extended-hours" if early or after else "closed"
    weekday = instant.weekday() < 5
    body = {
        "afterHours": after,
        "currencies": {"crypto": "open", "fx": "open" if weekday else "closed"},
        "earlyHours": early,
        "exchanges": dict.fromkeys(("nasdaq", "nyse", "otc"), state),
        "market": state,
        "serverTime": instant.astimezone(NEW_YORK).isoformat(timespec="seconds"),
    }
    return Payload(raw=wire.quote(body).encode(), rows=1)


def _page(
    ask: Ask,
    rows: Sequence[dict[str, Any]],
    filters: tuple[str, ...],
    sorts: tuple[str, ...],
    usual_sort: str,
    usual_order: str,
    *,
    usual: int = 10,
    counted: bool = False,
) -> Payload:
    """One page of filtered, sorted rows. The cursor holds the whole question and where the page ended."""
    for name in filters:
        for suffix, holds in _COMPARE.items():
            if (bound := ask.params.get(name + suffix)) is not None:
                if name.endswith("_date"):
                    query.calendar_day(bound, name + suffix)
                rows = [row for row in rows if holds(row[name], bound)]
    sort, order = ask.params.get("sort", usual_sort), ask.params.get("order", usual_order)
    if sort not in sorts or order not in ("asc", "desc"):
        raise RefusedError(400, f"The parameters 'sort' and 'order' must be one of {', '.join(sorts)}, and asc or desc")
    limit = query.count(ask.params, "limit", usual, 1000)

    def place(row: dict[str, Any]) -> str:
        return f"{row[sort]} {row['ticker']} {row.get('id', '')}"

    ordered = sorted(rows, key=place)
    if after := ask.params.get("ap"):
        cut = bisect_left(ordered, after, key=place)
        if order == "desc":
            ordered = ordered[:cut]
        else:
            ordered = ordered[cut + (cut < len(ordered) and place(ordered[cut]) == after) :]
    if order == "desc":
        ordered.reverse()
    page = ordered[:limit]
    tail: dict[str, Any] = {"status": "OK", "request_id": None}
    if counted:
        tail["count"] = len(page)
    if len(ordered) > limit:
        onward = {**ask.params, "limit": str(limit), "sort": sort, "order": order, "ap": place(page[-1])}
        tail["next_url"] = f"{ask.base_url}{ask.path}?cursor={query.cursor(onward)}"
    return Payload({}, wire.quote(page), len(page), tail)


def _find(market: Market, name: str) -> Listed:
    found = market.source.find(name)
    if found is None:
        raise RefusedError(404, "Ticker not found.")
    return found


def _described(item: Listed, day: str) -> dict[str, Any]:
    row: dict[str, Any] = {"ticker": item.ticker, "name": _company(item), "market": item.asset}
    row["locale"] = "us" if item.asset == "stocks" else "global"
    active = (item.delisted or "9999") > day
    if item.asset == "stocks":
        preferred = "p" in item.ticker
        row |= {"primary_exchange": "XNYS", "type": "PFD" if preferred else "CS", "active": active}
        row |= {"currency_name": "usd", "cik": _cik(item.ticker), "composite_figi": _figi(item.ticker)}
    else:
        row |= {"active": active, "currency_symbol": item.ticker[-3:], "currency_name": item.ticker[-3:]}
    if not active:
        row["delisted_utc"] = f"{item.delisted}T00:00:00Z"
    return row | {"last_updated_utc": f"{day}T00:00:00Z"}


def _company(item: Listed) -> str:
    return f"{item.ticker} Incorporated" if item.asset == "stocks" else item.ticker[2:5] + " - " + item.ticker[5:]


def _cik(name: str) -> str:
    return f"{int(ticker_hashes([name], 2)[0] % 10_000_000):010d}"


def _figi(name: str) -> str:
    return "BBG" + ticker_hashes([name], 3).tobytes().hex().upper()[:9]


def _iso(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
