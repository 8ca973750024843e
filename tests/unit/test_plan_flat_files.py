"""When the plan takes flat files: where they are fewer calls, of what nobody had an answer for."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from closingbell.cells import Cells
from closingbell.intraday import base_bars
from closingbell.plan import CallCost, FlatFile, MarketDay, TickerRange, cheapest, join
from closingbell.quota import Quota, Quotas

SESSION = base_bars("stocks", "1m")
PAID = CallCost(0.01, market_day_rows=None, rows_per_session=SESSION, flat_interval=0.1)
FREE = CallCost(12.0, market_day_rows=None, rows_per_session=SESSION, flat_interval=0.1)


def grid(tickers: int, sessions: int) -> Cells:
    days = np.array([date(2024, 1, 1) + timedelta(days=i) for i in range(sessions)], "M8[D]")
    return Cells.all([f"T{i}" for i in range(tickers)], days)


def everything(cells: Cells) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.ones(cells.mask.shape, np.bool_)


@pytest.mark.parametrize("cost", [PAID, FREE])
def test_two_years_of_minutes_of_the_index_are_502_objects(cost: CallCost) -> None:
    cells = grid(523, 502)
    plan = cheapest(cells, cost, timeframe="1m", by_file=everything(cells))
    assert (plan.flat_files, plan.ranges, plan.market_days, plan.planned_calls) == (502, 0, 0, 502)
    assert plan.cells == 523 * 502
    assert all(isinstance(call, FlatFile) and call.timeframe == "1m" for call in plan.calls)
    without = cheapest(cells, CallCost(0.01, market_day_rows=None, rows_per_session=SESSION), timeframe="1m")
    assert (without.flat_files, without.ranges) == (0, 523 * 10)


def test_a_few_tickers_are_ranges() -> None:
    cells = grid(5, 502)
    plan = cheapest(cells, PAID, timeframe="1m", by_file=everything(cells))
    assert (plan.flat_files, plan.ranges) == (0, 50)


def test_what_is_asked_again_comes_by_range() -> None:
    cells = grid(100, 10)
    may = everything(cells)
    may[:, -2:] = False
    assert cheapest(cells, FREE, timeframe="1m", by_file=may).flat_files == 0
    may[5:, -2:] = True
    plan = cheapest(cells, FREE, timeframe="1m", by_file=may)
    assert plan.flat_files == 10
    assert {call.ticker for call in plan.calls if isinstance(call, TickerRange)} == {f"T{i}" for i in range(5)}
    covered = [cell for call in plan.calls for cell in call.cells]
    assert len(covered) == len(set(covered)) == plan.cells == 1_000


def test_daily_bars_come_by_market_day_which_has_their_vwap() -> None:
    cells = grid(523, 3)
    plan = cheapest(cells, CallCost(12.0, flat_interval=0.1), by_file=everything(cells))
    assert (plan.market_days, plan.flat_files) == (3, 0)


def test_objects_use_up_no_quota_but_their_own() -> None:
    cells = grid(523, 50)
    plan = cheapest(cells, FREE, timeframe="1m", by_file=everything(cells))
    quotas = Quotas(Quota(5, 60.0), {"flatfiles": Quota(10, 1.0)})
    assert plan.flat_files == 50
    assert join([("stocks", plan)], quotas).seconds < 600
    by_range = cheapest(cells, CallCost(12.0, market_day_rows=None, rows_per_session=SESSION), timeframe="1m")
    assert join([("stocks", by_range)], quotas).seconds > 522 // 5 * 60


def test_a_flat_file_is_a_market_day_with_a_name_of_its_own() -> None:
    call = FlatFile(date(2026, 3, 2), ("A", "B"))
    assert isinstance(call, MarketDay)
    assert (str(call), call.timeframe, call.count) == ("flat file 1m 2026-03-02", "1m", 2)
