"""Holes in bars and ledger are found and filled by the next run, with the fewest calls; answers only in their time."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from closingbell.cli import CELLS_FAILED, OK, cli
from closingbell.store import Store
from tests.night.command import contents
from tests.night.conftest import NOW, Nights

pytestmark = pytest.mark.prefect

SPAN = {"start": "2026-01-12", "end": "2026-03-06"}


def execute(store: Store, statement: str, **values: Any) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def doctor() -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    told = json.loads(result.stdout)
    assert {check["check"] for check in told.pop("checks")} >= {
        "settings",
        "home",
        "key",
        "database",
        "prefect",
        "limit",
    }
    return result.exit_code, told


def test_what_was_deleted_behind_its_back_is_found_and_fetched_with_the_fewest_calls(
    nights: Nights, store: Store, database_url: str
) -> None:
    nights.ingest(universe="sp500+etfs", **SPAN)
    before = contents(database_url)
    seed = random.randrange(2**32)
    chosen = random.Random(seed)
    with store.engine.connect() as connection:
        bars = connection.execute(sa.text("SELECT ticker, session FROM bar ORDER BY 1, 2")).all()
        marks = list(connection.execute(sa.text("SELECT ticker FROM watermark ORDER BY 1")).scalars())
    lost = {(ticker, session) for ticker, session in chosen.sample(bars, 1_000)}
    unmarked = chosen.sample(marks, 50)
    execute(
        store,
        "DELETE FROM bar USING unnest(CAST(:tickers AS text[]), CAST(:days AS date[])) AS gone (ticker, session) "
        "WHERE bar.ticker = gone.ticker AND bar.session = gone.session",
        tickers=[ticker for ticker, _ in lost],
        days=[session for _, session in lost],
    )
    execute(store, "DELETE FROM watermark WHERE ticker = ANY(:tickers)", tickers=unmarked)

    code, told = doctor()
    assert (code, told["ok"]) == (CELLS_FAILED, False)
    (damage,) = told["damage"]
    assert {(ticker, day) for ticker, day in damage["lost"]} == {(t, str(d)) for t, d in lost}, f"seed {seed}"
    assert set(damage["orphans"]) == set(unmarked)

    nights.market.clear_calls()
    report = nights.ingest(universe="sp500+etfs", **SPAN)
    assert report["state"] == "Completed"
    assert report["inserted"] == 1_000
    assert report["rewritten"] == 0
    assert report["mended"] == {"lost": 1_000, "watermarks": 50}
    assert len(nights.bar_calls()) == fewest(lost), f"seed {seed}"
    assert contents(database_url)[:3] == before[:3]
    assert doctor() == (OK, {"ok": True, "splits_lost": {}, "unexplained": {}, "cells": len(bars), "damage": []})


def test_lost_splits_and_quarantined_bars_are_missed_and_come_back(nights: Nights, store: Store) -> None:
    for day in ("2025-12-01", "2026-01-12", "2026-02-02"):
        nights.market.split("AAPL", day, 1, 2)
    nights.market.fault("revise", ticker="AAPL", date="2026-03-03", values={"high": 0.01})
    asked = {"tickers": ["AAPL"], "start": "2025-11-03", "end": "2026-03-06"}
    nights.ingest(**asked)
    tables = ("SELECT ticker, execution_date, split_to FROM split ORDER BY 1, 2", "SELECT ticker, rule FROM quarantine")
    with store.engine.connect() as connection:
        before = [connection.execute(sa.text(table)).all() for table in tables]
    execute(store, "DELETE FROM split WHERE ticker = 'AAPL' AND execution_date < '2026-02-01'")
    execute(store, "DELETE FROM quarantine")
    code, told = doctor()
    assert (code, told["splits_lost"], told["unexplained"]) == (CELLS_FAILED, {"polygon": 2}, {"AAPL": 1})
    nights.market.clear_calls()
    report = nights.ingest(**asked)
    assert (len(nights.bar_calls()), len(nights.paths())) == (1, 2)
    assert (report["mended"], report["gaps"]) == ({"unproven": 1}, {"quarantined": 1})
    with store.engine.connect() as connection:
        assert [connection.execute(sa.text(table)).all() for table in tables] == before
    assert doctor()[0] == OK


def test_a_ticker_of_which_nothing_is_left_is_missed(nights: Nights, store: Store) -> None:
    nights.ingest(tickers=["AAPL", "MSFT"], start="2026-03-02", end="2026-03-06")
    execute(store, "DELETE FROM watermark WHERE ticker = 'MSFT'")
    execute(store, "DELETE FROM bar WHERE ticker = 'MSFT'")
    assert doctor()[1]["unexplained"] == {"MSFT": 6}
    report = nights.retry(run_id="all")
    assert (report["inserted"], report["mended"]) == (5, {"lost": 5, "watermarks": 1})
    assert doctor()[0] == OK


def fewest(cells: set[tuple[str, Any]]) -> int:
    """The size of a maximum matching: by König's theorem as many calls as the best plan has."""
    tickers = {ticker: i for i, ticker in enumerate(sorted({ticker for ticker, _ in cells}))}
    days = {day: i for i, day in enumerate(sorted({day for _, day in cells}))}
    mask = np.zeros((len(tickers), len(days)), np.bool_)
    for ticker, day in cells:
        mask[tickers[ticker], days[day]] = True
    return int(np.count_nonzero(maximum_bipartite_matching(csr_array(mask)) >= 0))


