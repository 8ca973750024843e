"""Bounds of instruments, and the heuristics for tables of uncertain origin: each finds its own, and nothing else."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from numpy.typing import NDArray

from closingbell.bars import BAR, NO_TRADES, Bars
from closingbell.calendar import calendar_for
from closingbell.profiles import BOUNDS, SHORT
from closingbell.quality import Asked, check, profile_of
from tests.databento.minutes import of_sessions, walk

DAY = date(2024, 1, 3)


def block(prices: NDArray[np.float64], ticker: str = "NQ.v.0") -> Bars:
    ts = of_sessions(DAY, DAY, len(prices))
    rows = np.zeros(len(prices), BAR)
    rows["ts"], rows["session"] = ts, calendar_for("futures").session_of(ts)
    for name, column in zip(("open", "high", "low", "close"), prices.T, strict=True):
        rows[name] = column
    rows["volume"], rows["vwap"], rows["trades"] = 5, np.nan, NO_TRADES
    return Bars((ticker,), rows, "1m")


def broken(bars: Bars, *, uncertain: bool) -> dict[int, str]:
    asked = Asked(np.array([DAY], "M8[D]"), np.datetime64(DAY))
    verdict = check(bars, asked, profile_of("futures", "1m", uncertain=uncertain))
    at = np.searchsorted(bars.rows["ts"], verdict.quarantined.rows["ts"])
    return dict(zip(at.tolist(), verdict.rules, strict=True))


@pytest.fixture
def prices() -> NDArray[np.float64]:
    return walk(of_sessions(DAY, DAY, 600))


def test_a_clean_table_loses_nothing(prices: NDArray[np.float64]) -> None:
    assert broken(block(prices), uncertain=True) == {}


@pytest.mark.parametrize("ticker", ["NQ.v.0", "MNQ.c.1"])
def test_below_the_bounds(prices: NDArray[np.float64], ticker: str) -> None:
    prices[100, 2] = 999.75
    assert broken(block(prices, ticker), uncertain=False) == {100: "out_of_bounds"}


def test_bounds_are_of_the_root(prices: NDArray[np.float64]) -> None:
    cheap = prices / 1_000  # 20: nothing for an index, and a price for oil, also below zero
    assert len(broken(block(cheap, "NQ.v.0"), uncertain=False)) == 600
    assert broken(block(cheap, "CL.c.0"), uncertain=False) == {}
    assert broken(block(cheap - 40, "CL.c.0"), uncertain=False) == {}
    assert len(broken(block(cheap - 40, "ZZ.c.0"), uncertain=False)) == 600
    assert all(low < high for low, high in BOUNDS.values())


def test_a_jump_is_corrupt_only_where_the_origin_is_uncertain(prices: NDArray[np.float64]) -> None:
    prices[200:203] += 501 + 30
    assert broken(block(prices), uncertain=False) == {}
    assert broken(block(prices), uncertain=True) == dict.fromkeys((200, 201, 202), "price_jump")


def test_a_level_that_lasts_is_no_jump(prices: NDArray[np.float64]) -> None:
    prices[200:] -= 800
    assert broken(block(prices), uncertain=True) == {}
    prices[300 : 300 + SHORT + 1] += 800
    assert broken(block(prices), uncertain=True) == {}


def test_a_jump_inside_of_a_bar_and_a_wick(prices: NDArray[np.float64]) -> None:
    prices[50, 3] += 700  # closes far off, and the next one opens where it had been
    prices[50, 1] = prices[50, 3]
    prices[60, 2] -= 700
    assert broken(block(prices), uncertain=True) == dict.fromkeys((50, 60), "price_jump")


def test_a_small_range_with_a_gap_and_a_flat_bar_apart(prices: NDArray[np.float64]) -> None:
    level = prices[99, 3]
    prices[100] = [level + 170, level + 174, level + 168, level + 171]
    prices[300] = prices[299, 3] + 60
    prices[400] = prices[399, 3] + 40  # flat, and near
    found = broken(block(prices), uncertain=True)
    assert found == {100: "gap_beside_small_range", 300: "flat_and_apart"}
    assert broken(block(prices), uncertain=False) == {}
