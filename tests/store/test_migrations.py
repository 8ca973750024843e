"""The migrations and the schema in code are one, rows outlive them, and a current database is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from closingbell.errors import ConfigurationError
from closingbell.store import open_store
from closingbell.store.database import database_of
from closingbell.store.schema import metadata
from infra import migrations

pytestmark = pytest.mark.postgres_only("it looks into PostgreSQL's catalogs; test_migrations_oracle.py has Oracle's")


@pytest.fixture
def empty(bare_url: str) -> Iterator[sa.Engine]:
    """A database without a table."""
    with closing(open_store(bare_url)) as store:
        yield store.engine


@contextmanager
def altered(engine: sa.Engine, options: str) -> Iterator[sa.Engine]:
    """The same database for sessions with other settings."""
    made = sa.create_engine(engine.url, connect_args={"options": options})
    yield made.execution_options(**engine.get_execution_options())
    made.dispose()


def tables(engine: sa.Engine) -> set[str]:
    """All but the partitions, at which test_partitions.py looks."""
    with engine.connect() as connection:
        query = "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace AND nspname = 'public'"
        query += " WHERE relkind IN ('r', 'p') AND NOT relispartition"
        return set(connection.exec_driver_sql(query).scalars())


def downgrade(engine: sa.Engine, to: str = "base") -> None:
    _alembic(engine, command.downgrade, to)


def _alembic(engine: sa.Engine, direction: Callable[[Config, str], None], to: str) -> None:
    with engine.begin() as connection:
        config = migrations.config()
        config.attributes["connection"] = connection
        direction(config, to)


def test_up_down_and_up_again(empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    assert tables(empty) == {*metadata.tables, "alembic_version"}
    downgrade(empty)
    assert tables(empty) == {"alembic_version"}
    assert _made(empty) == []
    migrations.upgrade(empty)
    assert tables(empty) == {*metadata.tables, "alembic_version"}


def test_the_migrated_database_is_the_schema_in_code(empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    with empty.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "target_metadata": metadata,
                "include_name": lambda name, kind, _: kind != "table" or name in tables(empty),
            },
        )
        assert compare_metadata(context, metadata) == []
    # What Alembic does not compare: collations, checks, defaults of identity.
    fresh = _described(empty)
    downgrade(empty)
    with empty.begin() as connection:
        metadata.create_all(connection)
        for statement in database_of(empty).views():
            connection.exec_driver_sql(statement)
    assert _described(empty) == fresh
    with empty.begin() as connection:
        for statement in database_of(empty).drop_views():
            connection.exec_driver_sql(statement)
    assert _made(empty) == []


def _described(engine: sa.Engine) -> list[tuple[object, ...]]:
    queries = (
        "SELECT table_name, column_name, ordinal_position, data_type, character_maximum_length, is_nullable, "
        "column_default, collation_name, is_identity FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name <> 'alembic_version' "
        "AND table_name NOT IN (SELECT CAST(relname AS text) FROM pg_class WHERE relispartition) ORDER BY 1, 3",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid <> 0 AND connamespace = 'public'::regnamespace "
        "AND conrelid::regclass::text <> 'alembic_version' "
        "AND conrelid NOT IN (SELECT oid FROM pg_class WHERE relispartition) ORDER BY 1, 2",
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' "
        "AND tablename NOT IN (SELECT CAST(relname AS text) FROM pg_class WHERE relispartition) ORDER BY 1",
        "SELECT objoid::regclass::text, objsubid, description FROM pg_description "
        "WHERE classoid = 'pg_class'::regclass AND objoid >= 16384 "
        "AND objoid NOT IN (SELECT oid FROM pg_class WHERE relispartition) ORDER BY 1, 2",
    )
    with engine.connect() as connection:
        described = [tuple(row) for query in queries for row in connection.execute(sa.text(query))]
    return described + _made(engine)


#: Views, functions and aggregates that are ours, with their text as the server understood it.
_MADE = """
    SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'
    UNION ALL
    SELECT oid::regprocedure::text, CASE prokind WHEN 'f' THEN pg_get_functiondef(oid) ELSE
        (SELECT concat_ws(' ', aggtransfn, aggcombinefn, agginitval, proparallel) FROM pg_aggregate
         WHERE aggfnoid = pg_proc.oid) END
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
    ORDER BY 1"""


def _made(engine: sa.Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(_MADE))]


def test_views_and_functions_are_all_compared(empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    assert [name for name, _ in _made(empty)] == [
        "bar_adjusted",
        "bar_adjusted_as_of(date)",
        "bar_adjusted_as_of(timestamp with time zone)",
        "bar_as_of(date)",
        "bar_as_of(timestamp with time zone)",
        "bar_history",
        "bar_total_return",
        "product(double precision)",
        "split_factor",
        "split_factor_as_of(date)",
        "split_factor_as_of(timestamp with time zone)",
    ]
    with empty.begin() as connection:
        for statement in database_of(empty).views():  # over what is there already, as a repair would
            connection.exec_driver_sql(statement)


RUN = "00000000-0000-0000-0000-00000000000"

#: A database at 0001 that has been in use: two runs, a bar that was revised twice, splits.
_FILL = f"""
    INSERT INTO run (run_id, flow, source, timeframe, state, asked, plan, started_at)
    SELECT id::uuid, 'ingest', 'polygon', '1d', 'Completed', '{{}}', '{{}}', started::timestamptz
    FROM (VALUES ('{RUN}1', '2024-06-11 02:00Z'), ('{RUN}2', '2024-06-12 02:00Z')) AS made (id, started);
    INSERT INTO bar VALUES ('NVDA', '1d', '2024-06-07', '2024-06-07 13:30Z', 1197.7, 1216.92, 1180.22, 1208.88,
        41238578, 1203.7, 590921, 'polygon', '{RUN}2');
    INSERT INTO revision (source, ticker, timeframe, session, ts, old_open, old_high, old_low, old_close, old_volume,
        new_open, new_high, new_low, new_close, new_volume, run_id, seen_at) VALUES
        ('polygon', 'NVDA', '1d', '2024-06-07', '2024-06-07 13:30Z', 1197.7, 1216.92, 1180.22, 1208.86, 41238570,
         1197.7, 1216.92, 1180.22, 1208.87, 41238578, '{RUN}1', '2024-06-11 02:03Z'),
        ('polygon', 'NVDA', '1d', '2024-06-07', '2024-06-07 13:30Z', 1197.7, 1216.92, 1180.22, 1208.87, 41238578,
         1197.7, 1216.92, 1180.22, 1208.88, 41238578, '{RUN}2', '2024-06-12 02:03Z');
    INSERT INTO split (source, ticker, execution_date, split_from, split_to, vendor_id, run_id, seen_at) VALUES
        ('polygon', 'NVDA', '2024-06-10', 1, 10, 'E1', '{RUN}1', '2024-06-11 02:01Z'),
        ('polygon', 'GE', '2021-08-02', 8, 1, NULL, '{RUN}1', '2024-06-11 02:01Z');
    INSERT INTO facts_watermark VALUES ('polygon', 'split', '2021-01-01', '2024-06-11', '{RUN}1');
