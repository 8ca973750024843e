"""Coarser bars equal pandas' of the same rows, on real minutes where there are any."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from closingbell.bars import BAR, NO_TRADES, VALUES, Bars
from closingbell.calendar import calendar_for
from closingbell.errors import ConfigurationError
from closingbell.resample import check, resample, split, told
from tests.minutes import read_minutes

RULES = {"5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "1d": "1D"}
HOW = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


def minutes(frame: pd.DataFrame, ticker: str = "X:BTCUSD") -> Bars:
    """A frame indexed by naive UTC instants as a block; its sessions are UTC days, or New York's for a stock."""
    rows = np.zeros(len(frame), BAR)
    rows["ts"] = frame.index.to_numpy().astype("M8[us]")
    rows["session"] = calendar_for("stocks" if ":" not in ticker else "crypto").session_of(rows["ts"])
    rows["vwap"], rows["trades"] = np.nan, NO_TRADES
    for name in set(VALUES) & set(frame.columns):
        rows[name] = frame[name]
    return Bars((ticker,), rows, "1m")


def random_minutes(n: int = 4_000, seed: int = 5) -> pd.DataFrame:
    """Three quarters of the minutes of some days, with everything that a bar can have."""
    chance = np.random.default_rng(seed)
    index = pd.date_range("2024-03-08 21:00", periods=n, freq="min")[chance.random(n) < 0.75]
    frame = pd.DataFrame(chance.random((len(index), 4)) + 1, index, ["open", "high", "low", "close"])
    frame["volume"] = chance.random(len(index)) * 1e6
    frame["vwap"] = chance.random(len(index)) + 1
    frame["trades"] = chance.integers(1, 99, len(index))
    return frame


def assert_equal_to_pandas(made: Bars, frame: pd.DataFrame) -> None:
    wanted = frame.resample(RULES[made.timeframe]).agg(HOW).dropna(subset=["close"])
    np.testing.assert_array_equal(made.rows["ts"], wanted.index.to_numpy().astype("M8[us]"))
    for name in ("open", "high", "low", "close"):
        np.testing.assert_array_equal(made.rows[name], wanted[name].to_numpy())
    np.testing.assert_allclose(made.rows["volume"], wanted["volume"].to_numpy(), rtol=1e-14)


@pytest.mark.parametrize("timeframe", RULES)
def test_it_equals_pandas_whatever_the_order_of_the_rows(timeframe: str) -> None:
    frame = random_minutes()
    assert_equal_to_pandas(resample(minutes(frame.sample(frac=1, random_state=1)), timeframe), frame)


@pytest.mark.data
@pytest.mark.parametrize("timeframe", RULES)
@pytest.mark.parametrize("name", ["btc_perp_1m_2022-01.csv", "6EH4_1m_2024-01.csv.gz"])
def test_it_equals_pandas_on_real_minutes(data: Path, name: str, timeframe: str) -> None:
    frame = read_minutes(data / "intraday" / name)
    made = resample(minutes(frame), timeframe)
    assert_equal_to_pandas(made, frame)
    exact = frame["volume"].groupby(frame.index.floor(RULES[timeframe])).agg(math.fsum)
    np.testing.assert_array_equal(made.rows["volume"], exact.to_numpy())  # rounded once, as pandas' is not


def test_vwap_is_weighted_and_trades_are_summed() -> None:
    frame = random_minutes()
    made = resample(minutes(frame), "15m").rows
    parts = (frame["vwap"] * frame["volume"]).resample("15min").sum() / frame["volume"].resample("15min").sum()
    np.testing.assert_allclose(made["vwap"], parts.dropna(), rtol=1e-14)
    np.testing.assert_array_equal(made["trades"], frame["trades"].resample("15min").sum().loc[parts.dropna().index])


