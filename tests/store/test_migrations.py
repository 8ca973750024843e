"""The migrations and the tables in code are one schema, and a current database is left alone."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from closingbell.errors import ConfigurationError
from closingbell.store.schema import metadata
from infra import migrations


@pytest.fixture
def empty(postgres: sa.URL) -> Iterator[sa.Engine]:
    """A database without a table."""
    name = f"empty_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine = sa.create_engine(postgres.set(database=name))
    yield engine
    engine.dispose()
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def tables(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def downgrade(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        config = migrations.config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")


def test_up_down_and_up_again(empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    assert tables(empty) == {*metadata.tables, "alembic_version"}
    downgrade(empty)
    assert tables(empty) == {"alembic_version"}
    migrations.upgrade(empty)
    assert tables(empty) == {*metadata.tables, "alembic_version"}


def test_the_migrated_database_is_the_schema_in_code(empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    with empty.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": metadata}
        )
        assert compare_metadata(context, metadata) == []
    # What Alembic does not compare: collations, checks, defaults of identity.
    fresh = _described(empty)
    downgrade(empty)
    metadata.create_all(empty)
    assert _described(empty) == fresh


def _described(engine: sa.Engine) -> list[tuple[object, ...]]:
    queries = (
        "SELECT table_name, column_name, ordinal_position, data_type, character_maximum_length, is_nullable, "
        "column_default, collation_name, is_identity FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 3",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid <> 0 AND connamespace = 'public'::regnamespace "
        "AND conrelid::regclass::text <> 'alembic_version' ORDER BY 1, 2",
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1",
        "SELECT objoid::regclass::text, objsubid, description FROM pg_description "
        "WHERE classoid = 'pg_class'::regclass AND objoid >= 16384 ORDER BY 1, 2",
    )
    with engine.connect() as connection:
        return [tuple(row) for query in queries for row in connection.execute(sa.text(query))]


def test_tickers_sort_and_compare_by_their_bytes(empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    with empty.connect() as connection:
        query = sa.text(
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'ticker' AND collation_name = 'C'"
        )
        found = set(connection.execute(query).scalars())
    assert found == {name for name, table in metadata.tables.items() if "ticker" in table.c}


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
    read_only = sa.create_engine(empty.url, connect_args={"options": "-c default_transaction_read_only=on"})
    migrations.upgrade(read_only)
    with read_only.connect() as connection:
        assert migrations.is_current(connection)
    read_only.dispose()


def test_a_read_only_database_that_is_behind_is_an_error(empty: sa.Engine) -> None:
    read_only = sa.create_engine(empty.url, connect_args={"options": "-c default_transaction_read_only=on"})
    with pytest.raises(ConfigurationError, match="read-only"):
        migrations.upgrade(read_only)
    read_only.dispose()
    assert tables(empty) == set()


def test_a_current_database_is_not_locked(empty: sa.Engine) -> None:
    """A run that starts while another one migrates an old table elsewhere, or holds a row, does not wait."""
    migrations.upgrade(empty)
    with empty.connect() as busy:
        busy.execute(sa.text("LOCK TABLE bar, alembic_version IN EXCLUSIVE MODE"))
        waiting = sa.create_engine(empty.url, connect_args={"options": "-c lock_timeout=100"})
        migrations.upgrade(waiting)
        waiting.dispose()
