"""Flushes in which all happens that a flush does, and what has to come of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from blocks import JUDGE, answered, count, days, gaps, range_of, ranged, rows_of, start

from closingbell.bars import Bars
from closingbell.errors import RetryableError
from closingbell.outcome import FlushResult, Outcome
from closingbell.store import Store
from closingbell.store.schema import bar, gap, quarantine, revision, run, watermark


def flush(store: Store, *outcomes: Outcome, run_id: UUID | None = None, source: str = "polygon") -> FlushResult:
    return store.writer.flush(run_id or start(store), source, "1d", outcomes)


def changed(outcome: Outcome, index: int, **values: float) -> Outcome:
    """The same call, answered with other values in one bar."""
    block = Bars(outcome.verdict.accepted.tickers, outcome.verdict.accepted.rows.copy())
    for name, value in values.items():
        block.rows[name][index] = value
    return answered(outcome.call, block)


def everything(store: Store) -> list[Any]:
    """All that a flush can write."""
    return [rows_of(store, table) for table in (bar, watermark, gap, quarantine, revision, run)]


def outcomes() -> list[Outcome]:
    """Something for every statement of a flush: new bars, changed ones, a closed and an open gap, quarantine."""
    return [
        changed(ranged("AAPL", days(0, 9), 1.0), 8, high=1.0),
        ranged("NEW", days(0, 4)),
        JUDGE.failed(range_of("GONE", days(0, 1)), RetryableError("no")),
    ]


def before(store: Store) -> UUID:
    """What there is before :func:`outcomes` are flushed; the run that shall do it."""
    flush(store, ranged("AAPL", days(0, 4)), JUDGE.failed(range_of("AAPL", days(5, 6)), RetryableError("no")))
    return start(store)


def check_exactly_once(store: Store, run_id: UUID, result: FlushResult) -> None:
    """That :func:`outcomes` were written after :func:`before`, in two calls, and nothing twice."""
    assert (result.inserted, result.rewritten, result.quarantined) == (4 + 5, 5, 1)
    assert [ticker for (ticker,) in rows_of(store, bar, "ticker")] == ["AAPL"] * 9 + ["NEW"] * 5
    assert count(store, revision) == 5
    assert {key[0]: gap[:2] for key, gap in gaps(store).items()} == {"AAPL": ("quarantined", 1), "GONE": ("failed", 1)}
    row = store.records.run(run_id)
    assert row is not None
    assert (row["actual_calls"], row["inserted"], row["rewritten"], row["accepted_bars"]) == (2, 9, 5, 14)
