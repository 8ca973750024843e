"""A flush on PostgreSQL: what only its own means can do to one, or show of one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import SESSIONS, answered, bars, days, market_day, query, range_of, ranged, session_of, start, stored
from flushes import before, changed, check_exactly_once, everything, flush, outcomes

from closingbell.bars import Bars
from closingbell.errors import ConfigurationError, FatalError, RetryableError
from closingbell.outcome import Outcome
from closingbell.store import Store, Writer
from closingbell.store import postgres as module
from closingbell.store.copy import Rows
from closingbell.store.database import Series, Values, database_of

pytestmark = pytest.mark.postgres_only("kills sessions, makes triggers, reads system columns")


def _versions(store: Store, table: str = "bar") -> list[Any]:
    return query(store, f"SELECT ctid::text, xmin::text, run_id FROM {table} ORDER BY 1")  # noqa: S608


def _wal(store: Store) -> int:
    return int(query(store, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")[0][0])


def _logged(store: Store, work: Callable[[], object]) -> int:
    """Bytes that some work adds to the server's log; of a server that others may use too, the least of many times."""
    found = []
    for _ in range(20 if os.environ.get("CLOSINGBELL_TEST_POSTGRES_URL") else 1):
        begin = _wal(store)
        work()
        found.append(_wal(store) - begin)
    return min(found)


def test_the_same_again_moves_no_row_and_writes_no_log(store: Store) -> None:
    outcomes = [ranged(f"T{i:03}", SESSIONS) for i in range(100)]
    begin = _wal(store)
    flush(store, *outcomes)
    loaded = _wal(store) - begin
    before = [_versions(store, table) for table in ("bar", "watermark")]
    assert _logged(store, lambda: flush(store, *outcomes)) < loaded / 5  # locks of the watermarks, the run's row
    assert [_versions(store, table) for table in ("bar", "watermark")] == before


