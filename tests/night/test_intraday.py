"""Bars within the day: cut to pages, several timeframes and asset classes as one plan, each class on its own."""

from __future__ import annotations

from datetime import date
from importlib import import_module
from typing import Any, cast

import pytest

from closingbell.settings import load
from deployments.bootstrap import bootstrap
from infra.market.listing import CRYPTO_PAIRS
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

STOCKS = ["AAPL", "MSFT", "SPY"]
MIXED = ["AAPL", "MSFT", "X:BTCUSD", "X:ETHUSD", "C:EURUSD"]


def backfill(nights: Nights, **parameters: Any) -> dict[str, Any]:
    from flows.backfill import backfill as flow

    return nights._run(flow, parameters)


def test_five_tickers_of_two_timeframes_are_as_many_calls_as_planned(nights: Nights) -> None:
    asked = {"tickers": MIXED, "timeframes": ["1m", "1h"], "start": date(2025, 12, 15), "end": date(2026, 3, 6)}

    told = backfill(nights, **asked)

    calls = nights.bar_calls()
    # 56 sessions of stocks are two pages of at most 52; 82 days of crypto three of 34; 71 of currencies three.
    assert len(calls) == len(set(calls)) == 2 * (2 * 2 + 2 * 3 + 3)
    assert told["planned_calls"] == told["actual_calls"] == len(nights.paths())
    assert told["state_name"] == "Completed"
    assert told["expected_cells"] == told["stored_cells"] + sum(told["gaps"].values()) == 2 * (2 * 56 + 2 * 82 + 71)
    assert {(part["timeframe"], part["asset_class"]): part["planned_calls"] for part in told["parts"]} == {
        (timeframe, name): count
        for timeframe in ("1m", "1h")
        for name, count in (("stocks", 4), ("crypto", 6), ("fx", 3))
    }
    nights.market.clear_calls()

    again = backfill(nights, **asked)
    assert (again["planned_calls"], again["actual_calls"], nights.paths()) == (0, 0, [])


def test_crypto_that_fails_six_calls_in_ten_costs_stocks_nothing(nights: Nights) -> None:
    nights.setenv("POLYGON_CRYPTO_CALLS_PER_MINUTE", "20/0.2s")
    bootstrap(load())  # which makes the limit of that quota
    for cycle in range(80):  # of the calls for crypto, three fail and two do not
        nights.market.fault("status", regex="/ticker/X:", status=503, after=2 * cycle, times=3)

    told = backfill(
        nights, tickers=[*STOCKS, *CRYPTO_PAIRS], timeframes=["1h"], start=date(2026, 1, 26), end=date(2026, 3, 6)
    )

    calls = nights.bar_calls()
    stocks, crypto = ([path for path in calls if ("/X:" in path) == crypto] for crypto in (False, True))
    assert len(stocks) == 3, "none of theirs was made again"
    assert max(map(calls.index, stocks)) < 40, "nor did one wait for crypto's retries"
    assert len(crypto) >= 2 * 40
    parts = {part["asset_class"]: part for part in told["parts"]}
    assert parts["stocks"]["stored_cells"] == parts["stocks"]["expected_cells"] == 3 * 29
    assert parts["crypto"]["planned_calls"] == 2 * 20
    assert parts["crypto"]["stored_cells"] >= 0.95 * parts["crypto"]["expected_cells"] == 0.95 * 20 * 40
    assert told["expected_cells"] == told["stored_cells"] + sum(told["gaps"].values())
    assert {"api", "checks", "database", "decoding", "waiting"} <= set(told["seconds"])


def test_a_page_that_failed_is_asked_for_again_alone(nights: Nights) -> None:
    asked = {
        "tickers": ["AAPL", "MSFT"],
        "timeframes": ["1m", "15m"],
        "start": date(2025, 12, 1),
        "end": date(2026, 3, 6),
    }
    for minutes in (1, 15):
        nights.market.fault("status", path=f"/ticker/MSFT/range/{minutes}/minute/2025-12-01", status=500)

    told = backfill(nights, **asked)
    assert told["state_name"] == "PartiallyCompleted"
    assert told["gaps"] == {"failed": 2 * 52}
    (group,) = told["failed"].values()
    assert (group["calls"], group["cells"], group["tickers"]) == (2, 2 * 52, ["MSFT"])

    nights.market.clear_faults()
    nights.market.clear_calls()
    told = nights.retry(timeframes=["15m"])
    assert [path.split("/")[6:] for path in nights.bar_calls()] == [["15", "minute", "2025-12-01", "2026-02-13"]]
    assert (told["planned_calls"], told["actual_calls"], told["gaps"]) == (1, 1, {})

    nights.market.clear_calls()
    told = nights.retry(run_id="all")
    assert [path.split("/")[6:] for path in nights.bar_calls()] == [["1", "minute", "2025-12-01", "2026-02-13"]]
    assert told["gaps"] == {}


def test_a_session_in_cents_is_kept_apart_and_its_neighbours_are_stored(nights: Nights) -> None:
    nights.market.fault("scale", factor=100, tickers=["AAPL"], first="2026-02-11", last="2026-02-11")

    told = nights.ingest(tickers=["AAPL", "MSFT"], timeframes=["1m"], start=date(2026, 2, 2), end=date(2026, 2, 20))

    assert told["state_name"] == "Completed"
    assert told["gaps"] == {"quarantined": 1}
    assert told["stored_cells"] == told["expected_cells"] - 1 == 27
    assert told["stored_bars"] == told["inserted"] == 27 * 390
    assert told["quarantined"]["hundredfold"] > 300, "bars are kept apart one by one, and cells are counted"

    nights.market.clear_faults()
    nights.market.clear_calls()
    again = nights.ingest(
        tickers=["AAPL", "MSFT"], timeframes=["1m"], start=date(2026, 2, 2), end=date(2026, 2, 20), ask_again=True
    )
    assert nights.bar_calls() == ["/v2/aggs/ticker/AAPL/range/1/minute/2026-02-11/2026-02-11"]
    assert (again["gaps"], again["stored_cells"], again["stored_bars"]) == ({}, 28, 28 * 390)


@pytest.mark.parametrize("name", ["ingest", "backfill"])
def test_each_option_of_the_command_is_a_parameter_of_its_flow(name: str) -> None:
    import click

    from deployments import commands

    options = {option.name for option in cast(click.Command, getattr(commands, name)).params}
    flow = getattr(import_module(f"flows.{name}"), name)
    assert options - {"names", "as_json"} <= set(flow.parameters.properties)
