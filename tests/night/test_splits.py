"""Splits as facts: raw bars stay, the view follows the vendor's own adjusted series, and no night costs a call more."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.request import urlopen
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import sqlalchemy as sa

from closingbell.calendar import calendar_for
from closingbell.store import Store
from closingbell.universe import load
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

FIRST, LAST = date(2021, 3, 8), date(2026, 3, 6)
TICKERS = load("etfs")
RATIOS = ((1, 2), (1, 3), (2, 3), (1, 4), (1, 10), (1, 20), (10, 1), (5, 1), (25, 1), (4, 5), (1000, 961))
NEW_YORK = ZoneInfo("America/New_York")


def night_after(session: date) -> datetime:
    """When the nightly run starts that brings a session."""
    return datetime.combine(session + timedelta(days=1), time(1, 30), NEW_YORK).astimezone(UTC)


def go_to(nights: Nights, now: datetime) -> None:
    nights.market.set_now(now)
    nights.setenv("CLOSINGBELL_NOW", now.isoformat())


def rows(store: Store, statement: str, **values: Any) -> list[Any]:
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement), values)]


def adjusted_by_the_market(nights: Nights, ticker: str, last: date) -> dict[date, tuple[float, ...]]:
    url = f"{nights.market.url}/v2/aggs/ticker/{ticker}/range/1/day/{FIRST}/{last}?adjusted=true&limit=50000&apiKey=k"
    with urlopen(url) as answer:  # noqa: S310  # loopback http
        bars = json.load(answer)["results"]
    days = [datetime.fromtimestamp(bar["t"] / 1000, NEW_YORK).date() for bar in bars]
    return {day: tuple(bar[name] for name in "ohlcv") for day, bar in zip(days, bars, strict=True)}


def holds_the_markets_prices(nights: Nights, store: Store, last: date) -> None:
    """Every bar of the view equals the market's adjusted one."""
    for ticker in TICKERS:
        theirs = adjusted_by_the_market(nights, ticker, last)
        ours = {
            session: values
            for session, *values in rows(
                store,
                "SELECT session, open, high, low, close, volume FROM bar_adjusted WHERE ticker = :ticker ORDER BY ts",
                ticker=ticker,
            )
        }
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(np.array([*ours.values()]), np.array([*theirs.values()]), rtol=1e-9, err_msg=ticker)


@pytest.mark.soak
def test_forty_splits_in_five_years(nights: Nights, store: Store) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    week = calendar_for("stocks").sessions(date(2026, 2, 23), LAST).tolist()
    past = calendar_for("stocks").sessions(FIRST + timedelta(days=7), date(2026, 2, 13)).tolist()
    for number in range(34):
        nights.market.split(TICKERS[number % 15], chance.choice(past[number::34]), *chance.choice(RATIOS))
    late, wrong, moved, twice, back = TICKERS[15:]
    nights.market.split(twice, week[1], 1, 4, copies=2)
    nights.market.split(twice, week[3], 10, 1)
    nights.market.split(late, week[2], 1, 2, announced=night_after(week[5]) - timedelta(hours=1))
    nights.market.split(wrong, week[4], 1, 3, first={"split_to": 2}, corrected=night_after(week[6]))
    nights.market.split(moved, week[5], 1, 5, first={"day": str(week[3])}, corrected=night_after(week[6]))
    nights.market.split(back, week[6], 1, 2, moves=False, retracted=night_after(week[8]))

    go_to(nights, night_after(date(2026, 2, 20)))
    asked = {"tickers": list(TICKERS), "start": str(FIRST)}
    assert nights.ingest(**asked)["state"] == "Completed"
    holds_the_markets_prices(nights, store, date(2026, 2, 20))
    raw = "SELECT ticker, session, open, high, low, close, volume FROM bar WHERE session <= '2026-02-20' ORDER BY 1, 2"
    before = rows(store, raw)
    known: dict[datetime, list[Any]] = {}
    closes = "SELECT ticker, session, close FROM {} ORDER BY ticker, session"
    for session in week:
        go_to(nights, night_after(session))
        nights.market.clear_calls()
        report = nights.ingest(**asked)
        kinds = sorted("splits" if "splits" in path else "market day" for path in nights.paths())
        assert kinds == ["market day", "splits"], f"seed {seed}, {session}"
        assert (report["inserted"], report["rewritten"]) == (len(TICKERS), 0)
        holds_the_markets_prices(nights, store, session)
        known[night_after(session)] = rows(store, closes.format("bar_adjusted"))
    assert rows(store, raw) == before
    assert rows(store, "SELECT count(*) FROM revision") == [(0,)]
    told = dict(rows(store, "SELECT ticker, new_split_to FROM split_revision"))
    assert told == {wrong: 3.0, moved: None, back: None}
    for instant, then in known.items():
        assert rows(store, closes.format("bar_adjusted_as_of(:instant)"), instant=instant) == then, f"seed {seed}"
