"""Corrections: the recheck sees the last sessions, the reconciliation all the others; both keep the old values."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa

from closingbell.store import Store
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

SPAN = {"start": "2025-12-01", "end": "2026-03-06"}


def rows(store: Store, statement: str, **values: Any) -> list[Any]:
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement), values)]


def corrected(nights: Nights, cells: list[tuple[str, Any]]) -> None:
    """Let the market correct the volume of these bars."""
    for ticker, session in cells:
        nights.market.fault("revise", ticker=ticker, date=str(session), values={"volume": 12_345.5})


def test_the_recheck_keeps_200_revisions_and_the_reconciliation_finds_the_older_five(
    nights: Nights, store: Store
) -> None:
    nights.ingest(universe="sp500+etfs", **SPAN)
    first = rows(store, "SELECT ticker, session, open, high, low, close, volume FROM bar ORDER BY 1, 2")
    with store.engine.connect() as connection:
        known = connection.execute(sa.text("SELECT as_of FROM run")).scalar_one()
    recent = rows(store, "SELECT ticker, session FROM bar WHERE session >= '2026-03-04'")
    older = rows(store, "SELECT ticker, session FROM bar WHERE session < '2026-03-04'")
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    corrected(nights, chance.sample(recent, 200) + (five := chance.sample(older, 5)))

    later = "2026-03-10T12:00:00+00:00"
    nights.setenv("CLOSINGBELL_NOW", later)
    nights.market.clear_calls()
    recheck = nights.ingest(universe="sp500+etfs", **SPAN, recheck_sessions=3)
    assert (recheck["rewritten"], recheck["inserted"]) == (200, 0), f"seed {seed}"
    assert [path for path in nights.bar_calls() if "/grouped/" not in path] == [], "market days, not ranges"
    assert len(nights.bar_calls()) == 3
    assert rows(store, "SELECT count(*) FROM revision") == [(200,)]

    compared = nights.reconcile(sample=0)
    assert (compared["rewritten"], compared["state"]) == (5, "Completed"), f"seed {seed}"
    assert sorted(line.split()[:2] for line in compared["revisions"]) == sorted([t, str(d)] for t, d in five)
    assert rows(store, "SELECT count(*) FROM bar WHERE volume = 12345.5") == [(205,)]
    asked = "SELECT ticker, session, open, high, low, close, volume FROM bar_as_of(:known) ORDER BY 1, 2"
    assert rows(store, asked, known=known) == first


def test_a_sample_is_asked_for_both_ways(nights: Nights) -> None:
    nights.ingest(universe="etfs", **SPAN)
    nights.market.clear_calls()
    compared = nights.reconcile(sample=2)
    kinds = ["/grouped/" in path for path in nights.bar_calls()]
    assert sorted(kinds) == [False, False, True, True]
    assert (compared["rewritten"], compared["planned_calls"]) == (0, compared["actual_calls"])


def test_a_bar_that_the_vendor_no_longer_has_is_told_and_stands(nights: Nights, store: Store) -> None:
    nights.ingest(tickers=["AAPL"], **SPAN)
    nights.market.fault("revise", ticker="AAPL", date="2026-01-15", values=None)
    compared = nights.reconcile(sample=0)
    assert compared["absent"] == ["AAPL 2026-01-15"]
    assert rows(store, "SELECT count(*) FROM bar WHERE session = '2026-01-15'") == [(1,)]


def test_daily_bars_are_held_against_their_minutes(nights: Nights, store: Store) -> None:
    nights.ingest(tickers=["AAPL"], start="2026-03-05", end="2026-03-06")
    assert nights.reconcile(sample=1, minutes=2)["minutes_differ"] == []
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE bar SET high = high * 1.02 WHERE session = '2026-03-05'"))
    told = nights.reconcile(tickers=["AAPL"], start="2026-03-05", end="2026-03-05", sample=1, minutes=1)
    assert told["planned_calls"] == told["actual_calls"]
    assert told["rewritten"] == 1


def test_there_has_to_be_something_to_compare(nights: Nights) -> None:
    assert "nothing of this is stored" in nights.reconcile(tickers=["AAPL"])["error"]


def test_a_recheck_that_failed_is_made_up_for_the_next_night(nights: Nights) -> None:
    nights.setenv("MAX_RETRIES", "0")
    asked = {"universe": "etfs", "start": "2026-02-02", "recheck_sessions": 3}
    nights.ingest(**asked, end="2026-03-03")
    nights.market.fault("status", status=500, path="/grouped/", date="2026-03-02")
    told = nights.ingest(**asked, end="2026-03-04")
    assert (told["state_name"], told["unchecked_calls"], told["next_command"]) == ("PartiallyCompleted", 1, None)
    nights.market.clear_faults()
    nights.market.fault("revise", ticker="SPY", date="2026-03-02", values={"vw": 101.5})
    nights.market.clear_calls()

    assert nights.ingest(**asked, end="2026-03-05")["rewritten"] == 1
    assert sorted(call[-10:] for call in nights.bar_calls()) == [f"2026-03-0{day}" for day in (2, 3, 4, 5)]
    nights.market.clear_calls()
    nights.ingest(**asked, end="2026-03-06")
    assert sorted(call[-10:] for call in nights.bar_calls()) == [f"2026-03-0{day}" for day in (4, 5, 6)]