def _minutes(count: int) -> Outcome:
    """A page of minutes of one ticker."""
    sessions = days(0, 51)
    of_session = -(-count // len(sessions))
    block = bars("AAPL", np.repeat(sessions, of_session)[:count])
    block.rows["ts"] = block.rows["session"].astype("M8[us]") + np.arange(count) % of_session * np.timedelta64(1, "m")
    return answered(range_of("AAPL", sessions), replace(block, timeframe="1m"))


def _fetched(store: Store) -> int:
    """Rows of ``bar`` that were read so far, by index or not."""
    with store.engine.connect() as connection:  # the pool's only one: of the session that did the flushes
        connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
        connection.commit()
        connection.execute(sa.text("SELECT pg_stat_clear_snapshot()"))
        return int(
            connection.execute(
                sa.text("SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables WHERE relname = 'bar'")
            ).scalar_one()
        )


def test_a_page_of_minutes_again_reads_each_bar_once_and_writes_none(store: Store, unpooled: None) -> None:
    """Of a table that has just been filled the planner knows nothing, or takes it for empty."""
    run_id, page = start(store), _minutes(50_000)
    writer = store.writer
    assert writer.flush(run_id, "polygon", "1m", [page]).inserted == 50_000
    held, fetched = _versions(store), _fetched(store)
    flushed = []
    # A byte a row: the lock of a watermark, the run's row.
    assert _logged(store, lambda: flushed.append(writer.flush(run_id, "polygon", "1m", [page]))) < 50_000
    for result in flushed:
        assert (result.inserted, result.rewritten, result.stored) == (0, 0, 50_000)
    assert _fetched(store) - fetched <= (1 + len(flushed)) * 50_000  # _versions reads them too
    assert _versions(store) == held


def test_a_page_of_changed_minutes_looks_each_up_by_its_key(store: Store, unpooled: None) -> None:
    run_id, page = start(store), _minutes(20_000)
    store.writer.flush(run_id, "polygon", "1m", [page])
    fetched = _fetched(store)
    block = page.verdict.accepted
    rows = block.rows.copy()
    rows["trades"] += 1
    moved = replace(page, verdict=replace(page.verdict, accepted=Bars(block.tickers, rows, "1m")))
    result = store.writer.flush(run_id, "polygon", "1m", [moved])
    assert (result.inserted, result.rewritten) == (0, 20_000)
    assert _fetched(store) - fetched <= 6 * 20_000  # once to compare, once to lock and keep, once to change


def test_another_vendor_between_the_comparison_and_the_writing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds other watermarks: the database itself says what it did meanwhile."""
    flush(store, ranged("AAPL", days(0, 4)))
    with store.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM bar WHERE session = :day"), {"day": SESSIONS[4].item()})
    mine = changed(changed(ranged("AAPL", days(0, 4)), 1, close=100.7), 4, close=100.9)
    its = changed(changed(ranged("AAPL", days(0, 4)), 0, close=100.2), 1, close=100.3)
    real = module._compared

    def compared(connection: sa.Connection, series: Series, bars: Bars) -> tuple[Any, Any]:
        told = real(connection, series, bars)
        if series.source == "polygon":
            result = flush(store, its, source="other")  # inserts what is not there, changes two
            assert (result.inserted, result.rewritten) == (1, 2)
        return told

    monkeypatch.setattr(module, "_compared", compared)
    result = flush(store, mine)
    assert (result.inserted, result.rewritten) == (0, 2)
    found = [(row[2], row[7], row[-2]) for row in stored(store)]
    wanted = [(0, 100.2, "other"), (1, 100.7, "polygon"), (4, 100.9, "polygon")]
    assert [found[i] for i in (0, 1, 4)] == [(SESSIONS[i].item(), close, source) for i, close, source in wanted]
    kept = query(store, "SELECT session, old_close, new_close, source FROM revision ORDER BY revision_id")
    assert [row[3] for row in kept] == ["other", "other", "polygon", "polygon"]
    assert kept[2][1:3] == (100.3, 100.7), "the old value is the one that was replaced"


#: Statements of a flush of :func:`~flushes.outcomes`, the two COPYs not counted.
STATEMENTS = 12


@pytest.mark.parametrize("at", [*range(1, STATEMENTS + 1), "commit"])
def test_a_killed_backend_costs_a_retry_and_nothing_else(store: Store, postgres: sa.URL, at: int | str) -> None:
    """The server kills the connection after the n-th statement of the flush, or just before its commit."""
    run_id = before(store)
    killer = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    ((rounds,),) = query(store, "SELECT reset_val::int < 1 FROM pg_settings WHERE name = 'extra_float_digits'")
    seen: list[str] = []
    set_up: list[str] = []
    killed: list[int] = []

    def kill(pid: int) -> None:
        killed.append(pid)
        with killer.connect() as other:
            assert other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}).scalar_one()

    def after(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        (set_up if "extra_float_digits" in statement else seen).append(statement)
        if len(seen) == at and not killed:
            kill(session_of(connection))

    def commit(connection: sa.Connection) -> None:
        if at == "commit" and not killed:
            kill(session_of(connection))

    writer = Writer(store.engine, retries=1, delay=0)
    writer.mark()
    sa.event.listen(store.engine, "after_cursor_execute", after)
    sa.event.listen(store.engine, "commit", commit)
    result = writer.flush(run_id, "polygon", "1d", outcomes(), calls=2)
    sa.event.remove(store.engine, "after_cursor_execute", after)
    sa.event.remove(store.engine, "commit", commit)
    assert len(killed) == 1
    assert bool(set_up) == rounds, "what only a server that rounds numbers needs"
    asked_what_became_of_it = 4  # of which history the transaction is, in a savepoint, and its fate
    assert len(seen) == STATEMENTS + (STATEMENTS if at == "commit" else int(at)) + asked_what_became_of_it
    check_exactly_once(store, run_id, result)


@pytest.mark.parametrize("number", [0, 1])
def test_a_backend_killed_in_the_middle_of_a_copy(
    store: Store, postgres: sa.URL, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = before(store)
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

    def copy(connection: sa.Connection, statement: str, rows: Rows) -> None:
        nonlocal copies
        copies += 1
        if copies != number + 1:
            return real(connection, statement, rows)
        stream = b"".join(iter(rows.read, b""))
        driver: Any = connection.connection
        with driver.cursor() as cursor:
            cursor.copy_expert(statement, Reader(session_of(connection), stream))

    real = module._copy
    monkeypatch.setattr(module, "_copy", copy)
    writer = Writer(store.engine, retries=1, delay=0)
    check_exactly_once(store, run_id, writer.flush(run_id, "polygon", "1d", outcomes(), calls=2))
    assert copies == number + 1 + 2


@pytest.mark.parametrize("table", ["bar", "watermark", "run"])
def test_a_refused_statement_undoes_the_whole_flush(store: Store, table: str) -> None:
    run_id = before(store)
    held = everything(store)
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
        store.writer.flush(run_id, "polygon", "1d", outcomes(), calls=2)
    assert everything(store) == held


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
    run_id = before(store)
    tries = "CREATE SEQUENCE tries"
    body = f"BEGIN PERFORM nextval('tries'); RAISE EXCEPTION 'code {code}' USING ERRCODE = '{code}'; END"
    with store.engine.begin() as connection:
        connection.execute(sa.text(tries))
        connection.execute(sa.text(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"))
        connection.execute(sa.text("CREATE TRIGGER refuse BEFORE UPDATE ON run FOR EACH ROW EXECUTE FUNCTION refuse()"))
    with pytest.raises(kind, match=f"code {code}"):
        Writer(store.engine, retries=2, delay=0).flush(run_id, "polygon", "1d", outcomes())
    assert query(store, "SELECT last_value FROM tries") == [(3 if kind is RetryableError else 1,)]


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
        connection.execute(sa.text("ALTER TABLE bar_1d SET (autovacuum_enabled = off)"))
    flush(store, *(market_day(i, tickers) for i in range(3)))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"ALTER DATABASE {store.engine.url.database} SET statement_timeout = '2s'"))
    store.engine.dispose()
    assert flush(store, market_day(1, tickers, 1.0)).rewritten == 3_000


def test_many_watermarks_move_in_time(store: Store) -> None:
    """Joined by source and timeframe alone, 6,000 of them would be 36 million pairs (5 s)."""
    tickers = [f"T{i:04}" for i in range(6_000)]
    with store.engine.begin() as connection:  # the statistics of a table that has just been filled
        connection.execute(sa.text("ALTER TABLE watermark SET (autovacuum_enabled = off)"))
    flush(store, market_day(0, tickers))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"ALTER DATABASE {store.engine.url.database} SET statement_timeout = '2s'"))
    store.engine.dispose()
    flush(store, market_day(1, tickers))
    assert query(store, "SELECT DISTINCT last_session FROM watermark") == [(days(1, 1)[0].item(),)]


def test_values_of_any_text_come_back_as_they_are(store: Store) -> None:
    texts = ["", "NULL", "null", None, "a,b", "{a}", 'say "no"', "back\\slash", "it's", "é\t\n%s %(x)s :y", " "]
    at = [datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)] * len(texts)
    numbers = [1.5, -0.0, 5e-324, 1e300, math.inf, None, 0.1, 2.0, 3.0, 4.0, 5.0]
    with store.engine.connect() as connection:
        database = database_of(connection)
        columns: dict[str, Values] = {
            "text": (sa.String(3), texts),
            "at": (sa.DateTime(timezone=True), at),
            "number": (sa.Double, numbers),
            "place": (sa.Integer, list(range(len(texts)))),
        }
        given = database.rows(connection, "given", columns)
        found = connection.execute(sa.select(*given.c).order_by(given.c.place)).all()
        assert [tuple(row) for row in found] == list(zip(texts, at, numbers, range(len(texts)), strict=True))
        some = database.among(connection, given.c.text, ["NULL", "it's", "absent"])
        assert connection.execute(sa.select(sa.func.count()).where(some)).scalar_one() == 2
