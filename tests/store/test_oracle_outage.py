"""An Oracle that goes away, or is locked, costs time and nothing else: each flush is there once, whatever was cut."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from background import TIME, InBackground, told, until
from blocks import change, count, days, market_day, query, ranged, rows_of, start, stored

from closingbell.clock import Clock
from closingbell.errors import RetryableError, RunEndingError
from closingbell.outcome import FlushResult
from closingbell.store import Store, open_store, schema
from closingbell.store.database import database_of
from closingbell.store.faults import AwayError, explain, transaction
from closingbell.store.lives import life
from closingbell.store.oracle import latch
from closingbell.store.redo import Redo
from tests.databases import contents
from tests.oracle import OracleStandIn
from tests.proxy import Proxy

pytestmark = pytest.mark.oracle_only("its wire and its locks; those of PostgreSQL: test_outage.py")

#: What is last in the message that commits, but for its number; cursors to be closed may come before it.
COMMIT = b"\x03\x0e"


class Wire(Proxy):
    """The way to the stand-in."""

    def is_meant(self, data: bytes, at: bytes) -> bool:
        return data[-3:-1] == at


@pytest.fixture
def patient(oracle_stand_in: OracleStandIn) -> Iterator[Store]:
    """A store of the stand-in's tables, which are empty."""
    with closing(open_store(oracle_stand_in.url, patience=TIME)) as opened:
        yield opened


@pytest.fixture
def wire(oracle_stand_in: OracleStandIn) -> Iterator[Wire]:
    port = sa.make_url(oracle_stand_in.url).port
    assert port
    with Wire(port) as proxy:
        yield proxy


def behind(wire: Wire, stand_in: OracleStandIn, **options: Any) -> Store:
    """A store behind the wire."""
    url = sa.make_url(stand_in.url).set(port=wire.port).render_as_string(hide_password=False)
    return open_store(url, **{"patience": TIME, **options})


@pytest.fixture
def far(wire: Wire, oracle_stand_in: OracleStandIn) -> Iterator[Store]:
    with closing(behind(wire, oracle_stand_in)) as opened:
        yield opened


def flush(store: Store, run_id: Any, ticker: str = "AAPL", calls: int = 2) -> FlushResult:
    return store.writer.flush(run_id, "polygon", "1d", [ranged(ticker, days(0, 9))], calls=calls)


def check_once(store: Store, run_id: Any, result: FlushResult, flushes: int = 1) -> None:
    """What one flush of ten bars leaves behind, however often it was tried."""
    assert (result.inserted, result.rewritten, result.stored) == (10, 0, 10)
    assert len(stored(store)) == 10 * flushes
    assert (count(store, schema.gap), count(store, schema.revision)) == (0, 0)
    row = store.records.run(run_id)
    assert row is not None
    assert (row["actual_calls"], row["inserted"], row["done_cells"]) == (2 * flushes, 10 * flushes, 10 * flushes)


# -- a connection ------------------------------------------------------------------------------------------------


def heavy(store: Store) -> FlushResult:
    """A flush that does all that one can: bars new, the same and changed, gaps opened and closed, one in quarantine."""
    run_id = start(store)
    bad = ranged("BAD", days(0, 4))
    outcomes = [ranged("AAPL", days(0, 9), 1.0), market_day(10, ["AAPL", "MSFT", "NEW"]), bad.without({2: "no"})]
    return store.writer.flush(run_id, "polygon", "1d", outcomes, calls=3)


def before(store: Store) -> None:
    """What is there before it."""
    for table in reversed(schema.metadata.sorted_tables):
        change(store, sa.delete(table))
    run_id = start(store)
    store.writer.flush(
        run_id, "polygon", "1d", [ranged("AAPL", days(0, 4)), ranged("MSFT", days(0, 9)).empty_handed("x")]
    )


def was_cut(stand_in: OracleStandIn, at: int) -> bool:
    """Whether the cut that was ordered has been made; if not, it is made now."""
    probe = sa.create_engine(sa.make_url(stand_in.url).set(drivername="oracle+closingbell"), poolclass=sa.NullPool)
    try:
        with probe.connect() as connection:
            for _ in range(at):
                connection.exec_driver_sql("SELECT 1 FROM dual")
    except sa.exc.DBAPIError:
        return False
    return True


