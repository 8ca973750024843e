"""One market: every endpoint, every process and every page tells the same story."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from closingbell import universe
from infra.market.process import MarketProcess

Get = Callable[..., httpx.Response]


def rows(get: Get, path: str) -> list[dict[str, Any]]:
    answer = get(path)
    assert answer.status_code == 200, answer.text
    return answer.json().get("results", [])


def day_of(row: dict[str, Any]) -> str:
    """The session of a daily bar stamped at midnight in New York or in UTC."""
    return datetime.fromtimestamp(row["t"] / 1000, UTC).date().isoformat()


def test_a_range_and_a_market_day_agree(get: Get) -> None:
    for day in ("2012-06-15", "2026-03-09"):
        market_day = rows(get, f"/v2/aggs/grouped/locale/us/market/stocks/{day}?adjusted=false")
        for row in market_day[::97]:
            (alone,) = rows(get, f"/v2/aggs/ticker/{row['T']}/range/1/day/{day}/{day}?adjusted=false")
            assert {**alone, "t": 0} == {**{k: v for k, v in row.items() if k != "T"}, "t": 0}


def test_adjusted_ranges_and_market_days_agree(get: Get) -> None:
    market_day = rows(get, "/v2/aggs/grouped/locale/us/market/stocks/2015-01-05")
    for row in market_day[::97]:
        (alone,) = rows(get, f"/v2/aggs/ticker/{row['T']}/range/1/day/2015-01-05/2015-01-05")
        assert {**alone, "t": 0} == {**{k: v for k, v in row.items() if k != "T"}, "t": 0}


def test_another_process_of_another_size_tells_the_same(get: Get, getter: Callable[..., Get], now: str) -> None:
    paths = [
        "/v2/aggs/ticker/AAPL/range/1/day/2021-01-01/2021-12-31",
        "/v2/aggs/ticker/ZZY/range/1/minute/2021-06-01/2021-06-02",
        "/v3/reference/splits?ticker=GOOGL&limit=1000",
        "/v2/aggs/ticker/X:ETHUSD/range/1/day/2021-01-01/2021-01-31",
    ]
    with MarketProcess(size=10, now=now) as other:
        ask = getter(other)
        for path in paths:
            assert rows(ask, path) == rows(get, path)
    with MarketProcess(size=10, now=now, seed=7) as other:
        assert rows(getter(other), paths[0]) != rows(get, paths[0])


def test_every_member_trades_every_session_but_for_rare_halts(get: Get) -> None:
    members = set(universe.load("sp500+etfs"))
    missing = 0
    for day in ("2003-09-10", "2010-05-06", "2019-07-03", "2026-03-09"):
        missing += len(members - {row["T"] for row in rows(get, f"/v2/aggs/grouped/locale/us/market/stocks/{day}")})
    assert missing <= 1


@pytest.mark.parametrize("ticker", ["MSFT", "C:EURUSD", "X:BTCUSD", "QQQQZ"])
def test_minutes_add_up_to_their_day(get: Get, ticker: str) -> None:
    days = rows(get, f"/v2/aggs/ticker/{ticker}/range/1/day/2024-07-01/2024-07-05?adjusted=false")
    assert days
    for day in days:
        on = day_of(day)
        minutes = rows(get, f"/v2/aggs/ticker/{ticker}/range/1/minute/{on}/{on}?adjusted=false&limit=50000")
        assert (minutes[0]["o"], minutes[-1]["c"]) == (day["o"], day["c"])
        assert max(m["h"] for m in minutes) == day["h"]
        assert min(m["l"] for m in minutes) == day["l"]
        assert sum(m["v"] for m in minutes) == pytest.approx(day["v"], rel=1e-9)
        assert sum(m["n"] for m in minutes) == day["n"]
        for m in minutes:
            assert m["l"] <= min(m["o"], m["c"])
            assert max(m["o"], m["c"]) <= m["h"]


def test_a_half_day_is_half_a_day(get: Get) -> None:
    path = "/v2/aggs/ticker/SPY/range/1/minute/{0}/{0}?limit=50000"
    assert len(rows(get, path.format("2024-07-03"))) == 210
    assert len(rows(get, path.format("2024-07-02"))) == 390
    assert rows(get, path.format("2024-07-04")) == []


@pytest.mark.parametrize(
    ("count", "timespan", "bars"), [(5, "minute", 78), (30, "minute", 13), (1, "hour", 7), (4, "hour", 2)]
)
def test_longer_bars_are_made_of_minutes(get: Get, count: int, timespan: str, bars: int) -> None:
    long = rows(get, f"/v2/aggs/ticker/SPY/range/{count}/{timespan}/2024-07-02/2024-07-02?limit=50000")
    minutes = rows(get, "/v2/aggs/ticker/SPY/range/1/minute/2024-07-02/2024-07-02?limit=50000")
    assert len(long) == bars
    assert sum(bar["v"] for bar in long) == pytest.approx(sum(m["v"] for m in minutes))
    assert max(bar["h"] for bar in long) == max(m["h"] for m in minutes)
    assert all(bar["t"] % (60_000 * count) == 0 for bar in long)


def test_weeks_and_months_are_made_of_days(get: Get) -> None:
    days = rows(get, "/v2/aggs/ticker/SPY/range/1/day/2024-01-01/2024-12-31")
    months = rows(get, "/v2/aggs/ticker/SPY/range/1/month/2024-01-01/2024-12-31")
    weeks = rows(get, "/v2/aggs/ticker/SPY/range/1/week/2024-01-01/2024-12-31")
    assert (len(months), len(weeks)) == (12, 53)
    for longer in (months, weeks):
        assert longer[-1]["c"] == days[-1]["c"]
        assert sum(bar["v"] for bar in longer) == pytest.approx(sum(day["v"] for day in days))


def test_a_split_makes_raw_prices_jump_and_adjusted_ones_not(get: Get) -> None:
    jumps = []
    listed = rows(get, "/v3/reference/splits?limit=1000&execution_date.lte=2025-12-01&execution_date.gte=2018-01-01")
    for split in listed[:40]:
        ratio = split["split_to"] / split["split_from"]
        year = int(split["execution_date"][:4])
        path = f"/v2/aggs/ticker/{split['ticker']}/range/1/day/{year - 1}-12-01/{split['execution_date']}?adjusted="
        raw, adjusted = rows(get, path + "false")[-2:], rows(get, path + "true")[-2:]
        if len(raw) == 2 and not 0.8 < ratio < 1.3:
            jumps.append((raw[0]["c"] / raw[1]["o"] / ratio, adjusted[0]["c"] / adjusted[1]["o"]))
    assert len(jumps) > 10
    for raw_jump, adjusted_jump in jumps:
        assert raw_jump == pytest.approx(1.0, abs=0.15)
        assert adjusted_jump == pytest.approx(1.0, abs=0.15)


def test_the_odd_inhabitants_are_there(get: Get) -> None:
    market_day = rows(get, "/v2/aggs/grouped/locale/us/market/stocks/2026-03-09")
    tickers = [row["T"] for row in market_day]
    assert len(tickers) == len(set(tickers)) > 1_300
    assert any(t[-2] == "p" for t in tickers if len(t) > 3)
    assert sum("." in t for t in tickers) > 5
    idle = [row for row in market_day if row["v"] == 0]
    assert all("vw" not in row and "n" not in row and row["o"] == row["c"] for row in idle)
    years = [rows(get, f"/v2/aggs/grouped/locale/us/market/stocks/{y}-06-02") for y in (2004, 2025)]
    assert len(years[0]) < len(years[1])  # some are listed later
    assert any(row["v"] == 0 for row in [*years[0], *years[1], *market_day])


def test_a_closed_day_is_empty_and_before_the_record_there_is_nothing(get: Get) -> None:
    for day in ("2026-03-08", "2025-12-25", "2025-01-09", "1999-03-01"):
        body = get(f"/v2/aggs/grouped/locale/us/market/stocks/{day}").json()
        assert body["resultsCount"] == 0
        assert "results" not in body
    first = rows(get, "/v2/aggs/ticker/SPY/range/1/day/1990-01-01/2003-12-31")[0]
    assert first["t"] == 1063166400000  # 2003-09-10, midnight in New York


def test_crypto_never_sleeps_and_currencies_rest_at_the_weekend(get: Get) -> None:
    week = "2026-03-01/2026-03-07"
    assert len(rows(get, f"/v2/aggs/ticker/X:SOLUSD/range/1/day/{week}")) == 7
    assert len(rows(get, f"/v2/aggs/ticker/C:GBPUSD/range/1/day/{week}")) == 5
    coins = rows(get, "/v2/aggs/grouped/locale/global/market/crypto/2026-03-08")
    assert {"X:BTCUSD", "X:ETHUSD"} <= {row["T"] for row in coins}
    assert rows(get, "/v2/aggs/grouped/locale/global/market/fx/2026-03-08") == []
