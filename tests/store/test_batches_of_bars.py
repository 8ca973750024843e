"""A session of which only some batches are committed: it is no bar yet, contradicts nothing, and is asked for again."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa

from closingbell.bars import BAR, NO_TRADES, Bars, Roll
from closingbell.calendar import calendar_for
from closingbell.cells import PARTIAL, Cells, accounted
from closingbell.errors import RetryableError
from closingbell.outcome import Judge, Outcome
from closingbell.parts import in_batches
from closingbell.plan import TickerRange
from closingbell.store import Store
from closingbell.store.rolls import changes
from closingbell.store.schema import bar, gap
from tests.store.blocks import count, rows_of

DAYS = calendar_for("futures").sessions(date(2024, 1, 2), date(2024, 1, 4))
JUDGE = Judge("futures", DAYS, DAYS[-1], DAYS[-1])
#: Ten minutes of each of three sessions.
TS = (calendar_for("futures").opens(DAYS)[:, None] + np.arange(10) * np.timedelta64(1, "m")).ravel()


def whole() -> Outcome:
    rows = np.zeros(30, BAR)
    rows["ts"], rows["session"] = TS, np.repeat(DAYS, 10)
    for name in ("open", "high", "low", "close"):
        rows[name] = 17_000.0 + np.arange(30)
    rows["volume"], rows["vwap"], rows["trades"] = 5, np.nan, NO_TRADES
    call = TickerRange("NQ.v.0", tuple(DAYS.tolist()), 1, 30, "1m")
    return JUDGE.answered(call, Bars(("NQ.v.0",), rows, "1m"), 30)


def started(store: Store) -> UUID:
    run_id = UUID(int=int(np.random.default_rng().integers(1, 2**62)))
    asked: dict[str, Any] = {"source": "databento", "timeframe": "1m", "recheck_sessions": 0}
    store.records.start_run(run_id, "ingest", asked, {"planned_calls": 1, "cells": 3})
    return run_id


def missing(store: Store) -> list[date]:
    """What the next run asks for."""
    damage = store.records.damage("databento", "1m", ["NQ.v.0"])
    assert not damage
    ledger = store.records.ledger("databento", "1m", ["NQ.v.0"], None, DAYS[-1].item())
    grid = Cells.all(("NQ.v.0",), DAYS)
    found: list[date] = DAYS[~accounted(grid, ledger)[0]].tolist()
    return found


def test_every_batch_leaves_the_ledger_true(store: Store) -> None:
    run_id, grid = started(store), Cells.all(("NQ.v.0",), DAYS)
    rolls = [Roll("NQ.v.0", DAYS[0].item(), TS[0], 118), Roll("NQ.v.0", DAYS[1].item(), TS[14], 4358)]
    left = {1: 3, 2: 2, 3: 1, 4: 1, 5: 0}
    for number, part in enumerate(in_batches(whole(), 7, rolls), 1):
        result = store.writer.flush(run_id, "databento", "1m", [part])
        assert (result.commits, result.retries, result.rewritten) == (1, 0, 0)
        assert missing(store) == DAYS[3 - left[number] :].tolist()
        found = store.records.reconcile("databento", "1m", [Cells.all(("NQ.v.0",), part.sessions)])
        assert found.gaps == ({"pending": 1} if part.partial else {})
        assert not any(sums.damage for sums in store.records.audit().values())
    assert store.records.reconcile("databento", "1m", [grid]).stored == 3
    assert (count(store, bar), count(store, gap)) == (30, 0)
    row = store.records.run(run_id)
    assert row is not None
    assert (row["inserted"], row["done_cells"]) == (30, 3)
    with store.engine.connect() as connection:
        told = changes(connection, "NQ.v.0")
    assert [(each["from_id"], each["instrument_id"]) for each in told] == [(118, 4358), (None, 118)]


def test_a_load_that_was_broken_off_is_done_again_and_stores_nothing_twice(store: Store) -> None:
    first, *_ = in_batches(whole(), 17)
    run_id = started(store)
    store.writer.flush(run_id, "databento", "1m", [first])
    assert missing(store) == DAYS[1:].tolist()
    failed = JUDGE.failed(whole().call, RetryableError("no answer"))
    store.writer.flush(run_id, "databento", "1m", [failed])  # the next try comes to nothing
    assert missing(store) == DAYS[1:].tolist()
    reasons = {day: (reason, error) for day, reason, error in rows_of(store, gap, "session", "reason", "last_error")}
    assert reasons[DAYS[1].item()] == ("failed", f"{PARTIAL}; no answer")
    assert reasons[DAYS[2].item()] == ("failed", "no answer")
    result = store.writer.flush(run_id, "databento", "1m", [whole()])
    assert (result.inserted, result.rewritten) == (13, 0)
    assert (count(store, bar), count(store, gap), missing(store)) == (30, 0, [])


def test_rolls_that_are_known_are_not_written_again(store: Store) -> None:
    (part,) = in_batches(whole(), 100, [Roll("NQ.v.0", DAYS[0].item(), TS[0], 118)])
    store.writer.flush(started(store), "databento", "1m", [part])
    store.writer.flush(started(store), "databento", "1m", [part])
    with store.engine.connect() as connection:
        runs = connection.execute(sa.text("SELECT run_id, instrument_id FROM roll")).all()
    assert len(runs) == 1
