"""Coarser bars of stored minutes, without a call; and real minutes from the market into the database and back."""

from __future__ import annotations

from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from closingbell.store import open_store
from infra.market.process import MarketProcess
from tests.minutes import read_minutes
from tests.night.conftest import NOW, Nights

DAYS = {"start": "2026-03-02", "end": "2026-03-06"}
RULES = {"5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "1d": "1D"}
HOW = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


def stored(nights: Nights, ticker: str, timeframe: str) -> pd.DataFrame:
    """The bars of a ticker, by naive UTC instants."""
    engine = sa.create_engine(nights.database_url, poolclass=sa.NullPool)
    query = sa.text(
        "SELECT ts, open, high, low, close, volume, vwap, trades, source, session FROM bar "
        "WHERE ticker = :ticker AND timeframe = :timeframe ORDER BY ts"
    )
    with engine.connect() as connection:
        frame = pd.read_sql(query, connection, params={"ticker": ticker, "timeframe": timeframe}, index_col="ts")
    frame.index = pd.DatetimeIndex(frame.index).tz_convert("UTC").tz_localize(None)
    return frame


def execute(nights: Nights, text: str) -> list[Any]:
    engine = sa.create_engine(nights.database_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sa.text(text))
        return list(result) if result.returns_rows else []


def assert_made_of(made: pd.DataFrame, minutes: pd.DataFrame, timeframe: str) -> None:
    wanted = minutes.resample(RULES[timeframe]).agg(HOW).dropna(subset=["close"])
    assert list(made.index) == list(wanted.index)
    for name in ("open", "high", "low", "close"):
        np.testing.assert_array_equal(made[name], wanted[name])
    np.testing.assert_allclose(made["volume"], wanted["volume"], rtol=1e-14)


def assert_stored(nights: Nights, ticker: str, frame: pd.DataFrame, count: int) -> None:
    """Every minute of a file is in the database, and none was altered."""
    minutes = stored(nights, ticker, "1m")
    assert len(minutes) == len(frame) == count
    assert list(minutes.index) == list(frame.index)
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(minutes[name].to_numpy(float), frame[name].to_numpy(float))


def test_coarser_bars_are_made_without_a_call(nights: Nights) -> None:
    """Of what is stored, again only of what changed, and with the minutes' own gaps."""
    told = nights.ingest(tickers=["AAPL", "NOSUCH"], timeframes=["1m", "5m", "1h"], derive=True, **DAYS)
    assert told["state"] == "Completed"
    calls = nights.bar_calls()
    assert len(calls) == 2  # a range of minutes a ticker
    minutes = stored(nights, "AAPL", "1m")
    for timeframe in ("5m", "1h"):
        made = stored(nights, "AAPL", timeframe)
        assert_made_of(made, minutes, timeframe)
        assert set(made["source"]) == {"polygon:1m"}
    of_parts = {part["timeframe"]: (part["expected_cells"], part["stored_cells"]) for part in told["parts"]}
    assert of_parts == {"1m": (10, 5), "5m": (10, 5), "1h": (10, 5)}
    gaps = execute(nights, "SELECT DISTINCT source, timeframe, reason FROM gap ORDER BY 1, 2")
    assert [tuple(row) for row in gaps] == [
        ("polygon", "1m", "empty"),
        ("polygon:1m", "1h", "empty"),
        ("polygon:1m", "5m", "empty"),
    ]

    again = nights.ingest(tickers=["AAPL", "NOSUCH"], timeframes=["5m", "1h", "15m"], derive=True, **DAYS)
    assert (again["planned_calls"], again["actual_calls"], again["rewritten"]) == (0, 0, 0)
    assert again["inserted"] == len(stored(nights, "AAPL", "15m"))
    assert nights.bar_calls() == calls


def makers(nights: Nights, timeframe: str) -> dict[str, set[str]]:
    """The runs that wrote the derived bars of each session."""
    query = f"SELECT session, run_id FROM bar WHERE timeframe = '{timeframe}' AND source LIKE '%_1m'"  # noqa: S608
    found: dict[str, set[str]] = {}
    for session, run_id in execute(nights, query):
        found.setdefault(str(session), set()).add(str(run_id))
    return found


def test_changed_minutes_make_exactly_their_sessions_again(nights: Nights) -> None:
    asked: dict[str, Any] = {"tickers": ["AAPL"], "timeframes": ["1m", "1h"], "derive": True, **DAYS}
    nights.ingest(**{**asked, "timeframes": ["1m"]})
    # What the vendor is going to correct.
    execute(nights, "UPDATE bar SET low = low / 2 WHERE ts = '2026-03-04 16:07+00' AND timeframe = '1m'")
    first = nights.ingest(**asked)
    assert stored(nights, "AAPL", "1h")["low"].idxmin() == pd.Timestamp("2026-03-04 16:00")
    told = nights.ingest(**asked, recheck_sessions=5)
    assert told["state"] == "Completed"
    assert_made_of(stored(nights, "AAPL", "1h"), stored(nights, "AAPL", "1m"), "1h")
    written = {day for day, runs in makers(nights, "1h").items() if told["run_id"] in runs}
    assert written == {"2026-03-04"}
    assert all(runs == {first["run_id"]} for day, runs in makers(nights, "1h").items() if day not in written)

    # A whole hour's minutes are taken out: its bar goes. They come back: so does the bar.
    store = open_store(nights.database_url)
    with closing(store):
        minutes = store.records.series("polygon", "1m", ("AAPL",), date(2026, 3, 5), date(2026, 3, 5))
        hour = minutes.where(minutes.rows["ts"].astype("M8[h]") == np.datetime64("2026-03-05T16"))
        writer, at = store.writer, datetime.fromisoformat(NOW)
        gone = writer.take_out(UUID(told["run_id"]), "polygon", "1m", hour, ["off_scale"] * len(hour), at)
        assert len(gone) == len(hour) > 0
        store.records.end_run(UUID(told["run_id"]), told["state"], told)  # the bars were gone before it had ended
        nights.ingest(**asked)
        made = stored(nights, "AAPL", "1h")
        assert pd.Timestamp("2026-03-05 16:00") not in made.index
        assert_made_of(made, stored(nights, "AAPL", "1m"), "1h")
        assert not store.records.audit()["polygon:1m", "1h"].damage
    nights.ingest(**asked, recheck_sessions=5)
    made = stored(nights, "AAPL", "1h")
    assert pd.Timestamp("2026-03-05 16:00") in made.index
    assert_made_of(made, stored(nights, "AAPL", "1m"), "1h")


def test_what_a_vendor_made_itself_is_left_to_it(nights: Nights) -> None:
    nights.ingest(tickers=["AAPL"], timeframes=["30m"], start="2026-03-03", end="2026-03-03")
    told = nights.ingest(tickers=["AAPL"], timeframes=["1m", "30m"], derive=True, **DAYS)
    assert told["state"] == "Completed"
    made = stored(nights, "AAPL", "30m")
    by_source = made.groupby(made["session"].astype(str))["source"].unique().map(list).to_dict()
    assert by_source.pop("2026-03-03") == ["polygon"]
    assert by_source == {f"2026-03-0{day}": ["polygon:1m"] for day in (2, 4, 5, 6)}

    # And what was derived gives way to the vendor's, where that differs.
    execute(nights, "UPDATE bar SET high = high + 1 WHERE timeframe = '30m' AND ts = '2026-03-05 15:00+00'")
    told = nights.ingest(tickers=["AAPL"], timeframes=["30m"], **DAYS)
    assert (told["state"], told["inserted"]) == ("Completed", 0)
    changed = stored(nights, "AAPL", "30m").loc["2026-03-05 15:00"]
    assert (changed["source"], changed["high"]) == ("polygon", made.loc["2026-03-05 15:00", "high"])
    again = nights.ingest(tickers=["AAPL"], timeframes=["30m"], derive=True, **DAYS)
    assert (again["state"], again["rewritten"]) == ("Completed", 0)


def test_without_minutes_there_is_nothing_to_derive_from(nights: Nights) -> None:
    told = nights.ingest(tickers=["AAPL"], timeframes=["1h"], derive=True, **DAYS)
    assert (told["state"], told["actual_calls"]) == ("Failed", 0)
    assert "no stored 1m bars of polygon" in told["error"]
    assert "--timeframe 1m" in told["error"]


@pytest.mark.data
def test_real_minutes_are_stored_as_they_are(nights: Nights, data: Path, tmp_path: Path) -> None:
    """From the market that has them and nothing else, by the vendor's protocol."""
    path = data / "intraday" / "btc_perp_1m_2022-01.csv"
    frame = read_minutes(path)
    replay = tmp_path / "X:BTCUSD_1m.csv"
    replay.symlink_to(path)
    now = "2022-02-03T06:00:00+00:00"
    with MarketProcess(replay=replay, now=now) as market:
        nights.setenv("POLYGON_BASE_URL", market.url)
        nights.setenv("CLOSINGBELL_NOW", now)
        asked = {
            "tickers": ["X:BTCUSD"],
            "start": "2021-12-31",
            "end": "2022-02-01",
            "timeframes": ["1m", "5m", "1h", "1d"],
            "derive": True,
        }
        told = nights.ingest(**asked)
        assert (told["state"], told["quarantined"], told["planned_calls"]) == ("Completed", {}, told["actual_calls"])
        assert_stored(nights, "X:BTCUSD", frame, 45_031)
        for timeframe in ("5m", "1h", "1d"):
            assert_made_of(stored(nights, "X:BTCUSD", timeframe), frame, timeframe)
        again = nights.ingest(**asked)
        assert (again["actual_calls"], again["inserted"], again["rewritten"]) == (0, 0, 0)


@pytest.mark.data
def test_real_minutes_of_a_future_come_by_its_own_vendor(nights: Nights, data: Path, tmp_path: Path) -> None:
    """Over TLS by the vendor's client; their sessions begin at 17:00 Chicago, and no hour spans two."""
    pytest.importorskip("databento", reason="the optional extra databento is not installed")
    from tests.databento.gateway import KEY, Gateway, records

    path = data / "intraday" / "6EH4_1m_2024-01.csv.gz"
    frame = read_minutes(path)
    prices = frame[["open", "high", "low", "close"]].to_numpy()
    with Gateway(tmp_path / "gateway") as gateway:
        gateway.series["6E.v.0", "ohlcv-1m"] = records(frame.index.to_numpy(), prices, frame["volume"].to_numpy())
        for name, value in {
            "REQUESTS_CA_BUNDLE": str(gateway.certificate),
            "DATABENTO_GATEWAY": gateway.url,
            "DATABENTO_API_KEY": KEY,
        }.items():
            nights.setenv(name, value)
        nights.quota("20/0.2s")
        asked: dict[str, Any] = {
            "tickers": ["6E.v.0"],
            "start": "2024-01-02",
            "end": "2024-02-01",
            "timeframes": ["1m", "5m", "1h"],
            "derive": True,
            "source": "databento",
        }
        told = nights.ingest(**asked)
        assert (told["state"], told["quarantined"]) == ("Completed", {})
        assert_stored(nights, "6E.v.0", frame, 29_996)
        for timeframe in ("5m", "1h"):
            made = stored(nights, "6E.v.0", timeframe)
            assert_made_of(made, frame, timeframe)
            assert set(made["source"]) == {"databento:1m"}
        again = nights.ingest(**asked)
        assert (again["actual_calls"], again["inserted"], again["rewritten"]) == (0, 0, 0)
