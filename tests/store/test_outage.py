"""A database that goes away, is locked or fails over costs time and nothing else: each flush is there once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from background import TIME, InBackground, told, until
from blocks import change, days, gaps, is_default, query, ranged, read_only, start, stored
from wire import COMMIT, Wire

from closingbell.errors import RetryableError, RunEndingError
from closingbell.outcome import FlushResult
from closingbell.store import Store, Writer, open_store
from closingbell.store.faults import LockedError, RaceError, transaction
from closingbell.store.redo import Redo
from infra import cluster, migrations
from infra.postgres import EmbeddedPostgres

pytestmark = pytest.mark.postgres_only("its wire and its locks; those of Oracle: test_oracle_outage.py")


def flush(store: Store, run_id: Any, ticker: str = "AAPL", calls: int = 2) -> FlushResult:
    return store.writer.flush(run_id, "polygon", "1d", [ranged(ticker, days(0, 9))], calls=calls)


def check_once(store: Store, run_id: Any, result: FlushResult, flushes: int = 1) -> None:
    """What one flush of ten bars leaves behind, however often it was tried."""
    assert (result.inserted, result.rewritten, result.stored) == (10, 0, 10)
    assert len(stored(store)) == 10 * flushes
    assert gaps(store) == {}
    assert query(store, "SELECT count(*) FROM revision") == [(0,)]
    row = store.records.run(run_id)
    assert row is not None
    assert (row["actual_calls"], row["inserted"], row["done_cells"]) == (2 * flushes, 10 * flushes, 10 * flushes)


@pytest.fixture
def wire(database_url: str) -> Iterator[Wire]:
    with Wire(sa.make_url(database_url)) as proxy:
        yield proxy


@pytest.fixture
def far(wire: Wire) -> Iterator[Store]:
    """A store behind the wire."""
    with closing(open_store(wire.url.render_as_string(hide_password=False), patience=TIME)) as opened:
        yield opened


# -- a connection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "how"),
    [(b"COPY bar", "question"), (b"COPY bar", "answer"), (b"PGCOPY", "question"), (b"UPDATE run", "answer")],
)
def test_a_connection_that_breaks_in_a_flush(store: Store, far: Store, wire: Wire, at: bytes, how: str) -> None:
    run_id = start(far)
    (wire.lose_question if how == "question" else wire.lose)(at)
    result = flush(far, run_id)
    assert wire.lost.is_set()
    check_once(store, run_id, result)


def test_a_commit_whose_answer_is_lost_is_not_done_again(
    store: Store, far: Store, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = start(far)
    first = flush(far, run_id)
    before = query(store, "SELECT xmin::text, ctid::text FROM bar")
    far.writer.mark()  # the server's history is known then, and the next commit is the one meant
    wire.lose(COMMIT)
    result = flush(far, run_id, "MSFT")
    assert wire.lost.is_set()
    assert told(caplog, "the commit had been made")
    assert first.inserted == 10
    check_once(store, run_id, result, flushes=2)
    assert query(store, "SELECT xmin::text, ctid::text FROM bar WHERE ticker = 'AAPL'") == before


@pytest.mark.parametrize("orphan", [False, True])
def test_a_commit_that_never_arrived_is_done_again(store: Store, far: Store, wire: Wire, orphan: bool) -> None:
    """The server may not notice for hours that its client is gone: its session would keep its locks."""
    run_id = start(far)
    far.writer.mark()  # the server's history is known then, and the next commit is the one meant
    wire.lose_question(COMMIT, orphan=orphan)
    result = flush(far, run_id)
    assert wire.lost.is_set()
    check_once(store, run_id, result)
    idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
    assert query(store, idle) == [(0,)]


def test_a_session_that_lost_its_client_in_a_flush_does_not_lock_it_out(store: Store, far: Store, wire: Wire) -> None:
    run_id = start(far)
    wire.lose_question(b"UPDATE run", orphan=True)
    result = Writer(far.engine, lock_timeout=TIME).flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 9))], calls=2)
    check_once(store, run_id, result)


@pytest.mark.parametrize("history", ["random()::text", "CAST(1 / 0 AS text)"])
def test_a_commit_on_a_server_that_nobody_can_ask_about_it_is_done_again(
    store: Store, far: Store, wire: Wire, monkeypatch: pytest.MonkeyPatch, history: str
) -> None:
    """After a failover the number means another transaction; and some hosts do not tell which history is theirs."""
    monkeypatch.setattr("closingbell.store.postgres._HISTORY", sa.text(f"SELECT {history}"))
    run_id = start(far)
    far.writer.mark()  # the server's history is known then, and the next commit is the one meant
    wire.lose(COMMIT)
    result = flush(far, run_id)
    assert (result.inserted, result.stored) == (0, 10), "it was there already"
    assert len(stored(store)) == 10
    assert query(store, "SELECT count(*) FROM revision") == [(0,)]


def test_a_client_that_falls_silent_keeps_its_locks_for_a_minute_at_most(store: Store) -> None:
    """Its machine died: the server hears nothing of that."""
    redo = Redo(store.engine, retries=0, delay=0, lock_timeout=1)
    show = sa.text("SHOW idle_in_transaction_session_timeout")
    assert redo(lambda connection: connection.execute(show).scalar_one()) == "1min"
    with store.engine.connect() as connection:
        assert is_default(connection, "idle_in_transaction_session_timeout")


def test_a_run_may_live_longer_than_any_other_transaction(
    store: Store, database_url: str, unpooled: None, caplog: pytest.LogCaptureFixture
) -> None:
    if not query(store, "SELECT name FROM pg_settings WHERE name = 'transaction_timeout'"):
        pytest.skip("this PostgreSQL has no transaction_timeout")
    change(store, sa.text(f'ALTER DATABASE "{store.engine.url.database}" SET transaction_timeout = 300'))
    lasting = "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted"
    lasting += " AND datname = current_database() AND clock_timestamp() - xact_start > interval '1 second'"
    with closing(open_store(database_url)) as limited, limited.records.alive(start(limited)):
        until(lambda: query(store, lasting) or told(caplog, "the run's lock went"))
    assert not told(caplog, "the run's lock went")


def test_a_read_waits_for_a_strangers_lock_no_longer_than_is_set(store: Store, database_url: str) -> None:
    impatient = open_store(database_url, patience=0.2, lock_timeout=0.1)
    with closing(impatient), store.engine.begin() as stranger:
        stranger.exec_driver_sql("LOCK TABLE run")
        with pytest.raises(LockedError):
            impatient.records.runs()


def test_taking_out_is_not_done_twice_either(store: Store, far: Store, wire: Wire) -> None:
    run_id = start(far)
    flush(far, run_id)
    block = ranged("AAPL", days(0, 9)).verdict.accepted.where(
        ranged("AAPL", days(0, 9)).verdict.accepted.rows["session"] == days(3, 3)
    )
    far.writer.mark()  # the server's history is known then, and the next commit is the one meant
    wire.lose(COMMIT)
    gone = far.writer.take_out(run_id, "polygon", "1d", block, ["off_scale"], _now(store))
    assert [(ticker, rule) for ticker, _, rule in gone] == [("AAPL", "off_scale")]
    assert query(store, "SELECT count(*) FROM revision") == [(1,)]


def _now(store: Store) -> Any:
    return query(store, "SELECT now()")[0][0]


# -- a server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server of this module's own, to be stopped and started."""
    with TemporaryDirectory(prefix="closingbell-outage-") as home:
        running = EmbeddedPostgres(Path(home))
        running.start()
        yield running
        running.stop()