@pytest.mark.parametrize(
    ("volumes", "vwaps", "trades", "vwap", "count"),
    [
        ([1.0, 3.0], [10.0, 20.0], [2, 5], 17.5, 7),
        ([1.0, 0.0], [10.0, np.nan], [2, NO_TRADES], 10.0, 2),  # what did not trade has neither
        ([1.0, 3.0], [10.0, np.nan], [2, NO_TRADES], np.nan, NO_TRADES),  # of a part they would be wrong
        ([0.0, 0.0], [np.nan, np.nan], [NO_TRADES, NO_TRADES], np.nan, NO_TRADES),
        ([0.0, 0.0], [np.nan, np.nan], [0, 0], np.nan, 0),
    ],
)
def test_what_is_absent_is_not_made_up(
    volumes: list[float], vwaps: list[float], trades: list[int], vwap: float, count: int
) -> None:
    frame = random_minutes(2, seed=2).iloc[:0].reindex(pd.date_range("2024-03-08", periods=2, freq="min"))
    frame = frame.fillna(1.0).assign(volume=volumes, vwap=vwaps, trades=trades)
    (row,) = resample(minutes(frame), "5m").rows
    np.testing.assert_equal((row["vwap"], row["trades"], row["volume"]), (vwap, count, sum(volumes)))


def test_an_absent_price_is_passed_over() -> None:
    frame = random_minutes()
    frame.iloc[::3, 0] = np.nan
    frame.iloc[1::3, 3] = np.nan
    made = resample(minutes(frame), "5m").rows
    wanted = frame.resample("5min").agg(HOW)
    wanted = wanted[frame["volume"].resample("5min").count() > 0]
    for name in ("open", "close"):
        np.testing.assert_array_equal(made[name], wanted[name].to_numpy())


def test_tickers_and_sessions_never_meet_in_a_bar() -> None:
    """Nor do chunks: whole sessions one by one give what all of them give at once."""
    one, two = minutes(random_minutes(), "AAPL"), minutes(random_minutes(seed=6), "F")
    both = resample(Bars.concat([two, one]), "1h")
    apart = [
        resample(block.where(block.rows["session"] == day), "1h")
        for block in (two, one)
        for day in np.unique(block.rows["session"])
    ]
    assert both.rows.tobytes() == Bars.concat(apart).rows.tobytes()
    odd = minutes(random_minutes().iloc[:2])
    odd.rows["ts"] = np.array(["2024-03-08T21:01", "2024-03-08T21:02"], "M8[us]")
    odd.rows["session"] = np.array(["2024-03-08", "2024-03-09"], "M8[D]")
    assert len(resample(odd, "5m")) == 2


def test_steps_give_what_one_step_gives() -> None:
    frame = minutes(random_minutes())
    steps, one = resample(resample(frame, "5m"), "1h").rows, resample(frame, "1h").rows
    for name in ("ts", "open", "high", "low", "close", "trades"):
        np.testing.assert_array_equal(steps[name], one[name])


@pytest.mark.parametrize(
    ("finer", "coarser", "ticker"),
    [
        ("5m", "1m", "F"),
        ("1h", "1h", "F"),
        ("1d", "1h", "F"),
        ("1m", "2h", "F"),
        ("15m", "1d", "F"),
        ("1m", "1d", "AAPL"),
    ],
)
def test_what_cannot_be_made_is_refused(finer: str, coarser: str, ticker: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be made|are not made of"):
        check(finer, coarser, (ticker,))


def test_nothing_gives_nothing() -> None:
    assert len(resample(Bars(("F",), timeframe="1m"), "1h")) == 0
    same = minutes(random_minutes())
    assert resample(same, "1m") is same


def test_what_is_fetched_and_what_is_made() -> None:
    assert split(("1m", "5m", "1h", "1d"), ["AAPL"]) == (("1m", "1d"), ("5m", "1h"))
    assert split(("5m", "1d"), ["X:BTCUSD", "C:EURUSD"]) == ((), ("5m", "1d"))
    assert told(("1h", "5m")) == "5m, 1h made of stored 1m bars, without a call"
