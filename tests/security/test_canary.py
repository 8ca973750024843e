"""A key and a password that must be seen nowhere, through every way that a night can go wrong."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from closingbell.settings import load
from tests.night.command import ended, start
from tests.night.conftest import NOW, Nights
from tests.security import search
from tests.security.search import KEY, PASSWORD

pytestmark = pytest.mark.prefect

#: Far enough back that ticker ranges are fewer calls than market days.
SINCE = date(2026, 1, 5)

SAID = f"no, {KEY}, see https://api.example.com/v2?apiKey={KEY}"

#: How calls go wrong, each for a ticker of its own; where the vendor has words, it quotes the key.
FAULTS: dict[str, dict[str, Any]] = {
    "AAPL": {"action": "status", "status": 403, "body": {"status": "NOT_AUTHORIZED", "message": f"You are not {SAID}"}},
    "MSFT": {"action": "status", "status": 403, "body": {"message": f"before end of day {SAID}"}},
    "NVDA": {"action": "status", "status": 404, "body": {"status": "NOT_FOUND", "message": SAID}},
    "JPM": {"action": "status", "status": 500, "body": {"status": "ERROR", "error": SAID}},
    "KO": {"action": "status", "status": 302, "body": "", "headers": {"Location": f"http://127.0.0.1:9/?k={KEY}"}},
    "XOM": {"action": "status", "status": 400, "body": {"status": "ERROR", "error": SAID}},
    "CVX": {"action": "status", "status": 429, "body": {"error": SAID}, "headers": {"Retry-After": "0"}},
    "BA": {"action": "status", "status": 200, "body": {"status": "ERROR", "error": SAID}},
    "GE": {"action": "status", "status": 200, "body": {"status": "OK", "ticker": KEY, "resultsCount": 0}},
    "DIS": {
        "action": "status",
        "status": 200,
        "body": {"status": "OK", "ticker": "DIS", "resultsCount": 0, "next_url": f"https://elsewhere.example/{KEY}"},
    },
    "T": {"action": "status", "status": 200, "body": f'{{"{KEY}"'},
    "PG": {"action": "html"},
    "HD": {"action": "garbage"},
    "WMT": {"action": "reset"},
    "CAT": {"action": "truncate"},
    "PFE": {"action": "wrong_ticker"},
    "MRK": {"action": "short_count"},
    "ABT": {"action": "twice"},
    "MMM": {"action": "loop"},
    "IBM": {"action": "stall", "seconds": 2.0},
    "CSCO": {"action": "stall", "when": "body", "seconds": 2.0},
}


@dataclass
class Places:
    """What the nights leave behind in this process, and where else to look."""

    folders: list[Path]
    databases: list[sa.URL | str]
    texts: list[Any] = field(default_factory=list)

    def found(self) -> list[str]:
        """Every place that holds one of the secrets."""
        return [
            *search.in_values("what was told", self.texts),
            *search.in_files(*self.folders),
            *(one for url in self.databases for one in search.in_database(url)),
        ]


@pytest.fixture
def owner(nights: Nights) -> Iterator[sa.URL]:
    """The test's database, for a user with the secret password."""
    admin = sa.create_engine(nights.database_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    url = sa.make_url(nights.database_url)
    name = f"canary_{url.database}"
    with admin.connect() as connection:
        quoted = PASSWORD.replace("'", "''").replace(":", r"\:")
        connection.execute(sa.text(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{quoted}'"))
    yield url.set(username=name, password=PASSWORD)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP ROLE {name}"))


@pytest.fixture
def places(
    nights: Nights, owner: sa.URL, postgres: sa.URL, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Places:
    """Nights that work with both secrets, and all that they may write to: files, tables, and Prefect's own tables."""
    nights.setenv("POLYGON_API_KEY", KEY)
    nights.setenv("DATABASE_URL", owner.render_as_string(hide_password=False))
    nights.setenv("POLYGON_READ_TIMEOUT", "0.3")
    nights.setenv("MAX_RETRIES", "1")
    server = sa.create_engine(postgres, poolclass=sa.NullPool)
    with server.connect() as connection:
        of_prefect = connection.execute(sa.text("SELECT datname FROM pg_database WHERE datname LIKE 'prefect\\_%'"))
        names = [name for (name,) in of_prefect]
    assert names, "Prefect keeps its logs, runs and artifacts here"
    homes = list(tmp_path_factory.getbasetemp().glob("prefect-server*"))
    return Places([tmp_path, *homes], [nights.database_url, *(postgres.set(database=name) for name in names)])


def _sent() -> None:
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all()
    EventsWorker.drain_all()


def test_the_search_finds_what_is_there(places: Places, nights: Nights) -> None:
    (nights.home / "runs").mkdir(parents=True)
    (nights.home / "runs" / "leak.json").write_text(json.dumps({"error": f"the key is {KEY}"}))
    engine = sa.create_engine(nights.database_url)
    with engine.begin() as connection:
        connection.execute(
            sa.text("CREATE TABLE leak AS SELECT CAST(:text AS jsonb) AS text"), {"text": f'"{PASSWORD}"'}
        )
    assert [place.partition(":")[0].rpartition("/")[2].rpartition(".")[2] for place in places.found()] == [
        "json",
        "leak",
    ]


def test_no_fault_shows_a_secret(
    nights: Nights,
    places: Places,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    nights.market.faults({**fault, "path": f"/ticker/{ticker}/range"} for ticker, fault in FAULTS.items())
    told = nights.ingest(tickers=[*FAULTS, "SPY"], start=SINCE, batch_size=7)
    assert told["state_name"] == "PartiallyCompleted"
    assert set(told["gaps"]) == {"failed", "empty", "unentitled", "unpublished"}, told["gaps"]
    spoken = [told, nights.retry()]
    nights.market.clear_faults()

    for stops in (
        lambda: nights.market.fault("status", status=401, body={"status": "ERROR", "error": SAID}),
        lambda: nights.market.fault("status", status=301, body="", headers={"Location": f"https://{KEY}.example/"}),
        lambda: nights.setenv("POLYGON_BASE_URL", f"http://127.0.0.1:9/{KEY}"),
        lambda: nights.setenv("POLYGON_BASE_URL", f"http://me:{KEY}@127.0.0.1:9"),
        lambda: nights.setenv("POLYGON_API_KEY", f"{KEY} and more"),
        lambda: _with_wrong_password(nights),
        lambda: nights.setenv("DATABASE_URL", f"postgresql://me:{PASSWORD}@db/bars"),
        lambda: nights.setenv("DATABASE_URL", f"mysql://me:{search.PASSWORD_CORE}@db/bars"),
    ):
        with monkeypatch.context() as context:
            nights.setenv = context.setenv
            stops()
            stopped = nights.ingest(tickers=["ORCL"], start=SINCE)
        nights.market.clear_faults()
        assert stopped["state_type"] == "FAILED"
        spoken.append(stopped)

    with monkeypatch.context() as context:
        context.setattr("urllib3.connection.HTTPConnection.request", _buggy)
        spoken.append(nights.ingest(tickers=["MSFT"], start=SINCE))
    assert "a bug in closingbell" in str(spoken[-1]["failed"])

    _sent()
    places.texts += [*spoken, nights.market.calls(), caplog.text, *capfd.readouterr(), repr(load()), str(load())]
    places.texts += [record.__dict__ for record in caplog.records]
    assert places.found() == []


def test_no_command_shows_a_secret(nights: Nights, places: Places, owner: sa.URL) -> None:
    nights.market.fault("status", status=401, body={"status": "ERROR", "error": SAID})
    settings = {"CLOSINGBELL_HOME": str(nights.home), "CLOSINGBELL_NOW": NOW, "POLYGON_BASE_URL": nights.market.url}
    wrong = owner.set(password=f"{PASSWORD} wrong").render_as_string(hide_password=False)
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    ingest = ("ingest", "--tickers", "AAPL", "--start", "2026-03-02")
    with search.ProcessList() as processes:
        running = [
            start(settings, *ingest),
            start(settings | away, *ingest),
            start(settings | {"DATABASE_URL": wrong}, "status"),
        ]
        told = [ended(process) for process in running]
    codes = [process.returncode for process in running]
    assert codes == [2, 2, 2], told
    assert processes.looks > 10
    assert processes.found == set()
    places.texts += [text for pair in told for text in pair]
    assert places.found() == []
    assert os.environ["POLYGON_API_KEY"] == KEY


def _with_wrong_password(nights: Nights) -> None:
    url = sa.make_url(os.environ["DATABASE_URL"]).set(password=f"{PASSWORD} wrong")
    nights.setenv("DATABASE_URL", url.render_as_string(hide_password=False))


def _buggy(*arguments: object, **named: object) -> None:
    raise RuntimeError(f"headers: {arguments} {named}")