def test_a_connection_that_is_cut_at_each_execute_of_a_flush_in_turn(
    patient: Store, oracle_stand_in: OracleStandIn
) -> None:
    before(patient)
    calm = heavy(patient)
    expected = contents(patient.engine)
    assert calm.inserted
    assert calm.rewritten
    for at in itertools.count(1):
        before(patient)
        oracle_stand_in.kill(at)
        assert replace(heavy(patient), retries=calm.retries) == calm, f"cut at {at}"
        if not was_cut(oracle_stand_in, at):
            break
        assert contents(patient.engine) == expected, f"cut at {at}"
    assert at > 20, "it has so many executes"


def test_a_commit_whose_answer_is_lost_is_not_done_again(
    patient: Store, far: Store, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = start(far)
    flush(far, run_id)
    wire.lose(COMMIT)
    result = flush(far, run_id, "MSFT")
    assert wire.lost.is_set()
    assert told(caplog, "the commit had been made")
    check_once(patient, run_id, result, flushes=2)


def test_a_commit_that_never_arrived_is_done_again(patient: Store, far: Store, wire: Wire) -> None:
    run_id = start(far)
    wire.lose_question(COMMIT)
    result = flush(far, run_id)
    assert wire.lost.is_set()
    check_once(patient, run_id, result)


def test_a_commit_of_a_session_that_has_not_ended_is_not_done_before_it_has(
    patient: Store, far: Store, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """The server may not notice for a while that its client is gone; it may still commit what it was asked to."""
    run_id = start(far)
    wire.lose_question(COMMIT, orphan=True)
    waiting = InBackground(lambda: flush(far, run_id))
    until(lambda: told(caplog, "nobody knows yet whether the commit was made"))
    assert not waiting.done
    wire.cut()  # the lost session with all others
    wire.mend()
    check_once(patient, run_id, waiting.result())


def test_a_race_is_lost_and_run_again(patient: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody has the row of the run; the stand-in takes a long wait for a deadlock."""
    run_id = start(patient)
    row = sa.select(schema.run.c.run_id).where(schema.run.c.run_id == run_id).with_for_update()
    with patient.engine.connect() as stranger:
        stranger.execute(row)
        waiting = InBackground(lambda: flush(patient, run_id))
        until(lambda: told(caplog, "lost a race"))
        assert not waiting.done
    check_once(patient, run_id, waiting.result())


def test_a_database_that_is_away_is_waited_for(
    patient: Store, far: Store, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = start(far)
    wire.cut()
    waiting = InBackground(lambda: flush(far, run_id))
    until(lambda: told(caplog, "the database cannot be reached"))
    assert not waiting.done
    wire.mend()
    check_once(patient, run_id, waiting.result())


def test_one_that_stays_away_is_an_error_in_the_end(wire: Wire, oracle_stand_in: OracleStandIn) -> None:
    with closing(behind(wire, oracle_stand_in, patience=0.5)) as store:
        run_id = start(store)
        wire.cut()
        with pytest.raises(RetryableError, match="the database cannot be reached") as caught:
            flush(store, run_id)
        assert caught.value.__context__ is None
        wire.mend()
        check_once(store, run_id, flush(store, run_id))


def test_a_run_that_is_stopped_does_not_wait(
    wire: Wire, oracle_stand_in: OracleStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = threading.Event()
    with closing(behind(wire, oracle_stand_in, patience=10 * TIME, stopped=stopped.is_set)) as store:
        run_id = start(store)
        wire.cut()
        waiting = InBackground(lambda: flush(store, run_id))
        until(lambda: told(caplog, "trying again in"))
        stopped.set()
        with pytest.raises(RunEndingError, match="while it waited for the database"):
            waiting.result()


# -- who looks a transaction up ------------------------------------------------------------------------------------


def names(store: Store, like: str) -> list[str]:
    return [name for (name,) in query(store, sa.select(latch.c.name).where(latch.c.name.like(like)))]


def test_the_fate_of_a_transaction_that_is_not_over(patient: Store) -> None:
    engine, database = patient.engine, database_of(patient.engine)

    def fate(begun: Any) -> bool:
        with transaction(engine) as connection:
            return database.fate(connection, begun, committing=True)

    with transaction(engine) as connection:
        made = database.begin(connection, 5, 0)
        with pytest.raises(AwayError, match="nobody knows yet"):
            fate(made)
    assert fate(made)
    with engine.connect() as connection:
        lost = database.begin(connection, 5, 0)
    assert not fate(lost)
    assert not fate(lost), "to have asked changes nothing"


def test_a_thread_leaves_one_row_behind_and_old_ones_are_deleted(patient: Store) -> None:
    change(patient, sa.delete(latch))
    run_id = start(patient)
    for number in range(5):
        flush(patient, run_id, f"T{number}")
    [token] = names(patient, "commit %")
    assert f"{Clock().now():%Y-%m-%d}" in token
    old, ended, dead = f"commit {Clock().now() - timedelta(days=30):%Y-%m-%d} x", uuid4(), uuid4()
    for name in (old, life(ended), life(dead)):
        change(patient, sa.insert(latch).values(name=name))
    for gone, at in ((ended, Clock().now() - timedelta(days=30)), (dead, None)):
        row = {"run_id": gone, "flow": "ingest", "source": "polygon", "timeframe": "1d", "asked": {}, "plan": {}}
        change(patient, sa.insert(schema.run).values(**row, state="Completed", ended_at=at))
    with transaction(patient.engine) as connection:
        database_of(connection).forget(connection)
    assert names(patient, "commit %") == [token]
    assert names(patient, "run %") == [life(dead)]


def test_a_transaction_that_is_only_to_find_something_out_leaves_nothing(patient: Store) -> None:
    from closingbell.store.redo import undo

    change(patient, sa.delete(latch))
    redo = Redo(patient.engine, retries=0, delay=0, lock_timeout=5)
    redo(undo)
    assert names(patient, "%") == []
    redo(lambda connection: None)
    assert len(names(patient, "%")) == 1


# -- locks ---------------------------------------------------------------------------------------------------------


def test_a_run_is_alive_again_after_its_connection_was_cut(
    patient: Store, far: Store, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = start(patient)
    with far.records.alive(run_id):
        assert patient.records.is_alive(run_id)
        wire.cut()
        until(lambda: not patient.records.is_alive(run_id))
        wire.mend()
        until(lambda: patient.records.is_alive(run_id))
        assert told(caplog, "it is taken again")
    assert not patient.records.is_alive(run_id)


def test_who_may_not_see_sessions_is_told_of_no_holder(patient: Store) -> None:
    database = database_of(patient.engine)
    with transaction(patient.engine) as connection:
        begun = database.begin(connection, 5, 0)
        assert database.holders(connection, begun) == []
        assert database.holders(connection, begun) == []


def test_a_statement_is_bound(patient: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Where locks are waited for it may take as long as that, and twice as long each time it took too long."""
    caplog.set_level(logging.INFO)

    def bound(connection: sa.Connection) -> int:
        driver: Any = connection.connection.driver_connection
        return int(driver.call_timeout)

    database = database_of(patient.engine)
    with patient.engine.connect() as connection:
        assert bound(connection) == 0
        database.begin(connection, 5, 0)
        assert bound(connection) == 5_000
        database.begin(connection, 5, 2)
        assert bound(connection) == 20_000
    with transaction(patient.engine) as connection:
        assert bound(connection) == 20 * 30_000
        connection.commit()
        assert bound(connection) == 0, "a commit takes as long as it takes"
    with patient.engine.connect() as connection:
        assert bound(connection) == 0, "not what the last one had"
        connection.execute(sa.text("SELECT 1 FROM dual"))


def test_a_call_that_takes_too_long_is_the_loss_of_a_connection_at_worst(patient: Store) -> None:
    run_id = start(patient)
    row = sa.select(schema.run.c.run_id).where(schema.run.c.run_id == run_id).with_for_update()
    with patient.engine.connect() as stranger, patient.engine.connect() as connection:
        stranger.execute(row)
        driver: Any = connection.connection.driver_connection
        driver.call_timeout = 200
        with pytest.raises(sa.exc.DBAPIError) as caught:
            connection.execute(row)
    assert isinstance(explain(caught.value, patient.engine), RetryableError)
    assert rows_of(patient, schema.run, "run_id") == [(run_id,)]
