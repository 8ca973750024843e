"""The source against the stand-in market: both read the same wire format, each in its own way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import numpy as np
import pytest
from opengate import CANARY, OpenGate

from closingbell.calendar import calendar_for
from closingbell.errors import ConfigurationError, RetryableError
from closingbell.sources.polygon import PolygonSource
from infra.market.process import MarketProcess

NOW = datetime(2024, 6, 28, 23, 30, tzinfo=UTC)
FIRST, LAST = date(2023, 7, 3), date(2024, 6, 27)


@pytest.fixture(scope="module")
def market() -> Iterator[MarketProcess]:
    with MarketProcess(size=600, now=NOW, keys=(CANARY,)) as running:
        yield running


@pytest.fixture
def polygon(market: MarketProcess, gate: OpenGate) -> Iterator[PolygonSource]:
    market.clear_calls()
    source = PolygonSource(CANARY, market.url, gate)
    yield source
    market.clear_faults()
    source.close()


def test_a_range_and_a_market_day_agree(polygon: PolygonSource, market: MarketProcess, gate: OpenGate) -> None:
    ranges = {ticker: polygon.fetch_range(ticker, FIRST, LAST) for ticker in ("AAPL", "BRK.B", "SPY")}
    sessions = calendar_for("stocks").sessions(FIRST, LAST)
    for session in sessions[[0, 100, -1]].tolist():
        page = polygon.market_day(session, wanted=ranges)
        assert page.rows == page.ignored + len(page.bars)
        for bar in page.bars.rows:
            rows = ranges[page.bars.tickers[bar["ticker"]]].rows
            one = rows[rows["session"] == np.datetime64(session)]
            for name in ("session", "ts", "open", "high", "low", "close", "volume"):
                assert one[name] == bar[name]
    assert len(ranges["SPY"]) == len(sessions)
    assert len(market.calls()) == gate.calls == 6


def test_crypto_has_every_day(polygon: PolygonSource) -> None:
    rows = polygon.fetch_range("X:BTCUSD", FIRST, LAST).rows
    assert np.array_equal(rows["session"], calendar_for("crypto").sessions(FIRST, LAST))


def test_minutes_over_cursors(polygon: PolygonSource, market: MarketProcess) -> None:
    pages = list(polygon.range("X:BTCUSD", date(2024, 1, 1), date(2024, 2, 10), "1m"))
    assert [page.rows for page in pages] == [50_000, 41 * 1440 - 50_000]
    assert len(market.calls()) == len(pages)
    ts = np.concatenate([page.bars.rows["ts"] for page in pages])
    assert np.all(ts[1:] > ts[:-1])


def test_a_closed_day_and_splits(polygon: PolygonSource) -> None:
    assert polygon.market_day(date(2024, 6, 19), wanted=["AAPL"]).rows == 0
    for split in polygon.splits(FIRST, LAST):
        assert FIRST <= split.execution_date <= LAST


def test_another_key_is_refused(market: MarketProcess, gate: OpenGate) -> None:
    with pytest.raises(ConfigurationError, match="POLYGON_API_KEY"):
        PolygonSource("another", market.url, gate).fetch_range("AAPL", FIRST, LAST)


def test_the_quota_is_honoured(gate: OpenGate) -> None:
    with MarketProcess(size=50, now=NOW, quota="2/min") as small:
        source = PolygonSource(CANARY, small.url, gate)
        for _ in range(2):
            source.fetch_range("AAPL", FIRST, LAST)
        with pytest.raises(RetryableError, match="quota is exceeded") as caught:
            source.fetch_range("AAPL", FIRST, LAST)
        source.close()
    assert gate.pauses == [caught.value.retry_after]
    assert 50 <= (gate.pauses[0] or 0.0) <= 61
