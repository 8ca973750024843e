"""``bar`` in partitions: no bar is lost, doubled or refused for its age, and statements open only what they need."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from blocks import JUDGE, bars, change, count, days, query, ranged, rows_of, start
from click.testing import CliRunner

from closingbell.bars import Bars
from closingbell.cells import Cells
from closingbell.cli import cli
from closingbell.doctors import of_partitions
from closingbell.errors import ConfigurationError
from closingbell.plan import TickerRange
from closingbell.store import Store, open_store, partitions
from closingbell.store.database import Series, database_of
from closingbell.store.schema import bar
from infra import migrations
from infra.migrations.__main__ import main
from infra.migrations.grants import grant

pytestmark = pytest.mark.postgres_only("Oracle's table has no partitions")

AT = datetime(2024, 4, 1, 6, tzinfo=UTC)
MIGRATION = import_module("infra.migrations.versions.0008_partitions_of_bars")


@pytest.fixture
def bare(bare_url: str) -> Iterator[sa.Engine]:
    with closing(open_store(bare_url)) as store:
        yield store.engine


def migrate(engine: sa.Engine, to: str, direction: Callable[..., None] = command.upgrade) -> None:
    with engine.begin() as connection:
        config = migrations.config()
        config.attributes["connection"] = connection
        direction(config, to)


def do(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def rows(engine: sa.Engine, statement: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def as_role(url: str, role: str) -> str:
    return sa.make_url(url).set(username=role, password="x").render_as_string(hide_password=False)


def at(instants: list[str], timeframe: str = "1m", ticker: str = "AAPL") -> Bars:
    """A bar of each of these instants, of the session of its day."""
    block = bars(ticker, days(0, len(instants) - 1))
    block.rows["ts"] = np.array(instants, "M8[us]")
    block.rows["session"] = block.rows["ts"].astype("M8[D]")
    return Bars(block.tickers, block.rows, timeframe)


def load(store: Store, block: Bars, *, fresh: bool = True, source: str = "polygon") -> tuple[int, int]:
    series, none = Series(source, block.timeframe, uuid.uuid4()), Bars((), timeframe=block.timeframe)
    with store.engine.begin() as connection:
        return database_of(connection).load(connection, series, *(([block], none) if fresh else ([], block)))


def where(engine: sa.Engine) -> dict[str, int]:
    """How many bars each partition has that has any."""
    return dict(rows(engine, "SELECT tableoid::regclass::text, count(*) FROM bar GROUP BY 1"))  # type: ignore[arg-type]


# -- what there is ---------------------------------------------------------------------------------------------------


def test_every_instant_has_one_partition(store: Store) -> None:
    spans = partitions.spans()
    assert [after[1] for _, after in pairwise(spans)] == [before[2] for before, _ in pairwise(spans)]
    assert (spans[0][1], spans[-1][2]) == (None, None)
    names = [name for name, _, _ in spans]
    assert partitions.create(spans[30]) == MIGRATION.partition(*spans[30])
    assert tuple(spans) == MIGRATION.SPANS
    with store.engine.connect() as connection:
        assert partitions.partitions(connection) == sorted([*names, partitions.DAILY, partitions.INTRADAY])
        assert partitions.prepared_until(connection) == date(2033, 1, 1)
        connection.exec_driver_sql("SET TimeZone = 'Pacific/Auckland'")
        assert partitions.prepared_until(connection) == date(2033, 1, 1)


def test_no_bar_is_refused_for_its_age(store: Store) -> None:
    old = at(["1962-01-02T14:30", "2003-09-10T13:30", "2024-02-29T14:30", "2199-12-31T14:30"], "1d")
    edges = at(
        [
            *("1970-01-01T00:00", "2002-12-31T23:59", "2003-01-01T00:00", "2020-12-31T23:59", "2021-01-01T00:00"),
            *("2024-03-31T23:59", "2024-04-01T00:00", "2032-12-31T23:59", "2033-01-01T00:00", "2199-12-31T14:30"),
        ]
    )
    assert load(store, old) == (4, 0)
    assert load(store, edges) == (10, 0)
    assert load(store, Bars(edges.tickers, edges.rows, "1h")) == (10, 0)
    assert where(store.engine) == {
        "bar_1d": 4,
        **dict.fromkeys(("bar_earlier", "bar_later"), 4),
        **dict.fromkeys(("bar_2003", "bar_2020", "bar_2021_q1", "bar_2024_q1", "bar_2024_q2", "bar_2032_q4"), 2),
    }
    found = store.records.series("polygon", "1m", ["AAPL"], date(1970, 1, 1), date(2199, 12, 31))
    assert found.rows["ts"].tolist() == edges.rows["ts"].tolist()
    assert count(store, bar) == 24


def test_a_key_is_there_once_whatever_way_it_comes(store: Store) -> None:
    block = at(["2002-12-31T23:59", "2024-03-31T23:59", "2024-04-01T00:00", "2033-01-01T00:00"])
    assert load(store, block) == (4, 0)
    before = rows_of(store, bar)
    assert load(store, block, source="another") == (0, 0), "taken to be absent, and compared where it is not"
    assert load(store, block, fresh=False) == (0, 0)
    assert rows_of(store, bar) == before
    for name in ("bar_2024_q2", "bar"):
        with pytest.raises(sa.exc.IntegrityError, match="already exists"):
            do(store.engine, f"INSERT INTO {name} SELECT * FROM bar WHERE ts = '2024-04-01 00:00Z'")  # noqa: S608
    with pytest.raises(sa.exc.IntegrityError, match="violates partition constraint"):
        do(store.engine, "INSERT INTO bar_2024_q1 SELECT * FROM bar WHERE ts = '2024-04-01 00:00Z'")
    moved = Bars(block.tickers, block.rows.copy(), "1m")
    moved.rows["close"] += 0.5
    more = at(["2010-05-05T14:30"])
    assert load(store, Bars.concat([moved, more]), fresh=False) == (1, 4)
    assert query(store, "SELECT count(*) FROM revision WHERE new_close = old_close + 0.5") == [(4,)]


# -- which are opened ------------------------------------------------------------------------------------------------


@contextmanager
def opened(store: Store) -> Iterator[set[str]]:
    """Which partitions the transactions of a block lock, and so open, even if they read nothing there."""
    found: set[str] = set()

    def look(connection: sa.Connection) -> None:
        driver: Any = connection.connection
        with driver.cursor() as cursor:
            cursor.execute(
                "SELECT relname FROM pg_locks JOIN pg_class c ON c.oid = relation "
                "WHERE pid = pg_backend_pid() AND relispartition AND relkind = 'r'"
            )
            found.update(name for (name,) in cursor)

    def committed(connection: sa.Connection) -> None:
        look(connection)

    sa.event.listen(store.engine, "commit", committed)
    try:
        yield found
    finally:
        sa.event.remove(store.engine, "commit", committed)


def minutes(ticker: str, first: int, last: int, shift: float = 0.0) -> Any:
    block = bars(ticker, days(first, last), shift)
    rows = np.repeat(block.rows, 30)
    rows["ts"] += np.tile(np.arange(30) * np.timedelta64(1, "m"), last - first + 1)
    call = TickerRange(ticker, tuple(days(first, last).tolist()), timeframe="1m")
    return JUDGE.answered(call, Bars(block.tickers, rows, "1m"), len(rows))


def test_a_run_opens_the_partitions_of_its_bars_alone(store: Store) -> None:
    run_id, grid = start(store), [Cells.all(("AAPL", "MSFT"), days(20, 24))]
    writer, records = store.writer, store.records
    with opened(store) as found:
        outcomes = [minutes("AAPL", 20, 24), minutes("MSFT", 20, 24)]
        assert writer.flush(run_id, "polygon", "1m", outcomes, at=AT).inserted == 300
        assert writer.flush(run_id, "polygon", "1m", outcomes, at=AT).inserted == 0
        assert writer.flush(run_id, "polygon", "1m", [minutes("AAPL", 20, 24, 1.0)], at=AT).rewritten == 150
    assert found == {"bar_2024_q1"}
    with opened(store) as found:
        assert records.reconcile("polygon", "1m", grid).balanced
        assert records.count_bars("1m", grid) == 300
        assert len(records.series("polygon", "1m", ["AAPL"], date(2024, 1, 30), date(2024, 2, 9))) == 150
        assert not records.damage("polygon", "1m", ["AAPL", "MSFT"])
        copy = minutes("MSFT", 20, 24).verdict.accepted.rows
        assert records.owner("1m", ["AAPL", "MSFT"], "AAPL", copy, 2) == "MSFT"
        gone = minutes("MSFT", 20, 20).verdict.accepted
        assert len(writer.take_out(run_id, "polygon", "1m", gone, ["off_scale"] * 30, AT)) == 30
    assert found == {"bar_2024_q1"}


def test_a_night_of_daily_bars_opens_theirs_alone(store: Store) -> None:
    run_id, grid = start(store), [Cells.all(("AAPL",), days(0, 9))]
    with opened(store) as found:
        for shift in (0.0, 0.0, 1.0):
            store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 9), shift)])
        assert store.records.reconcile("polygon", "1d", grid).balanced
        assert not store.records.damage("polygon", "1d", ["AAPL"])
        assert store.records.count_bars("1d", grid) == 10
        assert len(store.records.series("polygon", "1d", ["AAPL"], date(1990, 1, 1), date(2030, 1, 1))) == 10
    assert found == {"bar_1d"}


@pytest.mark.parametrize("relation", ["bar", "bar_adjusted", "bar_history", "bar_as_of(date '2030-01-01')"])
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("timeframe = '1d'", {"bar_1d"}),
        ("timeframe = '1m' AND ts >= '2024-02-01Z' AND ts < '2024-03-01Z'", {"bar_2024_q1"}),
        ("timeframe = '1m' AND session = '2024-02-15'", {"bar_2024_q1"}),
        ("timeframe = '5m' AND session BETWEEN '2023-11-15' AND '2024-02-15'", {"bar_2023_q4", "bar_2024_q1"}),
        ("timeframe = '1m' AND session = '2024-04-02'", {"bar_2024_q1", "bar_2024_q2"}),
    ],
)
def test_what_a_reader_asks_opens_few(store: Store, relation: str, condition: str, expected: set[str]) -> None:
    with store.engine.connect() as connection:
        plan = "\n".join(
            connection.execute(
                sa.text(f"EXPLAIN SELECT * FROM {relation} WHERE ticker = 'A' AND {condition}")  # noqa: S608
            ).scalars()
        )
    assert {name for name, *_ in [("bar_1d",), *partitions.spans()] if f" on {name} " in plan} == expected


def test_a_session_of_all_tickers_is_read_by_its_instants(store: Store) -> None:
    do(
        store.engine,
        "INSERT INTO bar SELECT 'T' || t, '1m', date '2024-01-02' + d, "
        "date '2024-01-02' + d + make_interval(mins => m), 1, 1, 1, 1, 1, 1, 1, 'polygon', gen_random_uuid() "
        "FROM generate_series(0, 80) AS d, generate_series(1, 20) AS t, generate_series(870, 900) AS m ORDER BY 3, 1",
        "ANALYZE bar",
    )
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM bar")
    explain = """
        EXPLAIN (ANALYZE, FORMAT json) SELECT * FROM bar
        WHERE timeframe = '1m' AND session = '2024-02-15' AND ts BETWEEN '2024-02-15Z' AND '2024-02-16Z'
    """
    with store.engine.begin() as connection:
        for path in ("indexscan", "seqscan"):  # whatever is cheapest of so few
            connection.exec_driver_sql(f"SET LOCAL enable_{path} = off")
        connection.exec_driver_sql("ALTER TABLE bar DROP CONSTRAINT bar_pkey")
        [plan] = connection.exec_driver_sql(explain).scalar_one()
    found = plan["Plan"]
    assert (found["Node Type"], found["Plans"][0]["Index Name"]) == ("Bitmap Heap Scan", "bar_2024_q1_ts_idx")
    assert found["Actual Rows"] == 620
    assert found["Rows Removed by Index Recheck"] < 81 * 620 / 4


# -- how they come about ---------------------------------------------------------------------------------------------

BARS = """
    INSERT INTO bar SELECT ticker, timeframe, date '1998-01-01' + n,
        (date '1998-01-01' + n + time '14:30') AT TIME ZONE 'UTC',
        n, n + 1, n - 1, n, n * 10, NULLIF(n % 3, 0), NULLIF(n % 5, 0), 'polygon', gen_random_uuid()
    FROM generate_series(0, 14000, 25) AS n, unnest(ARRAY['A', 'a', 'BRK.B']) AS ticker,
        unnest(CAST(:timeframes AS text[])) AS timeframe
