"""The list of dividends: whole by cursor, filtered, sorted, and added to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import httpx
import pytest
from polygon import RESTClient

from infra.market.process import MarketProcess

Get = Callable[..., httpx.Response]
Rows = list[dict[str, Any]]

PATH = "/v3/reference/dividends"
MSFT = "/v2/aggs/ticker/MSFT/range/1/day/2026-02-20/2026-03-09"


def listed(get: Get, **params: str) -> Rows:
    """Every row, page after page."""
    answer = get(PATH, params={"limit": "1000", **params})
    found: Rows = []
    while True:
        assert answer.status_code == 200, answer.text
        body = answer.json()
        found += body["results"]
        if "next_url" not in body:
            return found
        answer = get(body["next_url"][body["next_url"].index(PATH) :])


@pytest.fixture
def ask(spoilt: MarketProcess, getter: Callable[..., Get], now: str) -> Get:
    spoilt.set_now(datetime.fromisoformat(now))
    return getter(spoilt)


def test_most_stocks_pay_four_times_a_year_a_part_of_their_price_on_a_session(get: Get) -> None:
    year = listed(get, **{"ex_dividend_date.gte": "2025-01-01", "ex_dividend_date.lte": "2025-12-31"})
    by_ticker: dict[str, Rows] = {}
    for row in year:
        by_ticker.setdefault(row["ticker"], []).append(row)
    assert 800 < len(by_ticker) < 1_100
    assert sum(len(paid) == 4 for paid in by_ticker.values()) > 0.85 * len(by_ticker)
    assert len({row["id"] for row in year}) == len(year)
    for row in year[::211]:
        day = row["ex_dividend_date"]
        (bar,) = get(f"/v2/aggs/ticker/{row['ticker']}/range/1/day/{day}/{day}?adjusted=false").json()["results"]
        assert 0.001 < row["cash_amount"] / bar["c"] < 0.02
        assert row["declaration_date"] < day < row["record_date"] < row["pay_date"]


def test_everyones_by_cursor_and_each_ones_by_name_are_the_same(get: Get) -> None:
    bounds = {"ex_dividend_date.gte": "2024-11-05", "ex_dividend_date.lt": "2025-06-20"}
    down = listed(get, **bounds, limit="97")
    assert [row["ex_dividend_date"] for row in down] == sorted((row["ex_dividend_date"] for row in down), reverse=True)
    assert down[0]["ex_dividend_date"] < "2025-06-20"
    assert down[-1]["ex_dividend_date"] >= "2024-11-05"
    assert listed(get, **bounds, order="asc", limit="333") == down[::-1]
    assert sorted(listed(get, **bounds, sort="ticker"), key=str) == sorted(down, key=str)
    for ticker in sorted({row["ticker"] for row in down})[::200]:
        assert listed(get, ticker=ticker, **bounds) == [row for row in down if row["ticker"] == ticker]


def test_filters(get: Get) -> None:
    whole = listed(get, **{"ex_dividend_date.gte": "2025-01-01"})
    one = whole[len(whole) // 2]
    assert one in listed(get, ex_dividend_date=one["ex_dividend_date"])
    for name in ("pay_date", "record_date", "declaration_date"):
        day = one[name]
        found = listed(get, **{name: day, "ex_dividend_date.gte": "2025-01-01"})
        assert found == [row for row in whole if row[name] == day] != []
    dear = listed(get, **{"cash_amount.gt": "2.5", "ex_dividend_date.gte": "2025-01-01"})
    assert dear == [row for row in whole if row["cash_amount"] > 2.5] != []
    by_cash = listed(get, **{"ex_dividend_date.gte": "2026-01-01"}, sort="cash_amount", limit="100")
    assert [row["cash_amount"] for row in by_cash] == sorted((row["cash_amount"] for row in by_cash), reverse=True)
    assert listed(get, dividend_type="SC") == []
    assert len(get(PATH).json()["results"]) == 10
    for wrong in ("ex_dividend_date.gte=soon", "cash_amount.gt=much", "sort=price", "limit=1001"):
        assert get(f"{PATH}?{wrong}").status_code == 400


def test_the_vendors_client_reads_them(client: RESTClient) -> None:
    paid = list(client.list_dividends(ticker_gte="A", ex_dividend_date_gte="2026-02-01", limit=50))
    assert len(paid) > 300
    assert all(row.ex_dividend_date >= "2026-02-01" and row.cash_amount > 0 for row in paid)


def test_upcoming_ones_are_listed_once_declared(get: Get) -> None:
    ahead = listed(get, **{"ex_dividend_date.gt": "2026-03-09"})
    assert ahead
    assert all(row["declaration_date"] <= "2026-03-10" for row in ahead)


def test_one_is_added_and_adjusts_nothing(spoilt: MarketProcess, ask: Get) -> None:
    bars = {flag: ask(MSFT, params={"adjusted": flag}).json()["results"] for flag in ("true", "false")}
    spoilt.dividend("MSFT", date(2026, 3, 5), 1.25, dividend_type="SC", pay_date="2026-03-31")
    (row,) = listed(ask, ticker="MSFT", ex_dividend_date="2026-03-05")
    assert row.pop("id")
    assert row == {
        "cash_amount": 1.25,
        "currency": "USD",
        "declaration_date": "2026-02-03",
        "dividend_type": "SC",
        "ex_dividend_date": "2026-03-05",
        "frequency": 4,
        "pay_date": "2026-03-31",
        "record_date": "2026-03-06",
        "ticker": "MSFT",
    }
    everyone = listed(ask, **{"ex_dividend_date.gte": "2026-03-01", "ex_dividend_date.lte": "2026-03-09"}, limit="20")
    assert [r["cash_amount"] for r in everyone if r["ticker"] == "MSFT"] == [1.25]
    assert {flag: ask(MSFT, params={"adjusted": flag}).json()["results"] for flag in bars} == bars


def test_one_is_announced_late_and_another_retracted(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.dividend("MSFT", "2026-03-05", 0.5, announced="2026-03-11T12:00:00Z")
    spoilt.dividend("AAPL", "2026-03-05", 0.5, retracted=datetime(2026, 3, 11, 12, tzinfo=UTC))
    spoilt.dividend("SPY", "2026-04-09", 0.5)  # declared on the 10th of March

    def there() -> set[str]:
        return {row["ticker"] for row in listed(ask, **{"ex_dividend_date.gte": "2026-03-05"}, cash_amount="0.5")}

    assert there() == {"AAPL", "SPY"}
    spoilt.set_now(datetime(2026, 3, 9, 22, tzinfo=UTC))
    assert there() == {"AAPL"}
    spoilt.set_now(datetime(2026, 3, 11, 12, tzinfo=UTC))
    assert there() == {"MSFT", "SPY"}


def test_after_a_split_a_generated_dividend_is_paid_on_the_new_shares(spoilt: MarketProcess, ask: Get) -> None:
    ticker = listed(ask, **{"ex_dividend_date.gte": "2025-06-01", "ex_dividend_date.lt": "2025-07-01"})[0]["ticker"]
    was = listed(ask, ticker=ticker)
    spoilt.split(ticker, "2025-02-01", 1, 4)
    for before, after in zip(was, listed(ask, ticker=ticker), strict=True):
        ratio = 4 if before["ex_dividend_date"] >= "2025-02-01" else 1
        assert after["cash_amount"] == pytest.approx(before["cash_amount"] / ratio, abs=1e-6)


@pytest.mark.parametrize("said", [{"cash_amount": 0}, {"ex_date": "soon"}, {"announced": "2026-03-11"}])
def test_a_dividend_that_makes_no_sense_is_refused(spoilt: MarketProcess, said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a script"):
        spoilt.dividend(**{"ticker": "MSFT", "ex_date": "2026-03-05", "cash_amount": 1, **said})
