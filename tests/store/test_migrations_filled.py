"""Every migration undone and done again on a database in use, one by one: what it held is held, or is told to go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from click.testing import CliRunner

from closingbell import read
from closingbell.errors import ConfigurationError
from closingbell.store import open_store
from closingbell.store.schema import Json, Ticker, bar, metadata
from infra import migrations
from infra.migrations.__main__ import main
from infra.migrations.down import FIRST, LOST, downgrade

#: From the newest to the oldest.
REVISIONS = [
    script.revision for script in ScriptDirectory.from_config(migrations.config()).walk_revisions() if script.revision
]

#: Values of each type, of the n-th row.
MADE: dict[type[sa.types.TypeEngine[Any]], Any] = {
    Ticker: lambda n: ("AAPL", "PEBpE", "X:BTCUSD")[n],
    sa.String: lambda n: f"some {n}",
    sa.Date: lambda n: date(2024, 6, 7 + n),
    sa.DateTime: lambda n: datetime(2024, 6, 7 + n, 13, 30, 0, 123456, UTC),
    sa.Uuid: lambda n: UUID(int=7 + n),
    sa.Double: lambda n: 1208.8799999999999 + n,
    sa.BigInteger: lambda n: 2**53 + 1 + n,
    sa.SmallInteger: lambda n: 3 + n,
    sa.Integer: lambda n: 2**31 - 1 - n,
    Json: lambda n: {"tickers": ["BRK.B", "é", n]},
}
ALLOWED = {
    "reason": "empty",
    "origin": "vendor",
    "timeframe": "1d",
    "from_timeframe": "1m",
    "end_day": None,
    "currency": "USD",
    "kind": "CD",
}

#: What was asked and reported of a run is in its columns as well.
RUN = {"asked": {"recheck_sessions": 3}, "recheck_sessions": 3, "report": {"unchecked_calls": 2}, "unchecked_calls": 2}


def rows_of(table: sa.Table) -> list[dict[str, Any]]:
    return [
        {
            column.name: ALLOWED.get(column.name, MADE[type(column.type)](n))
            for column in table.c
            if column.identity is None
        }
        | (RUN if table.name == "run" else {})
        for n in range(3)
    ]


def bars() -> Iterator[dict[str, Any]]:
    """Of days and minutes, and of long ago and times to come."""
    [row, *_] = rows_of(bar)
    for year in (1998, 2012, 2024, 2060):
        for timeframe in ("1d", "1h", "1m"):
            for n in range(20):
                ts = datetime(year, 3, 31, 23, 55, tzinfo=UTC) + n * timedelta(minutes=1)
                absent = {"vwap": None, "trades": None} if n % 2 else {}
                yield {**row, "timeframe": timeframe, "session": ts.date(), "ts": ts, "open": n / 7, **absent}


@pytest.fixture
def filled(bare_url: str) -> Iterator[sa.Engine]:
    """A database at the newest migration with rows in every table."""
    with closing(open_store(bare_url)) as store:
        migrations.upgrade(store.engine)
        store.engine.dispose()
        with store.engine.begin() as connection:
            for table in metadata.sorted_tables:
                connection.execute(sa.insert(table), [*bars()] if table is bar else rows_of(table))
        yield store.engine


def held(engine: sa.Engine) -> dict[str, dict[str, list[Any]]]:
    """Of each table each column's values, by the table's key; tables and columns that the code knows."""
    engine.dispose()
    with engine.connect() as connection:
        found = {}
        for name in sorted(set(sa.inspect(connection).get_table_names()) & set(metadata.tables)):
            table = metadata.tables[name]
            names = connection.execute(sa.text(f"SELECT * FROM {name} WHERE 1 = 0")).keys()  # noqa: S608
            columns = [table.c[column] for column in names if column in table.c]
            rows = connection.execute(sa.select(*columns).order_by(*table.primary_key)).all()
            found[name] = {column.name: [_plain(row[i]) for row in rows] for i, column in enumerate(columns)}
        return found


def _plain(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def at(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def alembic(engine: sa.Engine, direction: Callable[[Config, str], None], to: str) -> None:
    engine.dispose()
    with engine.begin() as connection:
        config = migrations.config()
        config.attributes["connection"] = connection
        direction(config, to)


def refuses(engine: sa.Engine) -> None:
    """What would be deleted is refused, and what there is not."""
    for to, what in (("0005", "roll (3 rows)"), ("0004", "event_mark (3 rows)")):
        with pytest.raises(ConfigurationError) as error:
            downgrade(engine, to)
        assert what in str(error.value)
        assert "--discard" in str(error.value)
    with pytest.raises(ConfigurationError, match="no such migration here: base"):
        downgrade(engine, "base", discard=True)
    assert at(engine) == REVISIONS[0]


def test_all_the_way_down_and_up_again(filled: sa.Engine) -> None:
    lowest = FIRST[filled.dialect.name]
    newest = held(filled)
    assert set(newest) == set(metadata.tables)
    assert all(len(column) >= 3 for columns in newest.values() for column in columns.values())
    refuses(filled)
    assert held(filled) == newest
    here, gone = newest, set[tuple[str, str | None]]()
    for revision, below in pairwise(REVISIONS[: REVISIONS.index(lowest) + 1]):
        told = downgrade(filled, below, discard=True)
        there = held(filled)
        assert at(filled) == below
        going = LOST.get(revision, {})
        assert set(here) - set(there) == {name for name, columns in going.items() if columns is None}, revision
        for name, columns in there.items():
            missing = set(here[name]) - set(columns) - {"ticker" if (name, revision) == ("claim", "0004") else ""}
            filled_again = {"recheck_sessions", "unchecked_calls"} if (name, revision) == ("run", "0004") else set()
            assert missing == set(going.get(name) or ()) | filled_again, f"{revision} {name}"
            gone |= {(name, column) for column in missing - filled_again}
            for column, values in columns.items():
                if name == "claim":
                    continue  # of runs that are under way, of which there are none
                assert values == here[name][column], f"{revision} {name}.{column}"
        gone |= {(name, None) for name in set(here) - set(there)}
        assert bool(told) == bool(set(going) - {"claim"}), f"{revision}: {told}"
        assert there["bar"] == newest["bar"]
        here = there

    for revision in reversed(REVISIONS[: REVISIONS.index(lowest)]):
        alembic(filled, command.upgrade, revision)
        assert at(filled) == revision
        assert held(filled)["bar"] == newest["bar"]
    again = held(filled)
    assert set(again) == set(newest)
    for name, columns in newest.items():
        for column, values in columns.items():
            if (name, None) in gone:
                assert again[name][column] == []
            elif name != "claim" and (name, column) not in gone:
                assert again[name][column] == values, f"{name}.{column}"
    store = open_store(filled.url.render_as_string(hide_password=False))
    with closing(store):
        for timeframe in ("1d", "1h", "1m"):
            assert len(read.bars("AAPL", timeframe=timeframe, adjusted=True, database=store)) == 80
        store.records.audit()


@pytest.mark.postgres_only("the same on each")
def test_by_the_command(filled: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", filled.url.render_as_string(hide_password=False))
    before = held(filled)
    refused = CliRunner().invoke(main, ["--down-to", "0005"])
    assert refused.exit_code == 2
    assert "roll (3 rows)" in refused.stderr
    kept = CliRunner().invoke(main, ["--down-to", "0006"])
    assert (kept.exit_code, kept.output) == (0, "the database is at migration 0006\n")
    assert held(filled) == before, "tables that are laid out anew, and views"
    newer = CliRunner().invoke(main, ["--down-to", "0007"])
    assert (newer.exit_code, "at an older migration: 0006" in newer.stderr) == (2, True)
    done = CliRunner().invoke(main, ["--down-to", "0005", "--discard"])
    assert done.exit_code == 0, done.output
    assert done.output == "deleted: roll (3 rows)\nthe database is at migration 0005\n"
    assert CliRunner().invoke(main, []).output == "the database is at the newest migration\n"
    after = held(filled)
    assert after.pop("roll") != before.pop("roll")
    assert after == before
    assert CliRunner().invoke(main, ["--discard"]).exit_code == 2


@pytest.mark.postgres_only("what stands in for Oracle cannot lose all tables")
def test_down_to_nothing(filled: sa.Engine) -> None:
    """Only by Alembic itself: nobody is to lose all bars by a command of this project."""
    alembic(filled, command.downgrade, "base")
    assert held(filled) == {}
    migrations.upgrade(filled)
    assert set(held(filled)) == set(metadata.tables)
