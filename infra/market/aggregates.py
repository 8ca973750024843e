"""The two calls that give bars: a ticker's range, and a market day."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from closingbell.bars import Bars
from infra.market import query, wire
from infra.market.hashing import Floats
from infra.market.hours import FIRST_BAR, hours, midnights
from infra.market.market import Ask, Market
from infra.market.query import NOT_ENTITLED, RefusedError
from infra.market.scale import Rows, rescaled
from infra.market.skew import copied
from infra.market.windows import BASE, merge, starts
from infra.market.wire import Payload

MOST: Final = 50_000
USUAL: Final = 5_000

_MARKETS: Final = {("us", "stocks"): "stocks", ("global", "crypto"): "crypto", ("global", "fx"): "fx"}
_MINUTES_A_WEEK: Final = {"stocks": 390 * 5, "crypto": 1440 * 7, "fx": 1440 * 5}


def ticker_range(market: Market, ask: Ask, ticker: str, count: str, timespan: str, first: str, last: str) -> Payload:
    """``/v2/aggs/ticker/{ticker}/range/{count}/{timespan}/{first}/{last}``: one page.

    Raises:
        RefusedError: a parameter cannot be read, or the plan does not include what is asked.
    """
    asset = market.asset(ticker)
    if timespan not in BASE:
        raise RefusedError(400, f"The parameter 'timespan' must be one of {', '.join(BASE)}")
    if not count.isdecimal() or not 1 <= int(count) <= 10_000:
        raise RefusedError(400, "The parameter 'multiplier' must be a number between 1 and 10000")
    limit = query.count(ask.params, "limit", USUAL, MOST)
    adjust = query.flag(ask.params, "adjusted", True)
    sort = ask.params.get("sort", "asc")
    if sort not in ("asc", "desc"):
        raise RefusedError(400, "The parameter 'sort' must be asc or desc")
    span = hours(asset if asset in ("crypto", "fx") else "stocks")
    low, high = query.instants(first, last, span)
    head: dict[str, Any] = {"ticker": ticker, "queryCount": 0, "resultsCount": 0, "adjusted": adjust}
    if asset is None:
        return _answer(market, head, [])
    market.check_entitled(asset)
    if asset not in ("stocks", "crypto", "fx"):
        return _answer(market, head, [])
    since, until = market.clip(asset, span.day_of(low), span.day_of(high))

    series = ask.skew.series(ticker, asset)
    minutely = BASE[timespan] == "minute"
    if minutely:
        low = query.floor_minute(low)
        rows, more = _base_minutes(market, asset, series, since, until, (low, high), limit, backwards=sort == "desc")
    else:
        rows = market.source.days(series, since, until).rows if since <= until else Bars((series,)).rows
        rows, more = (rows[-limit:] if sort == "desc" else rows[:limit]), len(rows) > limit
    keys = starts(rows, asset, int(count), timespan, span.day_of(low))
    if more:
        # A window that the limit cuts through belongs to the next page, unless it is all there is.
        edge = keys[0] if sort == "desc" else keys[-1]
        whole = keys != edge
        if (int(count) > 1 or timespan not in ("minute", "day")) and whole.any():
            rows, keys = rows[whole], keys[whole]
    used = len(rows)
    ratio = _ratios(market, ask, Bars((series,), rows), (ticker,), adjust)
    merged, keys = merge(ask.skew.scaled(rows, (ticker,)), keys, ratio)
    if sort == "desc":
        merged, keys = merged[::-1], keys[::-1]
    head["queryCount"] = used
    payload = _answer(market, head, wire.bar_rows(Bars((ticker,), merged), keys))
    if more:
        onward: dict[str, str] = {"limit": str(limit), "sort": sort}
        if "adjusted" in ask.params:
            onward["adjusted"] = ask.params["adjusted"]
        if sort == "desc":
            span_text = f"{first}/{int(keys[-1]) - 1}"
        else:
            span_text = f"{_next_start(asset, minutely, int(keys[-1]), int(count), timespan)}/{last}"
        payload.tail["next_url"] = (
            f"{ask.base_url}/v2/aggs/ticker/{ticker}/range/{count}/{timespan}/{span_text}?cursor={query.cursor(onward)}"
        )
    return payload


def market_day(market: Market, ask: Ask, locale: str, name: str, date: str) -> Payload:
    """``/v2/aggs/grouped/locale/{locale}/market/{name}/{date}``: every listed ticker's bar of one day.

    Raises:
        RefusedError: the market or the date cannot be read, or the plan does not include the day.
    """
    asset = _MARKETS.get((locale, name))
    if asset is None:
        raise RefusedError(404, "The requested resource was not found")
    day = query.calendar_day(date, "date")
    adjust = query.flag(ask.params, "adjusted", True)
    query.flag(ask.params, "include_otc", False)
    if asset not in market.config.entitled:
        raise RefusedError(403, NOT_ENTITLED)
    market.check_day(asset, day)
    bars = _shown(market, ask, market.source.market_day(asset, day), adjust)
    if ask.skew.one_series and len(bars):
        series = ask.skew.series(bars.tickers[bars.rows["ticker"][0]], asset)
        one = _shown(market, ask, market.source.days(series, day, day), adjust)
        bars = Bars(bars.tickers, copied(bars.rows, one.rows))
    at = hours(asset).position(day)
    stamp = int(midnights(asset, np.array([day]))[0]) if at is None else int(hours(asset).market_stamps[at])
    rows = wire.bar_rows(bars, np.full(len(bars), stamp), with_ticker=True)
    head: dict[str, Any] = {"queryCount": len(rows), "resultsCount": 0, "adjusted": adjust}
    return _answer(market, head, rows)


def _shown(market: Market, ask: Ask, bars: Bars, adjust: bool) -> Bars:
    """Daily bars as they are given out."""
    ratio = _ratios(market, ask, bars, bars.tickers, adjust)
    return Bars(bars.tickers, rescaled(ask.skew.scaled(bars.rows, bars.tickers), ratio))


def _ratios(market: Market, ask: Ask, bars: Bars, tickers: tuple[str, ...], adjust: bool) -> Floats:
    """What each row's price is divided by: its later splits, if adjusted prices are asked for or given anyway."""
    if not adjust and not ask.skew.adjusts:
        return np.ones(len(bars))
    ratio = market.ratios(bars)
    return ratio if adjust else ask.skew.unasked(bars.rows, tickers, ratio)