"""  # noqa: S608  (fixed text)
_KEPT = ("bar", "revision", "split", "run", "facts_watermark")


def _rows(engine: sa.Engine, query: str) -> list[Any]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


def test_a_database_in_use_keeps_its_rows(empty: sa.Engine) -> None:
    _alembic(empty, command.upgrade, "0001")
    with empty.begin() as connection:
        connection.exec_driver_sql("SET TimeZone = 'America/New_York';" + _FILL)
    before = {name: _rows(empty, f"SELECT * FROM {name} ORDER BY 1, 2, 3") for name in _KEPT}  # noqa: S608
    migrations.upgrade(empty)

    assert _rows(empty, "SELECT ticker, known_from, seen_at FROM split ORDER BY ticker") == [
        ("GE", datetime(2021, 8, 2, tzinfo=UTC), datetime(2024, 6, 11, 2, 1, tzinfo=UTC)),
        ("NVDA", datetime(2024, 6, 10, tzinfo=UTC), datetime(2024, 6, 11, 2, 1, tzinfo=UTC)),
    ]
    assert _rows(empty, "SELECT as_of = started_at FROM run") == [(True,), (True,)]
    assert _rows(empty, "SELECT old_run_id::text FROM revision ORDER BY revision_id") == [
        (None,),
        (f"{RUN}1",),
    ]
    [(close, volume, factor)] = _rows(empty, "SELECT close, volume, factor FROM bar_adjusted")
    assert (close, volume, factor) == pytest.approx((120.888, 412385780, 0.1), rel=1e-15)
    closes = "SELECT close FROM bar_as_of(timestamptz '{}')"
    assert _rows(empty, closes.format("2024-06-08Z")) == [(1208.86,)], "nobody knows which run wrote it: always known"
    assert _rows(empty, closes.format("2024-06-11 02:03Z")) == [(1208.87,)]
    assert _rows(empty, closes.format("2024-06-12 03:00Z")) == [(1208.88,)]

    downgrade(empty, "0001")
    assert {name: _rows(empty, f"SELECT * FROM {name} ORDER BY 1, 2, 3") for name in _KEPT} == before  # noqa: S608
    migrations.upgrade(empty)
    same = "SELECT count(*) FROM split WHERE known_from = execution_date::timestamp AT TIME ZONE 'UTC'"
    assert _rows(empty, same) == [(2,)]


def test_what_json_said_of_runs_is_in_columns(empty: sa.Engine) -> None:
    _alembic(empty, command.upgrade, "0003")
    with empty.begin() as connection:
        connection.exec_driver_sql(f"""
            INSERT INTO run (run_id, flow, source, timeframe, state, asked, plan, report) VALUES
                ('{RUN}1', 'ingest', 'polygon', '1d', 'Completed', '{{"recheck_sessions": 3}}', '{{}}',
                 '{{"unchecked_calls": 2}}'),
                ('{RUN}2', 'ingest', 'polygon', '1d', 'Failed', '{{"recheck_sessions": 0}}', '{{}}', 'null'),
                ('{RUN}3', 'splits', 'polygon', '1d', 'Running', '{{}}', '{{}}', NULL);
            INSERT INTO claim (run_id, source, timeframe, first_session, last_session, tickers)
            VALUES ('{RUN}3', 'polygon', '1d', '2024-06-07', '2024-06-07', '{{AAPL}}')
        """)  # noqa: S608  (fixed text)
    migrations.upgrade(empty)
    columns = "SELECT recheck_sessions, unchecked_calls FROM run ORDER BY run_id"
    assert _rows(empty, columns) == [(3, 2), (0, None), (None, None)]
    assert _rows(empty, "SELECT count(*) FROM claim") == [(0,)], "no older run goes on in newer tables"
    downgrade(empty, "0003")
    migrations.upgrade(empty)
    assert _rows(empty, columns) == [(3, 2), (0, None), (None, None)]


def test_tickers_sort_and_compare_by_their_bytes(empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    with empty.connect() as connection:
        query = sa.text(
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'ticker' AND collation_name = 'C' "
            "AND table_name NOT IN (SELECT CAST(relname AS text) FROM pg_class WHERE relispartition)"
        )
        found = set(connection.execute(query).scalars())
    views = {"split_factor", "bar_adjusted", "bar_total_return", "bar_history"}
    assert found == {name for name, table in metadata.tables.items() if "ticker" in table.c} | views


def test_several_upgrades_at_once(empty: sa.Engine) -> None:
    errors: list[BaseException] = []
    gate = threading.Barrier(4)

    def upgrade() -> None:
        try:
            gate.wait(30)
            migrations.upgrade(empty)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=upgrade, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []
    assert tables(empty) == {*metadata.tables, "alembic_version"}


def test_a_current_database_is_only_read(empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    with altered(empty, "-c default_transaction_read_only=on") as read_only:
        migrations.upgrade(read_only)
        with read_only.connect() as connection:
            assert migrations.is_current(connection)


def test_a_read_only_database_that_is_behind_is_an_error(empty: sa.Engine) -> None:
    with (
        altered(empty, "-c default_transaction_read_only=on") as read_only,
        pytest.raises(ConfigurationError, match="read-only"),
    ):
        migrations.upgrade(read_only)
    assert tables(empty) == set()


def test_a_current_database_is_not_locked(empty: sa.Engine) -> None:
    """A run that starts while another one migrates an old table elsewhere, or holds a row, does not wait."""
    migrations.upgrade(empty)
    with empty.connect() as busy:
        busy.execute(sa.text("LOCK TABLE bar, alembic_version IN EXCLUSIVE MODE"))
        with altered(empty, "-c lock_timeout=100") as waiting:
            migrations.upgrade(waiting)
