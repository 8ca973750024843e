"""A flush: exact, idempotent, all or nothing, and at peace with others."""

from __future__ import annotations

import math
import struct
import threading
from dataclasses import replace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import (
    JUDGE,
    SESSIONS,
    answered,
    bars,
    change,
    count,
    days,
    expected,
    gaps,
    market_day,
    marks,
    query,
    range_of,
    ranged,
    rows_of,
    start,
    stored,
)
from flushes import changed, flush

from closingbell.bars import NO_TRADES, Bars
from closingbell.errors import NotEntitledError, RetryableError
from closingbell.outcome import FlushResult, Outcome
from closingbell.plan import MarketDay
from closingbell.quality import Verdict
from closingbell.store import Store, Writer
from closingbell.store.schema import bar, gap, quarantine, revision, watermark

TIME = 60  # seconds a thread may take before the test says that it hangs


# -- exact ---------------------------------------------------------------------------------------------------


def test_a_fresh_load_is_stored_bit_for_bit(store: Store, backend: str) -> None:
    # Lengths from 1 to 10 bytes, the case-sensitive pair, a class share: each length is a layout of its own.
    tickers = ["A", "PEBpE", "PEBPE", "BRK.B", "GOOGL", "ABCDEFGHIJ", "é"]
    block = bars(tickers, days(0, 9))
    rows = block.rows
    rows["vwap"][::3] = np.nan
    rows["trades"][::4] = NO_TRADES
    rows["trades"][1] = 2**53 + 1  # a double could not hold it
    rows["volume"][:3] = [-0.0, 5e-324, 37039737.123456789]
    rows["close"][5] = np.nextafter(rows["close"][5], 0)
    outcome = Outcome(
        MarketDay(SESSIONS[0].item(), tuple(tickers)), _verdict(block), tuple(tickers), days(0, 9), "empty"
    )
    run_id = start(store)
    result = flush(store, outcome, run_id=run_id)
    assert (result.inserted, result.rewritten, result.stored) == (len(block), 0, len(block))
    if backend == "oracle":
        rows["volume"] += 0.0  # BINARY_DOUBLE has one zero only
    found, wanted = stored(store), expected(block, run_id)
    assert [_bits(row) for row in found] == [_bits(row) for row in wanted]
    assert {row[0] for row in found} == set(tickers)
    assert sum(row[9] is None for row in found) == len(rows[::3])


def _verdict(block: Bars) -> Verdict:
    return Verdict(block, Bars(()), (), {})


def _bits(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(struct.pack(">d", value) if isinstance(value, float) else value for value in row)


def test_intraday_bars_share_a_session(store: Store) -> None:
    block = bars("AAPL", np.repeat(days(0, 1), 3))
    block.rows["ts"] += np.tile(np.array([0, 1, 2], "m8[m]"), 2)
    minutes = replace(block, timeframe="1m")
    outcome = replace(answered(range_of("AAPL", days(0, 2)), minutes))
    result = store.writer.flush(start(store), "polygon", "1m", [outcome])
    assert (result.inserted, len(stored(store))) == (6, 6)
    assert {row[1] for row in stored(store)} == {"1m"}
    assert list(gaps(store)) == [("AAPL", SESSIONS[2].item())]


def test_nothing_to_write_still_counts_calls(store: Store) -> None:
    run_id = start(store)
    assert store.writer.flush(run_id, "polygon", "1d", [], calls=3) == FlushResult()
    row = store.records.run(run_id)
    assert row is not None
    assert row["actual_calls"] == 3


# -- again ---------------------------------------------------------------------------------------------------


def test_the_same_again_rewrites_nothing(store: Store) -> None:
    tickers = [f"T{i:03}" for i in range(30)]
    outcomes = [ranged(ticker, SESSIONS) for ticker in tickers]
    flush(store, *outcomes)
    before = [rows_of(store, table) for table in (bar, watermark)]  # with the run that wrote each row
    result = flush(store, *outcomes)
    assert (result.inserted, result.rewritten, result.stored) == (0, 0, len(SESSIONS) * 30)
    assert [rows_of(store, table) for table in (bar, watermark)] == before
    assert count(store, revision) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("close", 100.5), ("volume", 1.5), ("vwap", math.nan), ("trades", NO_TRADES), ("trades", 7)]
)
def test_a_changed_bar_leaves_one_revision(store: Store, name: str, value: float) -> None:
    first = ranged("AAPL", days(0, 9))
    flush(store, first)
    before = rows_of(store, bar)
    run_id = start(store)
    result = flush(store, changed(first, 4, **{name: value}), run_id=run_id)
    assert (result.inserted, result.rewritten) == (0, 1)
    assert len(set(rows_of(store, bar)) - set(before)) == 1
    columns = ("ticker", "session", f"old_{name}", f"new_{name}", "run_id", "old_open", "new_open")
    [row] = rows_of(store, revision, *columns)
    was = first.verdict.accepted.rows[name][4].item()
    now = None if value == NO_TRADES or math.isnan(value) else value
    opened = float(first.verdict.accepted.rows["open"][4])
    assert row == ("AAPL", SESSIONS[4].item(), was, now, run_id, opened, opened)


