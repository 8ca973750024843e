"""Events of stored bars as a flow: planned, told, reported like any run, without a call and without a vendor."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from closingbell.events import DETECTORS
from closingbell.store import open_store
from closingbell.store.schema import bar, event, run
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

TICKERS = ["AAPL", "MSFT", "SPY"]


def derive(nights: Nights, **parameters: Any) -> dict[str, Any]:
    from flows.derive_events import derive_events

    return nights._run(derive_events, parameters)


def events(nights: Nights) -> list[Any]:
    with closing(open_store(nights.database_url)) as store, store.engine.connect() as connection:
        query = sa.select(event.c.ticker, event.c.ts, event.c.kind, event.c.upper, event.c.lower)
        return sorted(map(tuple, connection.execute(query)))


def test_events_of_daily_bars(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.ingest(tickers=TICKERS, start="2024-04-01")
    nights.market.clear_calls()
    for name in ("POLYGON_BASE_URL", "POLYGON_API_KEY"):
        monkeypatch.delenv(name)  # nobody is asked
    monkeypatch.setenv("DATABASE_URL", nights.database_url)
    source = stored_source(nights)

    dry = derive_dry(nights, source)
    assert "3 tickers" in dry
    assert "no call" in dry
    assert events(nights) == []

    first = derive(nights, source=source)
    found = events(nights)
    assert (first["state"], first["flow"], first["actual_calls"]) == ("Completed", "derive-events", 0)
    assert first["events"]["inserted"] == len(found) > 0
    assert {ticker for ticker, *_ in found} == set(TICKERS)
    assert first["message"] == first["told"][0]
    assert row_of(nights, first["run_id"]) == ("derive-events", "Completed")

    again = derive(nights, source=source)
    assert (again["events"]["commits"], again["plan"]["cells"]) == (0, 0)

    rebuilt = derive(nights, source=source, tickers=["SPY"], purge=True)
    assert rebuilt["events"]["removed"] == rebuilt["events"]["inserted"] > 0
    assert events(nights) == found

    some = derive(nights, source=source, tickers=["SPY", "NONE"])
    assert some["state"] == "PartiallyCompleted"
    assert some["failed"]["no bars are stored to derive events from"]["tickers"] == ["NONE"]

    turned = derive(nights, source=source, start="2025-02-02", end="2025-02-01")
    assert "the start is after the end" in turned["error"]

    none = derive(nights, source=source, timeframe="5m", from_timeframe="1m")
    assert none["state"] == "Failed"
    assert "no bars are stored" in none["error"]
    assert "derive-events goes on" in nights.retry(run_id=first["run_id"])["error"]
    assert nights.market.calls() == []
    assert list(DETECTORS) == ["triangles"]  # the form's choice


def derive_dry(nights: Nights, source: str) -> str:
    from flows.derive_events import derive_events

    return str(derive_events(source=source, dry_run=True, return_state=True).message)


def stored_source(nights: Nights) -> str:
    with closing(open_store(nights.database_url)) as store, store.engine.connect() as connection:
        (source,) = connection.execute(sa.select(bar.c.source).distinct()).scalars()
        return str(source)


def row_of(nights: Nights, run_id: str) -> tuple[str, str]:
    with closing(open_store(nights.database_url)) as store, store.engine.connect() as connection:
        query = sa.select(run.c.flow, run.c.state).where(sa.cast(run.c.run_id, sa.String) == run_id)
        return tuple(connection.execute(query).one())