@pytest.fixture
def own(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Store]:
    name = f"t{abs(hash(request.node.name))}"
    server.ensure_database(name)
    with closing(open_store(server.url(name), patience=TIME)) as opened:
        migrations.upgrade(opened.engine)
        yield opened


def kill(server: EmbeddedPostgres, how: int) -> None:
    """Send the server a signal, and wait until it is gone."""
    import os

    running = cluster.running(server.data)
    assert running is not None
    os.kill(running.pid, how)
    until(lambda: cluster.running(server.data) is None)
    server.stop()


def test_a_server_that_is_away_for_a_while(
    own: Store, server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped fast, and at once: it has to recover then, and says that it is starting up."""
    import signal

    for number, how in enumerate((signal.SIGINT, signal.SIGQUIT), 1):
        run_id = start(own)
        result = flush(own, run_id, f"A{number}")
        kill(server, how)
        caplog.clear()
        waiting = InBackground(lambda number=number, run_id=run_id: flush(own, run_id, f"B{number}"))
        reading = InBackground(lambda: own.records.overview()["bars"])
        until(lambda: told(caplog, "the database cannot be reached"))
        assert not waiting.done
        server.start()
        result = waiting.result()
        assert reading.result() in (20 * number - 10, 20 * number)
        assert told(caplog, "trying again in")
        assert result.inserted == 10
        assert len(stored(own)) == 20 * number
        row = own.records.run(run_id)
        assert row is not None
        assert (row["actual_calls"], row["inserted"]) == (4, 20)


@pytest.mark.soak
def test_a_server_that_is_away_for_half_a_minute(own: Store, server: EmbeddedPostgres) -> None:
    import signal

    run_id = start(own)
    kill(server, signal.SIGQUIT)
    waiting = InBackground(lambda: flush(own, run_id))
    time.sleep(30)
    server.start()
    check_once(own, run_id, waiting.result())


def test_a_server_that_stays_away_is_an_error_in_the_end(wire: Wire, database_url: str) -> None:
    with closing(open_store(wire.url.render_as_string(hide_password=False), patience=0.5)) as store:
        run_id = start(store)
        wire.cut()
        with pytest.raises(RetryableError, match="the database cannot be reached") as caught:
            flush(store, run_id)
        assert caught.value.__context__ is None
        wire.mend()
        check_once(store, run_id, flush(store, run_id))


def test_a_run_that_is_stopped_does_not_wait(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    stopped = threading.Event()
    url = wire.url.render_as_string(hide_password=False)
    with closing(open_store(url, patience=10 * TIME, stopped=stopped.is_set)) as store:
        run_id = start(store)
        wire.cut()
        waiting = [InBackground(lambda: flush(store, run_id)), InBackground(store.records.overview)]
        until(lambda: told(caplog, "trying again in"))
        stopped.set()
        for each in waiting:
            with pytest.raises(RunEndingError, match="while it waited for the database"):
                each.result()


@pytest.mark.usefixtures("unpooled")
def test_no_more_connections_is_waited_for(store: Store, database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    name = sa.make_url(database_url).database
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        admin.exec_driver_sql("CREATE ROLE crowd_" + str(name) + " LOGIN SUPERUSER PASSWORD 'x'")
        admin.exec_driver_sql(f"ALTER ROLE crowd_{name} NOSUPERUSER CONNECTION LIMIT 1")
        admin.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO crowd_{name}")
        url = sa.make_url(database_url).set(username=f"crowd_{name}", password="x")
        with closing(open_store(url.render_as_string(hide_password=False), patience=TIME)) as crowded:
            run_id = start(crowded)
            crowded.engine.dispose()
            taken = sa.create_engine(url, poolclass=sa.NullPool).connect()
            waiting = InBackground(lambda: flush(crowded, run_id))
            until(lambda: told(caplog, "no free connection"))
            taken.close()
            assert waiting.result().inserted == 10
        admin.exec_driver_sql(f"DROP OWNED BY crowd_{name}")
        admin.exec_driver_sql(f"DROP ROLE crowd_{name}")


# -- a failover ----------------------------------------------------------------------------------------------------


def test_a_database_that_becomes_read_only_is_waited_for(
    store: Store, postgres: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = start(store)
    flush(store, run_id)
    read_only(store, postgres, True)
    waiting = InBackground(lambda: flush(store, run_id, "MSFT"))
    until(lambda: told(caplog, "the database is read-only"))
    assert not waiting.done
    read_only(store, postgres, False)
    check_once(store, run_id, waiting.result(), flushes=2)


# -- others --------------------------------------------------------------------------------------------------------


@contextmanager
def locked(store: Store, statement: str) -> Iterator[sa.Connection]:
    """Somebody else's transaction that holds a lock."""
    engine = sa.create_engine(store.engine.url, connect_args={"application_name": "stranger"}, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
        yield connection


LOCKS = ["LOCK TABLE bar IN ACCESS EXCLUSIVE MODE", "SELECT * FROM watermark FOR UPDATE"]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_strangers_lock_is_waited_for_and_named(store: Store, lock: str, caplog: pytest.LogCaptureFixture) -> None:
    run_id = start(store)
    flush(store, run_id)
    writer = Writer(store.engine, lock_timeout=0.3)
    with locked(store, lock) as stranger:
        pid = stranger.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        waiting = InBackground(lambda: writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 10))], calls=2))
        until(
            lambda: told(
                caplog, f"waiting for a lock that is held by pid {pid} (user closingbell, stranger, idle in tr"
            )
        )
    result = waiting.result()
    assert (result.inserted, result.stored) == (1, 11)
    with store.engine.connect() as connection:
        assert is_default(connection, "lock_timeout"), "it is the transaction's, not the session's"