def test_a_null_that_becomes_a_number_is_a_change(store: Store) -> None:
    first = ranged("AAPL", days(0, 2))
    flush(store, changed(first, 1, vwap=math.nan, trades=NO_TRADES))
    assert flush(store, changed(first, 1, vwap=math.nan, trades=NO_TRADES)).rewritten == 0
    assert flush(store, first).rewritten == 1
    assert rows_of(store, revision, "old_vwap", "old_trades", "new_trades") == [(None, None, 1001)]


def test_a_market_day_and_a_range_that_overlap_agree(store: Store) -> None:
    flush(store, market_day(5, ["AAPL", "MSFT"]))
    result = flush(store, changed(ranged("AAPL", days(0, 9)), 5, **_values_of(store, "AAPL")))
    assert (result.inserted, result.rewritten) == (9, 0)
    assert marks(store) == {
        "AAPL": (SESSIONS[0].item(), SESSIONS[9].item()),
        "MSFT": (SESSIONS[5].item(), SESSIONS[5].item()),
    }


def _values_of(store: Store, ticker: str) -> dict[str, float]:
    names = ("open", "high", "low", "close", "volume", "vwap", "trades")
    [row] = rows_of(store, bar, *names, where=bar.c.ticker == ticker)
    return dict(zip(names, row, strict=True))


def test_of_several_answers_in_one_flush_the_last_counts(store: Store) -> None:
    flush(store, ranged("AAPL", days(0, 4)))
    result = flush(
        store, ranged("AAPL", days(0, 4), 1.0), market_day(2, ["AAPL", "MSFT"], 2.0), ranged("MSFT", days(2, 2), 3)
    )
    assert (result.inserted, result.rewritten) == (1, 5)
    closes = {(row[0], row[2]): row[7] for row in stored(store)}
    assert closes["AAPL", SESSIONS[2].item()] == 102.1
    assert closes["MSFT", SESSIONS[2].item()] == 103.1
    revisions = rows_of(store, revision, "ticker", "session")
    assert len(revisions) == len(set(revisions)) == 5


def test_bars_without_their_ledger_are_compared_not_trusted_to_be_absent(store: Store) -> None:
    first = ranged("AAPL", days(0, 9))
    flush(store, first)
    change(store, sa.delete(watermark))
    change(store, sa.delete(bar).where(bar.c.session == SESSIONS[7].item()))
    result = flush(store, changed(first, 3, close=100.7))
    assert (result.inserted, result.rewritten) == (1, 1)
    assert len(stored(store)) == 10
    assert marks(store) == {"AAPL": (SESSIONS[0].item(), SESSIONS[9].item())}


def test_a_ledger_without_its_bars_gets_them_back(store: Store) -> None:
    first = ranged("AAPL", days(0, 9))
    flush(store, first)
    change(store, sa.delete(bar).where(bar.c.session > SESSIONS[4].item()))
    result = flush(store, first)
    assert (result.inserted, result.rewritten) == (5, 0)


