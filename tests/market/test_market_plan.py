"""What a key may see: authentication, entitlement, history, and what is not out yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import httpx
import pytest

from infra.market.process import MarketProcess

Get = Callable[..., httpx.Response]

DAY = "/v2/aggs/grouped/locale/us/market/stocks/"
RANGE = "/v2/aggs/ticker/AAPL/range/1/day/"


@pytest.fixture(scope="module")
def plan() -> Iterator[MarketProcess]:
    """A free plan: two years of stocks, two keys."""
    with MarketProcess(size=20, keys=("one", "two"), history_years=2, entitled=("stocks",)) as running:
        yield running


@pytest.fixture
def free(plan: MarketProcess, getter: Callable[..., Get]) -> Get:
    plan.set_now(datetime(2026, 3, 9, 20, 14, tzinfo=UTC))  # a Monday; New York closed 14 minutes ago
    return getter(plan, "one")


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    return answer.status_code, body["status"], body.get("message") or body.get("error")


def test_keys(plan: MarketProcess, getter: Callable[..., Get]) -> None:
    path = RANGE + "2026-03-02/2026-03-06"
    assert refusal(getter(plan, None)(path)) == (401, "ERROR", "API Key was not provided")
    assert refusal(getter(plan, "three")(path)) == (401, "ERROR", "Unknown API Key")
    assert getter(plan, "two")(path).status_code == 200
    assert getter(plan, None)(path + "?apiKey=one").status_code == 200


def test_today_is_out_a_quarter_of_an_hour_after_the_close(plan: MarketProcess, free: Get) -> None:
    status, word, message = refusal(free(DAY + "2026-03-09"))
    assert (status, word) == (403, "NOT_AUTHORIZED")
    assert message.startswith("Attempted to request today's data before end of day.")
    assert refusal(free(RANGE + "2026-03-09/2026-03-09")) == (status, word, message)
    assert refusal(free(RANGE.replace("day", "minute") + "2026-03-09/2026-03-09")) == (status, word, message)
    assert free(RANGE + "2026-03-06/2026-03-09").json()["resultsCount"] == 1  # cut to what is out
    plan.set_now(datetime(2026, 3, 9, 20, 15, tzinfo=UTC))
    assert free(DAY + "2026-03-09").json()["resultsCount"] > 10
    assert free(RANGE + "2026-03-06/2026-03-09").json()["resultsCount"] == 2


def test_a_half_day_is_out_earlier(plan: MarketProcess, free: Get) -> None:
    plan.set_now(datetime(2025, 11, 28, 18, 15, tzinfo=UTC))
    assert free(DAY + "2025-11-28").status_code == 200


def test_the_future_is_refused(free: Get) -> None:
    for path in (DAY + "2026-03-10", RANGE + "2026-03-10/2026-03-12"):
        status, _, message = refusal(free(path))
        assert status == 403
        assert message.startswith("Your plan doesn't include this data timeframe.")


def test_history_is_limited(free: Get) -> None:
    assert free(DAY + "2024-03-11").status_code == 200
    for path in (DAY + "2024-03-06", RANGE + "2022-01-01/2022-12-31"):
        status, _, message = refusal(free(path))
        assert status == 403
        assert "timeframe" in message
    clipped = free(RANGE + "2023-01-01/2024-03-15").json()
    assert clipped["resultsCount"] == 5


def test_other_markets_are_not_in_the_plan(free: Get) -> None:
    for path in (
        "/v2/aggs/ticker/X:BTCUSD/range/1/day/2026-03-01/2026-03-02",
        "/v2/aggs/grouped/locale/global/market/fx/2026-03-02",
        "/v2/aggs/ticker/I:SPX/range/1/day/2026-03-01/2026-03-02",
    ):
        status, word, message = refusal(free(path))
        assert (status, word) == (403, "NOT_AUTHORIZED")
        assert message.startswith("You are not entitled to this data.")


def test_ranges_can_be_refused_whole(getter: Callable[..., Get], now: str) -> None:
    with MarketProcess(size=10, history_years=2, ranges="refuse", status="DELAYED", now=now) as strict:
        ask = getter(strict)
        assert ask(RANGE + "2023-01-01/2024-03-15").status_code == 403
        assert ask(RANGE + "2026-03-02/2026-03-10").status_code == 403
        assert ask(RANGE + "2026-03-02/2026-03-09").json()["status"] == "DELAYED"


def test_the_last_splits_are_announced_before_they_happen(get: Get) -> None:
    newest = get("/v3/reference/splits?limit=1000&execution_date.gt=2026-03-09").json()["results"]
    assert all(split["execution_date"] <= "2026-03-24" for split in newest)