"""

#: Somebody's own things.
OWN = (
    "CREATE SCHEMA desk",
    "CREATE VIEW desk.closes AS SELECT ticker, max(close) AS top FROM bar_adjusted WHERE ticker LIKE 'A%%' GROUP BY 1",
    "CREATE VIEW desk.top WITH (security_barrier = true) AS SELECT * FROM desk.closes WHERE top > 5",
    "CREATE INDEX by_volume ON bar (volume) WHERE timeframe = '1m'",
    "ALTER TABLE bar ADD CONSTRAINT sane CHECK (close > -10)",
    "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.trades = 77; RETURN NEW; END'",
    "CREATE TRIGGER tell BEFORE INSERT ON bar FOR EACH ROW WHEN (NEW.ticker = 'T') EXECUTE FUNCTION told()",
)

HANGS_ON_IT = """
    SELECT schemaname || '.' || viewname, definition FROM pg_views WHERE schemaname IN ('public', 'desk')
    UNION ALL SELECT oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'
    UNION ALL SELECT indexname, replace(indexdef, ' ONLY ', ' ') FROM pg_indexes WHERE tablename = 'bar'
    UNION ALL SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'bar'::regclass
    UNION ALL SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = 'bar'::regclass AND contype <> 'n'
    UNION ALL SELECT relname || ' of ' || pg_get_userbyid(relowner), CAST(relacl AS text) FROM pg_class
        WHERE relname IN ('bar', 'bar_adjusted', 'closes', 'top')
    UNION ALL SELECT attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull,
        col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = 'bar'::regclass AND attnum > 0
    ORDER BY 1, 2