def test_another_source_does_not_double_a_bar(store: Store) -> None:
    first = ranged("AAPL", days(0, 3))
    flush(store, first)
    assert flush(store, changed(first, 1, close=100.7), source="other").rewritten == 1
    assert [row[-2] for row in stored(store)] == ["polygon", "other", "polygon", "polygon"]


# -- the ledger in the database --------------------------------------------------------------------------------


def test_a_bar_in_quarantine_is_a_gap_until_it_is_mended(store: Store) -> None:
    good = ranged("AAPL", days(0, 4))
    block = Bars(("AAPL",), good.verdict.accepted.rows.copy())
    block.rows["high"][1] = 1.0
    block.rows["open"][2], block.rows["volume"][2] = math.nan, math.inf
    bad = answered(good.call, block)
    result = flush(store, bad)
    assert (result.inserted, result.quarantined, result.gaps) == (3, 2, 2)
    kept = rows_of(store, quarantine, "session", "rule", "copy", "open", "volume", "trades")
    opened = float(good.verdict.accepted.rows["open"][1])
    assert kept[0] == (SESSIONS[1].item(), "ohlc_order", 0, opened, kept[0][4], 1001)
    assert kept[1] == (SESSIONS[2].item(), "missing_value", 0, None, math.inf, 1002)
    assert {session: gap[0] for (_, session), gap in gaps(store).items()} == {
        SESSIONS[1].item(): "quarantined",
        SESSIONS[2].item(): "quarantined",
    }
    before = [rows_of(store, table) for table in (bar, quarantine, gap, watermark)]
    assert flush(store, bad).gaps == 0
    assert [rows_of(store, table) for table in (bar, quarantine, gap, watermark)] == before
    assert flush(store, good).inserted == 2
    assert gaps(store) == {}


def test_copies_of_a_bar_are_kept_apart_each(store: Store) -> None:
    block = bars("AAPL", days(0, 1))
    tripled = Bars(block.tickers, np.concatenate([block.rows, block.rows[:1], block.rows[:1]]))
    tripled.rows["close"][2] += 0.01
    outcome = answered(range_of("AAPL", days(0, 1)), tripled)
    assert flush(store, outcome).quarantined == 3
    assert flush(store, outcome).quarantined == 3
    assert rows_of(store, quarantine, "copy", "rule") == [(i, "duplicate") for i in range(3)]
    assert {key[1] for key in gaps(store)} == {SESSIONS[0].item()}


def test_a_failure_counts_attempts_until_the_bar_comes(store: Store) -> None:
    call = range_of("AAPL", days(0, 2))
    error = RetryableError("the vendor's server failed", value="HTTP 500")
    for attempt in (1, 2, 3):
        flush(store, JUDGE.failed(call, error))
        assert set(gaps(store).values()) == {("failed", attempt, str(error))}
    flush(store, JUDGE.not_tried(call))
    assert set(gaps(store).values()) == {("failed", 3, str(error))}, "what was not tried says nothing"
    assert flush(store, ranged("AAPL", days(0, 2))).inserted == 3
    assert gaps(store) == {}
    flush(store, JUDGE.failed(call, error))
    assert gaps(store) == {}, "a failed recheck does not unsay a stored bar"


def test_a_failure_does_not_unsay_an_answer(store: Store) -> None:
    call = range_of("AAPL", days(0, 2))
    flush(store, answered(call, bars("AAPL", days(0, 0))))
    said = gaps(store)
    for error in (RetryableError("no"), NotEntitledError("not with this key")):
        flush(store, JUDGE.failed(call, error))
        assert gaps(store) == said
    assert {reason for reason, *_ in said.values()} == {"empty"}


def test_what_lies_between_a_watermark_and_new_cells_is_pending(store: Store) -> None:
    flush(store, ranged("AAPL", days(10, 12)))
    flush(store, ranged("AAPL", days(20, 21)))
    flush(store, market_day(5, ["AAPL"]))
    holes = [*range(6, 10), *range(13, 20)]
    assert gaps(store) == {("AAPL", SESSIONS[i].item()): ("pending", 0, None) for i in holes}
    assert marks(store) == {"AAPL": (SESSIONS[5].item(), SESSIONS[21].item())}
    assert flush(store, ranged("AAPL", days(6, 19))).inserted == len(holes)
    assert gaps(store) == {}


