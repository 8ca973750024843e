"""What a database can refuse, each as the right error in readable words, and never with the password."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa
from blocks import days, query, ranged, read_only, start, stored
from hidden import PASSWORD, without_password

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError
from closingbell.store import Store, open_store
from closingbell.store.faults import transaction

pytestmark = pytest.mark.postgres_only("the words of PostgreSQL; those of Oracle: test_oracle_faults.py")


def caught(url: sa.URL | str, kind: type[ClosingbellError]) -> ClosingbellError:
    """The error of a first look at a database."""
    text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    with pytest.raises(kind) as caught, closing(open_store(text, patience=0)) as store:
        store.records.overview()
    return without_password(caught.value)


@pytest.fixture
def role(postgres: sa.URL, database_url: str) -> Iterator[sa.URL]:
    """A user who may read and write the tables of the test's database and no more."""
    name = "reader_" + (sa.make_url(database_url).database or "")
    admin = sa.create_engine(database_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        for statement in (
            f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
        ):
            connection.exec_driver_sql(statement.replace("%", "%%"))
        yield sa.make_url(database_url).set(username=name, password=PASSWORD)
        connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP ROLE {name}")


def test_a_wrong_password(role: sa.URL) -> None:
    error = caught(role.set(password=PASSWORD + "!"), ConfigurationError)
    assert error.what == "the database refuses the user or the password"
    assert "authentication failed" in str(error)
    assert "DATABASE_URL" in error.fix


def test_no_such_user(postgres: sa.URL) -> None:
    error = caught(postgres.set(username="nobody", password=PASSWORD), ConfigurationError)
    assert error.what == "the database refuses the user or the password"


@pytest.mark.usefixtures("unpooled")
def test_no_such_database(role: sa.URL) -> None:
    error = caught(role.set(database="nowhere"), ConfigurationError)
    assert error.what == "there is no such database"
    assert '"nowhere" does not exist' in str(error)


def test_nobody_listens(role: sa.URL) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: nobody else can take the port either
        error = caught(role.set(port=taken.getsockname()[1]), RetryableError)
        assert f"127.0.0.1:{taken.getsockname()[1]}/" in str(error)
    assert error.what == "the database cannot be reached"
    assert "Start it" in error.fix


def test_no_such_host(role: sa.URL) -> None:
    error = caught(role.set(host="database.invalid"), RetryableError)
    assert error.what == "the database cannot be reached"
    assert "database.invalid" in str(error)


def test_the_words_of_the_address_that_answered_count(role: sa.URL) -> None:
    """A name often has several addresses, and the first of them is often not served."""
    error = caught(
        role.set(host="127.0.0.2,127.0.0.1", port=None, password="wrong").update_query_dict(
            {"host": "127.0.0.2,127.0.0.1", "port": f"{role.port},{role.port}"}
        ),
        ConfigurationError,
    )
    assert error.what == "the database refuses the user or the password"


def test_an_option_that_does_not_exist(role: sa.URL) -> None:
    error = caught(role.update_query_dict({"frobnicate": "yes"}), ConfigurationError)
    assert "frobnicate" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        f"postgresql:{PASSWORD}",
        f"postgresql://user:{PASSWORD}@host/db",  # not percent-encoded: the host would be "w%rd@host"
        "postgresql://user:x@host:s3cret/db",
        "mysql://user:s3cret@host/db",
        "frobnicate://user:s3cret@host/db",
    ],
)
def test_what_is_not_a_postgresql_url(url: str) -> None:
    assert "postgresql" in str(caught(url, ConfigurationError)).lower()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_each_way_to_write_the_scheme(role: sa.URL, scheme: str) -> None:
    store = open_store(role.render_as_string(hide_password=False).replace("postgresql+psycopg2", scheme, 1))
    assert store.records.overview()["bars"] == 0
    assert PASSWORD not in repr(store)
    store.close()


def test_a_user_who_may_only_read(role: sa.URL) -> None:
    store = open_store(role.render_as_string(hide_password=False))
    with pytest.raises(ConfigurationError) as caught:
        start(store)
    store.close()
    error = without_password(caught.value)
    assert error.what == "the database user may not do this"
    assert "permission denied for table " in str(error)


def test_a_read_only_database(store: Store, postgres: sa.URL) -> None:
    run_id = start(store)
    read_only(store, postgres, True)
    with pytest.raises(ConfigurationError) as caught:
        store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 2))])
    assert without_password(caught.value).what == "the database is read-only"
    assert stored(store) == []


def test_a_full_disk(store: Store) -> None:
    run_id = start(store)
    with store.engine.begin() as connection:
        for statement in (
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$",
            "CREATE TRIGGER full_disk BEFORE INSERT ON bar FOR EACH STATEMENT EXECUTE FUNCTION full_disk()",
        ):
            connection.execute(sa.text(statement))
    with pytest.raises(ConfigurationError) as caught:
        store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 2))])
    error = without_password(caught.value)
    assert error.what == "the database's disk is full"
    assert "No space left on device" in str(error)
    assert query(store, "SELECT count(*) FROM watermark") == [(0,)]


def test_a_database_without_the_tables(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE gap"))
    with pytest.raises(ConfigurationError, match=r"a table is missing.*migrations"):
        store.records.overview()


def test_more_writers_than_connections(database_url: str) -> None:
    store = open_store(database_url, connections=1, patience=0)
    store.engine.pool._timeout = 0.05  # type: ignore[attr-defined]
    connect = store.engine.connect
    with connect(), connect(), connect(), pytest.raises(RetryableError) as caught:
        store.records.overview()
    store.close()
    assert without_password(caught.value).what == "the database has no free connection"


def test_a_server_without_free_connections(role: sa.URL, database_url: str) -> None:
    admin = sa.create_engine(database_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"ALTER ROLE {role.username} CONNECTION LIMIT 0"))
    assert caught(role, RetryableError).what == "the database has no free connection"


def test_a_mistake_of_ours_is_not_called_an_unreachable_database(store: Store) -> None:
    with pytest.raises(FatalError, match="can't adapt type"), transaction(store.engine) as connection:
        connection.execute(sa.text("SELECT :x"), {"x": object()})
    with pytest.raises(FatalError, match="syntax error"), transaction(store.engine) as connection:
        connection.execute(sa.text("SELEC 1"))


def test_an_error_of_another_kind_passes_through(store: Store) -> None:
    with pytest.raises(KeyError), transaction(store.engine):
        raise KeyError("mine")


def test_values_are_hidden_from_the_errors_of_the_engine(store: Store) -> None:
    with pytest.raises(sa.exc.DBAPIError) as caught, store.engine.begin() as connection:
        connection.execute(sa.text("SELECT CAST(:value AS text), 1 / 0"), {"value": "confidential"})
    assert "confidential" not in str(caught.value)
    assert "confidential" not in repr(caught.value)


def test_an_idle_connection_that_died_is_replaced(
    database_url: str, postgres: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closingbell.store.database._IDLE", 0.0)  # idle for long enough, at once
    killer = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with closing(open_store(database_url, patience=0, retries=0)) as store, killer.connect() as other:
        run_id = start(store)
        assert other.execute(
            sa.text("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = :name"),
            {"name": store.engine.url.database},
        ).scalar_one()
        assert store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 2))]).inserted == 3
