"""Who trades under a ticker: names, FIGI and CIK numbers, the list of tickers, and their changes."""

from __future__ import annotations

from typing import Any, Final

from infra.market import paging, query, wire
from infra.market.hashing import ticker_hashes
from infra.market.market import Ask, Market
from infra.market.query import RefusedError
from infra.market.source import Listed
from infra.market.wire import Payload

#: The date of the first ticker of what has always been listed.
_FIRST: Final = "2003-09-10"


def tickers(market: Market, ask: Ask) -> Payload:
    """``/v3/reference/tickers``: those listed on ``date`` (today by default) with the ``active`` asked for."""
    day = _day(market, ask)
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
        and search in f"{item.ticker} {company_of(item)}".lower()
    ]
    kept = paging.chosen(ask, rows, ("ticker",))
    return paging.page(ask, kept, ("ticker", "type"), "ticker", "asc", usual=100, counted=True)


def ticker(market: Market, ask: Ask, name: str) -> Payload:
    """``/v3/reference/tickers/{name}``: who held it on ``date``, or last. Raises: RefusedError: 404, nobody yet."""
    day = _day(market, ask)
    found = _find(market, name, day)
    row = _described(found, day) | {"list_date": found.listed or "1990-01-02"}
    return Payload({}, wire.quote(row), 1, {"status": "OK", "request_id": None})


def events(market: Market, ask: Ask, name: str) -> Payload:
    """``/vX/reference/tickers/{name}/events``: every ticker of whoever trades under a ticker, or did last.

    ``name`` may also be a composite FIGI. Raises: RefusedError: 404, there is no such ticker or FIGI.
    """
    today, held = str(market.today("stocks")), market.source.instruments
    one = held.with_figi(name) or held.instrument(name, today)
    if one is None or one.tenures[0].first > today:
        found = _find(market, _ticker_of(market, name), today)
        who = {"name": company_of(found), "composite_figi": figi_of(found.ticker), "cik": cik_of(found.ticker)}
        changes = [(found.listed or _FIRST, found.ticker)]
    else:
        who = {"name": one.name, "composite_figi": one.figi, "cik": one.cik}
        begun = [tenure for tenure in one.tenures if tenure.first <= today]
        changes = [(tenure.told or held.began(one, tenure) or _FIRST, tenure.ticker) for tenure in begun[::-1]]
    told = "ticker_change" in ask.params.get("types", "ticker_change").split(",")
    rows = [{"ticker_change": {"ticker": t}, "type": "ticker_change", "date": day} for day, t in changes if told]
    return Payload({}, wire.quote(who | {"events": rows}), 1, {"status": "OK", "request_id": None})


def company_of(item: Listed) -> str:
    """The name of a listed ticker's company, made up from the ticker unless it is known."""
    made_up = f"{item.ticker} Incorporated" if item.asset == "stocks" else f"{item.ticker[2:5]} - {item.ticker[5:]}"
    return item.name or made_up


def cik_of(ticker: str) -> str:
    """The SEC's number of a made-up company."""
    return f"{int(ticker_hashes([ticker], 2)[0] % 10_000_000):010d}"


def figi_of(ticker: str) -> str:
    """The composite FIGI of a made-up company's share."""
    return "BBG" + ticker_hashes([ticker], 3).tobytes().hex().upper()[:9]


def _day(market: Market, ask: Ask) -> str:
    return str(query.calendar_day(ask.params.get("date", str(market.today("stocks"))), "date"))


def _find(market: Market, name: str, day: str) -> Listed:
    found = market.source.find(name, day)
    if found is None:
        raise RefusedError(404, "Ticker not found.")
    return found


def _ticker_of(market: Market, name: str) -> str:
    """The ticker of a listed stock's FIGI; what is not one, as it is."""
    if not name.startswith("BBG"):
        return name
    return next((item.ticker for item in market.source.listed("stocks") if figi_of(item.ticker) == name), name)


def _described(item: Listed, day: str) -> dict[str, Any]:
    row: dict[str, Any] = {"ticker": item.ticker, "name": company_of(item), "market": item.asset}
    row["locale"] = "us" if item.asset == "stocks" else "global"
    active = (item.delisted or "9999") > day
    if item.asset == "stocks":
        preferred = "p" in item.ticker
        row |= {"primary_exchange": "XNYS", "type": "PFD" if preferred else "CS", "active": active}
        row |= {"currency_name": "usd", "cik": item.cik or cik_of(item.ticker)}
        row["composite_figi"] = item.figi or figi_of(item.ticker)
    else:
        row |= {"active": active, "currency_symbol": item.ticker[-3:], "currency_name": item.ticker[-3:]}
    if not active:
        row["delisted_utc"] = f"{item.delisted}T00:00:00Z"
    return row | {"last_updated_utc": f"{day}T00:00:00Z"}
