"""What fails is named, what does not fail lands, and a retry asks for exactly the rest."""

from __future__ import annotations

from datetime import date

import pytest
import sqlalchemy as sa

from closingbell.bars import Bars
from closingbell.sources.polygon import PolygonSource
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect


def test_three_ranges_and_a_market_day_fail_and_are_retried_alone(nights: Nights) -> None:
    nights.setenv("MAX_RETRIES", "1")
    nights.ingest(universe="etfs", start=date(2026, 2, 2), end=date(2026, 3, 3))
    nights.market.clear_calls()
    new = ["AAPL", "MSFT", "NVDA", "JPM"]
    for ticker in new[:3]:
        nights.market.fault("status", status=500, path=f"/ticker/{ticker}/range")
    nights.market.fault("status", status=503, path="/grouped/", date="2026-03-05")

    told = nights.ingest(tickers=[*_etfs(), *new], start=date(2026, 2, 2))

    assert (told["state_name"], told["state_type"]) == ("PartiallyCompleted", "COMPLETED")
    assert told["gaps"] == {"failed": 3 * 24 + 20}
    assert told["stored_bars"] == 24 * 24 - told["gaps"]["failed"]
    assert told["next_command"] == f"closingbell retry {told['run_id']}"
    assert sorted(name for group in told["failed"].values() for name in group["tickers"]) == sorted(
        [*_etfs(), *new[:3]]
    )
    assert f"{3 * 24 + 20} cells failed" in told["message"]

    nights.market.clear_faults()
    nights.market.clear_calls()
    again = nights.retry(run_id="last")

    assert sorted(nights.bar_calls()) == sorted(
        ["/v2/aggs/grouped/locale/us/market/stocks/2026-03-05"]
        + [f"/v2/aggs/ticker/{ticker}/range/1/day/2026-02-02/2026-03-06" for ticker in new[:3]]
    )
    assert again["state_name"] == "Completed"
    assert again["gaps"] == {}
    assert again["stored_bars"] == again["expected_cells"] == 24 * 24


def test_retrying_all_asks_for_gaps_only(nights: Nights) -> None:
    nights.setenv("MAX_RETRIES", "0")
    nights.ingest(tickers=["AAPL"], start=date(2026, 3, 2))
    nights.market.fault("status", status=500, path="/ticker/MSFT/range")
    nights.ingest(tickers=["MSFT"], start=date(2026, 2, 2))
    nights.market.clear_faults()
    nights.market.clear_calls()

    told = nights.retry(run_id="all")

    assert nights.bar_calls() == ["/v2/aggs/ticker/MSFT/range/1/day/2026-02-02/2026-03-06"]
    assert (told["state_name"], told["stored_bars"]) == ("Completed", 24)


def test_a_wrong_key_stops_the_run_before_any_bar(nights: Nights) -> None:
    nights.market.fault("status", status=401, body='{"status":"ERROR","error":"Unknown API Key"}')

    told = nights.ingest(tickers=["AAPL", "MSFT"], start=date(2026, 3, 2))

    assert (told["state_type"], told["actual_calls"]) == ("FAILED", 1)
    assert (told["gaps"], told["unexplained"]) == ({"pending": 10}, {})
    assert "POLYGON_API_KEY" in told["error"]
    assert "canary" not in str(told)


