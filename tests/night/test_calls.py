"""A night makes the calls that its plan announced, and no more."""

from __future__ import annotations

from datetime import date

import pytest
import sqlalchemy as sa

from closingbell import universe
from closingbell.store import Store
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

LAST = date(2026, 3, 6)
RANGES = "/v2/aggs/ticker/"
DAYS = "/v2/aggs/grouped/locale/us/market/stocks/"

#: Keeps every gap that was ever written.
NOTING = (
    "CREATE TABLE noted AS SELECT * FROM gap",
    """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO noted SELECT NEW.*; RETURN NEW; END'""",
    "CREATE TRIGGER note AFTER INSERT ON gap FOR EACH ROW EXECUTE FUNCTION note()",
)


def test_one_session_behind_is_one_market_day(nights: Nights) -> None:
    nights.ingest(start=date(2026, 2, 27), end=date(2026, 3, 5))
    nights.market.clear_calls()

    told = nights.ingest(start=date(2026, 2, 27))

    assert nights.bar_calls() == [DAYS + "2026-03-06"]
    assert told["plan"]["market_days"] == told["inserted"] / 523 == 1
    assert told["planned_calls"] == told["actual_calls"] == len(nights.paths())
    assert told["state_name"] == "Completed"


def test_three_new_tickers_and_five_sessions_behind_are_eight_calls(nights: Nights) -> None:
    everyone = list(universe.load("sp500+etfs"))
    old, new = everyone[3:], everyone[:3]
    nights.ingest(tickers=old, start=date(2026, 1, 5), end=date(2026, 2, 27))
    nights.market.clear_calls()

    told = nights.ingest(tickers=everyone, start=date(2026, 1, 5), end=LAST)

    calls = nights.bar_calls()
    assert sorted(call for call in calls if call.startswith(DAYS)) == [DAYS + f"2026-03-0{d}" for d in range(2, 7)]
    assert sorted(call.split("/")[4] for call in calls if call.startswith(RANGES)) == sorted(new)
    assert told["planned_calls"] == told["actual_calls"] == len(nights.paths())
    assert told["expected_cells"] == told["stored_bars"] + sum(told["gaps"].values()) == 523 * 43


def test_a_second_run_changes_nothing_and_only_rechecks(nights: Nights) -> None:
    nights.ingest(universe="etfs", start=date(2026, 2, 2))
    nights.market.clear_calls()

    again = nights.ingest(universe="etfs", start=date(2026, 2, 2))
    assert (again["planned_calls"], again["actual_calls"], nights.paths()) == (0, 0, [])

    recheck = nights.ingest(universe="etfs", start=date(2026, 2, 2), recheck_sessions=3)
    assert recheck["actual_calls"] == len(nights.paths()) == 3
    assert (recheck["inserted"], recheck["rewritten"]) == (0, 0)
    assert recheck["stored_bars"] == 20 * 24


def test_a_holiday_makes_no_call(nights: Nights) -> None:
    nights.ingest(universe="etfs", start=date(2026, 2, 2))
    nights.market.clear_calls()
    nights.setenv("CLOSINGBELL_NOW", "2026-03-09T06:30:00+00:00")  # the night after a Sunday

    told = nights.ingest(universe="etfs", start=date(2026, 2, 2), recheck_sessions=3, skip_non_sessions=True)

    assert nights.paths() == []
    assert told["state_name"] == "Completed"


def test_a_dry_run_says_the_plan_and_makes_no_call(nights: Nights) -> None:
    from flows.ingest import ingest

    state = ingest(universe="etfs", start=date(2026, 2, 2), dry_run=True, return_state=True)

    assert state.is_completed()
    assert state.message
    assert "20 ticker ranges, 1 look at splits" in state.message
    assert nights.paths() == []


def test_tickers_that_are_gone_cost_one_range_each_and_then_nothing(nights: Nights) -> None:
    gone = [f"GONE{letter}" for letter in "ABCDEFGHIJKL"]
    nights.market.fault("empty", regex="/ticker/GONE")
    nights.ingest(tickers=[*universe.load("sp500"), *gone], start=date(2026, 2, 27), end=date(2026, 3, 5))
    nights.market.clear_calls()

    second = nights.ingest(tickers=[*universe.load("sp500"), *gone], start=date(2026, 2, 27), end=date(2026, 3, 5))
    assert sorted(call.split("/")[4] for call in nights.bar_calls()) == gone
    assert (second["gaps"], second["barless"]) == ({"empty": 60}, gone)
    nights.market.clear_calls()

    third = nights.ingest(tickers=[*universe.load("sp500"), *gone], start=date(2026, 2, 27))
    assert nights.bar_calls() == [DAYS + "2026-03-06"]
    assert third["gaps"] == {"empty": 72}


def test_what_a_fresh_market_day_lacks_is_asked_by_name(nights: Nights) -> None:
    nights.ingest(universe="etfs", start=date(2026, 2, 2), end=date(2026, 3, 5))
    nights.market.fault("revise", ticker="SPY", date="2026-03-06", values=None)
    nights.market.clear_calls()

    first = nights.ingest(universe="etfs", start=date(2026, 2, 2))
    assert first["gaps"] == {"unpublished": 1}
    nights.market.clear_calls()

    second = nights.ingest(universe="etfs", start=date(2026, 2, 2))
    assert nights.bar_calls() == [RANGES + "SPY/range/1/day/2026-03-06/2026-03-06"]
    assert second["gaps"] == {"empty": 1}
    nights.market.clear_calls()

    assert nights.ingest(universe="etfs", start=date(2026, 2, 2))["actual_calls"] == len(nights.paths()) == 0


def test_days_that_come_late_are_noted_as_nothing_else_before(nights: Nights, store: Store) -> None:
    """Later days wait a moment for them: each would have to be noted for every ticker, and unsaid when it comes."""
    with store.engine.begin() as connection:
        for statement in NOTING:
            connection.execute(sa.text(statement))
    for late in ("2026-02-03", "2026-02-10", "2026-02-25"):
        nights.market.fault("stall", seconds=0.2, when="head", path=DAYS + late)

    told = nights.ingest(start=date(2026, 2, 2))

    assert told["plan"]["market_days"] == 24
    assert told["inserted"] == told["expected_cells"] == 523 * 24
    with store.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM noted")).scalar() == 0
