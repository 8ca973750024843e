"""Bars on another scale, or of another ticker: none is accepted, and the report says in one line why."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from closingbell import report
from closingbell.store import Store
from closingbell.universe import load
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

ETFS = load("etfs")
SPAN = {"start": "2025-11-03", "end": "2026-03-06"}


def rows(store: Store, statement: str, **values: Any) -> list[Any]:
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement), values)]


def lines_about(told: dict[str, Any], rule: str) -> list[str]:
    return [line for line in report.lines(told) if rule in line]


@pytest.mark.parametrize(
    ("tickers", "start"),
    [(ETFS, "2026-03-02"), (ETFS[1:6], "2025-03-03"), (ETFS[1:3], "2026-03-06"), (ETFS[1:4], "2026-03-05")],
    ids=["market days", "ranges", "single bars", "a few"],
)
def test_one_series_for_every_ticker_is_no_bar_of_any(
    nights: Nights, store: Store, tickers: tuple[str, ...], start: str
) -> None:
    nights.market.fault("same_series", of="AAPL")
    told = nights.ingest(tickers=list(tickers), start=start, end="2026-03-06")
    assert rows(store, "SELECT count(*) FROM bar") == [(0,)]
    assert told["gaps"] == {"quarantined": told["expected_cells"]}
    (line,) = lines_about(told, "same_series")
    assert "came under several tickers" in line
    assert told["unexplained"] == {}

    nights.market.clear_faults()
    nights.setenv("CLOSINGBELL_NOW", "2026-03-11T02:30:00+00:00")
    healed = nights.ingest(tickers=list(tickers), start=start, end="2026-03-06")
    assert healed["gaps"] == {}
    assert healed["stored_bars"] == told["expected_cells"]


def test_a_ticker_that_is_answered_with_a_stored_ones_series(nights: Nights, store: Store) -> None:
    nights.ingest(tickers=["AAPL", "MSFT"], **SPAN)
    before = rows(store, "SELECT * FROM bar ORDER BY ticker, ts")
    nights.market.fault("same_series", of="AAPL")
    told = nights.ingest(tickers=["SPY"], **SPAN)
    assert told["gaps"] == {"quarantined": told["expected_cells"]}
    assert "SPY as AAPL" in lines_about(told, "same_series")[0]
    assert rows(store, "SELECT * FROM bar ORDER BY ticker, ts") == before


def test_stored_bars_stand_when_a_night_brings_one_series_for_all(nights: Nights, store: Store) -> None:
    nights.ingest(tickers=list(ETFS), start="2025-11-03", end="2026-03-05")
    nights.market.fault("same_series", of="SPY")
    told = nights.ingest(tickers=list(ETFS), **SPAN)
    assert rows(store, "SELECT ticker FROM bar WHERE session = '2026-03-06'") == []
    assert (told["rewritten"], told["stored_bars"]) == (0, told["expected_cells"] - len(ETFS))


@pytest.mark.parametrize(
    ("tickers", "since"),
    [pytest.param(ETFS[:3], "2026-02-20", marks=pytest.mark.soak), (ETFS, "2026-01-20")],
    ids=["3", "20"],
)
def test_ranges_of_stored_tickers_that_come_as_one_series(
    nights: Nights, store: Store, tickers: tuple[str, ...], since: str
) -> None:
    """Also not for the one that came first, and not for the one whose series it is."""
    nights.ingest(tickers=list(tickers), start="2025-11-03", end=since)
    before = rows(store, "SELECT * FROM bar ORDER BY ticker, ts")
    nights.market.fault("same_series", of=tickers[1])
    told = nights.ingest(tickers=list(tickers), **SPAN)
    assert told["plan"]["ranges"] == len(tickers)
    assert rows(store, "SELECT * FROM bar ORDER BY ticker, ts") == before
    assert told["gaps"] == {"quarantined": told["expected_cells"] - len(before)}
    nights.market.clear_faults()
    nights.setenv("CLOSINGBELL_NOW", "2026-03-11T02:30:00+00:00")
    assert nights.ingest(tickers=list(tickers), **SPAN)["gaps"] == {}


@pytest.mark.parametrize("days", ["2026-03-06", "2026-02-17", "2025-11-03"])
@pytest.mark.parametrize("tickers", [ETFS, ETFS[:1]], ids=["market days", "range"])
def test_a_price_in_cents_is_no_price_in_dollars(
    nights: Nights, store: Store, tickers: tuple[str, ...], days: str
) -> None:
    """Whether it comes first, in the middle or last, and in whatever order the calls end."""
    nights.market.fault("scale", factor=100, tickers=["SPY"], first=days, last=days)
    span = {"start": "2025-11-03", "end": "2026-03-06"} if len(tickers) == 1 else {"start": days, "end": "2026-03-06"}
    if len(tickers) > 1 and days == "2026-03-06":
        span["start"] = "2026-02-17"
    told = nights.ingest(tickers=list(tickers), **span)
    assert rows(store, "SELECT ticker, CAST(session AS text) FROM quarantine") == [("SPY", days)]
    assert told["gaps"] == {"quarantined": 1}
    assert told["unexplained"] == {}
    assert any(f"SPY {days}" in line for line in report.lines(told))


def test_what_a_run_that_had_to_stop_did_not_look_at_once_more_the_next_one_does(nights: Nights, store: Store) -> None:
    """Many market days are judged by their neighbours when all are there, which a stopped run does not come to."""
    asked = {"tickers": list(load("sp500")[:60]), "start": "2026-01-26", "end": "2026-03-06"}
    bad = (asked["tickers"][7], "2026-01-29")
    nights.market.fault("scale", factor=100, tickers=[bad[0]], first=bad[1], last=bad[1])
    nights.market.fault("status", status=401, path="/grouped/", after=12)
    told = nights.ingest(**asked)
    assert told["plan"]["market_days"] == 29
    assert "401" in told["error"]
    stored = "SELECT count(*) FROM bar WHERE ticker = :ticker AND session = '2026-01-29'"
    assert rows(store, stored, ticker=bad[0]) == [(1,)]
    nights.market.clear_faults()
    told = nights.ingest(**asked)
    assert rows(store, "SELECT ticker, CAST(session AS text), rule FROM quarantine") == [(*bad, "hundredfold")]
    assert rows(store, stored, ticker=bad[0]) == [(0,)]
    assert (told["gaps"], told["unexplained"]) == ({"quarantined": 1}, {})
    assert store.records.unswept("polygon", uuid4()) == []


def test_the_newest_night_in_cents_never_reaches_the_table(nights: Nights, store: Store) -> None:
    nights.ingest(tickers=list(ETFS), start="2026-02-02", end="2026-03-05")
    nights.market.fault("scale", factor=0.01, tickers=["QQQ"], first="2026-03-06", last="2026-03-06")
    told = nights.ingest(tickers=list(ETFS), start="2026-02-02", end="2026-03-06")
    assert told["quarantined"] == {"hundredfold": 1}
    assert rows(store, "SELECT count(*) FROM revision") == [(0,)]


def test_a_split_applied_to_some_bars_only(nights: Nights, store: Store) -> None:
    nights.market.split("SPY", "2026-02-23", 1, 4)
    nights.market.fault("adjust", tickers=["SPY"], first="2026-02-12", last="2026-02-20")
    told = nights.ingest(tickers=["SPY"], **SPAN)
    assert told["quarantined"] == {"off_scale": 6}
    assert rows(store, "SELECT count(*) FROM bar WHERE session BETWEEN '2026-02-12' AND '2026-02-20'") == [(0,)]


def test_adjusted_prices_never_replace_raw_ones(nights: Nights, store: Store) -> None:
    nights.market.split("SPY", "2026-02-23", 1, 4)
    nights.ingest(tickers=["SPY"], **SPAN)
    before = rows(store, "SELECT session, close FROM bar ORDER BY 1")
    nights.market.fault("adjust", tickers=["SPY"])
    told = nights.reconcile(tickers=["SPY"], sample=0)
    assert told["rewritten"] == 0
    assert rows(store, "SELECT session, close FROM bar ORDER BY 1") == before
    assert "adjusted prices sent for raw ones" in lines_about(told, "restated")[0]


def test_bars_refused_before_a_late_split_was_known_are_asked_for_once_it_is(nights: Nights, store: Store) -> None:
    nights.market.split("SPY", "2026-03-05", 100, 1, announced="2026-03-10T03:00:00+00:00")
    asked = {"tickers": ["SPY"], "start": "2026-02-02", "end": "2026-03-06"}
    nights.ingest(**{**asked, "end": "2026-03-04"})
    assert nights.ingest(**asked)["quarantined"] == {"hundredfold": 2}
    # The day after: the look at splits comes with a night that has nothing else to ask for yet.
    nights.market.set_now(datetime.fromisoformat(known := "2026-03-10T23:00:00+00:00"))
    nights.setenv("CLOSINGBELL_NOW", known)
    assert nights.ingest(**asked)["gaps"] == {"pending": 2}
    assert nights.ingest(**asked)["gaps"] == {}
    assert rows(store, "SELECT max(factor) FROM bar_adjusted WHERE session < '2026-03-05'") == [(100.0,)]


def test_a_late_split_is_a_warning_and_then_none(nights: Nights) -> None:
    nights.market.split("SPY", "2026-03-06", 1, 4, announced="2026-03-12T00:00:00+00:00")
    told = nights.ingest(tickers=["SPY"], **SPAN)
    assert told["warned"]["unexplained_jump"] == 1
    assert lines_about(told, "unexplained_jump")[0].endswith("(SPY 2026-03-06 x0.25)")
    assert told["quarantined"] == {}
