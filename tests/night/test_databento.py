"""A future's minutes from Databento: validated, bought once, committed in batches, whatever breaks in the middle."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

pytest.importorskip("databento", reason="the optional extra databento is not installed")

from closingbell.cli import cli
from closingbell.settings import load
from closingbell.store import open_store
from deployments.bootstrap import bootstrap
from tests.databento.gateway import KEY, Gateway, records
from tests.databento.minutes import KINDS, of_sessions, spoiled, walk
from tests.night.command import contents, start

pytestmark = [pytest.mark.prefect]

FIRST, LAST = date(2024, 1, 2), date(2024, 1, 26)
COUNT = 26_000

#: Ends the server's side of the connection that writes the 26th batch, in the middle of its transaction, once: what a
#: sequence has given is given, whatever becomes of the transaction.
CUT = """
CREATE SEQUENCE batch_number;
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('batch_number') = 26 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER cut AFTER INSERT ON bar FOR EACH STATEMENT EXECUTE FUNCTION cut();
"""


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """26,000 minutes, 64 of them bad; the contract rolls at two thirds."""
    ts = of_sessions(FIRST, LAST, COUNT)
    prices, _ = spoiled(walk(ts))
    instrument = np.where(np.arange(COUNT) < COUNT * 2 // 3, 118, 4358)
    with Gateway(tmp_path / "gateway") as running:
        running.series["NQ.v.0", "ohlcv-1m"] = records(ts, prices, np.arange(COUNT) % 97 + 1, instrument)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(running.certificate))
        yield running


@pytest.fixture
def environment(
    gateway: Gateway, prefect_api: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    monkeypatch.setattr("prefect.flow_engine.BaseFlowRunEngine.heartbeat_seconds", None)
    made = {
        "DATABASE_URL": database_url,
        "DATABENTO_API_KEY": KEY,
        "DATABENTO_GATEWAY": gateway.url,
        "DATABENTO_CALLS": "20/0.2s",
        "CLOSINGBELL_HOME": str(tmp_path / "home"),
        "CLOSINGBELL_NOW": "2026-03-10T02:00:00+00:00",
        "RETRY_DELAY": "0",
    }
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    bootstrap(load())
    return made


@pytest.fixture
def rows(database_url: str) -> Iterator[Callable[[str], list[Any]]]:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)

    def ask(query: str) -> list[Any]:
        with engine.begin() as connection:
            result = connection.exec_driver_sql(query)
            return list(result.all()) if result.returns_rows else []

    yield ask
    engine.dispose()


def ingest(environment: dict[str, str], **parameters: Any) -> dict[str, Any]:
    """Run the ingest flow; its report."""
    from flows.ingest import ingest as flow

    home = Path(environment["CLOSINGBELL_HOME"]) / "runs"
    before = set(home.glob("*.json"))
    asked: dict[str, Any] = {"tickers": ["NQ.v.0"], "timeframes": ["1m"], "start": FIRST, "end": LAST}
    flow(**{**asked, "source": "databento", **parameters}, return_state=True)  # type: ignore[call-overload]
    (new,) = set(home.glob("*.json")) - before
    told: dict[str, Any] = json.loads(new.read_text())
    return told


def test_batches_are_committed_one_by_one_and_a_cut_costs_a_retry(
    gateway: Gateway,
    environment: dict[str, str],
    rows: Callable[[str], list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows(CUT)
    with caplog.at_level(logging.INFO, "closingbell.loading"):
        told = ingest(environment)
    lines = [record.getMessage() for record in caplog.records if record.name == "closingbell.loading"]
    assert told["state"] == "Completed", told
    assert told["loading"] == {"received": 26_000, "valid": 25_936, "skipped": KINDS, "commits": 52, "retries": 1}
    assert told["quarantined"] == KINDS
    assert (told["planned_calls"], told["actual_calls"], told["inserted"], told["rewritten"]) == (1, 1, 25_936, 0)
    assert told["plan"]["usd"] == pytest.approx(COUNT * 56 * 280 / 1e9, abs=1e-4)
    assert told["unexplained"] == {}
    assert lines[0].endswith(
        "26,000 bars received, 25,936 valid, 64 skipped (16 missing_value, 24 ohlc_order, 24 out_of_bounds)"
    )
    assert lines[25] == "Batch 25/52 · 12,500/25,936 bars · commits 25 · retries 0"
    assert lines[26] == "Batch 26/52 · 13,000/25,936 bars · commits 26 · retries 1"
    assert lines[52:] == ["Batch 52/52 · 25,936/25,936 bars · commits 52 · retries 1"]
    sent = gateway.series["NQ.v.0", "ohlcv-1m"]
    _, bad = spoiled(walk(of_sessions(FIRST, LAST, COUNT)))
    good = np.delete(sent, bad)
    stored = rows("SELECT ts, open, high, low, close, volume FROM bar ORDER BY ts")
    assert [round(row[0].timestamp()) * 10**9 for row in stored] == good["ts_event"].tolist()
    for at, name in enumerate(("open", "high", "low", "close"), 1):
        assert [round(row[at] * 1e9) for row in stored] == good[name].tolist()
    kept = rows("SELECT extract(epoch FROM ts)::bigint * 1000000000, rule FROM quarantine ORDER BY ts")
    assert [int(ns) for ns, _ in kept] == sent["ts_event"][bad].tolist()
    assert rows("SELECT count(*) FROM gap") == [(0,)]
    assert rows("SELECT first_session, last_session FROM watermark") == [(FIRST, LAST)]
    rolled = rows("SELECT extract(epoch FROM ts)::bigint * 1000000000, instrument_id FROM roll ORDER BY ts")
    assert [(int(ns), number) for ns, number in rolled] == [
        (sent["ts_event"][at], sent["instrument_id"][at]) for at in (0, COUNT * 2 // 3)
    ]
    assert KEY not in caplog.text
    again = ingest(environment)
    assert (again["planned_calls"], again["actual_calls"], again["loading"]["commits"]) == (0, 0, 0)
    assert len(gateway.of("get_range")) == 1


def test_the_plan_says_what_it_costs_and_a_limit_stops_it(
    gateway: Gateway,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("NQ.v.0", "--source", "databento", "--timeframe", "1m", "--start", "2024-01-02", "--end", "2024-01-03")
    cli.main(["plan", *asked, "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    usd = pytest.approx(2_760 * 56 * 280 / 1e9, abs=1e-4)
    assert (told["planned_calls"], told["splits"], told["usd"]) == (1, 0, usd)
    gateway.end = "2024-01-04T12:00:00Z"
    told = ingest(environment, start=date(2024, 1, 3), end=date(2024, 1, 9))
    assert told["notes"] == ["the vendor has bars up to 2024-01-03 by now: asking up to then"]
    assert told["expected_cells"] == 1
    monkeypatch.setenv("DATABENTO_MAX_USD", "0.01")
    gateway.end = "2026-01-01T00:00:00Z"
    told = ingest(environment)
    assert "costs more than it may" in told["error"]
    assert len(gateway.of("get_range")) == 1


def test_a_killed_load_goes_on_where_it_was(
    environment: dict[str, str], rows: Callable[[str], list[Any]], gateway: Gateway
) -> None:
    rows("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END$$")
    rows("CREATE TRIGGER slow AFTER INSERT ON bar FOR EACH STATEMENT EXECUTE FUNCTION slow()")
    asked = (
        "ingest",
        "--source",
        "databento",
        "NQ.v.0",
        "--timeframe",
        "1m",
        "--start",
        str(FIRST),
        "--end",
        str(LAST),
    )
    process = start(environment, *asked)
    deadline = time.monotonic() + 120
    while rows("SELECT count(*) FROM bar")[0][0] < 2_000 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    rows("DROP TRIGGER slow ON bar")
    ((stored,),) = rows("SELECT count(*) FROM bar")
    assert 2_000 <= stored < 25_936
    counted = rows(
        "SELECT b.session, count(*), max(g.last_error) FROM bar b LEFT JOIN gap g ON g.session = b.session"
        " JOIN watermark w ON b.session BETWEEN w.first_session AND w.last_session GROUP BY 1 ORDER BY 1"
    )
    whole = [(day, count) for day, count, error in counted if error is None]
    assert all(count >= 1_370 for _, count in whole)  # up to a few of each are bad
    assert [error for *_, error in counted if error] in ([], ["some of its bars are stored, not all"])
    told = ingest(environment)
    assert (told["state"], told["inserted"], told["rewritten"]) == ("Completed", 25_936 - stored, 0)
    assert told["mended"] == {}
    asked_again = re.match(r"(\S+)T", gateway.of("get_range")[-1]["start"])
    assert asked_again
    assert date.fromisoformat(asked_again[1]) >= max(day for day, _ in whole)
    bars, gaps, marks, apart, *_ = contents(environment["DATABASE_URL"])
    assert (len(bars), gaps, len(apart)) == (25_936, [], 64)
    assert marks == [("NQ.v.0", "1m", FIRST, LAST)]
    with closing(open_store(environment["DATABASE_URL"])) as store:
        assert not any(sums.damage for sums in store.records.audit().values())
