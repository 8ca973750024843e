"""A company that changed its ticker, and the stranger who had the new one before: two histories, never one."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from closingbell import universe
from closingbell.store import Store
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

SPAN = {"start": "2021-11-01", "end": "2022-12-30"}


@pytest.fixture
def renamed(nights: Nights) -> Nights:
    """FB became META on 2022-06-09, by the vendor's word two days later; META was a fund's until that January."""
    nights.market.instrument(
        [("FB", None, "2022-06-09"), ("META", "2022-06-09", None)],
        figi="BBG000MM2P62", cik="0001326801", name="Meta Platforms, Inc.", told={"META": "2022-06-11"},
    )  # fmt: skip
    nights.market.instrument([("META", "2021-06-30", "2022-01-31"), ("METV", "2022-01-31", None)], name="A fund")
    return nights


def rows(store: Store, statement: str, **values: Any) -> list[Any]:
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement), values)]


HISTORY = "SELECT traded_as, session, close FROM bar_history WHERE ticker = :ticker AND timeframe = '1d' ORDER BY ts"


@pytest.mark.parametrize("told_by_vendor", [True, False])
def test_both_histories_are_right(renamed: Nights, store: Store, told_by_vendor: bool) -> None:
    renamed.ingest(tickers=["META", "METV", "FB"], **SPAN)
    if told_by_vendor:
        report = renamed.facts(tickers=["META", "METV"], dividends=False)
        assert (report["state"], report["planned_calls"], report["actual_calls"]) == ("Completed", 3, 3)
    company, fund = rows(store, HISTORY, ticker="META"), rows(store, HISTORY, ticker="METV")
    days = [session for _, session, _ in company]
    assert days == sorted(set(days))
    assert company[0][:2] == ("FB", date(2021, 11, 1))
    names = {session: name for name, session, _ in company}
    assert (names[date(2022, 6, 8)], names[date(2022, 6, 9)]) == ("FB", "META")
    closes = np.log([close for _, _, close in company])
    assert np.abs(np.diff(closes)).max() < 0.25, "one company's prices, without a seam"
    assert len(company) == len(rows(store, "SELECT DISTINCT session FROM bar"))
    if told_by_vendor:
        assert {name for name, _, _ in fund} == {"META", "METV"}
        assert [day for _, day, _ in fund] == days
    stolen = set(rows(store, "SELECT session FROM bar WHERE ticker = 'META' AND session < '2022-02-01'"))
    assert len(stolen) == 62
    assert not {(name, day) for name, day, _ in company} & {("META", day) for (day,) in stolen}


def test_a_company_comes_with_what_it_was_called_before(renamed: Nights, store: Store) -> None:
    report = renamed.ingest(tickers=["META"], **SPAN, former_tickers=True)
    assert report["notes"] == ["FB as well, 2021-11-01 to 2022-06-08"]
    assert rows(store, "SELECT min(session), max(session) FROM bar WHERE ticker = 'FB'") == [
        (date(2021, 11, 1), date(2022, 6, 8))
    ]
    assert report["unexplained"] == {}
    again = renamed.ingest(tickers=["META"], **SPAN, former_tickers=True)
    assert (again["inserted"], again["plan"]["cells"]) == (0, 0)


def test_the_universe_of_the_day_has_the_ticker_of_the_day(renamed: Nights) -> None:
    before, after = (set(universe.load("sp500", day)) for day in (date(2022, 6, 8), date(2022, 6, 9)))
    assert {"FB", "META"} & before == {"FB"}
    assert {"FB", "META"} & after == {"META"}


def test_a_past_universe_is_ingested_under_the_tickers_of_its_day(nights: Nights, store: Store) -> None:
    report = nights.ingest(universe="sp500", universe_on=date(2015, 6, 30), start="2015-06-29", end="2015-06-30")
    members = universe.load("sp500@2015-06-30")
    assert report["expected_cells"] == 2 * len(members)
    assert (report["plan"]["market_days"], report["state"]) == (2, "Completed")
    assert {"FB", "TWX"} <= {ticker for (ticker,) in rows(store, "SELECT DISTINCT ticker FROM watermark")}