"""


def fill(engine: sa.Engine, timeframes: list[str]) -> list[tuple[Any, ...]]:
    with engine.begin() as connection:
        connection.execute(sa.text(BARS), {"timeframes": timeframes})
    return rows(engine, "SELECT * FROM bar ORDER BY ticker, timeframe, ts")


@pytest.mark.parametrize(
    "timeframes", [["1d"], ["1d", "1m", "1h"], ["1m"], []], ids=lambda each: "+".join(each) or "none"
)
def test_a_filled_database_keeps_all_and_what_hangs_on_it(bare: sa.Engine, timeframes: list[str]) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    migrate(bare, "0007")
    do(bare, *OWN, f"CREATE ROLE {role}", f"GRANT SELECT ON bar, bar_adjusted, desk.top TO {role}")
    try:
        held, hangs = fill(bare, timeframes), rows(bare, HANGS_ON_IT)
        migrations.upgrade(bare)
        assert rows(bare, "SELECT * FROM bar ORDER BY ticker, timeframe, ts") == held
        assert rows(bare, HANGS_ON_IT) == hangs
        found = where(bare)
        assert found.get("bar_1d", 0) == sum(row[1] == "1d" for row in held)
        assert sum(found.values()) == len(held)
        assert ("bar_1d" in found) == ("1d" in timeframes)
        assert ("bar_2024_q1" in found) == ("1m" in timeframes)
        one = "'T', '1m', '2024-02-15', '2024-02-15 14:30Z', 1, 1, 1, 1, 1, 1, 1, 'polygon', gen_random_uuid()"
        do(bare, f"INSERT INTO bar VALUES ({one})")  # noqa: S608
        assert rows(bare, "SELECT trades FROM bar WHERE ticker = 'T'") == [(77,)]
        do(bare, "DELETE FROM bar WHERE ticker = 'T'")
        migrate(bare, "0007", command.downgrade)
        assert rows(bare, "SELECT * FROM bar ORDER BY ticker, timeframe, ts") == held
        assert rows(bare, HANGS_ON_IT) == hangs
        assert rows(bare, "SELECT relname FROM pg_class WHERE relname LIKE 'bar\\_%' AND relkind IN ('r', 'p')") == []
        migrations.upgrade(bare)
        assert where(bare) == found
    finally:
        do(bare, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_all_belongs_to_the_owner_whoever_migrates(bare: sa.Engine, bare_url: str) -> None:
    role = f"owner_{uuid.uuid4().hex[:8]}"
    do(bare, f"CREATE ROLE {role} LOGIN PASSWORD 'x'", f"GRANT USAGE, CREATE ON SCHEMA public TO {role}")
    try:
        with closing(open_store(as_role(bare_url, role))) as own:
            migrate(own.engine, "0007")
        migrations.upgrade(bare)
        query = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert rows(bare, query + " AND relkind IN ('r', 'p', 'v', 'i') AND relname NOT LIKE 'alembic%'") == [(role,)]
    finally:
        do(bare, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ("CREATE MATERIALIZED VIEW kept AS SELECT * FROM bar_history", "view kept"),
        ("CREATE UNIQUE INDEX one ON bar (ticker, timeframe, volume)", "unique index one"),
        ("CREATE PUBLICATION told FOR TABLE bar", "publication told"),
    ],
)
def test_what_cannot_be_carried_over_is_named(bare: sa.Engine, own: str, named: str) -> None:
    migrate(bare, "0007")
    held = fill(bare, ["1d", "1m"])
    do(bare, own)
    with pytest.raises(ConfigurationError, match="cannot be carried over") as caught:
        migrations.upgrade(bare)
    assert named in str(caught.value)
    assert rows(bare, "SELECT * FROM bar ORDER BY ticker, timeframe, ts") == held
    assert rows(bare, "SELECT version_num FROM alembic_version") == [("0007",)]


# -- when they run out -----------------------------------------------------------------------------------------------


def test_the_owner_prepares_years_ahead_and_moves_what_is_there(store: Store) -> None:
    block = at(["2032-12-31T23:59", "2033-01-01T00:00", "2033-05-05T14:30", "2034-01-01T00:00", "2050-07-01T14:30"])
    load(store, block)
    held = rows_of(store, bar)
    assert migrations.prepare(store.engine, date(2028, 12, 31)) is None
    assert where(store.engine) == {"bar_2032_q4": 1, "bar_later": 4}
    assert migrations.prepare(store.engine, date(2030, 6, 1)) == date(2034, 1, 1)
    assert store.records.prepared_until() == date(2034, 1, 1)
    assert where(store.engine) == {"bar_2032_q4": 1, "bar_2033_q1": 1, "bar_2033_q2": 1, "bar_later": 2}
    assert rows_of(store, bar) == held
    assert load(store, at(["2033-08-01T14:30", "2034-01-01T00:00"]), fresh=False) == (1, 1)
    assert migrations.prepare(store.engine, date(2030, 6, 1)) is None
    assert len(rows(store.engine, "SELECT FROM pg_indexes WHERE indexname LIKE 'bar_later%'")) == 2


def test_a_doctor_says_so_a_year_before(store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(of_partitions(None, date(2099, 1, 1))) == []
    assert list(of_partitions(date(2033, 1, 1), date(2032, 1, 1))) == []
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CLOSINGBELL_NOW", "2032-01-03T03:00:00+00:00")
    said = CliRunner().invoke(cli, ["doctor"]).output
    assert "warning   bars from 2033-01-01 on share one partition, which grows without end. As the owner" in said
    done = CliRunner().invoke(main, [])
    assert done.output.splitlines() == [
        "the database is at the newest migration",
        "bars have partitions until 2036-01-01",
    ]
    assert "share one partition" not in CliRunner().invoke(cli, ["doctor"]).output


# -- the manual -------------------------------------------------------------------------------------------------------

MANUAL = (
    (Path(__file__).parents[2] / "docs" / "databases.md").read_text().split("\n## Partitions\n")[1].split("\n## ")[0]
)


def test_what_the_manual_says_can_be_run(store: Store) -> None:
    statements = [part.split("```")[0] for part in MANUAL.split("```sql\n")[1:]]
    assert len(statements) == 4
    load(store, at(["2003-05-05T14:30", "2024-06-07T14:30"]))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        assert where(store.engine) == {"bar_2024_q2": 1}
        assert not sa.inspect(connection).has_table("bar_2003")
    for name, first, end in partitions.spans():
        if name.startswith("bar_20"):
            assert (name in MANUAL) == (name in ("bar_2003", "bar_2020", "bar_2021_q1", "bar_2032_q4")), (first, end)


# -- rights ----------------------------------------------------------------------------------------------------------


def test_a_writer_writes_into_every_partition_and_makes_none(store: Store, database_url: str) -> None:
    role = f"writer_{uuid.uuid4().hex[:8]}"
    do(store.engine, f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        grant(store.engine, writers=[role])
        with closing(open_store(as_role(database_url, role), patience=0)) as own:
            block = at(["1999-01-04T14:30", "2024-02-15T14:30", "2040-01-03T14:30"])
            assert load(own, block) == (3, 0)
            assert load(own, Bars(block.tickers, replace_close(block), "1m"), fresh=False) == (0, 3)
            assert change(own, sa.delete(bar).where(bar.c.ts < AT)) == 2
            for statement in (
                "ALTER TABLE bar_intraday DETACH PARTITION bar_2024_q1",
                "DROP TABLE bar_2024_q1",
                "CREATE TABLE mine PARTITION OF bar FOR VALUES IN ('2h')",
            ):
                with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied|must be owner"):
                    do(own.engine, statement)
            with pytest.raises(ConfigurationError):
                migrations.prepare(own.engine, date(2035, 1, 1))
    finally:
        do(store.engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def replace_close(block: Bars) -> Any:
    changed = block.rows.copy()
    changed["close"] += 0.25
    return changed
