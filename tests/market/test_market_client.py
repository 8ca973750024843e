"""The vendor's own client works against it, cursors included."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest
from polygon import RESTClient
from polygon.exceptions import BadResponse

from infra.market.process import MarketProcess

Get = Callable[..., httpx.Response]


def test_a_range_is_paged_by_the_client_without_loss_or_repeat(client: RESTClient, market: MarketProcess) -> None:
    whole = list(client.list_aggs("AAPL", 1, "day", "2024-01-01", "2024-12-31", limit=50_000))
    before = len(market.calls())
    paged = list(client.list_aggs("AAPL", 1, "day", "2024-01-01", "2024-12-31", limit=50))
    assert paged == whole
    assert len(whole) == 252
    assert len(market.calls()) - before == 6


@pytest.mark.parametrize(
    ("count", "timespan", "limit"), [(1, "minute", 500), (5, "minute", 777), (1, "hour", 1000), (1, "week", 8)]
)
@pytest.mark.parametrize("adjusted", [True, False])
def test_pages_of_any_timespan_make_the_whole(
    client: RESTClient, count: int, timespan: str, limit: int, adjusted: bool
) -> None:
    asked = ("NVDA", count, timespan, "2024-07-01", "2024-07-31")
    whole = list(client.list_aggs(*asked, adjusted=adjusted, limit=50_000))
    assert list(client.list_aggs(*asked, adjusted=adjusted, limit=limit)) == whole
    assert len(whole) > 4


@pytest.mark.parametrize(("timespan", "limit"), [("day", 7), ("minute", 900), ("hour", 900)])
def test_descending_pages_are_the_whole_backwards(client: RESTClient, timespan: str, limit: int) -> None:
    asked = ("NVDA", 1, timespan, "2024-07-01", "2024-07-31")
    up = list(client.list_aggs(*asked, limit=50_000))
    assert list(client.list_aggs(*asked, sort="desc", limit=limit)) == up[::-1]


def test_one_raw_page_and_its_cursor(client: RESTClient, market: MarketProcess) -> None:
    answer = client.list_aggs("AAPL", 1, "minute", "2024-07-01", "2024-07-31", limit=1000, raw=True)
    page = json.loads(answer.data)
    assert page["resultsCount"] == page["queryCount"] == page["count"] == 1000
    url = urlsplit(page["next_url"])
    assert page["next_url"].startswith(market.url)
    assert url.path.split("/")[8].isdecimal()  # from has become an instant
    assert url.query.startswith("cursor=")
    assert "=" not in url.query[7:]


def test_the_cursor_is_the_vendors(get: Get) -> None:
    answer = get("/v2/aggs/ticker/AAPL/range/1/hour/2024-07-01/2024-07-31?limit=5000&sort=asc")
    page = answer.json()
    assert page["next_url"].endswith("?cursor=bGltaXQ9NTAwMCZzb3J0PWFzYw")  # as in a recorded one


def test_limits_count_base_bars(get: Get) -> None:
    page = get("/v2/aggs/ticker/AAPL/range/1/hour/2024-07-01/2024-07-31?limit=500").json()
    assert page["queryCount"] <= 500
    assert page["resultsCount"] < 10
    assert "next_url" in page


def test_instants_bound_a_range(client: RESTClient) -> None:
    morning, noon = 1719927000000, 1719936000000  # 2024-07-02, 09:30 and 12:00 in New York
    bars = list(client.list_aggs("AAPL", 1, "minute", morning, noon, limit=50_000))
    assert (bars[0].timestamp, bars[-1].timestamp, len(bars)) == (morning, noon, 151)


def test_a_market_day(client: RESTClient) -> None:
    bars = client.get_grouped_daily_aggs("2026-03-09", adjusted=False)
    assert {bar.timestamp for bar in bars} == {1773086400000}  # 16:00 in New York, daylight time
    winter = client.get_grouped_daily_aggs("2026-03-06")
    assert {bar.timestamp for bar in winter} == {1772830800000}
    assert {"AAPL", "BRK.B", "SPY"} <= {bar.ticker for bar in bars}


def test_splits_by_cursor_filter_and_order(client: RESTClient, get: Get) -> None:
    whole = list(client.list_splits(execution_date_gte="2015-01-01", limit=1000, sort="execution_date", order="asc"))
    paged = list(client.list_splits(execution_date_gte="2015-01-01", limit=7, sort="execution_date", order="asc"))
    assert paged == whole
    assert len(whole) > 100
    dates = [split.execution_date for split in whole]
    assert dates == sorted(dates)
    assert dates[0] >= "2015-01-01"
    ids = [row["id"] for row in get("/v3/reference/splits?limit=1000").json()["results"]]
    assert len(set(ids)) == len(ids)
    newest = list(client.list_splits(execution_date_lt="2020-01-01", limit=9, order="desc", sort="execution_date"))
    assert newest[0].execution_date < "2020-01-01"
    assert newest == sorted(newest, key=lambda split: split.execution_date, reverse=True) or len(newest) > 9
    one = whole[0]
    on_the_day = list(client.list_splits(ticker=one.ticker, execution_date=one.execution_date, limit=10))
    assert one in on_the_day


def test_tickers_by_cursor(client: RESTClient) -> None:
    tickers = [item.ticker for item in client.list_tickers(market="stocks", active=True, limit=500)]
    assert len(tickers) == len(set(tickers)) > 1_300
    assert tickers == sorted(tickers)
    assert "X:BTCUSD" in {item.ticker for item in client.list_tickers(market="crypto", limit=1000)}
    gone = [item.ticker for item in client.list_tickers(market="stocks", active=False, limit=1000)]
    assert gone
    assert not set(gone) & set(tickers)
    then = {item.ticker for item in client.list_tickers(market="stocks", date="2004-01-02", limit=1000)}
    assert len(then) < len(tickers) + len(gone)


def test_details_events_dividends_status(client: RESTClient) -> None:
    assert client.get_ticker_details("BRK.B").ticker == "BRK.B"
    assert client.get_ticker_events("META").events[0]["ticker_change"]["ticker"] == "META"
    assert list(client.list_dividends("MSFT", limit=1000)) is not None
    holidays = client.get_market_holidays()
    assert {holiday.exchange for holiday in holidays} == {"NYSE", "NASDAQ"}
    assert any(holiday.status == "early-close" and holiday.date == "2026-11-27" for holiday in holidays)
    assert client.get_market_status().market == "closed"


@pytest.mark.parametrize("ticker", ["NOSUCH", "aapl", "$$$"])
def test_what_nobody_knows_is_404_in_the_reference_and_empty_in_a_range(client: RESTClient, ticker: str) -> None:
    with pytest.raises(BadResponse, match="Ticker not found"):
        client.get_ticker_details(ticker)
    with pytest.raises(BadResponse, match="Ticker not found"):
        client.get_ticker_events(ticker)
    assert list(client.list_aggs(ticker, 1, "day", "2024-01-01", "2024-01-31")) == []


@pytest.mark.parametrize(
    "path",
    [
        "/v2/aggs/ticker/AAPL/range/1/day/2024-13-01/2024-12-31",
        "/v2/aggs/ticker/AAPL/range/1/day/yesterday/2024-12-31",
        "/v2/aggs/ticker/AAPL/range/1/day/2024-02-01/2024-01-01",
        "/v2/aggs/ticker/AAPL/range/0/day/2024-01-01/2024-02-01",
        "/v2/aggs/ticker/AAPL/range/1/fortnight/2024-01-01/2024-02-01",
        "/v2/aggs/ticker/AAPL/range/1/day/2024-01-01/2024-02-01?limit=50001",
        "/v2/aggs/ticker/AAPL/range/1/day/2024-01-01/2024-02-01?adjusted=maybe",
        "/v2/aggs/ticker/AAPL/range/1/day/2024-01-01/2024-02-01?cursor=%21",
        "/v2/aggs/grouped/locale/us/market/stocks/20240101",
        "/v3/reference/splits?execution_date.gte=soon",
        "/v3/reference/splits?limit=1001",
    ],
)
def test_what_cannot_be_read_is_400_in_the_vendors_form(get: Get, path: str) -> None:
    answer = get(path)
    assert answer.status_code == 400
    assert list(answer.json()) == ["status", "request_id", "error"]


def test_there_is_nothing_else(get: Get) -> None:
    assert get("/v9/anything").status_code == 404
    assert get("/").status_code == 404
