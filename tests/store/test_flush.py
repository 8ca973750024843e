"""A flush on a real PostgreSQL: exact, idempotent, all or nothing, and at peace with others."""

from __future__ import annotations

import math
import struct
import threading
from dataclasses import replace
from datetime import date
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
    days,
    expected,
    gaps,
    market_day,
    marks,
    query,
    range_of,
    ranged,
    session_of,
    start,
    stored,
)

from closingbell.bars import NO_TRADES, Bars
from closingbell.errors import ConfigurationError, FatalError, NotEntitledError, RetryableError
from closingbell.outcome import FlushResult, Outcome
from closingbell.plan import MarketDay
from closingbell.quality import Verdict
from closingbell.store import PostgresWriter, Store
from closingbell.store import postgres as module

TIME = 60  # seconds a thread may take before the test says that it hangs


def flush(store: Store, *outcomes: Outcome, run_id: Any = None, source: str = "polygon") -> FlushResult:
    return store.writer.flush(run_id or start(store), source, "1d", outcomes)


def changed(outcome: Outcome, index: int, **values: float) -> Outcome:
    """The same call, answered with other values in one bar."""
    block = Bars(outcome.verdict.accepted.tickers, outcome.verdict.accepted.rows.copy())
    for name, value in values.items():
        block.rows[name][index] = value
    return answered(outcome.call, block)


# -- exact ---------------------------------------------------------------------------------------------------


def test_a_fresh_load_is_stored_bit_for_bit(store: Store) -> None:
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


def _versions(store: Store, table: str = "bar") -> list[Any]:
    return query(store, f"SELECT ctid::text, xmin::text, run_id FROM {table} ORDER BY 1")  # noqa: S608


