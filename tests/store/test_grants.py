"""What the migrations grant a writer and a reader: enough for all that a run or a person does, and nothing more."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from blocks import answered, bars, days, query, range_of, ranged, start
from click.testing import CliRunner

from closingbell.errors import ConfigurationError
from closingbell.plan import MarketDay
from closingbell.sources.base import Split
from closingbell.store import Store, open_store
from closingbell.store.views import VIEWS
from infra import migrations
from infra.migrations.__main__ import main
from infra.migrations.grants import grant

pytestmark = pytest.mark.postgres_only("test_grants_oracle.py has Oracle's")

PASSWORD = "x"
WEIRD = 'a "quoted" na%me; DROP TABLE bar; --'


@pytest.fixture
def roles(database_url: str) -> Iterator[dict[str, str]]:
    """Three roles that can log in: a writer with an unusual name, a reader, and somebody."""
    suffix = uuid.uuid4().hex[:8]
    names = {"writer": f"{WEIRD} {suffix}", "reader": f"reader_{suffix}", "somebody": f"somebody_{suffix}"}
    admin = sa.create_engine(database_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        quoted = [connection.dialect.identifier_preparer.quote_identifier(name) for name in names.values()]
        for name in quoted:
            connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        yield names
        for name in quoted:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
            connection.exec_driver_sql(f"DROP ROLE {name}")


def opened(database_url: str, role: str) -> Any:
    url = sa.make_url(database_url).set(username=role, password=PASSWORD)
    return closing(open_store(url.render_as_string(hide_password=False), patience=0))


def refused(store: Store, statement: str) -> None:
    with (
        pytest.raises(sa.exc.ProgrammingError, match=r"permission denied|must be owner"),
        store.engine.begin() as other,
    ):
        other.exec_driver_sql(statement)


def test_a_writer_does_all_that_a_run_does_and_changes_no_table(
    store: Store, database_url: str, roles: dict[str, str]
) -> None:
    grant(store.engine, writers=[roles["writer"]])
    now = datetime(2024, 6, 12, tzinfo=UTC)
    with opened(database_url, roles["writer"]) as own:
        migrations.upgrade(own.engine)  # current: it needs no right for it
        run_id, mark = start(own), own.writer.mark()
        call = MarketDay(days(0, 0)[0].item(), ("AAPL",))
        claim = own.writer.claim(run_id, "polygon", "1d", call, mark)
        with own.records.alive(run_id):
            block = bars("AAPL", days(0, 9))
            block.rows["high"][3] = 1.0
            outcome = answered(range_of("AAPL", days(0, 9)), block)
            assert own.writer.flush(run_id, "polygon", "1d", [outcome], claims=[claim.claim_id]).inserted == 9
            assert own.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 9), 1.0)]).rewritten == 9
        gone = ranged("AAPL", days(0, 9), 1.0).verdict.accepted
        assert own.writer.take_out(run_id, "polygon", "1d", gone, ["off_scale"] * 10, now)
        day = date(2024, 6, 10)
        assert own.facts.store_splits(run_id, "polygon", [Split("AAPL", day, 1, 10, "E")], day, day) == 1
        assert own.facts.store_splits(run_id, "polygon", [Split("AAPL", day, 1, 20, "E")], day, day) == 1
        assert own.facts.store_dividends(run_id, "polygon", [], day, day) == 0
        assert own.facts.store_tenures(run_id, "polygon", _many_tenures(), "vendor") == 150
        assert all(sums.balanced for sums in own.records.audit().values())
        own.records.mend(run_id, "polygon", "1d", own.records.damage("polygon", "1d", ["AAPL"]), now)
        assert own.records.of_ticker("AAPL")["counts"]["splits"] == 1
        for view in VIEWS:
            query(own, f"SELECT count(*) FROM {view}")  # noqa: S608
        for statement in (
            "CREATE TABLE mine (x int)",
            "ALTER TABLE bar ADD COLUMN x int",
            "DROP TABLE gap",
            "TRUNCATE bar",
            "CREATE INDEX ON bar (volume)",
            "UPDATE alembic_version SET version_num = '0'",
        ):
            refused(own, statement)
    assert query(store, "SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'ticker_history'")


def _many_tenures() -> list[Any]:
    from closingbell.store.facts import StoredTenure

    return [StoredTenure(f"T{i:03}", f"id{i}", "name", date(2020, 1, 1), None, "vendor") for i in range(150)]


def test_a_reader_selects_and_nothing_else(store: Store, database_url: str, roles: dict[str, str]) -> None:
    grant(store.engine, readers=[roles["reader"]])
    store.writer.flush(start(store), "polygon", "1d", [ranged("AAPL", days(0, 9))])
    with opened(database_url, roles["reader"]) as own:
        tables = sa.inspect(store.engine).get_table_names()
        for name in (*tables, *VIEWS, "bar_as_of(date '2099-01-01')", "bar_adjusted_as_of(now())"):
            query(own, f"SELECT count(*) FROM {name}")  # noqa: S608
        assert query(own, "SELECT count(*) FROM bar_adjusted") == [(10,)]
        assert own.records.overview()["bars"] == 10
        for name in tables:
            refused(own, f"DELETE FROM {name}")  # noqa: S608
            refused(own, f"INSERT INTO {name} DEFAULT VALUES")
            refused(own, f"SELECT * FROM {name} FOR UPDATE")  # noqa: S608
        refused(own, "CREATE TABLE mine (x int)")
        with pytest.raises(ConfigurationError, match="may not do this"):
            start(own)


def test_tables_of_later_migrations_are_granted_too_and_those_of_others_are_not(
    store: Store, database_url: str, roles: dict[str, str]
) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (x int)")
    grant(store.engine, [roles["writer"]], [roles["reader"]])
    grant(store.engine, [roles["writer"]], [roles["reader"]])
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, x int)")
    with opened(database_url, roles["writer"]) as own:
        with own.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO later (x) VALUES (1)")
        refused(own, "SELECT * FROM theirs")
    with opened(database_url, roles["reader"]) as own:
        assert query(own, "SELECT x FROM later") == [(1,)]
        refused(own, "DELETE FROM later")
        refused(own, "SELECT * FROM theirs")


def test_a_table_that_a_migration_makes_anew_stays_granted(
    store: Store, database_url: str, roles: dict[str, str]
) -> None:
    grant(store.engine, [roles["writer"]], [roles["reader"]])
    with store.engine.begin() as connection:
        config = migrations.config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
    migrations.upgrade(store.engine)
    with opened(database_url, roles["writer"]) as own, own.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM claim")
    with opened(database_url, roles["reader"]) as own:
        assert query(own, "SELECT count(*) FROM claim") == [(0,)]
        refused(own, "DELETE FROM claim")


@pytest.mark.parametrize(
    "name",
    ["", "nobody", "public", "PUBLIC", "pg_read_all_data", 'x"; DROP TABLE bar; --', "a\0b", "x" * 64, "\x1b[2J"],
)
def test_a_name_that_is_no_role_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no such role") as caught:
        grant(store.engine, readers=[name])
    assert str(caught.value).isprintable()
    assert query(store, "SELECT count(*) FROM bar") == [(0,)]


def test_who_may_not_grant_is_told(store: Store, database_url: str, roles: dict[str, str]) -> None:
    with opened(database_url, roles["somebody"]) as own, pytest.raises(ConfigurationError):
        grant(own.engine, readers=[roles["reader"]])
    grant(store.engine, writers=[roles["somebody"]])
    with opened(database_url, roles["somebody"]) as own, pytest.raises(ConfigurationError, match="may not"):
        grant(own.engine, readers=[roles["reader"]])


def test_the_command(database_url: str, roles: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    done = CliRunner().invoke(main, ["--writer", roles["writer"], "--reader", roles["reader"]])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "the database is at the newest migration",
        f"{roles['writer']} may read and write, and nothing else by this",
        f"{roles['reader']} may read, and nothing else by this",
    ]
    wrong = CliRunner().invoke(main, ["--reader", "nobody"])
    assert wrong.exit_code == 2
    assert "there is no such role in the database: 'nobody'" in wrong.output
