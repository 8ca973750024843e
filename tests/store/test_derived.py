"""Derived series in the store: what is known of them, and that splits reach them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from blocks import FIRST, JUDGE, LAST, bars, days, query, range_of, start

from closingbell import derive
from closingbell.bars import Bars
from closingbell.cells import Cells
from closingbell.errors import RetryableError
from closingbell.outcome import Outcome
from closingbell.plan import TickerRange
from closingbell.quality import Verdict
from closingbell.sources.base import Split
from closingbell.store import Store
from closingbell.store.derived import Known, known
from closingbell.store.schema import bar

MAKING = derive.making("polygon", "1h")


def hourly(sessions: np.ndarray, timeframe: str = "1m") -> Outcome:
    """A bar of a timeframe a session, at its open."""
    block = bars("AAPL", sessions)
    call = TickerRange("AAPL", tuple(sessions.tolist()), timeframe=timeframe)
    verdict = Verdict(Bars(block.tickers, block.rows, timeframe), Bars((), timeframe=timeframe), (), {})
    return Outcome(call, verdict, ("AAPL",), sessions, "empty")


def flush(store: Store, outcome: Outcome, source: str = "polygon") -> UUID:
    run_id = start(store)
    store.writer.flush(run_id, source, outcome.call.timeframe, [outcome])
    store.records.end_run(run_id, "Completed", {"state": "Completed", "actual_calls": 0})
    return run_id


def todo(store: Store) -> derive.Todo:
    grid = Cells.all(("AAPL",), days(0, 9))
    return derive.todo(grid, looked_at(store))


def looked_at(store: Store) -> Known:
    return known(store.engine, MAKING, ("AAPL",), days(0, 0)[0].item(), days(9, 9)[0].item())


def made(cells: Cells) -> list[int]:
    return np.flatnonzero(cells.mask[0]).tolist()


def test_what_is_to_be_made_is_what_is_stored_and_not_made_yet(store: Store) -> None:
    assert made(todo(store).known) == []
    flush(store, hourly(days(1, 5)))
    failed = JUDGE.failed(replace(range_of("AAPL", days(6, 7)), timeframe="1m"), RetryableError("no answer"))
    flush(store, failed)
    first = todo(store)
    assert (made(first.make), made(first.known), made(first.again)) == ([1, 2, 3, 4, 5], list(range(1, 8)), [])
    assert [(gap.session, gap.reason) for gap in first.gaps] == [(day, "failed") for day in days(6, 7).tolist()]

    for outcome in (hourly(days(1, 4), "1h"), *derive.gaps_of(first.gaps, "1h")):
        flush(store, outcome, MAKING.made)
    then = todo(store)
    assert (made(then.make), then.gaps) == ([5], ())
    flush(store, hourly(days(7, 7)))  # it came after all
    assert (made(todo(store).make), todo(store).gaps) == ([5, 7], ())


def test_somebody_elses_bars_are_left_to_them(store: Store) -> None:
    flush(store, hourly(days(0, 9)))
    flush(store, hourly(days(3, 4), "1h"))
    assert (made(todo(store).make), made(todo(store).left)) == ([0, 1, 2, 5, 6, 7, 8, 9], [3, 4])
    theirs = store.records.series("polygon", "1h", ("AAPL",), FIRST, LAST)
    for outcome in (*derive.adopted(todo(store).adopt, [theirs]), hourly(days(0, 2), "1h"), hourly(days(5, 9), "1h")):
        flush(store, outcome, MAKING.made)
    assert (made(todo(store).make), made(todo(store).left), made(todo(store).adopt)) == ([], [3, 4], [])
    sources = sa.select(bar.c.source).where(bar.c.timeframe == "1h").order_by(bar.c.ts)
    assert [source for (source,) in query(store, sources)][2:6] == ["polygon:1m", "polygon", "polygon", "polygon:1m"]
    assert store.records.ledger(MAKING.made, "1h", ("AAPL",), FIRST, LAST).gaps == []


def test_a_revised_minute_and_a_late_one_are_seen(store: Store) -> None:
    flush(store, hourly(days(0, 9)))
    flush(store, hourly(days(0, 9), "1h"), MAKING.made)
    assert looked_at(store).changed == frozenset()
    revised, late = hourly(days(2, 2)), hourly(days(5, 5))
    revised.verdict.accepted.rows["close"] += 0.01
    late.verdict.accepted.rows["ts"] += np.timedelta64(7, "m")
    for outcome in (revised, late):
        flush(store, outcome)
    assert made(todo(store).again) == made(todo(store).make) == [2, 5]
    again = hourly(days(2, 2), "1h")
    again.verdict.accepted.rows["close"] += 0.01
    flush(store, again, MAKING.made)
    assert made(todo(store).make) == [5]


def test_minutes_that_are_gone_take_what_was_made_of_them_along(store: Store) -> None:
    minutes = hourly(days(0, 9))
    flush(store, minutes)
    flush(store, hourly(days(0, 9), "1h"), MAKING.made)
    bad = minutes.verdict.accepted.where(np.arange(10) == 4)
    store.writer.take_out(start(store), "polygon", "1m", bad, ["off_scale"], datetime.now(UTC))
    assert made(todo(store).remove) == [4]
    stored = store.records.series(MAKING.made, "1h", ("AAPL",), FIRST, LAST)
    gone = derive.gone(stored, [], todo(store).again, todo(store).remove)
    assert gone.rows["session"].tolist() == days(4, 4).tolist()


def test_a_split_reaches_what_was_made_of_a_vendors_bars(store: Store) -> None:
    for source, sessions in (("polygon", days(0, 0)), ("polygon-flat", days(1, 1)), (MAKING.made, days(2, 2))):
        flush(store, hourly(sessions, "1h"), source)
    flush(store, hourly(days(3, 3), "1h"), "databento:1m")
    store.facts.store_splits(start(store), "polygon", [Split("AAPL", LAST, 1, 4)], FIRST, LAST)
    adjusted = sa.text("SELECT source, factor FROM bar_adjusted ORDER BY ts")
    assert query(store, adjusted) == [
        ("polygon", 0.25),
        ("polygon-flat", 0.25),
        ("polygon:1m", 0.25),
        ("databento:1m", 1.0),
    ]