def _answer(market: Market, head: dict[str, Any], rows: list[str]) -> Payload:
    head["resultsCount"] = len(rows)
    tail: dict[str, Any] = {"status": market.config.status, "request_id": None}
    if not rows:
        return Payload(head, None, 0, tail)
    return Payload(head, wire.array(rows), len(rows), tail | {"count": len(rows)})


def _base_minutes(
    market: Market,
    asset: str,
    ticker: str,
    since: np.datetime64,
    until: np.datetime64,
    within: tuple[int, int],
    limit: int,
    *,
    backwards: bool,
) -> tuple[Rows, bool]:
    """At most ``limit`` minute bars from one end of a range, and whether there are more."""
    since = max(since, FIRST_BAR)
    stride = np.timedelta64(7 * (1 + limit // _MINUTES_A_WEEK[asset]), "D")
    low, high = np.array(within).astype("M8[ms]")
    parts: list[Rows] = []
    found = 0
    while since <= until and found <= limit:
        if backwards:
            first, last = max(since, until - stride), until
            until = first - np.timedelta64(1, "D")
        else:
            first, last = since, min(until, since + stride)
            since = last + np.timedelta64(1, "D")
        rows = market.source.minutes(ticker, first, last).rows
        rows = rows[(rows["ts"] >= low) & (rows["ts"] <= high)]
        parts.append(rows)
        found += len(rows)
    if not parts:
        return Bars((ticker,)).rows, False
    joined = np.concatenate(parts[::-1] if backwards else parts)
    return (joined[-limit:] if backwards else joined[:limit]), found > limit


def _next_start(asset: str, minutely: bool, last_start: int, count: int, timespan: str) -> int:
    """Epoch ms at which the window after the one starting at ``last_start`` starts."""
    if minutely:
        return last_start + count * (3_600_000 if timespan == "hour" else 60_000)
    span = hours(asset)
    day = span.day_of(last_start)
    if timespan in ("day", "week"):
        after = day + np.timedelta64(count * (7 if timespan == "week" else 1), "D")
    else:
        months = count * {"month": 1, "quarter": 3, "year": 12}[timespan]
        after = (day.astype("M8[M]") + np.timedelta64(months, "M")).astype("M8[D]")
    if timespan == "day" and count == 1 and (ahead := span.between(after, span.sessions[-1])).start < ahead.stop:
        after = span.sessions[ahead.start]
    return int(midnights(asset, np.array([after]))[0])
