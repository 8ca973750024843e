"""Answers of the right form with numbers of the wrong scale, or of the wrong ticker."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pytest

from infra.market.process import MarketProcess

Get = Callable[..., httpx.Response]
Rows = list[dict[str, Any]]

DAY = "/v2/aggs/grouped/locale/us/market/stocks/2026-03-06"
WEEK = "2026-03-02/2026-03-06"
NUMBERS = ("v", "vw", "o", "c", "h", "l", "n")


def days(ticker: str, dates: str = WEEK) -> str:
    return f"/v2/aggs/ticker/{ticker}/range/1/day/{dates}"


def rows(get: Get, path: str, adjusted: bool = False, **params: str) -> Rows:
    answer = get(path, params={"adjusted": str(adjusted).lower(), **params})
    assert answer.status_code == 200, answer.text
    assert answer.json()["adjusted"] is adjusted
    return answer.json().get("results", [])


def numbers(row: dict[str, Any]) -> tuple[float, ...]:
    return tuple(row[name] for name in NUMBERS)


def day_of(row: dict[str, Any]) -> str:
    return datetime.fromtimestamp(row["t"] / 1000, UTC).date().isoformat()


@pytest.fixture
def ask(spoilt: MarketProcess, getter: Callable[..., Get], now: str) -> Get:
    spoilt.set_now(datetime.fromisoformat(now))
    return getter(spoilt)


@pytest.mark.parametrize("of", ["AAPL", ""])
def test_every_ticker_is_answered_with_the_series_of_one(spoilt: MarketProcess, ask: Get, of: str) -> None:
    true = rows(ask, days("AAPL"))
    spoilt.fault("same_series", of=of)
    assert rows(ask, days("AAPL")) == true
    for ticker in ("MSFT", "BRK.B"):
        body = ask(days(ticker), params={"adjusted": "false"}).json()
        assert body["ticker"] == ticker
        assert body["results"] == true
    minutes = [rows(ask, days(t).replace("1/day", "5/minute")) for t in ("AAPL", "MSFT")]
    assert minutes[0] == minutes[1] != []
    market_day = rows(ask, DAY)
    assert {numbers(row) for row in market_day} == {numbers(true[-1])}
    assert len({row["T"] for row in market_day}) == len(market_day) > 500
    spoilt.clear_faults()
    assert len({numbers(row) for row in rows(ask, DAY) if row["v"]}) > 500


def test_a_market_day_asked_first_settles_on_one_of_its_own(spoilt: MarketProcess, ask: Get) -> None:
    honest = rows(ask, DAY)
    spoilt.fault("same_series", path="/grouped/")
    assert {numbers(row) for row in rows(ask, DAY)} == {numbers(honest[0])}
    assert rows(ask, days("MSFT"))[-1]["c"] == next(row["c"] for row in honest if row["T"] == "MSFT")


def test_pages_of_one_series_lead_on_under_the_asked_name(spoilt: MarketProcess, ask: Get) -> None:
    true = rows(ask, days("AAPL"))
    spoilt.fault("same_series", of="AAPL", path="/ticker/MSFT/")
    page = ask(days("MSFT"), params={"adjusted": "false", "limit": "3"}).json()
    onward = page["next_url"].removeprefix(spoilt.url)
    assert onward.startswith("/v2/aggs/ticker/MSFT/")
    assert page["results"] + ask(onward).json()["results"] == true
    assert {call["fault"] for call in spoilt.calls()[1:]} == {"same_series"}


def test_one_series_is_adjusted_as_its_own(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.split("AAPL", "2026-03-05", 1, 4)
    true = rows(ask, days("AAPL"), adjusted=True)
    spoilt.fault("same_series", of="AAPL")
    assert rows(ask, days("MSFT"), adjusted=True) == true
    earlier = rows(ask, DAY.replace("03-06", "03-03"), adjusted=True)
    assert {numbers(row) for row in earlier} == {numbers(true[1])}


@pytest.mark.parametrize("adjusted", [True, False])
@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_prices_times_a_factor(spoilt: MarketProcess, ask: Get, factor: float, adjusted: bool) -> None:
    paths = [days("MSFT"), days("MSFT").replace("1/day", "1/minute"), DAY]
    honest = [rows(ask, path, adjusted) for path in paths]
    spoilt.fault("scale", factor=factor)
    for path, was in zip(paths, honest, strict=True):
        for before, after in zip(was, rows(ask, path, adjusted), strict=True):
            assert after["v"] == before["v"]
            for key in ("o", "h", "l", "c", "vw"):
                assert after.get(key) == (before[key] * factor if key in before else None)


def test_only_some_tickers_and_sessions_are_on_another_scale(spoilt: MarketProcess, ask: Get) -> None:
    honest, market_day = {t: rows(ask, days(t)) for t in ("MSFT", "AAPL", "SPY")}, rows(ask, DAY)
    spoilt.fault("scale", factor=10, tickers=["MSFT", "SPY"], first="2026-03-05", last="2026-03-05")
    spoilt.fault("scale", factor=0.5, tickers=["AAPL"], last="2026-03-03", divide_volume=True)
    spoilt.fault("scale", factor=7, tickers=["SPY"], first="2026-03-06")
    for ticker, was in honest.items():
        for before, after in zip(was, rows(ask, days(ticker)), strict=True):
            on = day_of(before)
            factor = {("MSFT", "2026-03-05"): 10, ("SPY", "2026-03-05"): 10, ("SPY", "2026-03-06"): 7}.get((ticker, on))
            factor = 0.5 if ticker == "AAPL" and on <= "2026-03-03" else factor or 1
            assert after["c"] == before["c"] * factor
            assert after["v"] == (before["v"] / factor if ticker == "AAPL" else before["v"])
    closes = {row["T"]: row["c"] for row in market_day}
    after = {row["T"]: row["c"] for row in rows(ask, DAY)}
    assert after.pop("SPY") == closes.pop("SPY") * 7
    assert after == closes


def test_a_bar_half_on_another_scale(spoilt: MarketProcess, ask: Get) -> None:
    (before,) = rows(ask, days("MSFT", "2026-03-06/2026-03-06"))
    spoilt.fault("scale", factor=4, tickers=["MSFT"], fields=["h", "close"], times=1, path="/grouped/")
    after = next(row for row in rows(ask, DAY) if row["T"] == "MSFT")
    assert (after["o"], after["l"], after["vw"], after["v"]) == (before["o"], before["l"], before["vw"], before["v"])
    assert (after["h"], after["c"]) == (before["h"] * 4, before["c"] * 4)
    assert next(row for row in rows(ask, DAY) if row["T"] == "MSFT")["c"] == before["c"]


def test_adjusted_prices_are_given_though_raw_ones_were_asked(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.split("MSFT", "2026-03-05", 1, 4)
    spoilt.split("AAPL", "2026-03-05", 1, 2)
    raw = {t: rows(ask, days(t)) for t in ("MSFT", "AAPL")}
    adjusted = {t: rows(ask, days(t), adjusted=True) for t in ("MSFT", "AAPL")}
    tuesday = DAY.replace("03-06", "03-03")
    spoilt.fault("adjust")
    assert {t: rows(ask, days(t)) for t in raw} == adjusted
    assert rows(ask, tuesday) == rows(ask, tuesday, adjusted=True)
    spoilt.clear_faults()
    spoilt.split("MSFT", "2026-03-05", 1, 4)
    spoilt.split("AAPL", "2026-03-05", 1, 2)
    spoilt.fault("adjust", tickers=["MSFT"], last="2026-03-03")  # a split that reached half of the history
    assert rows(ask, days("MSFT")) == adjusted["MSFT"][:2] + raw["MSFT"][2:]
    assert rows(ask, days("AAPL")) == raw["AAPL"]
    closes = {row["T"]: row["c"] for row in rows(ask, tuesday)}
    assert (closes["MSFT"], closes["AAPL"]) == (adjusted["MSFT"][1]["c"], raw["AAPL"][1]["c"])


def test_a_skew_meets_bars_only_and_leaves_room_for_another_fault(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.fault("scale", times=2)
    spoilt.fault("twice", times=1)
    assert len(ask("/v3/reference/splits?limit=3").json()["results"]) == 6
    spoilt.fault("short_count", path="/range/")
    body = ask(days("MSFT")).json()
    assert body["resultsCount"] == len(body["results"]) + 7
    assert [call["fault"] for call in spoilt.calls()] == ["twice", "short_count+scale"]


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "scale", "fields": ["v"]},
        {"action": "scale", "first": "Monday"},
        {"action": "scale", "factor": "much"},
        {"action": "adjust", "tickers": "MSFT"},
    ],
)
def test_a_skew_that_makes_no_sense_is_refused(spoilt: MarketProcess, rule: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a fault"):
        spoilt.fault(**rule)


def test_hundreds_of_corrections_at_once_are_quick(spoilt: MarketProcess, ask: Get) -> None:
    market_day = rows(ask, DAY)
    tickers = [row["T"] for row in market_day][:300]
    started = time.monotonic()
    spoilt.faults(
        {"action": "revise", "ticker": ticker, "date": "2026-03-06", "values": {"c": i + 0.5}}
        for i, ticker in enumerate(tickers)
    )
    spoilt.faults(
        {"action": "revise", "ticker": "SPY", "date": str(day), "values": {"o": 5.0} if day.astype(int) % 2 else None}
        for day in np.arange("2025-03-01", "2026-03-06", dtype="M8[D]")
    )
    after = rows(ask, DAY)
    series = rows(ask, days("SPY", "2025-03-01/2026-03-05"), limit="50000")
    assert time.monotonic() - started < 2.0
    assert [row["c"] for row in after[:300]] == [i + 0.5 for i in range(300)]
    assert after[300:] == market_day[300:]
    assert {row["o"] for row in series} == {5.0}
