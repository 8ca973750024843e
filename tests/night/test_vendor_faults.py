"""Nights through every fault of the vendor: in the end the database is that of a calm night."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
import sqlalchemy as sa

from closingbell import universe
from tests.night.command import contents
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

#: Far enough back that ticker ranges are fewer calls than market days.
SINCE = date(2026, 1, 5)


def answers(body: Any, status: int = 200, **headers: str) -> dict[str, Any]:
    return {"action": "status", "status": status, "body": body, "headers": headers}


FAULTS: dict[str, dict[str, Any]] = {
    "429": {"action": "status", "status": 429},
    "429 with Retry-After": answers("", 429, **{"Retry-After": "0.1"}),
    "429 with an absurd Retry-After": answers("", 429, **{"Retry-After": "1e300"}),
    "500 in JSON": answers({"status": "ERROR", "error": "internal"}, 500),
    "502 from nginx": {"action": "status", "status": 502},
    "503 with nothing": answers("", 503),
    "403 from a firewall": {"action": "html", "status": 403},
    "a captive portal": {"action": "html"},
    "10 MB of garbage": {"action": "garbage", "bytes": 10_000_000},
    "a gzip bomb": {"action": "bomb", "bytes": 50_000_000},
    "a body without end": {"action": "endless"},
    "reset in the body": {"action": "reset"},
    "reset in the head": {"action": "reset", "when": "head"},
    "gzip cut short": {"action": "truncate"},
    "silence": {"action": "stall", "seconds": 3.0},
    "silence in the body": {"action": "stall", "when": "body", "seconds": 3.0},
    "a byte now and then": {"action": "drip", "seconds": 30.0},
    "another ticker": {"action": "wrong_ticker"},
    "fewer rows than it says": {"action": "short_count"},
    "more rows than it says": {"action": "over_count"},
    "the whole series twice": {"action": "twice"},
    "a cursor to itself": {"action": "loop"},
    "cursors without end": {"action": "onward"},
    "a cursor to another host": {"action": "astray"},
    "not gzip": answers('{"status":"OK"}', **{"Content-Encoding": "gzip"}),
    "brackets without end": answers("[" * 100_000),
    "NaN": answers('{"status":"OK","resultsCount":NaN}'),
    "nothing": answers(""),
}


@pytest.mark.parametrize("times", [1, None], ids=["once", "for the whole night"])
def test_ranges(times: int | None, nights: Nights) -> None:
    names = universe.load("sp500")[: len(FAULTS) + 2]
    assert (nights.ingest(tickers=names, start=SINCE)["state_name"]) == "Completed"
    calm = _taken(nights)
    nights.setenv("POLYGON_READ_TIMEOUT", "0.7")
    nights.setenv("POLYGON_CALL_TIMEOUT", "2")
    nights.setenv("MAX_RETRIES", "5" if times else "0")
    nights.market.clear_calls()
    nights.market.faults(
        {**fault, "times": times, "path": f"/ticker/{ticker}/range"}
        for ticker, fault in zip(names, FAULTS.values(), strict=False)
    )

    told = nights.ingest(tickers=names, start=SINCE, batch_size=2)

    assert told["actual_calls"] == len(nights.market.calls())
    if times:
        assert told["state_name"] == "Completed", told["failed"]
        # One attempt more for each fault, and the cursor that leads to itself was followed once.
        assert told["actual_calls"] >= told["planned_calls"] + len(FAULTS) + 1
    else:
        assert told["state_name"] == "PartiallyCompleted"
        failed = {ticker for group in told["failed"].values() for ticker in group["tickers"]}
        assert failed >= set(names[: len(FAULTS)])
        assert _gaps_without_a_cause(nights) == 0
        nights.market.clear_faults()
        nights.setenv("POLYGON_READ_TIMEOUT", "30")
        assert nights.retry(run_id=told["run_id"])["state_name"] == "Completed"
    assert contents(nights.database_url) == calm


def test_market_days(nights: Nights) -> None:
    asked = {"tickers": universe.load("sp500")[:100], "start": date(2026, 2, 23)}
    nights.ingest(**asked)
    days = [path[-10:] for path in nights.bar_calls()]
    faults = ["429", "500 in JSON", "a captive portal", "10 MB of garbage", "reset in the body", "gzip cut short"]
    faults += ["fewer rows than it says", "the whole series twice", "brackets without end", "nothing"]
    assert len(days) == len(faults)
    calm = _taken(nights)
    nights.market.clear_calls()
    nights.market.faults(
        {**FAULTS[name], "times": 1, "path": f"/stocks/{day}"} for name, day in zip(faults, days, strict=True)
    )

    told = nights.ingest(**asked)

    assert told["state_name"] == "Completed", told["failed"]
    assert told["actual_calls"] == told["planned_calls"] + len(faults) == len(nights.market.calls())
    assert contents(nights.database_url) == calm


def _taken(nights: Nights) -> list[list[tuple[Any, ...]]]:
    """What the database holds, which is then as empty as before."""
    held = contents(nights.database_url)
    engine = sa.create_engine(nights.database_url, poolclass=sa.NullPool)
    tables = [name for name in sa.inspect(engine).get_table_names() if name != "alembic_version"]
    with engine.begin() as connection:
        connection.execute(sa.text(f"TRUNCATE {', '.join(tables)}"))
    return held


def _gaps_without_a_cause(nights: Nights) -> int:
    engine = sa.create_engine(nights.database_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        count: int = connection.execute(
            sa.text("SELECT count(*) FROM gap WHERE reason <> 'failed' OR last_error IS NULL OR run_id IS NULL")
        ).scalar_one()
    return count
