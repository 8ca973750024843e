"""Runs of the same tickers at the same time: no cell is fetched twice, and every run ends with all of its cells."""

from __future__ import annotations

from collections import Counter
from datetime import date

import pytest

from closingbell.calendar import calendar_for
from closingbell.store import Store
from tests.night.command import finish, start
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

TICKERS = ["AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META"]
FIRST, LAST = "2026-02-02", "2026-03-06"


def fetched(paths: list[str]) -> Counter[tuple[str, date]]:
    """How often each cell of interest was fetched."""
    found: Counter[tuple[str, date]] = Counter()
    for path in paths:
        parts = path.split("/")
        if "grouped" in path:
            found.update((ticker, date.fromisoformat(parts[-1])) for ticker in TICKERS)
        else:
            sessions = calendar_for("stocks").sessions(*map(date.fromisoformat, parts[-2:]))
            found.update((parts[4], session) for session in sessions.tolist())
    return found


def test_a_nightly_run_a_manual_one_and_a_retry_at_once_fetch_each_cell_once(nights: Nights, store: Store) -> None:
    nights.setenv("MAX_RETRIES", "0")
    nights.market.fault("status", status=500, path="/range/")
    failed = nights.ingest(tickers=TICKERS[:3], start=FIRST, end=LAST)
    assert failed["gaps"] == {"failed": 3 * 24}
    nights.market.clear_faults()
    nights.market.clear_calls()
    nights.market.fault("stall", seconds=0.5, when="head")
    environment = nights.environment(BATCH_SIZE="2")
    span = ("--start", FIRST, "--end", LAST)
    runs = [
        start(environment, "ingest", "-t", ",".join(TICKERS), *span, "--recheck-sessions", "3"),
        start(environment, "ingest", "-t", "MSFT,NVDA,AMZN", *span),
        start(environment, "retry", str(failed["run_id"])),
    ]
    told = [finish(run) for run in runs]

    assert [run["state"] for run in told] == ["Completed"] * 3
    assert [run["stored_bars"] for run in told] == [6 * 24, 3 * 24, 3 * 24]
    assert sum(run["inserted"] for run in told) == 6 * 24
    assert sum(run["rewritten"] for run in told) == 0
    counts = fetched(nights.bar_calls())
    assert len(counts) == 6 * 24
    assert max(counts.values()) <= 2
    # What was stored before the nightly run planned, on a busy machine, it asks for again, and nothing else.
    assert {session for (_, session), times in counts.items() if times > 1} <= set(
        sorted({day for _, day in counts})[-3:]
    )
    assert sum(run["actual_calls"] for run in told) == len(nights.paths())
    assert store.records.audit()["polygon", "1d"].balanced