def _wal(store: Store) -> int:
    return int(query(store, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")[0][0])


def test_the_same_again_rewrites_nothing(store: Store) -> None:
    tickers = [f"T{i:03}" for i in range(100)]
    outcomes = [ranged(ticker, SESSIONS) for ticker in tickers]
    begin = _wal(store)
    flush(store, *outcomes)
    loaded = _wal(store)
    before = [_versions(store, table) for table in ("bar", "watermark")]
    result = flush(store, *outcomes)
    assert (result.inserted, result.rewritten, result.stored) == (0, 0, len(SESSIONS) * 100)
    assert [_versions(store, table) for table in ("bar", "watermark")] == before
    assert query(store, "SELECT count(*) FROM revision") == [(0,)]
    assert _wal(store) - loaded < (loaded - begin) / 5  # locks of the watermarks, the run's row


@pytest.mark.parametrize(
    ("name", "value"), [("close", 100.5), ("volume", 1.5), ("vwap", math.nan), ("trades", NO_TRADES), ("trades", 7)]
)
def test_a_changed_bar_leaves_one_revision(store: Store, name: str, value: float) -> None:
    first = ranged("AAPL", days(0, 9))
    flush(store, first)
    before = _versions(store)
    run_id = start(store)
    result = flush(store, changed(first, 4, **{name: value}), run_id=run_id)
    assert (result.inserted, result.rewritten) == (0, 1)
    after = _versions(store)
    assert len(set(after) - set(before)) == 1
    old, new = f"old_{name}", f"new_{name}"
    [row] = query(store, f"SELECT ticker, session, {old}, {new}, run_id, old_open, new_open FROM revision")  # noqa: S608
    was = first.verdict.accepted.rows[name][4].item()
    now = None if value == NO_TRADES or math.isnan(value) else value
    opened = float(first.verdict.accepted.rows["open"][4])
    assert row == ("AAPL", SESSIONS[4].item(), was, now, run_id, opened, opened)


def test_a_null_that_becomes_a_number_is_a_change(store: Store) -> None:
    first = ranged("AAPL", days(0, 2))
    flush(store, changed(first, 1, vwap=math.nan, trades=NO_TRADES))
    assert flush(store, changed(first, 1, vwap=math.nan, trades=NO_TRADES)).rewritten == 0
    assert flush(store, first).rewritten == 1
    assert query(store, "SELECT old_vwap, old_trades, new_trades FROM revision") == [(None, None, 1001)]


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
    [row] = query(store, f"SELECT {', '.join(names)} FROM bar WHERE ticker = :t", t=ticker)  # noqa: S608
    return dict(zip(names, row, strict=True))


def test_of_several_answers_in_one_flush_the_last_counts(store: Store) -> None:
    flush(store, ranged("AAPL", days(0, 4)))
    result = flush(
        store, ranged("AAPL", days(0, 4), 1.0), market_day(2, ["AAPL", "MSFT"], 2.0), ranged("MSFT", days(2, 2), 3)
    )
    assert (result.inserted, result.rewritten) == (1, 6)
    closes = {(row[0], row[2]): row[7] for row in stored(store)}
    assert closes["AAPL", SESSIONS[2].item()] == 102.1
    assert closes["MSFT", SESSIONS[2].item()] == 103.1
    revisions = query(store, "SELECT ticker, session FROM revision")
    assert len(revisions) == len(set(revisions)) == 6


def test_bars_without_their_ledger_are_compared_not_trusted_to_be_absent(store: Store) -> None:
    first = ranged("AAPL", days(0, 9))
    flush(store, first)
    with store.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM watermark"))
        connection.execute(sa.text("DELETE FROM bar WHERE session = :day"), {"day": SESSIONS[7].item()})
    result = flush(store, changed(first, 3, close=100.7))
    assert (result.inserted, result.rewritten) == (1, 1)
    assert len(stored(store)) == 10
    assert marks(store) == {"AAPL": (SESSIONS[0].item(), SESSIONS[9].item())}


def test_a_ledger_without_its_bars_gets_them_back(store: Store) -> None:
    first = ranged("AAPL", days(0, 9))
    flush(store, first)
    with store.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM bar WHERE session > :day"), {"day": SESSIONS[4].item()})
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
    kept = query(store, "SELECT session, rule, copy, open, volume, trades FROM quarantine ORDER BY ts")
    opened = float(good.verdict.accepted.rows["open"][1])
    assert kept[0] == (SESSIONS[1].item(), "ohlc_order", 0, opened, kept[0][4], 1001)
    assert kept[1] == (SESSIONS[2].item(), "missing_value", 0, None, math.inf, 1002)
    assert {session: gap[0] for (_, session), gap in gaps(store).items()} == {
        SESSIONS[1].item(): "quarantined",
        SESSIONS[2].item(): "quarantined",
    }
    before = [_versions(store, table) for table in ("bar", "quarantine", "gap", "watermark")]
    assert flush(store, bad).gaps == 0
    assert [_versions(store, table) for table in ("bar", "quarantine", "gap", "watermark")] == before
    assert flush(store, good).inserted == 2
    assert gaps(store) == {}


def test_copies_of_a_bar_are_kept_apart_each(store: Store) -> None:
    block = bars("AAPL", days(0, 1))
    tripled = Bars(block.tickers, np.concatenate([block.rows, block.rows[:1], block.rows[:1]]))
    tripled.rows["close"][2] += 0.01
    outcome = answered(range_of("AAPL", days(0, 1)), tripled)
    assert flush(store, outcome).quarantined == 3
    assert flush(store, outcome).quarantined == 3
    assert query(store, "SELECT copy, rule FROM quarantine ORDER BY copy") == [(i, "duplicate") for i in range(3)]
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
    writer = PostgresWriter(store.engine, retries=0)  # a deadlock would be an error, not a retry
    runs = [start(store) for _ in range(3)]
    for position in range(25):

        def job(number: int, order: list[str], position: int = position) -> Any:
            new = [f"N{position}", *order, f"M{position}"][:: 1 - 2 * (number % 2)]
            call = market_day(position, new, shift=float(number))
            return lambda: writer.flush(runs[number], "polygon", "1d", [call])

        _together(job(0, tickers), job(1, tickers[::-1]), job(2, tickers[3:] + tickers[:3]))
    assert len(stored(store)) == 25 * 8
    assert query(store, "SELECT count(*) FROM revision") == [(25 * 8 * 2,)]
    assert sum(run["inserted"] for run in (store.records.run(r) for r in runs) if run) == 25 * 8


def test_flushes_of_many_new_tickers_in_opposite_orders(store: Store) -> None:
    writer = PostgresWriter(store.engine, retries=0)
    runs = [start(store), start(store)]
    for round_ in range(6):
        tickers = [f"R{round_}T{i:04}" for i in range(1_000)]
        up, down = market_day(0, tickers), market_day(0, tickers[::-1])
        _together(
            lambda up=up: writer.flush(runs[0], "polygon", "1d", [up]),
            lambda down=down: writer.flush(runs[1], "polygon", "1d", [down]),
        )
    assert query(store, "SELECT count(*) FROM bar") == [(6_000,)]


def test_two_flushes_of_one_new_ticker(store: Store) -> None:
    runs = [start(store), start(store)]
    writer = PostgresWriter(store.engine, retries=0)
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


def _everything(store: Store) -> list[Any]:
    tables = ("bar", "watermark", "gap", "quarantine", "revision", "run")
    return [query(store, f"SELECT {table} FROM {table} ORDER BY {table}::text") for table in tables]  # noqa: S608


def _outcomes() -> list[Outcome]:
    """Something for every statement of a flush: new bars, changed ones, a closed and an open gap, quarantine."""
    return [
        changed(ranged("AAPL", days(0, 9), 1.0), 8, high=1.0),
        ranged("NEW", days(0, 4)),
        JUDGE.failed(range_of("GONE", days(0, 1)), RetryableError("no")),
    ]


def _before(store: Store) -> Any:
    flush(store, ranged("AAPL", days(0, 4)), JUDGE.failed(range_of("AAPL", days(5, 6)), RetryableError("no")))
    return start(store)


#: Statements of a flush of :func:`_outcomes`, the two COPYs and savepoints not counted.
STATEMENTS = 15


@pytest.mark.parametrize("at", [*range(1, STATEMENTS + 1), "commit"])
def test_a_killed_backend_costs_a_retry_and_nothing_else(store: Store, postgres: sa.URL, at: int | str) -> None:
    """The server kills the connection after the n-th statement of the flush, or just before its commit."""
    run_id = _before(store)
    killer = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    seen: list[str] = []
    killed: list[int] = []

    def kill(pid: int) -> None:
        killed.append(pid)
        with killer.connect() as other:
            assert other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}).scalar_one()

    def after(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)
        if len(seen) == at and not killed:
            kill(session_of(connection))

    def commit(connection: sa.Connection) -> None:
        if at == "commit" and not killed:
            kill(session_of(connection))

    writer = PostgresWriter(store.engine, retries=1, delay=0)
    writer.mark()
    sa.event.listen(store.engine, "after_cursor_execute", after)
    sa.event.listen(store.engine, "commit", commit)
    result = writer.flush(run_id, "polygon", "1d", _outcomes(), calls=2)
    sa.event.remove(store.engine, "after_cursor_execute", after)
    sa.event.remove(store.engine, "commit", commit)
    assert len(killed) == 1
    asked_what_became_of_it = 2
    assert len(seen) == STATEMENTS + (STATEMENTS if at == "commit" else int(at)) + asked_what_became_of_it
    _check_exactly_once(store, run_id, result)