def test_a_lost_gap_is_asked_for_again(nights: Nights, store: Store) -> None:
    """A share that was not listed yet: its empty sessions are a fact that can be lost as well."""
    nights.market.fault("revise", ticker="AAPL", date="2026-03-03", values=None)
    nights.ingest(tickers=["AAPL"], start="2026-03-02", end="2026-03-06")
    execute(store, "DELETE FROM gap")
    assert doctor()[1]["unexplained"] == {"AAPL": 1}
    nights.market.clear_calls()
    report = nights.ingest(tickers=["AAPL"], start="2026-03-02", end="2026-03-06")
    assert (report["gaps"], len(nights.bar_calls())) == ({"empty": 1}, 1)


def test_a_gap_beside_its_bar_is_closed_without_a_call(nights: Nights, store: Store) -> None:
    nights.ingest(tickers=["AAPL"], start="2026-03-02", end="2026-03-06")
    execute(
        store,
        "INSERT INTO gap (source, ticker, timeframe, session, reason, attempts, run_id) "
        "VALUES ('polygon', 'AAPL', '1d', '2026-03-04', 'empty', 1, gen_random_uuid())",
    )
    assert doctor()[1]["unexplained"] == {"AAPL": 1}
    nights.market.clear_calls()
    report = nights.ingest(tickers=["AAPL"], start="2026-03-02", end="2026-03-06")
    assert (report["mended"], report["stored_bars"], nights.bar_calls()) == ({"contradicted": 1}, 5, [])


def test_an_empty_answer_stands_for_a_month_and_a_bad_bar_for_a_day(nights: Nights) -> None:
    asked = {"tickers": ["AAPL", "MSFT"], "start": "2026-03-02", "end": "2026-03-06"}
    nights.market.fault("revise", ticker="AAPL", date="2026-03-03", values=None)
    nights.market.fault("revise", ticker="MSFT", date="2026-03-04", values={"high": 0.01})
    assert nights.ingest(**asked)["gaps"] == {"empty": 1, "quarantined": 1}
    nights.market.clear_faults()

    assert calls_after(nights, timedelta(hours=20), asked) == []
    (call,) = calls_after(nights, timedelta(days=1), asked)
    assert "/ticker/MSFT/" in call
    assert calls_after(nights, timedelta(days=29), asked) == []
    (call,) = calls_after(nights, timedelta(days=30), asked)
    assert "/ticker/AAPL/" in call
    assert nights.ingest(**asked)["gaps"] == {}


def test_answers_are_asked_for_again_at_once_when_somebody_says_so(nights: Nights) -> None:
    asked = {"tickers": ["AAPL"], "start": "2026-03-02", "end": "2026-03-06"}
    nights.market.fault("revise", ticker="AAPL", date="2026-03-03", values=None)
    nights.ingest(**asked)
    nights.market.clear_faults()
    assert nights.ingest(**asked)["gaps"] == {"empty": 1}
    assert nights.ingest(**asked, ask_again=True)["gaps"] == {}


def test_the_nightly_heals_what_failed_before_its_own_first_session(nights: Nights) -> None:
    nights.market.fault("status", path="/ticker/AAPL/", status=500)
    long_ago = {"tickers": ["AAPL"], "start": "2019-06-03", "end": "2019-06-07"}
    assert nights.ingest(**long_ago)["gaps"] == {"failed": 5}
    nights.market.clear_faults()
    nights.market.clear_calls()
    report = nights.ingest(tickers=["AAPL"])
    assert report["gaps"] == {}
    (call,) = nights.bar_calls()
    assert "/2019-06-03/" in call


def calls_after(nights: Nights, later: timedelta, asked: dict[str, Any]) -> list[str]:
    """The calls for bars of a run so much later than the first."""
    now = datetime.fromisoformat(NOW) + later
    nights.market.set_now(now)
    nights.setenv("CLOSINGBELL_NOW", now.isoformat())
    nights.market.clear_calls()
    nights.ingest(**asked)
    return nights.bar_calls()