def test_what_a_failed_call_did_not_ask_for_is_pending(store: Store) -> None:
    scattered = SESSIONS[[2, 5]]
    flush(store, JUDGE.failed(range_of("AAPL", scattered), RetryableError("no")))
    assert {session: reason for (_, session), (reason, *_) in gaps(store).items()} == {
        SESSIONS[2].item(): "failed",
        SESSIONS[3].item(): "pending",
        SESSIONS[4].item(): "pending",
        SESSIONS[5].item(): "failed",
    }


def test_an_error_of_any_text_fits_the_ledger(store: Store) -> None:
    outcome = JUDGE.failed(range_of("AAPL", days(0, 0)), RetryableError("no"))
    flush(store, replace(outcome, error="bad\0 text \ud800: " + "x" * 10_000))
    [(reason, _, text)] = gaps(store).values()
    assert reason == "failed"
    assert text is not None
    assert text.startswith("bad text ?: xxx")
    assert len(text) == 500


# -- others at the same time -------------------------------------------------------------------------------------


def _together(*work: Any) -> None:
    """Run each in a thread of its own, begun at once; the first error is raised here."""
    errors: list[BaseException] = []
    gate = threading.Barrier(len(work))

    def run(job: Any) -> None:
        try:
            gate.wait(TIME)
            job()
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIME)
        assert not thread.is_alive(), "a flush hangs"
    if errors:
        raise errors[0]


def test_flushes_of_overlapping_tickers_in_opposite_orders(store: Store) -> None:
    tickers = [f"T{i}" for i in range(6)]
    writer = Writer(store.engine, retries=0)  # a deadlock would be an error, not a retry
    runs = [start(store) for _ in range(3)]
    for position in range(25):

        def job(number: int, order: list[str], position: int = position) -> Any:
            new = [f"N{position}", *order, f"M{position}"][:: 1 - 2 * (number % 2)]
            call = market_day(position, new, shift=float(number))
            return lambda: writer.flush(runs[number], "polygon", "1d", [call])

        _together(job(0, tickers), job(1, tickers[::-1]), job(2, tickers[3:] + tickers[:3]))
    assert len(stored(store)) == 25 * 8
    assert count(store, revision) == 25 * 8 * 2
    assert sum(run["inserted"] for run in (store.records.run(r) for r in runs) if run) == 25 * 8


def test_flushes_of_many_new_tickers_in_opposite_orders(store: Store) -> None:
    writer = Writer(store.engine, retries=0)
    runs = [start(store), start(store)]
    for round_ in range(6):
        tickers = [f"R{round_}T{i:04}" for i in range(1_000)]
        up, down = market_day(0, tickers), market_day(0, tickers[::-1])
        _together(
            lambda up=up: writer.flush(runs[0], "polygon", "1d", [up]),
            lambda down=down: writer.flush(runs[1], "polygon", "1d", [down]),
        )
    assert count(store, bar) == 6_000


def test_two_flushes_of_one_new_ticker(store: Store) -> None:
    runs = [start(store), start(store)]
    writer = Writer(store.engine, retries=0)
    for i in range(20):
        ticker = f"NEW{i}"
        _together(
            lambda ticker=ticker: writer.flush(runs[0], "polygon", "1d", [ranged(ticker, days(0, 9))]),
            lambda ticker=ticker: writer.flush(runs[1], "polygon", "1d", [ranged(ticker, days(5, 14))]),
        )
    assert query(store, "SELECT DISTINCT count(*) FROM bar GROUP BY ticker") == [(15,)]
    assert set(marks(store).values()) == {(SESSIONS[0].item(), SESSIONS[14].item())}
    assert gaps(store) == {}


# -- all or nothing ----------------------------------------------------------------------------------------------


def test_an_unknown_run_costs_no_bars(store: Store) -> None:
    assert flush(store, ranged("AAPL", days(0, 2)), run_id=uuid4()).inserted == 3
