"""Bars that came by flat file: their vendor's in the ledger, told apart in ``bar`` alone."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sa
from blocks import JUDGE, SESSIONS, answered, bars, change, days, market_day, range_of, ranged, rows_of, start

from closingbell.bars import Bars
from closingbell.cells import Cells
from closingbell.outcome import Outcome
from closingbell.plan import FlatFile
from closingbell.store import Store
from closingbell.store.schema import bar, gap, quarantine, revision, watermark

AT = datetime(2024, 4, 1, 6, tzinfo=UTC)
TICKERS = ("AAPL", "MSFT")


def flat(position: int, shift: float = 0.0) -> Outcome:
    """A flat file of a session, answered in full, without vwap."""
    block = bars(TICKERS, days(position, position), shift)
    block.rows["vwap"] = np.nan
    return answered(FlatFile(SESSIONS[position].item(), TICKERS, timeframe="1d"), block)


def flush(store: Store, *outcomes: Outcome) -> None:
    store.writer.flush(start(store), "polygon", "1d", outcomes, at=AT)


def test_both_kinds_are_of_one_ledger(store: Store) -> None:
    flush(store, flat(0), market_day(1, TICKERS), flat(2))
    assert rows_of(store, bar, "session", "source") == [
        (SESSIONS[position].item(), source)
        for position, source in enumerate(("polygon-flat", "polygon", "polygon-flat"))
        for _ in TICKERS
    ]
    assert {source for (source,) in rows_of(store, watermark, "source")} == {"polygon"}
    held = store.records.reconcile("polygon", "1d", [Cells.all(TICKERS, days(0, 2))])
    assert held.balanced
    assert held.stored == 6
    assert not store.records.damage("polygon", "1d", TICKERS)
    assert set(store.records.audit()) == {("polygon", "1d")}
    series = store.records.series("polygon", "1d", ["AAPL"], SESSIONS[0].item(), SESSIONS[2].item())
    assert np.isnan(series.rows["vwap"]).tolist() == [True, False, True]


def test_a_range_over_a_flat_file_leaves_a_revision_of_the_vendor(store: Store) -> None:
    flush(store, flat(0), flat(1))
    run_id = start(store)
    result = store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 0))], at=AT)
    assert (result.inserted, result.rewritten) == (0, 1)
    assert rows_of(store, revision, "source", "old_vwap") == [("polygon", None)]
    assert rows_of(store, bar, "source", where=bar.c.ticker == "AAPL") == [("polygon",), ("polygon-flat",)]
    assert store.records.over_flat_files(run_id) == 1


def test_a_gap_beside_a_flat_files_bar_is_a_contradiction_and_mended(store: Store) -> None:
    flush(store, flat(0))
    flush(store, JUDGE.answered(ranged("AAPL", days(1, 1)).call, Bars(()), 0))
    change(store, sa.update(gap).values(session=SESSIONS[0].item()))
    damage = store.records.damage("polygon", "1d", ["AAPL"])
    assert damage.contradicted == (("AAPL", SESSIONS[0].item()),)
    store.records.mend(start(store), "polygon", "1d", damage, AT)
    assert rows_of(store, gap, "session", "reason") == [(SESSIONS[1].item(), "pending")]


def test_bars_without_their_watermark_are_found(store: Store) -> None:
    flush(store, flat(0))
    change(store, sa.delete(watermark))
    assert set(store.records.damage("polygon", "1d", TICKERS).orphans) == set(TICKERS)


def test_what_is_taken_out_is_the_vendors(store: Store) -> None:
    flush(store, flat(0))
    series = store.records.series("polygon", "1d", ["AAPL"], SESSIONS[0].item(), SESSIONS[0].item())
    store.writer.take_out(start(store), "polygon", "1d", series, ["off_scale"], AT)
    assert rows_of(store, revision, "source") == rows_of(store, quarantine, "source") == [("polygon",)]
    assert rows_of(store, gap, "source", "ticker", "reason") == [("polygon", "AAPL", "quarantined")]


def test_cells_in_flight_by_file_are_not_asked_for_by_range(store: Store) -> None:
    mine, other, mark = start(store), start(store), store.writer.mark()
    call = FlatFile(SESSIONS[0].item(), TICKERS, timeframe="1d")
    with store.records.alive(mine), store.records.alive(other):
        claim = store.writer.claim(mine, "polygon", "1d", call, mark)
        assert store.writer.claim(other, "polygon", "1d", range_of("AAPL", days(0, 1)), mark).busy
        store.writer.flush(mine, "polygon", "1d", [flat(0)], at=AT, claims=[claim.claim_id])
        left = store.writer.claim(other, "polygon", "1d", range_of("AAPL", days(0, 1)), mark)
    assert left.call == range_of("AAPL", days(1, 1))