def test_a_lock_that_is_never_given_back_is_an_error_that_names_its_holder(store: Store, database_url: str) -> None:
    with closing(open_store(database_url, patience=0, lock_timeout=0.2)) as impatient:
        run_id = start(impatient)
        with locked(store, LOCKS[0]) as stranger:
            pid = stranger.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with pytest.raises(LockedError) as caught:
                flush(impatient, run_id)
        assert f"held by pid {pid} (user closingbell, stranger, idle in transaction, since 2" in str(caught.value)
        assert stored(store) == []


def test_a_run_that_is_stopped_does_not_wait_for_a_lock(
    store: Store, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = threading.Event()
    with closing(open_store(database_url, patience=TIME, lock_timeout=10 * TIME, stopped=stopped.is_set)) as patient:
        run_id = start(patient)
        patient.writer._redo._lock_timeout = 0.2
        with locked(store, LOCKS[0]):
            waiting = InBackground(lambda: flush(patient, run_id))
            until(lambda: told(caplog, "looking who it is"))
            patient.writer._redo._lock_timeout = 10 * TIME
            until(lambda: told(caplog, "held by"))
            stopped.set()
            with pytest.raises(RunEndingError):
                waiting.result()


def test_a_stop_breaks_off_what_only_reads_or_waits_and_lets_writes_through(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()
    for module in ("interrupt", "patience"):
        monkeypatch.setattr(f"closingbell.store.{module}.HURRIED", 1.0)
    with closing(open_store(database_url, lock_timeout=10 * TIME, stopped=stopped.is_set)) as ours:
        run_id = start(ours)

        def slow(connection: sa.Connection, seconds: float) -> int:
            return len(connection.execute(sa.select(sa.func.pg_sleep(seconds))).all())

        def read() -> int:
            with transaction(ours.engine) as connection:
                return slow(connection, 10 * TIME)

        redo = Redo(ours.engine, retries=0, delay=0.0, lock_timeout=0.0)
        with locked(store, LOCKS[0]):
            reading, waiting = InBackground(read), InBackground(lambda: flush(ours, run_id))
            writing = InBackground(lambda: redo(lambda connection: slow(connection, 1.0)))
            under_way = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = "
            until(lambda: query(store, under_way + "'PgSleep'") == [(2,)] and query(store, under_way + "'relation'"))
            stopped.set()
            ours.interrupt()
            with pytest.raises(RaceError, match="cancelled a statement"):
                reading.result()
            assert writing.result() == 1
            with pytest.raises(RunEndingError):
                waiting.result()
            with pytest.raises(RunEndingError):  # what begins after the stop does not wait long
                flush(ours, run_id)


def test_a_stop_lets_a_write_through_that_waits_for_another_of_ours(store: Store, database_url: str) -> None:
    """Each flush of a run writes the run's one row, until it is committed."""
    stopped = threading.Event()
    with closing(open_store(database_url, lock_timeout=10 * TIME, stopped=stopped.is_set)) as ours:
        run_id = start(ours)
        held, go_on = threading.Event(), threading.Event()

        def slow(connection: sa.Connection) -> int:
            connection.exec_driver_sql("SELECT * FROM run FOR UPDATE")
            held.set()
            return int(go_on.wait(TIME))

        redo = Redo(ours.engine, retries=0, delay=0.0, lock_timeout=0.0)
        first = InBackground(lambda: redo(slow))
        held.wait(TIME)
        second = InBackground(lambda: flush(ours, run_id))
        locks = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        until(lambda: query(store, locks) == [(1,)])
        stopped.set()
        ours.interrupt()
        threading.Event().wait(1.0)  # several looks at who waits
        go_on.set()
        assert first.result() == 1
        assert second.result().inserted == 10


def test_a_deadlock_is_run_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger has the run's row and waits for our watermark, when we come to the run's row."""
    run_id = start(store)
    flush(store, run_id)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        admin.exec_driver_sql(f"ALTER DATABASE {store.engine.url.database} SET deadlock_timeout = '20ms'")
        admin.exec_driver_sql(
            "CREATE FUNCTION halt() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$"
        )
        admin.exec_driver_sql("CREATE TRIGGER halt BEFORE INSERT ON bar FOR EACH STATEMENT EXECUTE FUNCTION halt()")
    store.engine.dispose()

    def waiting() -> int:
        what = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return int(query(store, what)[0][0])

    row = f"SELECT * FROM run WHERE run_id = '{run_id}' FOR UPDATE"  # noqa: S608
    with locked(store, "SELECT pg_advisory_xact_lock(42)") as halted, locked(store, row) as stranger:
        stranger.exec_driver_sql("SET deadlock_timeout = '1min'")
        ours = InBackground(lambda: store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 10))]))
        until(lambda: waiting() == 1)
        theirs = InBackground(lambda: stranger.exec_driver_sql("SELECT * FROM watermark FOR UPDATE"))
        until(lambda: waiting() == 2)
        halted.rollback()
        theirs.result()
        stranger.rollback()
        assert ours.result().inserted == 1
    assert told(caplog, "lost a race")


def test_a_failed_serialization_is_run_again_as_often_as_is_set(store: Store) -> None:
    run_id = start(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE tries")
        connection.exec_driver_sql(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF nextval('tries') < 3 THEN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER lose BEFORE INSERT ON watermark FOR EACH ROW EXECUTE FUNCTION lose()"
        )
    with pytest.raises(RetryableError, match="lost a race"):
        Writer(store.engine, retries=1, delay=0).flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 9))])
    result = flush(store, run_id)
    check_once(store, run_id, result)


def test_waits_grow_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    from closingbell.store.patience import LONGEST, Patience, Wait

    caplog.set_level(logging.WARNING)
    wait, slept = Wait(Patience(100.0)), list[float]()
    wait.sleep = lambda seconds, failure: slept.append(seconds)  # type: ignore[method-assign]
    for _ in range(12):
        wait.bear(RetryableError("away", value="here", fix="Start it."))
    assert all(0.7 < slept[i] / (0.1 * 2**i) < 1.3 for i in range(7))
    assert max(slept) <= LONGEST * 1.25
    assert "away: here; trying again in" in caplog.records[0].getMessage()


def test_a_read_is_not_begun_before_the_database_is_there(
    far: Store, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = start(far)
    wire.cut()
    reading = InBackground(lambda: far.records.run(run_id))
    until(lambda: told(caplog, "trying again in"))
    wire.mend()
    assert reading.result()["run_id"] == run_id
    with transaction(far.engine) as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1


@pytest.mark.parametrize("how", ["question", "answer"])
def test_a_read_that_is_cut_short_is_done_again(store: Store, far: Store, wire: Wire, how: str) -> None:
    flush(store, start(store))
    lose = wire.lose_question if how == "question" else wire.lose
    lose(b"COPY (")
    assert len(far.records.series("polygon", "1d", ["AAPL"], *_span())) == 10
    assert wire.lost.is_set()
    lose(b"facts_watermark")
    assert far.facts.splits_lost("polygon") == 0
    assert wire.lost.is_set()


def _span() -> tuple[Any, Any]:
    return days(0, 9)[0].item(), days(0, 9)[-1].item()