def _check_exactly_once(store: Store, run_id: Any, result: FlushResult) -> None:
    assert (result.inserted, result.rewritten, result.quarantined) == (4 + 5, 5, 1)
    assert query(store, "SELECT ticker, count(*) FROM bar GROUP BY 1 ORDER BY 1") == [("AAPL", 9), ("NEW", 5)]
    assert query(store, "SELECT count(*) FROM revision") == [(5,)]
    assert {key[0]: gap[:2] for key, gap in gaps(store).items()} == {"AAPL": ("quarantined", 1), "GONE": ("failed", 1)}
    row = store.records.run(run_id)
    assert row is not None
    assert (row["actual_calls"], row["inserted"], row["rewritten"], row["accepted_bars"]) == (2, 9, 5, 14)


@pytest.mark.parametrize("number", [0, 1])
def test_a_backend_killed_in_the_middle_of_a_copy(
    store: Store, postgres: sa.URL, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = _before(store)
    killer = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    copies = 0

    class Reader:
        """Hands out half of the stream, then has the server kill the connection that reads it."""

        def __init__(self, pid: int, stream: bytes) -> None:
            self.pid, self.parts = pid, [stream[: len(stream) // 2], stream[len(stream) // 2 :]]

        def read(self, _: int = -1) -> bytes:
            if len(self.parts) == 1:
                with killer.connect() as other:
                    other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": self.pid})
            return self.parts.pop(0) if self.parts else b""

    def copy(connection: sa.Connection, statement: str, stream: bytes) -> None:
        nonlocal copies
        copies += 1
        if copies != number + 1:
            return real(connection, statement, stream)
        driver: Any = connection.connection
        with driver.cursor() as cursor:
            cursor.copy_expert(statement, Reader(session_of(connection), stream))

    real = module._copy
    monkeypatch.setattr(module, "_copy", copy)
    writer = PostgresWriter(store.engine, retries=1, delay=0)
    _check_exactly_once(store, run_id, writer.flush(run_id, "polygon", "1d", _outcomes(), calls=2))
    assert copies == number + 1 + 2


@pytest.mark.parametrize("table", ["bar", "watermark", "run"])
def test_a_refused_statement_undoes_the_whole_flush(store: Store, table: str) -> None:
    run_id = _before(store)
    before = _everything(store)
    with store.engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '22000'; END $$"
            )
        )
        when = (
            f"CREATE TRIGGER refuse AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        connection.execute(sa.text(when))
    with pytest.raises(FatalError, match="not today"):
        store.writer.flush(run_id, "polygon", "1d", _outcomes(), calls=2)
    assert _everything(store) == before


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("53100", ConfigurationError),
        ("40P01", RetryableError),
        ("40001", RetryableError),
        ("42501", ConfigurationError),
    ],
)
def test_what_the_server_says_decides_whether_to_try_again(store: Store, code: str, kind: type[Exception]) -> None:
    run_id = _before(store)
    tries = "CREATE SEQUENCE tries"
    body = f"BEGIN PERFORM nextval('tries'); RAISE EXCEPTION 'code {code}' USING ERRCODE = '{code}'; END"
    with store.engine.begin() as connection:
        connection.execute(sa.text(tries))
        connection.execute(sa.text(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"))
        connection.execute(sa.text("CREATE TRIGGER refuse BEFORE UPDATE ON run FOR EACH ROW EXECUTE FUNCTION refuse()"))
    with pytest.raises(kind, match=f"code {code}"):
        PostgresWriter(store.engine, retries=2, delay=0).flush(run_id, "polygon", "1d", _outcomes())
    assert query(store, "SELECT last_value FROM tries") == [(3 if kind is RetryableError else 1,)]


def test_an_unknown_run_costs_no_bars(store: Store) -> None:
    assert flush(store, ranged("AAPL", days(0, 2)), run_id=uuid4()).inserted == 3


def test_a_date_is_the_session_not_the_instants_day(store: Store) -> None:
    """The server's time zone is nobody's business: dates and instants go over as numbers."""
    block = bars("AAPL", days(0, 0))
    block.rows["ts"] = np.datetime64("2024-01-02T23:59:59.999999")
    with store.engine.begin() as connection:
        connection.execute(sa.text("SET TIME ZONE 'Pacific/Kiritimati'"))
    flush(store, answered(range_of("AAPL", days(0, 0)), block))
    [row] = stored(store)
    assert (row[2], row[3].isoformat()) == (date(2024, 1, 2), "2024-01-02T23:59:59.999999")


# -- plans ---------------------------------------------------------------------------------------------------------


def test_a_large_market_day_is_merged_in_time(store: Store) -> None:
    """All its bars have one instant; joined by that alone, 3,000 tickers would be nine million pairs (8 s)."""
    tickers = [f"T{i:04}" for i in range(3_000)]
    with store.engine.begin() as connection:  # the statistics of a table that has just been filled
        connection.execute(sa.text("ALTER TABLE bar SET (autovacuum_enabled = off)"))
    flush(store, *(market_day(i, tickers) for i in range(3)))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"ALTER DATABASE {store.engine.url.database} SET statement_timeout = '2s'"))
    store.engine.dispose()
    assert flush(store, market_day(1, tickers, 1.0)).rewritten == 3_000
