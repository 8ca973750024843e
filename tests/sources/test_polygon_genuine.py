"""Bodies that the vendor really sent, served back. They need CLOSINGBELL_DATA, a directory with a ``polygon/``."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import pytest
from faultserver import FaultServer, answer

from closingbell.calendar import calendar_for
from closingbell.errors import (
    ClosingbellError,
    ConfigurationError,
    MalformedResponseError,
    NotEntitledError,
    RetryableError,
)
from closingbell.sources.base import TickerChange
from closingbell.sources.polygon import PolygonSource

DATA = Path(os.environ.get("CLOSINGBELL_DATA", "")) / "polygon"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not os.environ.get("CLOSINGBELL_DATA"), reason="CLOSINGBELL_DATA is not set: no genuine bodies"),
]

FIRST, LAST = date(2023, 1, 1), date(2023, 1, 10)


def body(name: str) -> bytes:
    return (DATA / name).read_bytes()


@pytest.mark.parametrize(
    ("ticker", "name", "kind"),
    [
        ("AAPL", "equity_AAPL_day_2023.json", "stocks"),
        ("X:BTCUSD", "crypto_XBTCUSD_day_2023.json", "crypto"),
        ("C:EURUSD", "fx_CEURUSD_day_2023.json", "fx"),
    ],
)
def test_daily_bars(ticker: str, name: str, kind: str, server: FaultServer, source: PolygonSource) -> None:
    server.reply(answer(body(name)))
    bars = source.fetch_range(ticker, FIRST, LAST)
    sent = json.loads(body(name))["results"]
    for column, field in {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "vwap": "vw"}.items():
        assert bars.rows[column].tolist() == [row[field] for row in sent]
    assert bars.rows["trades"].tolist() == [row["n"] for row in sent]
    sessions = calendar_for(kind).sessions(FIRST, LAST)  # type: ignore[arg-type]
    assert set(sessions.tolist()) <= set(bars.rows["session"].tolist())


def test_across_the_change_of_clocks(server: FaultServer, source: PolygonSource) -> None:
    server.reply(answer(body("client_mock_v2_aggs_ticker_AAPL_range_1_day_2005-04-01_2005-04-04.json")))
    rows = source.fetch_range("AAPL", date(2005, 4, 1), date(2005, 4, 4)).rows
    assert rows["session"].tolist() == [date(2005, 4, 1), date(2005, 4, 4)]
    assert [str(ts)[11:16] for ts in rows["ts"]] == ["14:30", "13:30"]


def test_delayed_is_good(server: FaultServer, source: PolygonSource) -> None:
    server.reply(answer(body("200_DELAYED_NVDA_day_2024-10-14.json")))
    assert len(source.fetch_range("NVDA", date(2024, 10, 14), date(2024, 10, 14))) == 1


def test_empty(server: FaultServer, source: PolygonSource) -> None:
    server.reply(answer(body("200_empty_no_results_key_CGBPJPY.json")))
    assert len(source.fetch_range("C:GBPJPY", FIRST, LAST)) == 0


def test_market_day(server: FaultServer, source: PolygonSource) -> None:
    """The client's own fixture: named for a day in 2005, its one row is stamped in 2020."""
    server.reply(answer(body("client_mock_v2_aggs_grouped_locale_us_market_stocks_2005-04-04_adjusted_true.json")))
    page = source.market_day(date(2020, 10, 14), wanted=["GIK"])
    assert page.bars.rows["close"].tolist() == [10.02]
    with pytest.raises(MalformedResponseError, match="of another day"):
        source.market_day(date(2005, 4, 4), wanted=["GIK"])


def test_splits(server: FaultServer, source: PolygonSource) -> None:
    server.reply(answer(body("client_mock_v3_reference_splits.json")))
    splits = {split.ticker: split for split in source.splits(date(2022, 5, 1))}
    assert (splits["GOOGL"].split_from, splits["GOOGL"].split_to) == (1, 20)
    assert (splits["BRW"].split_from, splits["BRW"].split_to) == (2, 1)


def test_dividends(server: FaultServer, source: PolygonSource) -> None:
    server.reply(answer(body("client_mock_v3_reference_dividends.json")))
    sent = json.loads(body("client_mock_v3_reference_dividends.json"))["results"]
    found = source.dividends(date(2023, 8, 11))
    assert [(d.ticker, d.ex_date.isoformat(), d.cash_amount) for d in found] == [
        (row["ticker"], row["ex_dividend_date"], row["cash_amount"]) for row in sent
    ]
    assert {(d.currency, d.kind, d.id) for d in found} == {("USD", "CD", None)}
    assert found[-1].pay_date == date(2023, 8, 15)
    with pytest.raises(MalformedResponseError, match="not asked for"):
        source.dividends(date(2023, 8, 12))


def test_identity(server: FaultServer, source: PolygonSource) -> None:
    """The vendor's day of the change is a Saturday; the first session under the new ticker was 2022-06-09."""
    server.reply(answer(body("client_mock_vX_reference_tickers_META_events_types_ticker_change.json")))
    meta = source.identity("META")
    assert (meta.instrument_id, meta.name) == ("FIGI:BBG000MM2P62", "Meta Platforms, Inc. Class A Common Stock")
    assert meta.changes == (TickerChange("FB", date(2012, 5, 18)), TickerChange("META", date(2022, 6, 11)))
    assert source.identity("FB") == meta


@pytest.mark.parametrize(
    ("status", "name", "error"),
    [
        (401, "401_no_key_TEXT_ONLY.json", ConfigurationError),
        (401, "401_unknown_api_key_TEXT_ONLY.json", ConfigurationError),
        (403, "403_not_authorized_massive_2026.json", NotEntitledError),
        (403, "403_not_authorized_polygon_2024.json", NotEntitledError),
        (429, "429_rate_limit_TEXT_ONLY.json", RetryableError),
    ],
)
def test_errors(
    status: int, name: str, error: type[ClosingbellError], server: FaultServer, source: PolygonSource
) -> None:
    server.reply(answer(body(name), status))
    with pytest.raises(ClosingbellError) as caught:
        source.fetch_range("AAPL", FIRST, LAST)
    assert type(caught.value) is error


def test_a_cursor_that_the_vendor_made(server: FaultServer, source: PolygonSource) -> None:
    genuine = json.loads(body("next_url_examples.json"))[0]
    first, last = date(2022, 7, 18), date(2023, 2, 3)
    page = {"ticker": "AAPL", "queryCount": 1, "resultsCount": 1, "adjusted": False, "status": "OK"}
    bar = json.loads(body("bar_exponent_volume_AAPL_2020-06-11.json"))
    server.json(
        {**page, "results": [{**bar, "t": 1658156280000}], "next_url": genuine},
        {**page, "results": [{**bar, "t": 1658156340000}]},
    )
    assert len(source.fetch_range("AAPL", first, last, "1m")) == 2
    assert server.targets[1] == genuine.removeprefix("https://api.polygon.io")
