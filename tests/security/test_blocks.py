"""Keys and passwords in Prefect's blocks: used where the environment has none, and shown nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector, SyncDriver

from closingbell.cli import cli
from closingbell.errors import ConfigurationError, RetryableError
from closingbell.settings import SECRETS, Settings, load, read
from closingbell.store import open_store
from deployments.bootstrap import bootstrap
from tasks.secrets import block_name, complete
from tests.night.conftest import Nights
from tests.oracle import OracleStandIn

pytestmark = pytest.mark.prefect

KEY = "block-canary-77c1"


@pytest.fixture
def no_blocks(prefect_api: str) -> Iterator[None]:
    """A server without closingbell's blocks, before and after."""
    _forget_blocks()
    yield
    _forget_blocks()


def _forget_blocks() -> None:
    with get_client(sync_client=True) as client:
        for block in client.read_block_documents(include_secrets=False):
            if block.name in map(block_name, SECRETS):
                client.delete_block_document(block.id)


def _save(setting: str, block: Block) -> None:
    block.save(block_name(setting), overwrite=True)


def _secrets(settings: Settings) -> list[str | None]:
    values = [getattr(settings, name) for name in SECRETS[:3]]
    return [value and value.get_secret_value() for value in values]


def test_a_night_with_nothing_but_blocks(nights: Nights, no_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLYGON_API_KEY", "DATABASE_URL"):
        monkeypatch.delenv(name)
    _save("polygon_api_key", Secret(value=KEY))
    _save("database_url", Secret(value=nights.database_url))

    told = nights.ingest(tickers=["AAPL"], start=date(2026, 3, 2))

    assert (told["state_name"], told["stored_bars"]) == ("Completed", 5), told.get("error")
    with sa.create_engine(nights.database_url, poolclass=sa.NullPool).connect() as connection:
        assert connection.execute(sa.text("SELECT DISTINCT source FROM bar")).scalar_one() == "polygon"
    assert not (nights.home / "postgres").exists(), "no embedded database was started"
    assert KEY not in str(told)


def test_without_blocks_nothing_changes(no_blocks: None) -> None:
    assert complete(read()) == read()


def test_a_database_may_be_a_connector(no_blocks: None) -> None:
    parts = ConnectionComponents(
        driver=SyncDriver.POSTGRESQL_PSYCOPG2, username="me", password="p@ss/1", host="db", port=5433, database="bars"
    )
    _save("database_url", SqlAlchemyConnector(connection_info=parts))
    _save("polygon_api_key", SqlAlchemyConnector(connection_info=parts))
    assert _secrets(complete(read())) == ["postgresql+psycopg2://me:p%40ss%2F1@db:5433/bars", None, None]

    _save("database_url", SqlAlchemyConnector(connection_info="postgresql+psycopg2://you@db/bars"))
    assert _secrets(complete(read())) == ["postgresql+psycopg2://you@db/bars", None, None]

    _save("database_url", Secret(value="postgresql://the-secret/counts\n"))
    assert _secrets(complete(read())) == ["postgresql://the-secret/counts", None, None]


@pytest.mark.parametrize(
    ("parts", "options", "url"),
    [
        ({"database": "FREEPDB1", "port": 1521}, {}, "db:1521/FREEPDB1"),
        ({"query": {"service_name": "FREEPDB1"}, "port": 1521}, {}, "db:1521?service_name=FREEPDB1"),
        ({"query": {"config_dir": "/etc/oracle"}}, {}, "db?config_dir=%2Fetc%2Foracle"),
        (
            {"database": "bars"},
            {"wallet_location": "/etc/wallet", "ssl_server_dn_match": True, "retry_count": 3},
            "db/bars?retry_count=3&ssl_server_dn_match=true&wallet_location=%2Fetc%2Fwallet",
        ),
    ],
)
def test_a_connector_of_oracle(parts: dict[str, object], options: dict[str, object], url: str, no_blocks: None) -> None:
    info = ConnectionComponents(driver=SyncDriver.ORACLE_ORACLEDB, username="me", password="p@ss/1", host="db", **parts)
    _save("database_url", SqlAlchemyConnector(connection_info=info, connect_args=options))
    (found, *_) = _secrets(complete(read()))
    assert found == f"oracle+oracledb://me:p%40ss%2F1@{url}"
    with closing(open_store(found)) as store:
        assert (store.engine.dialect.name, store.engine.url.username) == ("oracle", "me")


def test_what_a_connector_hands_to_the_driver_is_not_left_out(no_blocks: None) -> None:
    info = "postgresql+psycopg2://you@db/bars"
    _save("database_url", SqlAlchemyConnector(connection_info=info, connect_args={"sslmode": "verify-full"}))
    assert _secrets(complete(read())) == [f"{info}?sslmode=verify-full", None, None]

    _save("database_url", SqlAlchemyConnector(connection_info=info, connect_args={"options": {"a": KEY}}))
    with pytest.raises(ConfigurationError, match="closingbell-database-url") as caught:
        complete(read())
    assert KEY not in str(caught.value)


def test_a_night_into_oracle_with_nothing_but_a_connector(
    nights: Nights, no_blocks: None, oracle_stand_in: OracleStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sa.make_url(oracle_stand_in.url)
    info = ConnectionComponents(
        driver=SyncDriver.ORACLE_ORACLEDB,
        username=url.username,
        password=url.password,
        host=url.host,
        port=url.port,
        query={"service_name": url.query["service_name"]},
    )
    monkeypatch.delenv("DATABASE_URL")
    _save("database_url", SqlAlchemyConnector(connection_info=info))

    told = nights.ingest(tickers=["AAPL"], start=date(2026, 3, 2))

    assert (told["state_name"], told["stored_bars"]) == ("Completed", 5), told.get("error")
    with closing(open_store(oracle_stand_in.url)) as store:
        assert store.records.overview()["bars"] == 5
    assert not (nights.home / "postgres").exists(), "no embedded database was started"


def test_the_bootstrap_brings_the_form_of_a_connector(prefect_api: str) -> None:
    slug = SqlAlchemyConnector.get_block_type_slug()
    with get_client(sync_client=True) as client:
        with suppress(ObjectNotFound):
            client.delete_block_type(client.read_block_type_by_slug(slug).id)
        for known in ("created", "there already"):
            assert f"block type {slug}: {known}" in bootstrap(load())
        offered = client.read_block_type_by_slug(slug)
        schema = client.get_most_recent_block_schema_for_block_type(offered.id)
        assert schema is not None
        assert {"connection_info", "connect_args"} <= set(schema.fields["properties"])


def test_the_environment_wins(no_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _save("polygon_api_key", Secret(value=KEY))
    _save("databento_api_key", Secret(value="other"))
    monkeypatch.setenv("POLYGON_API_KEY", "mine")
    settings = load(complete, polygon_base_url="http://127.0.0.1:9")
    assert _secrets(settings) == [None, "mine", "other"]
    assert not settings.uses_stand_in
    assert settings.quota.calls == 5


def test_an_address_needs_a_key_wherever_it_is_kept(no_blocks: None) -> None:
    with pytest.raises(ConfigurationError, match="POLYGON_API_KEY is not"):
        load(complete, polygon_base_url="http://127.0.0.1:9")
    _save("polygon_api_key", Secret(value=KEY))
    assert load(complete, polygon_base_url="http://127.0.0.1:9").source == "polygon"


@pytest.mark.parametrize("value", [{"key": KEY}, [KEY], 7, " "])
def test_a_block_that_holds_something_else_is_named(value: object, no_blocks: None) -> None:
    _save("polygon_api_key", Secret(value=value))
    with pytest.raises(ConfigurationError, match="closingbell-polygon-api-key") as caught:
        complete(read())
    assert KEY not in str(caught.value)


def test_no_answer_is_not_taken_for_no_key(prefect_api: str) -> None:
    away = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away), pytest.raises(RetryableError, match="does not answer") as caught:
        complete(read())
    assert caught.value.__context__ is None


def test_what_only_reads_uses_blocks_and_goes_on_without_prefect(
    database_url: str, no_blocks: None, prefect_api: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _save("database_url", Secret(value=database_url))
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    done = CliRunner().invoke(cli, ["status"], catch_exceptions=False)
    assert (done.exit_code, "0 bars of 0 tickers" in done.output) == (0, True), done.output
    assert not (tmp_path / "home" / "postgres").exists(), "no embedded database was started"

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("DATABASE_URL", database_url)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        done = CliRunner().invoke(cli, ["status"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "0 bars of 0 tickers" in done.stdout
    assert "warning: the Prefect server does not answer" in done.stderr


def test_the_documented_way_to_make_a_block(no_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr("getpass.getpass", lambda prompt: KEY)
    exec(code, {})  # noqa: S102
    assert _secrets(complete(read())) == [None, KEY, None]
    for name in SECRETS:
        assert f"| `{name.upper()}` | `{block_name(name)}` |" in page
