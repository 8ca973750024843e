"""Oracle's tables as the migrations make them: those of the code, at once or after having been broken off."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from closingbell.store import open_store, oracle
from closingbell.store.database import database_of
from closingbell.store.schema import VERSION, Json, Ticker, metadata
from closingbell.store.views import VIEWS
from infra import migrations
from tests.oracle import OracleStandIn, need

pytestmark = pytest.mark.oracle_only("test_migrations.py has PostgreSQL's")

BASELINE: ModuleType = import_module("infra.migrations.versions.0004_two_databases")
SINCE: list[ModuleType] = [
    import_module(f"infra.migrations.versions.{path.stem}")
    for path in sorted(Path(migrations.__file__).parent.glob("versions/0*.py"))
    if path.stem >= "0004"
]


def made(what: str) -> dict[str, str]:
    """Oracle's tables, indexes or comments by their names, of all migrations that it has had."""
    return {name: text for migration in SINCE for name, text in getattr(migration, what, {}).items()}


TABLES = [*metadata.sorted_tables, *oracle.technical.sorted_tables]
DIALECT = oracle.Dialect()


def _plain(statement: object) -> str:
    """A statement in one line."""
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(str(statement).split()))


def _as_in_code(table: sa.Table) -> str:
    """What SQLAlchemy makes of a table, but for what is different on Oracle by intent."""
    text = " ".join(str(CreateTable(table).compile(dialect=DIALECT)).split())
    text = text.replace(" DEFAULT LOCALTIMESTAMP", "")  # the present of the session's time zone
    text = text.replace("AS IDENTITY", "AS IDENTITY(NOCACHE)")  # in order, over all instances of a cluster
    text = text.replace("DEFAULT '0'", "DEFAULT 0")
    for column in table.c:
        if column.info.get("may_be_empty"):  # and then is NULL
            text = re.sub(rf"([(,] {column.name} [^,]*?) NOT NULL", r"\1", text)
    return _plain(text)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_is_that_of_the_code(table: sa.Table) -> None:
    assert _plain(made("TABLES")[table.name]) == _as_in_code(table)
    for index in table.indexes:
        assert _plain(made("INDEXES")[str(index.name)]) == _plain(CreateIndex(index).compile(dialect=DIALECT))
    for column in table.c:
        assert made("COMMENTS").get(f"{table.name}.{column.name}") == column.comment


def test_the_migrations_have_no_more_than_the_code() -> None:
    assert set(made("TABLES")) == {table.name for table in TABLES}
    assert set(made("INDEXES")) == {index.name for table in TABLES for index in table.indexes}
    assert list(map(_plain, made("VIEWS").values())) == list(map(_plain, oracle.Oracle().views()))
    assert set(made("VIEWS")) == {*VIEWS, *oracle.AS_OF}


@pytest.fixture
def bare() -> Iterator[OracleStandIn]:
    """A stand-in without a table: one that had them cannot lose them all."""
    need()
    with OracleStandIn() as running:
        yield running


def _names(engine: sa.Engine) -> set[str]:
    there = sa.inspect(engine)
    return {*there.get_table_names(), *there.get_view_names()}


def test_from_nothing_and_again(bare: OracleStandIn) -> None:
    with closing(open_store(bare.url)) as store:
        migrations.upgrade(store.engine)
        made = {*(table.name for table in TABLES), VERSION, *VIEWS, *oracle.AS_OF}
        assert _names(store.engine) == made
        assert store.records.overview()["bars"] == 0
        comments = [re.match(r"COMMENT ON COLUMN (\w+)\.(\S+) IS ", statement.sql) for statement in bare.log()]
        named = {found.groups() for found in comments if found}
        # The stand-in takes a reserved word there without quotes; Oracle does not.
        assert named == {(t.name, DIALECT.identifier_preparer.quote(c.name)) for t in TABLES for c in t.c if c.comment}
        migrations.upgrade(store.engine)
        assert {statement.sql.split()[0].upper() for statement in bare.log()} <= {"SELECT", "ALTER"}


@pytest.mark.parametrize("at", [6, 15, 35, 60])
def test_one_that_is_cut_off_is_finished(bare: OracleStandIn, at: int) -> None:
    with closing(open_store(bare.url, patience=0)) as store, pytest.MonkeyPatch.context() as patch:
        with store.engine.connect():
            bare.kill(at)
        patch.setattr(migrations, "again", lambda engine, work: work())  # as if the process had died with it
        with pytest.raises(Exception, match=r"cannot be reached|closed the connection"):
            migrations.upgrade(store.engine)
    with closing(open_store(bare.url)) as store:
        before = _names(store.engine)
    with closing(open_store(bare.url)) as store:
        migrations.upgrade(store.engine)
        assert before < _names(store.engine)
        with store.engine.connect() as connection:
            assert migrations.is_current(connection)
        assert store.records.overview()["bars"] == 0


def test_several_upgrades_at_once(bare: OracleStandIn) -> None:
    gate = threading.Barrier(3)

    def upgrade() -> None:
        with closing(open_store(bare.url, patience=60)) as store:
            gate.wait(30)
            migrations.upgrade(store.engine)

    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(upgrade) for _ in range(3)]:
            one.result(90)
    created = [statement.sql for statement in bare.log() if statement.sql.lstrip().startswith("CREATE TABLE bar ")]
    assert len(created) == 1
    with closing(open_store(bare.url)) as store, store.engine.connect() as connection:
        assert migrations.is_current(connection)


_VALUES: dict[type[sa.types.TypeEngine[Any]], Any] = {
    Ticker: "PEBpE",
    sa.String: "some",
    sa.Date: date(2024, 6, 7),
    sa.DateTime: datetime(2024, 6, 7, 13, 30, 0, 123456, tzinfo=UTC),
    sa.Uuid: UUID(int=7),
    sa.Double: 1208.8799999999999,
    sa.BigInteger: 2**53 + 1,
    sa.SmallInteger: 3,
    sa.Integer: 2**31 - 1,
    Json: {"tickers": ["BRK.B", "é"] * 2_000},
}
_ALLOWED = {"reason": "empty", "origin": "vendor", "timeframe": "1d", "end_day": date(2024, 6, 8), "currency": "USD"}


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_rows_come_back_as_they_went_in(table: sa.Table, database_url: str) -> None:
    row = {
        column.name: _ALLOWED.get(column.name, _VALUES[type(column.type)])
        for column in table.c
        if column.identity is None
    }
    nothing = {name: None if table.c[name].nullable else value for name, value in row.items()}
    with closing(open_store(database_url)) as store:
        for written in (row, nothing):
            with store.engine.begin() as connection:
                connection.execute(sa.delete(table))
                connection.execute(sa.insert(table).values(written))
                (read,) = connection.execute(sa.select(*(table.c[name] for name in row)))
                assert read._asdict() == written


def test_another_owners_tables(database_url: str) -> None:
    """The option ``schema`` says where tables are looked for; the stand-in's own are all in one that is PUBLIC."""
    url = sa.make_url(database_url)
    for owner, found in (("public", True), ("somebody", False)):
        with closing(
            open_store(url.update_query_dict({"schema": owner}).render_as_string(hide_password=False))
        ) as store:
            assert database_of(store.engine).name == "oracle"
            with store.engine.connect() as connection:
                assert migrations.is_current(connection) is found
