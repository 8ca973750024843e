"""A file's bars come out as they went in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from closingbell.errors import ConfigurationError
from infra.market.process import MarketProcess
from infra.market.replay import Replay
from tests.minutes import read_minutes

Get = Callable[..., httpx.Response]

CSV = """date,open,high,low,close,volume,ticker,note
2024-01-02,10.5,11,10.25,10.75,1000000,AAA,x
2024-01-03,,11,10.25,10.75,1200,AAA,x
2024-01-05,10.123456789,11,10,10.5,0,AAA,x
2024-01-02,5,5,5,5,250.5,BB.A,x
"""

MINUTES = """timestamp,open,high,low,close,volume
2024-01-02 14:30:00,1.5,2,1,1.75,10
2024-01-02 14:31:00,1.75,3,1.5,2.5,20
2024-01-03 01:00:00,9,9,9,9,1
"""


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "bars.csv"
    path.write_text(CSV)
    return path


def test_rows_are_served_as_they_are(csv: Path, getter: Callable[..., Get]) -> None:
    with MarketProcess(replay=csv) as market:
        ask = getter(market)
        body = ask("/v2/aggs/ticker/AAA/range/1/day/2024-01-01/2024-01-31").json()
        assert body["results"] == [
            {"v": 1e6, "o": 10.5, "c": 10.75, "h": 11, "l": 10.25, "t": 1704171600000},
            {"v": 1200, "o": None, "c": 10.75, "h": 11, "l": 10.25, "t": 1704258000000},
            {"v": 0, "o": 10.123456789, "c": 10.5, "h": 11, "l": 10, "t": 1704430800000},
        ]
        day = ask("/v2/aggs/grouped/locale/us/market/stocks/2024-01-02").json()["results"]
        assert [(row["T"], row["v"]) for row in day] == [("AAA", 1e6), ("BB.A", 250.5)]
        assert {row["t"] for row in day} == {1704229200000}
        assert ask("/v2/aggs/grouped/locale/us/market/stocks/2024-01-04").json()["resultsCount"] == 0
        assert ask("/v2/aggs/ticker/MSFT/range/1/day/2024-01-01/2024-01-31").json()["resultsCount"] == 0
        assert ask("/v3/reference/tickers/MSFT").status_code == 404
        assert [t["ticker"] for t in ask("/v3/reference/tickers").json()["results"]] == ["AAA", "BB.A"]
        assert ask("/v3/reference/splits").json()["results"] == []
        market.fault("revise", ticker="AAA", date="2024-01-04", values={"o": 1, "h": 1, "l": 1, "c": 1, "v": 9})
        assert ask("/v2/aggs/grouped/locale/us/market/stocks/2024-01-04").json()["results"][0]["v"] == 9


def test_a_minute_file_is_served_by_the_minute_and_by_the_day(tmp_path: Path, getter: Callable[..., Get]) -> None:
    path = tmp_path / "FUND_1m.csv"
    path.write_text(MINUTES)
    with MarketProcess(replay=path) as market:
        ask = getter(market)
        minutes = ask("/v2/aggs/ticker/FUND/range/1/minute/2024-01-02/2024-01-02").json()["results"]
        assert [row["t"] for row in minutes] == [1704205800000, 1704205860000, 1704243600000]
        (day,) = ask("/v2/aggs/ticker/FUND/range/1/day/2024-01-02/2024-01-02").json()["results"]
        assert (day["o"], day["h"], day["l"], day["c"], day["v"]) == (1.5, 9, 1, 9, 31)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.csv", None, "does not exist"),
        ("short.csv", "date,open,high,low,close,ticker\n", "lacks columns: .*volume"),
        ("dateless.csv", "open,high,low,close,volume,ticker\n", "lacks columns: .*date"),
        ("broken.parquet", "not parquet", "cannot be read"),
        ("folder", None, "has no files"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        Replay(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(path: Path) -> None:
        raise ImportError("pyarrow")

    monkeypatch.setattr(pd, "read_parquet", unavailable)
    (tmp_path / "bars.parquet").touch()
    with pytest.raises(ConfigurationError, match=r"closingbell\[replay\]"):
        Replay(tmp_path / "bars.parquet")


@pytest.mark.data
def test_five_real_years_come_out_bit_for_bit(getter: Callable[..., Get]) -> None:
    root = os.environ.get("CLOSINGBELL_DATA")
    if not root:
        pytest.skip("CLOSINGBELL_DATA is not set: there are no real bars to replay")
    path = Path(root) / "daily" / "sp500_5yr.parquet"
    frame = pd.read_parquet(path)
    with MarketProcess(replay=path) as market:
        ask = getter(market)
        holed = frame[frame["open"].isna()].iloc[0]
        for ticker in ("AAPL", "BRK.B", "LNT", holed["ticker"]):
            served = json.loads(ask(f"/v2/aggs/ticker/{ticker}/range/1/day/2013-02-08/2018-02-07?limit=50000").content)
            mine = frame[frame["ticker"] == ticker].sort_values("date")
            for column in ("open", "high", "low", "close", "volume"):
                got = np.array([row[column[0]] for row in served["results"]], float)
                np.testing.assert_array_equal(got, mine[column].to_numpy(float))
        day = ask("/v2/aggs/grouped/locale/us/market/stocks/2016-05-19").json()["results"]
        assert len(day) == (frame["date"].astype(str) == "2016-05-19").sum()


def test_a_folder_is_served_as_one_market(tmp_path: Path, csv: Path) -> None:
    (tmp_path / "FUND_1m.csv").write_text(MINUTES)
    (tmp_path / "README.md").write_text("no bars")
    whole = Replay(tmp_path)
    assert whole.tickers == ("AAA", "BB.A", "FUND")
    first, last = np.datetime64("2024-01-01"), np.datetime64("2024-01-31")
    counts = {t: (len(whole.days(t, first, last)), len(whole.minutes(t, first, last))) for t in whole.tickers}
    assert counts == {"AAA": (3, 0), "BB.A": (1, 0), "FUND": (1, 3)}
    (tmp_path / "FUND_1d.csv").write_text(CSV.replace("AAA", "FUND"))
    with pytest.raises(ConfigurationError, match="daily bars and one of minutes"):
        Replay(tmp_path)


@pytest.mark.data
def test_real_minutes_come_out_bit_for_bit_in_pages(tmp_path: Path, data: Path, getter: Callable[..., Get]) -> None:
    """And the hours and days of the same market are made of them."""
    files = {"X:BTCUSD": "btc_perp_1m_2022-01.csv", "C:EURUSD": "6EH4_1m_2024-01.csv.gz"}
    for ticker, name in files.items():
        (tmp_path / f"{ticker}_{name}").symlink_to(data / "intraday" / name)
    with MarketProcess(replay=tmp_path) as market:
        for ticker, name in files.items():
            frame = read_minutes(data / "intraday" / name)
            days = f"{frame.index[0]:%Y-%m-%d}/{frame.index[-1]:%Y-%m-%d}"
            path = f"/v2/aggs/ticker/{ticker}/range/{{}}/{days}?limit=20000"
            served, pages = _pages(getter(market), path.format("1/minute"))
            assert pages == -(-len(frame) // 20_000)  # the limit counts minutes
            for column in ("open", "high", "low", "close", "volume"):
                got = np.array([row[column[0]] for row in served], float)
                np.testing.assert_array_equal(got, frame[column].to_numpy(float))
            at = np.array([row["t"] for row in served]).astype("M8[ms]")
            np.testing.assert_array_equal(at, frame.index.to_numpy())
            for span, rule in (("5/minute", "5min"), ("1/hour", "1h"), ("1/day", "1D")):
                coarser, pages = _pages(getter(market), path.format(span))
                wanted = frame.resample(rule).agg({"high": "max", "low": "min", "close": "last"}).dropna()
                assert pages == (1 if rule == "1D" else -(-len(frame) // 20_000))
                got = np.array([(row["h"], row["l"], row["c"]) for row in coarser])
                np.testing.assert_array_equal(got, wanted.to_numpy())


def _pages(ask: Get, path: str) -> tuple[list[dict[str, float]], int]:
    """All rows of a range, and in how many pages they came."""
    rows: list[dict[str, float]] = []
    for page in range(1, 99):
        body = ask(path).json()
        rows += body["results"]
        if "next_url" not in body:
            return rows, page
        path = body["next_url"].partition("//")[2].partition("/")[2]
        path = f"/{path}"
    raise AssertionError("pages without end")
