"""A database on another machine is reached over TLS, unless its URL says otherwise."""

from __future__ import annotations

from contextlib import closing

import pytest
import sqlalchemy as sa
from blocks import start

from closingbell.errors import ConfigurationError
from closingbell.store import open_store
from closingbell.store.postgres import tls_of

pytestmark = pytest.mark.postgres_only("the options of its client library")

REQUIRED = {"sslmode": "require"}


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("user:secret@db.example.com/bars", REQUIRED),
        ("user:secret@192.0.2.7:6543/bars", REQUIRED),
        ("user:secret@[2001:db8::7]/bars", REQUIRED),
        ("user:secret@localhost.example.com/bars", REQUIRED),
        ("user:secret@0.0.0.0/bars", REQUIRED),
        ("user:secret@db.example.com/bars?sslmode=disable", {}),
        ("user:secret@db.example.com/bars?sslmode=verify-full", {}),
        ("user:secret@/bars?service=night", {}),
        ("user:secret@localhost/bars", {}),
        ("user:secret@LOCALHOST./bars", {}),
        ("user:secret@127.0.0.1/bars", {}),
        ("user:secret@127.8.9.10:5433/bars", {}),
        ("user:secret@[::1]/bars", {}),
        ("user:secret@/bars", {}),
        ("user:secret@/bars?host=/var/run/postgresql", {}),
        ("user:secret@db.example.com/bars?hostaddr=127.0.0.1", {}),
        ("user:secret@localhost/bars?hostaddr=192.0.2.7", REQUIRED),
        ("user:secret@/bars?host=localhost:5432&host=127.0.0.1:5433", {}),
        ("user:secret@/bars?host=localhost:5432&host=db.example.com:5432", REQUIRED),
        ("user:secret@localhost,db.example.com/bars", REQUIRED),
        ("user:secret@/bars?host=/var/run/postgresql&host=db.example.com", REQUIRED),
        ("user:secret@/bars?host=a:1&host=b&port=1,2,3", None),
    ],
)
def test_when_tls_is_required(rest: str, expected: dict[str, str] | None) -> None:
    assert tls_of(sa.make_url(f"postgresql+psycopg2://{rest}")) == expected


def test_hosts_and_ports_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match="not a database URL") as caught:
        open_store("postgresql://user:secret@/bars?host=a:1&host=b&port=1,2,3")
    assert "secret" not in str(caught.value)


def test_a_server_without_tls(database_url: str) -> None:
    """It stands on loopback, but under a name that does not tell."""
    url = sa.make_url(database_url).set(host="127.1")
    with (
        closing(open_store(url.render_as_string(hide_password=False))) as store,
        pytest.raises(ConfigurationError, match="the database does not speak TLS") as caught,
    ):
        start(store)
    assert "add ?sslmode=disable to DATABASE_URL" in caught.value.fix
    trusted = url.update_query_dict({"sslmode": "disable"})
    with closing(open_store(trusted.render_as_string(hide_password=False))) as store:
        assert store.records.run(start(store)) is not None
