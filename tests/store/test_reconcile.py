"""Records: to the cell, and what people read of them; facts that are not bars."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import (
    FIRST,
    JUDGE,
    LAST,
    SESSIONS,
    answered,
    bars,
    change,
    count,
    days,
    range_of,
    ranged,
    start,
)

from closingbell.bars import Bars
from closingbell.cells import RETRYABLE, Cells, Gap, Watermark, accounted
from closingbell.errors import ConfigurationError, NotEntitledError, NotYetPublishedError, RetryableError
from closingbell.night import work_out
from closingbell.quota import Quota, Quotas
from closingbell.request import Request, of_gaps
from closingbell.store import Store, records
from closingbell.store.records import as_run_id
from closingbell.store.schema import bar, gap, watermark

AT = datetime(2024, 4, 1, 6, tzinfo=UTC)
QUOTA = Quotas(Quota.parse("5/min"), {})


@pytest.fixture
def filled(store: Store) -> Store:
    """Three tickers by ten sessions: whole, with a gap of each kind, and refused."""
    call = range_of("MSFT", days(0, 9))
    block = bars("MSFT", days(0, 7))
    block.rows["high"][4] = 1.0
    store.writer.flush(
        start(store),
        "polygon",
        "1d",
        [
            ranged("AAPL", days(0, 9)),
            answered(call, block),  # 8 and 9 empty, 4 in quarantine
            JUDGE.failed(range_of("GONE", days(0, 4)), RetryableError("no answer")),
            JUDGE.failed(range_of("GONE", days(5, 6)), NotEntitledError("not yours")),
            JUDGE.failed(range_of("GONE", days(7, 8)), NotYetPublishedError("not yet")),
            JUDGE.not_tried(range_of("GONE", days(9, 9))),
        ],
        at=AT,
    )
    return store


DAY = SESSIONS[3].item()
GRID = [Cells.all(("AAPL", "MSFT", "GONE"), days(0, 9))]


def test_every_cell_is_accounted_for(filled: Store) -> None:
    held = filled.records.reconcile("polygon", "1d", GRID)
    assert (held.expected, held.stored) == (30, 17)
    assert held.gaps == {"empty": 2, "quarantined": 1, "failed": 5, "unentitled": 2, "unpublished": 2, "pending": 1}
    assert held.balanced
    assert str(held) == (
        "30 expected = 17 stored + 2 empty + 5 failed + 1 pending + 1 quarantined + 2 unentitled + 2 unpublished"
    )


def test_cells_outside_of_the_grid_do_not_count(filled: Store) -> None:
    some = Cells.all(("AAPL", "MSFT"), SESSIONS[[1, 4, 9]])
    held = filled.records.reconcile("polygon", "1d", [some])
    assert (held.expected, held.stored, held.gaps) == (6, 4, {"quarantined": 1, "empty": 1})
    assert held.balanced


def test_what_a_stopped_run_did_not_reach_is_pending(filled: Store) -> None:
    grid = [Cells.all(("AAPL", "NEW"), days(0, 11))]
    held = filled.records.reconcile("polygon", "1d", grid)
    assert held.unexplained == {"AAPL": 2, "NEW": 12}
    held = filled.records.reconcile("polygon", "1d", grid, stopped=True)
    assert (held.expected, held.stored, held.gaps, held.unexplained) == (24, 10, {"pending": 14}, {})
    change(filled, sa.delete(bar).where(bar.c.ticker == "AAPL", bar.c.session == DAY))
    held = filled.records.reconcile("polygon", "1d", grid, stopped=True)
    assert (held.stored, held.gaps, held.unexplained) == (9, {"pending": 14}, {"AAPL": 1})


def test_halves_over_two_connections_add_up(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    change(filled, sa.delete(bar).where(bar.c.ticker == "AAPL", bar.c.session == DAY))
    whole = filled.records.reconcile("polygon", "1d", GRID)
    assert whole.unexplained == {"AAPL": 1}
    monkeypatch.setattr(records, "_MANY", 0)
    assert filled.records.reconcile("polygon", "1d", GRID) == whole
    assert filled.records.reconcile("polygon", "1d", [Cells.all(("AAPL",), days(0, 9))]).unexplained == {"AAPL": 1}


def test_grids_add_up(filled: Store) -> None:
    parts = [Cells.all(("AAPL",), days(0, 9)), Cells.all(("MSFT", "GONE"), days(0, 9)), Cells.all((), days(0, 9))]
    assert filled.records.reconcile("polygon", "1d", parts) == filled.records.reconcile("polygon", "1d", GRID)


def test_only_the_masks_cells_are_expected(filled: Store) -> None:
    ledger = filled.records.ledger("polygon", "1d", ("AAPL", "NEW"), FIRST, LAST)
    grid = Cells.all(("AAPL", "NEW"), SESSIONS)
    inside = grid.only(accounted(grid, ledger, again=()))
    held = filled.records.reconcile("polygon", "1d", [inside])
    assert (held.expected, held.stored, held.balanced) == (10, 10, True)


@pytest.mark.parametrize(
    ("statement", "off"),
    [
        (sa.delete(bar).where(bar.c.ticker == "AAPL", bar.c.session == DAY), {"AAPL": 1}),
        (sa.delete(gap).where(gap.c.ticker == "GONE", gap.c.reason == "unentitled"), {"GONE": 2}),
        (sa.insert(gap).values(source="polygon", ticker="AAPL", timeframe="1d", session=DAY, reason="failed",
                               attempts=1, updated_at=AT, run_id=uuid4()), {"AAPL": 1}),
        (sa.delete(bar).where(bar.c.ticker == "AAPL"), {"AAPL": 10}),
    ],
)  # fmt: skip
def test_a_cell_that_does_not_add_up_is_found(filled: Store, statement: sa.Executable, off: dict[str, int]) -> None:
    change(filled, statement)
    held = filled.records.reconcile("polygon", "1d", GRID)
    assert not held.balanced
    assert held.unexplained == off
    assert "unexplained" in str(held)


def test_a_missing_cell_and_one_too_many_do_not_cancel_out(filled: Store) -> None:
    """A sum by ticker would be right."""
    eighth, other = SESSIONS[8].item(), SESSIONS[2].item()
    change(filled, sa.update(gap).where(gap.c.ticker == "MSFT", gap.c.session == eighth).values(session=other))
    assert filled.records.reconcile("polygon", "1d", GRID).unexplained == {"MSFT": 2}
    saturday = eighth.replace(day=13)
    change(filled, sa.update(bar).where(bar.c.ticker == "AAPL", bar.c.session == eighth).values(session=saturday))
    assert filled.records.reconcile("polygon", "1d", GRID).unexplained == {"MSFT": 2, "AAPL": 1}


def test_other_timeframes_and_sources_are_not_mistaken_for_it(filled: Store) -> None:
    change(filled, sa.update(bar).where(bar.c.ticker == "AAPL").values(timeframe="1h"))
    change(filled, sa.update(gap).where(gap.c.ticker == "GONE").values(source="other"))
    assert filled.records.reconcile("polygon", "1d", GRID).unexplained == {"AAPL": 10, "GONE": 10}


def test_the_audit_holds_each_watermark(filled: Store) -> None:
    [(key, held)] = filled.records.audit().items()
    assert key == ("polygon", "1d")
    assert (held.expected, held.balanced) == (30, True)
    change(filled, sa.delete(gap).where(gap.c.reason == "pending"))
    assert filled.records.audit()[key].unexplained == {"GONE": 1}


def test_what_a_run_asked_for_before_it_was_over_is_not_missed(store: Store) -> None:
    """Stocks are over in the evening, crypto at midnight UTC: a run in between has the one and not the other."""
    asked: dict[str, Any] = {"source": "polygon", "timeframe": "1d", "tickers": ["AAPL", "X:BTCUSD"]}
    asked |= {"start": "2024-04-01", "end": "2024-04-01"}
    for hour, missed in ((22, {"AAPL"}), (24, {"AAPL", "X:BTCUSD"})):
        run_id, now = uuid4(), datetime(2024, 4, 1, tzinfo=UTC) + timedelta(hours=hour)
        store.records.start_run(run_id, "ingest", asked, {"planned_calls": 1, "cells": 1}, now)
        store.records.end_run(run_id, "Completed", {"actual_calls": 1})
        assert set(store.records.damage("polygon", "1d", ["AAPL", "X:BTCUSD"]).orphans) == missed


def test_a_watermark_that_came_back_shorter_gets_no_gap_outside(filled: Store) -> None:
    """Another run was quicker than the one that found the watermark gone."""
    change(filled, sa.delete(watermark).where(watermark.c.ticker == "AAPL"))
    change(filled, sa.delete(bar).where(bar.c.ticker == "AAPL", bar.c.session == SESSIONS[2].item()))
    damage = filled.records.damage("polygon", "1d", ["AAPL"])
    assert damage.lost == (("AAPL", SESSIONS[2].item()),)
    filled.writer.flush(start(filled), "polygon", "1d", [ranged("AAPL", days(6, 7))], at=AT)
    filled.records.mend(start(filled), "polygon", "1d", damage, AT)
    assert count(filled, gap, gap.c.ticker == "AAPL") == 0
    assert not filled.records.damage("polygon", "1d", ["AAPL"])


def test_the_ledger_of_some_tickers(filled: Store) -> None:
    ledger = filled.records.ledger("polygon", "1d", ["MSFT", "NONE"], SESSIONS[5].item(), SESSIONS[8].item())
    assert ledger.watermarks == {"MSFT": Watermark(SESSIONS[0].item(), SESSIONS[9].item())}
    assert ledger.gaps == [Gap("MSFT", SESSIONS[8].item(), "empty", 1, None, AT)]
    assert filled.records.gaps("polygon", "1d", ["unentitled", "pending"]) == [
        Gap("GONE", SESSIONS[5].item(), "unentitled", 1, "not yours", AT),
        Gap("GONE", SESSIONS[6].item(), "unentitled", 1, "not yours", AT),
        Gap("GONE", SESSIONS[9].item(), "pending", 0, None, AT),
    ]


def test_to_retry_gaps_is_to_ask_for_nothing_else(filled: Store) -> None:
    """Answers wait for a run that is about their tickers, also where their time has come."""
    eighth = sa.and_(gap.c.ticker == "MSFT", gap.c.session == SESSIONS[8].item())
    change(filled, sa.update(gap).where(eighth).values(reason="failed"))
    now = AT + timedelta(days=400)
    lost = [gap for gap in filled.records.gaps("polygon", "1d", RETRYABLE) if gap.ticker == "MSFT"]
    retried = work_out(filled, of_gaps([*lost, Gap("MSFT", SESSIONS[0].item(), "pending")], now), QUOTA, 100, now)
    assert [cell for call in retried.plan.calls for cell in call.cells] == [("MSFT", SESSIONS[8].item())]
    asked = work_out(filled, Request(("MSFT",), FIRST, SESSIONS[9].item()), QUOTA, 100, now)
    assert asked.plan.cells == 3, "4 is in quarantine, 9 empty, both for a long time"


def test_quarantine_by_rule_and_only_of_the_cells_asked(filled: Store) -> None:
    block = bars("AAPL", days(0, 1))
    block.rows["volume"][0] = -1.0
    run_id = start(filled)
    filled.writer.flush(run_id, "polygon", "1d", [answered(range_of("AAPL", days(0, 1)), block)])
    quarantined = filled.records.quarantined
    assert quarantined(run_id, "polygon", "1d", GRID) == {"negative_volume": 1, "ohlc_order": 1}
    assert quarantined(start(filled), "polygon", "1d", GRID) == {"ohlc_order": 1}, "the stored bar stands"
    assert quarantined(run_id, "polygon", "1d", [Cells.all(("MSFT",), days(0, 3))]) == {}


def test_the_overview(filled: Store, database_url: str) -> None:
    assert filled.records.overview() == {
        "bars": 17,
        "tickers": 2,
        "first_session": SESSIONS[0].item(),
        "last_session": SESSIONS[9].item(),
        "gaps": {"empty": 2, "quarantined": 1, "failed": 5, "unentitled": 2, "unpublished": 2, "pending": 1},
        "quarantined": 1,
        "revisions": 0,
    }


def test_one_ticker(filled: Store) -> None:
    filled.writer.flush(start(filled), "polygon", "1d", [ranged("MSFT", days(0, 0), 5.0)])
    known = filled.records.of_ticker("MSFT")
    assert known["bars"] == [{"timeframe": "1d", "bars": 7}]
    assert [row["first_session"] for row in known["watermarks"]] == [SESSIONS[0].item()]
    assert [row["reason"] for row in known["gaps"]] == ["empty", "empty", "quarantined"]
    assert [(row["session"], row["rule"]) for row in known["quarantine"]] == [(SESSIONS[4].item(), "ohlc_order")]
    assert (known["counts"]["gaps"], known["counts"]["revisions"]) == (3, 1)
    [revision] = known["revisions"]
    assert (revision["old_close"], revision["new_close"]) == (100.1, 105.1)
    assert filled.records.of_ticker("msft")["bars"] == []
    assert len(filled.records.of_ticker("MSFT", limit=1)["gaps"]) == 1


def test_a_run_from_start_to_end(store: Store) -> None:
    records = store.records
    run_id = start(store)
    store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 2))], calls=1)
    store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 2), 1.0)], calls=2)
    row = records.run(run_id)
    assert row is not None
    counters = ("actual_calls", "done_cells", "accepted_bars", "inserted", "rewritten")
    assert [row[name] for name in counters] == [3, 6, 6, 3, 3]
    assert (row["state"], row["ended_at"]) == ("Running", None)

    asked = {"source": "polygon", "timeframe": "1d"}
    records.start_run(run_id, "ingest", asked, {"planned_calls": 9, "cells": 2})  # a retry of the flow run
    row = records.run(run_id)
    assert row is not None
    assert (row["planned_calls"], row["planned_cells"], row["actual_calls"]) == (9, 2, 3)

    records.end_run(run_id, "Completed", {"state": "Completed", "actual_calls": 7})
    row = records.run(run_id)
    assert row is not None
    assert (row["state"], row["report"]) == ("Completed", {"state": "Completed", "actual_calls": 7})
    assert row["actual_calls"] == 7
    assert row["ended_at"] >= row["started_at"]
    assert records.run(uuid4()) is None


def test_a_run_that_died_is_found_out(store: Store) -> None:
    """Its lock goes with its connection, as it goes with a killed process."""
    records, dead, living = store.records, start(store), uuid4()
    asked = {"source": "polygon", "timeframe": "1d"}
    with records.alive(living):
        records.start_run(living, "ingest", asked, {"planned_calls": 0, "cells": 0})
        assert (records.is_alive(living), records.is_alive(dead)) == (True, False)
        assert {row["run_id"]: row["state"] for row in records.runs()} == {living: "Running", dead: "Crashed"}
        start(store)
        assert records.run(dead)["state"] == "Crashed"  # type: ignore[index]
        assert records.run(living)["state"] == "Running"  # type: ignore[index]
    assert not records.is_alive(living)


def test_an_audit_sees_one_moment_while_others_write(store: Store, backend: str) -> None:
    if backend == "oracle" and not os.environ.get("CLOSINGBELL_TEST_ORACLE_URL"):
        pytest.skip("the stand-in for Oracle has one isolation level only")
    run_id, over = start(store), threading.Event()
    store.writer.flush(
        run_id, "polygon", "1d", [JUDGE.failed(range_of("AAPL", days(0, 9)), RetryableError("HTTP 500"))]
    )

    def fill_and_empty() -> None:
        try:
            for last in range(1, 10):
                store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, last))])
        finally:
            over.set()

    writer = threading.Thread(target=fill_and_empty)
    writer.start()
    audits = 0
    while not over.is_set() or not audits:
        found = store.records.audit()["polygon", "1d"]
        assert found.balanced
        audits += 1
    writer.join()
    assert store.records.audit()["polygon", "1d"].stored == 10


def test_the_last_run_of_a_flow(store: Store) -> None:
    assert store.records.last_run() is None
    first, last = start(store), start(store)
    other = uuid4()
    asked = {"source": "polygon", "timeframe": "1d"}
    store.records.start_run(other, "retry failed", asked, {"planned_calls": 0, "cells": 0})
    assert store.records.last_run()["run_id"] == last  # type: ignore[index]
    assert store.records.last_run(("retry failed",))["run_id"] == other  # type: ignore[index]
    assert [row["run_id"] for row in store.records.runs()] == [other, last, first]


def test_an_id_that_is_none_is_refused_readably() -> None:
    with pytest.raises(ConfigurationError, match=r"not a run's id: 'nonsense'. closingbell status"):
        as_run_id("nonsense")


def test_bars_of_one_block_may_have_unused_tickers(store: Store) -> None:
    block = bars(("AAPL", "MSFT"), days(0, 0))
    halted = Bars(block.tickers, block.rows[:1])
    call = range_of("AAPL", days(0, 0))
    assert np.array_equal(halted.rows["ticker"], [0])
    with pytest.raises(KeyError):  # a bar of a ticker that was not asked for is the source's mistake, and loud
        store.writer.flush(start(store), "polygon", "1d", [answered(call, halted)])
    assert count(store, bar) == 0
