"""Two vendors in one database: a bar is of one of them, and each keeps a ledger of its own."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import FIRST, JUDGE, LAST, answered, bars, change, days, gaps, range_of, ranged, rows_of, start

from closingbell.cells import Cells
from closingbell.errors import NotEntitledError, RetryableError
from closingbell.outcome import Outcome
from closingbell.store import Store
from closingbell.store.schema import bar, gap

AT = datetime(2024, 4, 1, 6, tzinfo=UTC)
GRID = [Cells.all(("AAPL",), days(0, 9))]


@pytest.fixture
def generated(store: Store) -> Store:
    """Ten sessions of the stand-in's."""
    flush(store, ranged("AAPL", days(0, 9)), "stand-in")
    return store


def flush(store: Store, outcome: Outcome, source: str = "polygon") -> None:
    store.writer.flush(start(store), source, "1d", [outcome], at=AT)


def balance(store: Store, source: str) -> str:
    held = store.records.reconcile(source, "1d", GRID)
    assert held.balanced, held.damage
    assert not store.records.damage(source, "1d", ["AAPL"])
    return str(held)


@pytest.mark.parametrize(
    ("outcome", "polygon"),
    [
        (answered(range_of("AAPL", days(0, 9)), bars("AAPL", days(0, 7), 9.0)), "8 stored + 2 empty"),
        (JUDGE.failed(range_of("AAPL", days(0, 9)), NotEntitledError("too old")), "0 stored + 10 unentitled"),
        (JUDGE.failed(range_of("AAPL", days(0, 9)), RetryableError("no answer")), "0 stored + 10 failed"),
    ],
)
def test_another_ones_bar_does_not_stand_in_for_an_answer(generated: Store, outcome: Outcome, polygon: str) -> None:
    """Nor is it a contradiction, which would fail the run and then forget the gap."""
    flush(generated, outcome)
    assert balance(generated, "polygon") == f"10 expected = {polygon}"
    assert balance(generated, "stand-in") == "10 expected = 10 stored"
    assert len(gaps(generated)) == 10 - outcome.verdict.accepted.rows.size


def test_an_own_bar_beside_a_gap_is_one(generated: Store) -> None:
    flush(generated, JUDGE.failed(range_of("AAPL", days(0, 9)), RetryableError("no answer")))
    change(generated, sa.update(bar).values(source="polygon").where(bar.c.session == days(1, 1)[0].item()))
    damage = generated.records.damage("polygon", "1d", ["AAPL"])
    assert damage.contradicted == (("AAPL", days(1, 1)[0].item()),)
    generated.records.mend(start(generated), "polygon", "1d", damage, AT)
    assert balance(generated, "polygon") == "10 expected = 1 stored + 9 failed"


def test_a_bar_taken_out_is_a_gap_in_every_ledger_that_counts_on_it(generated: Store) -> None:
    same = ranged("AAPL", days(0, 9))
    flush(generated, same)
    bad = same.verdict.accepted.where(np.arange(10) == 4)
    writer = generated.writer
    assert len(writer.take_out(start(generated), "polygon", "1d", bad, ["off_scale"], AT)) == 1
    assert balance(generated, "polygon") == "10 expected = 9 stored + 1 quarantined"
    assert balance(generated, "stand-in") == "10 expected = 9 stored + 1 pending"


def test_a_bar_outside_of_the_watermark_leaves_no_gap_when_taken_out(generated: Store) -> None:
    flush(generated, ranged("AAPL", days(0, 3), 9.0))
    outside = generated.records.series("stand-in", "1d", ("AAPL",), days(6, 6)[0].item(), days(6, 6)[0].item())
    assert len(generated.writer.take_out(start(generated), "polygon", "1d", outside, ["off_scale"], AT)) == 1
    assert rows_of(generated, gap, "source", "session", "reason") == [("stand-in", days(6, 6)[0].item(), "pending")]


def test_each_reads_its_own(generated: Store) -> None:
    """Generated prices are no measure for real ones."""
    flush(generated, ranged("AAPL", days(8, 12), 9.0))
    read = generated.records.series
    assert [len(read(source, "1d", ("AAPL",), FIRST, LAST)) for source in ("stand-in", "polygon")] == [8, 5]
