"""docs/databases.md: each URL in it can be opened and means what it says; its table has the options there are."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from closingbell.store import open_store, oracle

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "databases.md").read_text()
URLS = re.findall(r"^DATABASE_URL=(\S+)$", PAGE, re.MULTILINE)

#: What the driver is handed beside user and password.
ORACLE: list[dict[str, Any]] = [
    {"host": "db.example", "port": 2484, "service_name": "bars", "protocol": "tcps"},
    {
        "host": "db.example",
        "port": 2484,
        "service_name": "bars",
        "protocol": "tcps",
        "wallet_location": "/etc/wallet",
        "wallet_password": "w0rd",  # pragma: allowlist secret
    },
    {"dsn": "bars_high", "config_dir": "/etc/oracle"},
    {"host": "db.example", "port": 1521, "service_name": "bars", "protocol": "tcp"},
    {"host": "db.example", "port": 2484, "service_name": "bars", "protocol": "tcps"},
    {"host": "localhost", "port": 1521, "service_name": "FREEPDB1", "protocol": "tcp"},
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_can_be_opened(url: str) -> None:
    with closing(open_store(url)) as store:
        assert store.engine.dialect.name == url.partition(":")[0].partition("+")[0]
        assert "secret" not in repr(store.engine)
        assert "w0rd" not in repr(store.engine)


def test_what_the_urls_of_oracle_mean() -> None:
    urls = [sa.make_url(url) for url in URLS if url.startswith("oracle")]
    always = {"program": "closingbell", "expire_time": 1, "tcp_connect_timeout": 10.0, "password": "secret"}
    assert [oracle.arguments(url) for url in urls] == [
        {**always, "user": url.username, **means} for url, means in zip(urls, ORACLE, strict=True)
    ]


def test_every_option_is_listed() -> None:
    table = PAGE.partition("| option | meaning |\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", table, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    assert listed == {*oracle._OPTIONS, "schema"}
