"""A market day: one call for every ticker; and splits."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from faultserver import FaultServer
from opengate import OpenGate
from polygon_bodies import market, row

from closingbell.errors import MalformedResponseError
from closingbell.sources import Split
from closingbell.sources.polygon import PolygonSource

DAY = date(2024, 3, 8)
TICKERS = ["AAPL", "BRK.B", "PEBPE", "PEBpE", "ZZZ"]


def test_wanted_tickers_are_kept_and_the_rest_counted(server: FaultServer, source: PolygonSource) -> None:
    server.json(market(DAY, TICKERS))
    page = source.market_day(DAY, wanted=["PEBpE", "AAPL", "NOPE"])
    assert (page.session, page.rows, page.ignored, page.bars.tickers) == (DAY, 5, 3, ("AAPL", "PEBpE"))
    assert page.bars.rows["ticker"].tolist() == [0, 1]
    assert page.bars.rows["session"].tolist() == [DAY, DAY]
    assert str(page.bars.rows["ts"][0]) == "2024-03-08T14:30:00.000000", "the open, though the stamp is the close"
    assert server.targets[0].startswith("/v2/aggs/grouped/locale/us/market/stocks/2024-03-08?adjusted=false")
    assert source.calls == {"market_day": 1}


@pytest.mark.parametrize(("kind", "ticker"), [("crypto", "X:BTCUSD"), ("fx", "C:EURUSD")])
def test_other_markets(kind: str, ticker: str, server: FaultServer, source: PolygonSource) -> None:
    last_millisecond = 1709942399999  # 2024-03-08T23:59:59.999Z
    server.json(market(DAY, [ticker], results=[{"T": ticker, **row(DAY, t=last_millisecond)}]))
    page = source.market_day(DAY, kind, [ticker])
    assert page.bars.rows["session"].tolist() == [DAY]
    assert str(page.bars.rows["ts"][0]) == "2024-03-08T00:00:00.000000"
    assert server.targets[0].startswith(f"/v2/aggs/grouped/locale/global/market/{kind}/2024-03-08?")


def test_a_closed_day_is_empty(server: FaultServer, source: PolygonSource) -> None:
    server.json(market(DAY, []))
    page = source.market_day(DAY, wanted=TICKERS)
    assert (page.rows, len(page.bars)) == (0, 0)


def test_a_ticker_that_came_twice_is_there_twice(server: FaultServer, source: PolygonSource) -> None:
    server.json(market(DAY, ["AAPL", "MSFT", "AAPL"]))
    page = source.market_day(DAY, wanted=["AAPL", "MSFT"])
    assert page.bars.tickers == ("AAPL", "MSFT")
    assert page.bars.rows["ticker"].tolist() == [0, 1, 0]


def test_a_stale_row_keeps_its_own_date_and_costs_no_other(server: FaultServer, source: PolygonSource) -> None:
    body = market(DAY, TICKERS)
    body["results"][1].update(row(date(2024, 3, 7), 16))
    server.json(body)
    page = source.market_day(DAY, wanted=TICKERS)
    assert page.bars.rows["session"].tolist() == [DAY, date(2024, 3, 7), DAY, DAY, DAY]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (market(date(2024, 3, 7), TICKERS), "the answer is of another day"),
        (market(DAY, TICKERS, resultsCount=6), "the answer has not the number of rows it says"),
        (market(DAY, TICKERS, results=...), "the answer has not the number of rows it says"),
        (market(DAY, TICKERS, resultsCount=...), "the answer does not say how many rows it has"),
        (market(DAY, TICKERS, status="ERROR"), "the answer's status is not OK"),
        (market(DAY, TICKERS + TICKERS), "the answer has its whole market twice"),
        (market(DAY, sorted(TICKERS + TICKERS)), "the answer has its whole market twice"),
        (market(DAY, TICKERS, results=[row(DAY)] * 5), "the answer has a field of the wrong type"),
    ],
)
def test_a_broken_promise_is_refused(
    body: dict[str, Any], what: str, server: FaultServer, source: PolygonSource
) -> None:
    server.json(body)
    with pytest.raises(MalformedResponseError) as caught:
        source.market_day(DAY, wanted=TICKERS)
    assert caught.value.what == what


def split(ticker: str, day: str, before: float = 1, after: float = 4, **more: Any) -> dict[str, Any]:
    return {"execution_date": day, "split_from": before, "split_to": after, "ticker": ticker, **more}


def test_splits_over_pages_the_last_of_a_ticker_and_date_counts(
    server: FaultServer, source: PolygonSource, gate: OpenGate
) -> None:
    server.json(
        {
            "status": "OK",
            "results": [split("A", "2024-03-04", id="e1"), split("B", "2024-03-05", 20, 1.5)],
            "next_url": "https://api.polygon.io/v3/reference/splits?cursor=YXA9Mg",
        },
        {"status": "OK", "results": [split("A", "2024-03-04", 1, 5, id="e2")]},
    )
    assert source.splits(date(2024, 3, 1), date(2024, 3, 31)) == [
        Split("A", date(2024, 3, 4), 1, 5, "e2"),
        Split("B", date(2024, 3, 5), 20, 1.5),
    ]
    assert (gate.calls, source.calls) == (2, {"splits": 2})
    assert server.targets == [
        "/v3/reference/splits?execution_date.lte=2024-03-31&execution_date.gte=2024-03-01"
        "&limit=1000&sort=execution_date&order=asc",
        "/v3/reference/splits?cursor=YXA9Mg",
    ]


def test_splits_of_one_ticker_without_an_end(server: FaultServer, source: PolygonSource) -> None:
    server.json({"status": "OK", "results": []})
    assert source.splits(date(2024, 3, 1), ticker="BRK.B") == []
    assert "ticker=BRK.B" in server.targets[0]
    assert "lte" not in server.targets[0]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"status": "OK"}, "the answer has no list of splits"),
        ({"status": "ERROR", "results": []}, "the answer's status is not OK"),
        ({"status": "OK", "results": [split("A", "2024-02-29")]}, "the answer has splits that were not asked for"),
        ({"status": "OK", "results": [split("A", "2024-04-01")]}, "the answer has splits that were not asked for"),
        ({"status": "OK", "results": [split("B", "2024-03-04")]}, "the answer has splits that were not asked for"),
        ({"status": "OK", "results": [split("A", "2024-03-04", 0)]}, "the answer has a field of the wrong type"),
        ({"status": "OK", "results": [split("A", "04/03/2024")]}, "the answer has a field of the wrong type"),
    ],
)
def test_splits_that_cannot_be(body: dict[str, Any], what: str, server: FaultServer, source: PolygonSource) -> None:
    server.json(body)
    with pytest.raises(MalformedResponseError) as caught:
        source.splits(date(2024, 3, 1), date(2024, 3, 31), "A")
    assert caught.value.what == what
