"""What an Oracle can refuse, each as the right error in readable words, and never with the password."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import oracledb
import pytest
import sqlalchemy as sa
from blocks import days, ranged, start
from hidden import PASSWORD, without_password
from oracledb.errors import _Error

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError
from closingbell.store import Store, open_store
from closingbell.store.faults import (
    AwayError,
    LockedError,
    RaceError,
    ReadOnlyError,
    RefusedError,
    SilentError,
    explain,
    transaction,
)
from closingbell.store.oracle import Dialect, Oracle, arguments
from tests.oracle import OracleStandIn

pytestmark = pytest.mark.oracle_only("its words; those of PostgreSQL: test_faults.py")

URL = sa.make_url("oracle://night@db.example.com/BARS").set(password=PASSWORD)


def caught(url: sa.URL, kind: type[ClosingbellError]) -> ClosingbellError:
    """The error of a first look at a database."""
    text = url.render_as_string(hide_password=False)
    with pytest.raises(kind) as caught, closing(open_store(text, patience=0)) as store:
        store.records.overview()
    return without_password(caught.value)


@pytest.fixture
def there(oracle_stand_in: OracleStandIn) -> sa.URL:
    return sa.make_url(oracle_stand_in.url)


@pytest.fixture
def own(there: sa.URL) -> Iterator[Store]:
    with closing(open_store(there.render_as_string(hide_password=False), patience=0)) as opened:
        yield opened


# -- what the driver says of a way to a server -----------------------------------------------------------------------


def test_a_wrong_password(there: sa.URL) -> None:
    error = caught(there.set(password=PASSWORD), ConfigurationError)
    assert error.what == "the database refuses the user or the password"
    assert str(error.value).endswith("says 'ORA-01017: invalid username/password; logon denied'"), "no link after it"
    assert "DATABASE_URL" in error.fix


def test_no_such_user(there: sa.URL) -> None:
    error = caught(there.set(username="nobody", password=PASSWORD), ConfigurationError)
    assert error.what == "the database refuses the user or the password"


def test_no_user(there: sa.URL) -> None:
    error = caught(sa.URL.create("oracle", host=there.host, port=there.port, database="FREEPDB1"), ConfigurationError)
    assert error.what == "the database refuses the user or the password"


def test_no_such_service(there: sa.URL) -> None:
    """One that has just been started is not known to its listener either: it may come."""
    error = caught(there.set(password=PASSWORD).update_query_dict({"service_name": "NOWHERE"}), SilentError)
    assert error.what == "there is no such database"
    assert 'Service "NOWHERE" is not registered with the listener' in str(error)


def test_nobody_listens(there: sa.URL) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: nobody else can take the port either
        port = taken.getsockname()[1]
        error = caught(there.set(port=port, password=PASSWORD), SilentError)
    assert error.what == "the database cannot be reached"
    assert "Connection refused" in str(error)
    assert f"127.0.0.1:{port}/FREEPDB1 says" in str(error)
    assert "CONNECTION_ID" not in str(error)


def test_no_such_host(there: sa.URL) -> None:
    """The driver lets the error of the library under it through, which names no host."""
    error = caught(there.set(host="database.invalid", password=PASSWORD), SilentError)
    assert error.what == "the database cannot be reached"
    assert "database.invalid" in str(error)


def test_no_such_alias(there: sa.URL, tmp_path: Path) -> None:
    alone = sa.URL.create("oracle", "night", PASSWORD, "bars")
    assert caught(alone, ConfigurationError).what == "there is no such database"
    url = alone.update_query_dict({"config_dir": str(tmp_path)})
    assert "missing or unreadable" in str(caught(url, ConfigurationError))
    names = tmp_path / "tnsnames.ora"
    names.write_text("other = 127.0.0.1/X\n")
    assert caught(url, ConfigurationError).what == "there is no such database"


def test_an_alias(there: sa.URL, tmp_path: Path) -> None:
    (tmp_path / "tnsnames.ora").write_text(f"bars = {there.host}:{there.port}/FREEPDB1\n")
    alias = sa.URL.create("oracle", there.username, there.password, "bars", query={"config_dir": str(tmp_path)})
    with closing(open_store(alias.update_query_dict({"stmtcachesize": "0"}).render_as_string(False))) as store:
        assert store.records.overview()["bars"] == 0


def test_a_service_as_the_urls_path(there: sa.URL) -> None:
    url = there.difference_update_query(["service_name"]).set(database="FREEPDB1", drivername="oracle")
    with closing(open_store(url.render_as_string(False))) as store:
        assert store.records.overview()["bars"] == 0
        assert PASSWORD not in repr(store)


@pytest.mark.parametrize("option", ["frobnicate=yes", "expire_time=soon", "ssl_server_dn_match=perhaps", "schema=a;b"])
def test_an_option_that_cannot_be_used(option: str) -> None:
    name, _, value = option.partition("=")
    url = URL.update_query_dict({name: value})
    error = caught(url, ConfigurationError)
    assert error.what == "DATABASE_URL has an option that cannot be used"
    assert error.value == name


def test_a_wallets_password_is_not_shown() -> None:
    url = URL.update_query_dict({"wallet_location": "/wallet", "wallet_password": PASSWORD})
    with closing(open_store(url.render_as_string(hide_password=False))) as store:
        for text in (repr(store), repr(store.engine.url), str(store.engine.url)):
            assert "s3cret" not in text


# -- which way leads over TLS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("db.example.com/BARS", ("tcps", 1521, "BARS")),
        ("192.0.2.7:2484/BARS", ("tcps", 2484, "BARS")),
        ("db.example.com/?service_name=BARS", ("tcps", 1521, "BARS")),
        ("db.example.com/BARS?protocol=tcp", ("tcp", 1521, "BARS")),
        ("localhost/BARS", ("tcp", 1521, "BARS")),
        ("127.0.0.1:1522/BARS", ("tcp", 1522, "BARS")),
        ("localhost/BARS?protocol=tcps", ("tcps", 1521, "BARS")),
        ("localhost/BARS?wallet_location=/wallet", ("tcps", 1521, "BARS")),
        ("db.example.com/?sid=BARS", ("tcps", 1521, None)),
        ("alias?config_dir=/etc/tns", (None, None, None)),
    ],
)
def test_when_tls_is_used(rest: str, expected: tuple[Any, ...]) -> None:
    made = arguments(sa.make_url(f"oracle+oracledb://night:x@{rest}"))
    assert tuple(made.get(name) for name in ("protocol", "port", "service_name")) == expected
    assert (made["user"], made["password"], made["expire_time"]) == ("night", "x", 1)
    oracledb.ConnectParams(**{name: value for name, value in made.items() if name not in ("dsn", "password")})


# -- what a server says ----------------------------------------------------------------------------------------------


def of_driver(message: str, code: int = 0) -> Exception:
    """An error as the driver makes it of what a server says."""
    made = _Error(message, code=code)  # type: ignore[no-untyped-call]
    error: Exception = made.exc_type(made)
    return error


def of_server(code: int, words: str = "somehow") -> Exception:
    return of_driver(f"ORA-{code:05}: {words}", code)


def wrapped(error: Exception) -> Exception:
    """The same as SQLAlchemy hands it on; after a disconnect the rollback that failed hides it."""
    dialect = Dialect(dbapi=oracledb)
    gone = dialect.is_disconnect(error, None, None)
    made: Exception = sa.exc.DBAPIError.instance(  # type: ignore[assignment]
        "SELECT 1", {}, error, oracledb.Error, connection_invalidated=gone, dialect=dialect
    )
    if gone:
        hidden = of_driver("DPY-1001: not connected to database")
        hidden.__context__ = made
        return hidden
    return made


@pytest.mark.parametrize(
    ("code", "kind", "what"),
    [
        *((code, AwayError, "cannot be reached") for code in (28, 1012, 1033, 1034, 1089, 3113, 3114, 3135, 12537)),
        *((code, AwayError, "no free connection") for code in (18, 20, 2391, 12516, 12519, 12520)),
        *((code, AwayError, "out of memory") for code in (4030, 4031)),
        *((code, SilentError, "cannot be reached") for code in (12170, 12541)),
        *((code, SilentError, "no such database") for code in (12505, 12514)),
        *((code, RaceError, "lost a race") for code in (60, 8177, 1555)),
        (1013, RaceError, "cancelled"),
        *((code, LockedError, "holds a lock") for code in (54, 30006, 4021)),
        (16000, ReadOnlyError, "read-only"),
        *((code, ConfigurationError, "user or the password") for code in (1017, 28000, 28001)),
        *((code, ConfigurationError, "may not do this") for code in (1031, 1045)),
        (942, ConfigurationError, "a table is missing"),
        (904, ConfigurationError, "a column is missing"),
        *((code, ConfigurationError, "disk is full") for code in (257, 1653, 1654, 12954, 30036)),
        *((code, ConfigurationError, "no room left") for code in (1536, 1950)),
        (12154, ConfigurationError, "no such database"),
        *((code, RefusedError, "refused a statement") for code in (1, 1400, 1407, 1438, 2290, 2291, 12899, 20123)),
        (900, FatalError, "refused a statement"),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_what_each_code_means(code: int, kind: type[ClosingbellError], what: str, raw: bool) -> None:
    error = of_server(code) if raw else wrapped(of_server(code))
    found = Oracle().explain(error, URL)
    assert type(found) is kind
    assert what in found.what
    assert f"ORA-{code:05}: somehow" in str(found.value)
    assert "Help:" not in str(found)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (of_driver("DPY-4011: the database or network closed the connection"), AwayError),
        (of_driver("DPY-1001: not connected to database"), AwayError),
        (of_driver("DPY-4024: call timeout of 30000 ms exceeded"), LockedError),
        (of_driver("DPY-6005: cannot connect to database (CONNECTION_ID=x).\n[Errno 113] No route"), SilentError),
        (
            of_driver("DPY-6005: cannot connect.\n[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
            ConfigurationError,
        ),
        (of_driver("DPY-6005: cannot connect.\n[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred"), SilentError),
        (of_driver("DPY-6005: cannot connect.\n[SSL: WRONG_VERSION_NUMBER] wrong version number"), ConfigurationError),
        (
            of_driver("DPY-6005: cannot connect.\nDPY-6000: Listener refused connection. (Similar to ORA-12520)"),
            AwayError,
        ),
        (of_driver("ORA-02091: transaction rolled back\nORA-02291: parent key not found", 2091), RefusedError),
        (of_driver("ORA-00604: error at recursive level\nORA-01653: unable to extend", 604), ConfigurationError),
        (sa.exc.TimeoutError("QueuePool limit"), AwayError),
        (socket.gaierror(-2, "Name or service not known"), SilentError),
    ],
)
def test_what_the_driver_means(error: Exception, kind: type[ClosingbellError]) -> None:
    assert type(Oracle().explain(error, URL)) is kind


def test_the_words_of_a_trigger_are_kept_without_where_it_stands() -> None:
    said = 'ORA-20001: not today, MSFT\nORA-06512: at "NIGHT.REFUSE", line 3\nORA-04088: error during execution'
    found = Oracle().explain(wrapped(of_driver(said, 20001)), URL)
    assert isinstance(found, RefusedError)
    assert found.message == "ORA-20001: not today, MSFT"


def test_an_error_is_told_by_what_came_first() -> None:
    found = Oracle().explain(wrapped(of_server(3113, "end-of-file on communication channel")), URL)
    assert "end-of-file" in str(found.value)


def test_a_database_without_the_tables(own: Store) -> None:
    with pytest.raises(ConfigurationError, match="a table is missing"), transaction(own.engine) as connection:
        connection.execute(sa.text("SELECT * FROM nowhere"))


def test_more_writers_than_connections(there: sa.URL) -> None:
    with closing(open_store(there.render_as_string(hide_password=False), connections=1, patience=0)) as store:
        store.engine.pool._timeout = 0.05  # type: ignore[attr-defined]
        taken = [store.engine.connect() for _ in range(5)]
        with pytest.raises(RetryableError) as caught:
            store.records.overview()
        for connection in taken:
            connection.close()
    assert without_password(caught.value).what == "the database has no free connection"


def test_a_mistake_of_ours_is_not_called_an_unreachable_database(own: Store) -> None:
    with pytest.raises(FatalError, match="DPY-3002"), transaction(own.engine) as connection:
        connection.execute(sa.text("SELECT :x FROM dual"), {"x": object()})
    with pytest.raises(FatalError, match="ORA-00900"), transaction(own.engine) as connection:
        connection.execute(sa.text("SELEC 1"))


def test_values_are_hidden_from_the_errors_of_the_engine(own: Store) -> None:
    with pytest.raises(sa.exc.DBAPIError) as caught, own.engine.begin() as connection:
        connection.execute(sa.text("SELECT :value FROM nowhere"), {"value": "confidential"})
    assert "confidential" not in str(caught.value)
    assert "confidential" not in repr(caught.value)


def _cursor(connection: sa.Connection) -> Any:
    return connection.connection.cursor()


def test_an_error_of_the_driver_itself_is_explained_too(own: Store) -> None:
    """Where it is spoken to directly, past SQLAlchemy."""
    with pytest.raises(ConfigurationError, match="a table is missing"), transaction(own.engine) as connection:
        _cursor(connection).execute("SELECT * FROM nowhere")
    with own.engine.connect() as connection:
        assert explain(sa.exc.TimeoutError("x"), connection).what == "the database has no free connection"


def test_an_idle_connection_that_died_is_replaced(
    own: Store, oracle_stand_in: OracleStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closingbell.store.database._IDLE", 0.0)  # idle for long enough, at once
    run_id = start(own)
    oracle_stand_in.kill(1)  # the look whether it lives, before the flush
    assert own.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 2))]).inserted == 3
