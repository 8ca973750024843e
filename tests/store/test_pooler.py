"""Everything through a pgbouncer in transaction mode, where each transaction may get another session.

``make test-pgbouncer`` runs all store tests so; here are the main paths, and what is peculiar to it.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from blocks import (
    JUDGE,
    answered,
    bars,
    days,
    gaps,
    is_default,
    market_day,
    marks,
    query,
    range_of,
    ranged,
    start,
    stored,
)
from wire import COMMIT, Wire

from closingbell.errors import RetryableError
from closingbell.store import Store, open_store
from closingbell.store.postgres import _COPY_TO_STAGE
from infra import migrations
from tests.pooler import Pooler, program

pytestmark = [
    pytest.mark.skipif(program() is None, reason="pgbouncer is not installed"),
    pytest.mark.postgres_only("pgbouncer"),
]

STAGE = _COPY_TO_STAGE.split()[1]


@pytest.fixture(scope="module")
def pooler(postgres: sa.URL) -> Iterator[Pooler]:
    """One that has two sessions of each database: whoever comes third waits, and nobody keeps one."""
    with Pooler(postgres, default_pool_size=2) as running:
        yield running


@pytest.fixture
def url(pooler: Pooler, database_url: str) -> sa.URL:
    return pooler.url.set(database=sa.make_url(database_url).database)


@pytest.fixture
def pooled(url: sa.URL) -> Iterator[Store]:
    with closing(open_store(url.render_as_string(hide_password=False))) as opened:
        yield opened


def flush(store: Store, run_id: Any, *outcomes: Any) -> Any:
    return store.writer.flush(run_id, "polygon", "1d", outcomes, calls=1)


def test_a_night(pooled: Store, store: Store) -> None:
    run_id = start(pooled)
    with pooled.records.alive(run_id):
        assert store.records.is_alive(run_id)
        block = bars("AAPL", days(0, 9))
        block.rows["high"][3] = 1.0
        assert flush(pooled, run_id, answered(range_of("AAPL", days(0, 9)), block)).inserted == 9
        assert flush(pooled, run_id, ranged("AAPL", days(0, 9), 1.0)).rewritten == 9
        assert flush(pooled, run_id, market_day(10, ["AAPL", "MSFT"])).inserted == 2
        assert flush(pooled, run_id, JUDGE.failed(range_of("GONE", days(0, 1)), RetryableError("no"))).gaps == 2
        gone = pooled.writer.take_out(
            run_id,
            "polygon",
            "1d",
            pooled.records.series("polygon", "1d", ["MSFT"], *_span(10)),
            ["off_scale"],
            _now(store),
        )
        assert len(gone) == 1
    assert not store.records.is_alive(run_id)
    assert len(stored(store)) == 11
    assert {reason for reason, *_ in gaps(store).values()} == {"failed", "quarantined"}
    assert set(marks(store)) == {"AAPL", "MSFT", "GONE"}
    assert all(sums.balanced for sums in pooled.records.audit().values())
    assert query(pooled, "SELECT count(*) FROM bar_adjusted") == [(11,)]
    row = pooled.records.run(run_id)
    assert row is not None
    assert (row["actual_calls"], row["inserted"], row["rewritten"]) == (4, 12, 9)


def _span(position: int) -> tuple[Any, Any]:
    day = days(position, position)[0].item()
    return day, day


def _now(store: Store) -> Any:
    return query(store, "SELECT now()")[0][0]


def test_nothing_of_a_transaction_is_left_to_the_next_client(pooled: Store, url: sa.URL) -> None:
    run_id = start(pooled)
    flush(pooled, run_id, ranged("AAPL", days(0, 4)))
    flush(pooled, run_id, ranged("AAPL", days(0, 4), 1.0))
    pooled.records.ledger("polygon", "1d", ["AAPL"], None, days(4, 4)[0].item())  # a read-only snapshot
    other = sa.create_engine(url, poolclass=sa.NullPool)
    for _ in range(4):
        with other.connect() as connection:
            for name in ("lock_timeout", "transaction_isolation", "transaction_read_only"):
                assert is_default(connection, name), name
            if connection.exec_driver_sql(f"SELECT to_regclass('pg_temp.{STAGE}')").scalar_one():
                assert connection.exec_driver_sql(f"SELECT count(*) FROM {STAGE}").scalar_one() == 0  # noqa: S608


def test_a_staging_table_of_another_version_is_not_used(pooled: Store, url: sa.URL) -> None:
    """It lives as long as the session, which a client of another version may have had before."""
    columns = "n integer NOT NULL, something_else text NOT NULL"
    older = sa.create_engine(url, poolclass=sa.NullPool)
    for _ in range(4):
        with older.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE TEMPORARY TABLE IF NOT EXISTS staged_bar ({columns}) ON COMMIT DELETE ROWS"
            )
    run_id = start(pooled)
    flush(pooled, run_id, ranged("AAPL", days(0, 4)))
    assert flush(pooled, run_id, ranged("AAPL", days(0, 4), 1.0)).rewritten == 5


def test_migrations(pooler: Pooler, postgres: sa.URL) -> None:
    name = f"empty_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = pooler.url.set(database=name).render_as_string(hide_password=False)
    with closing(open_store(url)) as store:
        migrations.upgrade(store.engine)
        with store.engine.connect() as current:
            assert migrations.is_current(current)
        assert flush(store, start(store), ranged("AAPL", days(0, 4))).inserted == 5
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_commit_whose_answer_is_lost_is_not_done_again(url: sa.URL, store: Store) -> None:
    with Wire(url) as wire, closing(open_store(wire.url.render_as_string(hide_password=False))) as far:
        run_id = start(far)
        far.writer.mark()
        wire.lose(COMMIT)
        assert flush(far, run_id, ranged("AAPL", days(0, 4))).inserted == 5
        assert wire.lost.is_set()
        row = store.records.run(run_id)
    assert row is not None
    assert row["inserted"] == 5


def test_tls_is_spoken_where_the_name_does_not_tell_that_it_is_this_machine(
    postgres: sa.URL, database_url: str, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=somewhere"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed, to make a certificate with")
    with Pooler.with_tls(postgres, key, certificate) as pooler:
        url = pooler.url.set(host="127.1", database=sa.make_url(database_url).database)
        with closing(open_store(url.render_as_string(hide_password=False))) as store:
            assert store.records.run(start(store)) is not None
            with store.engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                assert driver.info.ssl_in_use
