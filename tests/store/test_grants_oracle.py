"""What the migrations grant on Oracle; that it refuses everything else, only a real one can show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from click.testing import CliRunner

from closingbell.errors import ConfigurationError
from closingbell.store import Store, open_store, oracle
from closingbell.store.schema import VERSION, metadata
from closingbell.store.views import VIEWS
from infra.migrations.__main__ import main
from infra.migrations.grants import grant
from tests.oracle import OracleStandIn

pytestmark = pytest.mark.oracle_only("test_grants.py has PostgreSQL's")

WRITE = "SELECT, INSERT, UPDATE, DELETE"


@pytest.fixture
def owner(oracle_stand_in: OracleStandIn) -> Iterator[Store]:
    """The tables' owner, and two others who have nothing."""
    with closing(open_store(oracle_stand_in.url)) as store:
        with store.engine.connect() as connection:
            for name in ("writer_1", "reader_1"):
                connection.exec_driver_sql(f"CREATE USER {name} IDENTIFIED BY x")
        yield store
        with store.engine.connect() as connection:
            for name in ("writer_1", "reader_1"):
                connection.exec_driver_sql(f"DROP USER {name}")


def test_a_writer(owner: Store, oracle_stand_in: OracleStandIn) -> None:
    oracle_stand_in.log()
    assert grant(owner.engine, writers=["writer_1"]) == ["WRITER_1 may read and write, and nothing else by this"]
    granted = [statement.sql for statement in oracle_stand_in.log() if statement.sql.startswith("GRANT")]
    assert sorted(granted) == sorted(
        [
            *(f'GRANT {WRITE} ON {name} TO "WRITER_1"' for name in (*metadata.tables, *oracle.technical.tables)),
            *(f'GRANT SELECT ON {name} TO "WRITER_1"' for name in (*VIEWS, *oracle.AS_OF, VERSION)),
        ]
    )


def test_a_reader(owner: Store, oracle_stand_in: OracleStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "_READ", "SELECT")  # READ, which lets nobody lock rows, is not known to the stand-in
    oracle_stand_in.log()
    assert grant(owner.engine, readers=["Reader_1"]) == ["READER_1 may read, and nothing else by this"]
    granted = [statement.sql for statement in oracle_stand_in.log() if statement.sql.startswith("GRANT")]
    assert sorted(granted) == sorted(
        [
            *(f'GRANT SELECT ON {name} TO "READER_1"' for name in (*metadata.tables, *VIEWS, *oracle.AS_OF, VERSION)),
            'GRANT SELECT ON latch TO "READER_1"',
            *(f'GRANT {WRITE} ON {name} TO "READER_1"' for name in ("given", "present")),
        ]
    )


@pytest.mark.parametrize(
    "name", ["", "public", "PUBLIC", 'x" IDENTIFIED BY y --', "x; DROP TABLE bar", "a\0b", "x" * 129, "\x1b[2J", "a b"]
)
def test_a_name_that_cannot_be_a_users_never_reaches_the_database(
    name: str, owner: Store, oracle_stand_in: OracleStandIn
) -> None:
    oracle_stand_in.log()
    with pytest.raises(ConfigurationError, match="there is no such user or role") as caught:
        grant(owner.engine, writers=["writer_1"], readers=[name])
    assert str(caught.value).isprintable()
    assert not [statement for statement in oracle_stand_in.log() if "GRANT" in statement.sql], "not the other's either"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ORA-01917", "there is no such user or role"),
        ("ORA-01749", "may do everything already"),
        ("ORA-00942", "may not grant what NOBODY_1 needs: bar"),
        ("ORA-01031", "may not grant what NOBODY_1 needs: bar"),
        ("ORA-03113", "cannot be reached"),
    ],
)
def test_what_oracle_refuses_is_said_in_words(
    code: str, said: str, owner: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "_codes", lambda error: [code])  # the stand-in has one code for all of them
    with pytest.raises(Exception, match=said):
        grant(owner.engine, writers=["nobody_1"])


def test_the_command(owner: Store, oracle_stand_in: OracleStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", oracle_stand_in.url)
    done = CliRunner().invoke(main, ["--writer", "writer_1"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "the database is at the newest migration",
        "WRITER_1 may read and write, and nothing else by this",
    ]
    wrong = CliRunner().invoke(main, ["--reader", "public"])
    assert wrong.exit_code == 2
    assert "there is no such user or role in the database: 'public'" in wrong.output