def test_a_key_that_expires_midway_leaves_every_cell_accounted_for(nights: Nights) -> None:
    nights.market.fault(
        "status", status=401, body='{"status":"ERROR","error":"Unknown API Key"}', path="/range/", after=3
    )

    told = nights.ingest(universe="etfs", start=date(2026, 2, 2))

    assert told["state_type"] == "FAILED"
    engine = sa.create_engine(nights.database_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        bars = connection.execute(sa.text("SELECT count(*) FROM bar")).scalar_one()
        gaps = dict(connection.execute(sa.text("SELECT reason, count(*) FROM gap GROUP BY reason")).tuples().all())
    assert bars + gaps["pending"] == 20 * 24
    assert bars
    nights.market.clear_faults()
    assert nights.ingest(universe="etfs", start=date(2026, 2, 2))["stored_bars"] == 20 * 24


@pytest.mark.parametrize("action", ["status", "truncate", "html", "reset"])
def test_a_failed_look_at_splits_costs_no_bar(nights: Nights, action: str) -> None:
    nights.setenv("MAX_RETRIES", "0")
    nights.market.fault(action, path="/reference/splits")

    told = nights.ingest(tickers=["AAPL"], start=date(2026, 3, 2))

    assert told["state_name"] == "PartiallyCompleted"
    assert told["stored_bars"] == 5
    nights.market.clear_faults()
    nights.market.clear_calls()
    assert nights.retry()["state_name"] == "Completed"
    assert nights.paths() == ["/v3/reference/splits"]


def test_no_vendor_at_all_is_one_readable_error(nights: Nights) -> None:
    nights.setenv("MAX_RETRIES", "1")
    nights.setenv("POLYGON_BASE_URL", "http://127.0.0.1:9")

    told = nights.ingest(universe="etfs", start=date(2026, 3, 2))

    assert told["state_type"] == "FAILED"
    assert "POLYGON_BASE_URL" in told["error"]
    assert (told["gaps"], told["unexplained"]) == ({"pending": 100}, {})


def test_an_unpublished_session_is_not_a_failure(nights: Nights) -> None:
    body = '{"status":"NOT_AUTHORIZED","message":"Attempted to request today\'s data before end of day. Please"}'
    nights.ingest(universe="etfs", start=date(2026, 3, 2), end=date(2026, 3, 5))
    nights.market.fault("status", status=403, body=body, path="/grouped/")

    told = nights.ingest(universe="etfs", start=date(2026, 3, 2))

    assert (told["state_name"], told["gaps"]) == ("Completed", {"unpublished": 20})
    nights.market.clear_faults()
    assert nights.ingest(universe="etfs", start=date(2026, 3, 2))["gaps"] == {}


def test_an_unknown_ticker_is_named(nights: Nights) -> None:
    nights.market.fault(
        "status", status=404, body='{"status":"NOT_FOUND","message":"Ticker not found."}', path="/ZZZZ/"
    )

    told = nights.ingest(tickers=["AAPL", "ZZZZ"], start=date(2026, 3, 2))

    assert told["state_name"] == "Completed"
    assert [group["tickers"] for group in told["unknown"].values()] == [["ZZZZ"]]
    assert told["gaps"] == {"empty": 5}


def _etfs() -> list[str]:
    from closingbell import universe

    return list(universe.load("etfs"))


def test_a_bug_at_one_call_costs_no_other_ticker_its_bars(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = PolygonSource.fetch_range

    def buggy(self: PolygonSource, ticker: str, *rest: date) -> Bars:
        if ticker == "SPY":
            raise ZeroDivisionError
        return fetch(self, ticker, *rest)

    monkeypatch.setattr(PolygonSource, "fetch_range", buggy)

    told = nights.ingest(universe="etfs", start=date(2026, 2, 2), batch_size=4)

    assert told["state_name"] == "PartiallyCompleted"
    assert (told["stored_bars"], told["gaps"]) == (19 * 24, {"failed": 24})
    assert [group["tickers"] for group in told["failed"].values()] == [["SPY"]]


def test_a_failed_recheck_leaves_stored_bars_and_nothing_to_retry(nights: Nights) -> None:
    nights.setenv("MAX_RETRIES", "0")
    nights.ingest(universe="etfs", start=date(2026, 3, 2))
    nights.market.fault("status", status=500, path="/grouped/", date="2026-03-06")

    told = nights.ingest(universe="etfs", start=date(2026, 3, 2), recheck_sessions=3)

    assert (told["state_name"], told["gaps"], told["stored_bars"]) == ("PartiallyCompleted", {}, 100)
    assert [group["cells"] for group in told["failed"].values()] == [0]
    assert told["next_command"] is None


def test_a_report_that_finds_no_prefect_changes_no_night(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr("tasks.night.create_markdown_artifact", away)
    monkeypatch.setattr("tasks.night.announce", lambda night, gate: [])

    told = nights.ingest(tickers=["AAPL"], start=date(2026, 3, 2))

    assert (told["state_name"], told["inserted"]) == ("Completed", 5)
    with sa.create_engine(nights.database_url, poolclass=sa.NullPool).connect() as connection:
        assert connection.execute(sa.text("SELECT state, inserted FROM run")).tuples().all() == [("Completed", 5)]


def test_a_vendor_that_always_fails_is_not_asked_for_everything_again_and_again(nights: Nights) -> None:
    nights.setenv("MAX_RETRIES", "1")
    nights.setenv("FETCH_THREADS", "1")
    nights.market.fault("status", status=500, path="/ticker/")
    from closingbell import universe

    names = list(universe.load("sp500"))[:100]
    told = nights.ingest(tickers=names, start=date(2025, 9, 2), batch_size=50)

    assert told["state_type"] == "FAILED"
    assert sum(told["gaps"].values()) == told["expected_cells"] == 100 * 129
    assert len(nights.bar_calls()) < 60


def test_nothing_to_retry_is_no_failure(nights: Nights) -> None:
    nights.ingest(tickers=["AAPL"], start=date(2026, 3, 2))
    nights.market.clear_calls()
    told = nights.retry(run_id="all")
    assert (told["state_name"], nights.paths()) == ("Completed", [])


def test_calls_put_off_in_a_storm_are_no_failures_once_they_are_made(nights: Nights) -> None:
    nights.setenv("MAX_RETRIES", "3")
    nights.setenv("BATCH_SIZE", "40")
    nights.market.fault("status", status=503, times=26, path="/range/")
    told = nights.ingest(universe="etfs", start=date(2026, 2, 2), end=date(2026, 3, 3))
    assert (told["state"], told["failed"], told["next_command"]) == ("Completed", {}, None)
    assert told["stored_bars"] == told["expected_cells"]
