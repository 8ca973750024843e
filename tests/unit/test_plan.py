"""The planner: exact against brute force, complete, and right about what a night costs."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import product, zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from closingbell.cells import Cells, Watermark
from closingbell.plan import CallCost, MarketDay, Plan, TickerRange, batches, cheapest, join, minimum_cover
from closingbell.quota import Quota, Quotas

FREE = CallCost(interval=12.0)
PAID = CallCost(interval=0.01)


def grid(mask: NDArray[np.bool_]) -> Cells:
    sessions = np.arange("2024-01-01", mask.shape[1], dtype="M8[D]") if mask.shape[1] else np.empty(0, "M8[D]")
    return Cells(tuple(f"T{i}" for i in range(mask.shape[0])), sessions, mask)


def full(n: int, m: int) -> Cells:
    start = date(2024, 1, 1)
    days = np.array([start + timedelta(days=i) for i in range(m)], "M8[D]")
    return Cells.all([f"T{i}" for i in range(n)], days)


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 5))),
    st.data(),
)
def test_no_cover_is_cheaper(mask: NDArray[np.bool_], data: st.DataObject) -> None:
    n, m = mask.shape
    price = st.integers(1, 60_000_000)  # whole microseconds: the solver's own unit, so sums are exact
    rows = np.array(data.draw(st.lists(price, min_size=n, max_size=n))) / 1e6
    columns = np.array(data.draw(st.lists(price, min_size=m, max_size=m))) / 1e6
    by_row, by_column = minimum_cover(mask, rows, columns)
    assert not (mask & ~by_row[:, None] & ~by_column).any()
    cheapest_of_all = min(
        rows[list(r)].sum() + columns[list(c)].sum()
        for r in subsets(n)
        for c in subsets(m)
        if not np.delete(np.delete(mask, r, 0), c, 1).any()
    )
    assert rows[by_row].sum() + columns[by_column].sum() == pytest.approx(cheapest_of_all, abs=1e-9)


def subsets(n: int) -> list[tuple[int, ...]]:
    return [tuple(i for i in range(n) if bits[i]) for bits in product([0, 1], repeat=n)]


@settings(max_examples=100, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(0, 12))), st.sampled_from([FREE, PAID]))
def test_every_cell_has_exactly_one_call(mask: NDArray[np.bool_], cost: CallCost) -> None:
    cells = grid(mask)
    plan = cheapest(cells, cost)
    covered = [cell for call in plan.calls for cell in call.cells]
    wanted = {(cells.tickers[i], cells.sessions[j].item()) for i, j in zip(*np.nonzero(mask), strict=True)}
    assert len(covered) == len(set(covered)) == plan.cells == len(wanted)
    assert set(covered) == wanted


def test_a_normal_night_is_one_call() -> None:
    plan = cheapest(full(523, 1), FREE)
    assert (plan.market_days, plan.ranges, plan.planned_calls) == (1, 0, 1)


def test_three_new_tickers_and_five_sessions_behind_are_eight_calls() -> None:
    mask = np.zeros((523, 502), np.bool_)
    mask[:, -5:] = True
    mask[[7, 100, 300], :] = True
    for cost in (FREE, PAID):
        plan = cheapest(grid(mask), cost)
        assert (plan.market_days, plan.ranges) == (5, 3)


@settings(max_examples=200, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 5))))
def test_no_plan_has_fewer_calls(mask: NDArray[np.bool_]) -> None:
    plan = cheapest(grid(mask), FREE)
    fewest = min(
        len(r) + len(c)
        for r in subsets(mask.shape[0])
        for c in subsets(mask.shape[1])
        if not np.delete(np.delete(mask, r, 0), c, 1).any()
    )
    assert plan.planned_calls == fewest


def test_scattered_holes_are_filled_by_the_fewest_calls_at_any_quota() -> None:
    """As many calls as a maximum matching has edges: by König's theorem no plan has fewer."""
    mask = np.zeros((505, 1_259), np.bool_)
    mask.ravel()[np.random.default_rng(6).choice(mask.size, 1_050, replace=False)] = True
    matched = maximum_bipartite_matching(csr_array(mask)) >= 0
    for cost in (FREE, PAID, CallCost(interval=0.0)):
        assert cheapest(grid(mask), cost).planned_calls == np.count_nonzero(matched)


def test_the_best_plan_depends_on_the_quota() -> None:
    two_years = full(523, 502)
    assert cheapest(two_years, FREE).market_days == 502
    assert cheapest(two_years, PAID).ranges == 523


def test_without_market_days_every_ticker_is_a_range() -> None:
    plan = cheapest(full(3, 2), CallCost(12.0, market_day_rows=None))
    assert [str(call) for call in plan.calls] == [f"range T{i} 2024-01-01..2024-01-02" for i in range(3)]


def test_a_range_of_many_base_bars_takes_several_pages() -> None:
    plan = cheapest(full(1, 260), CallCost(12.0, market_day_rows=None, rows_per_session=960))
    assert plan.planned_calls == 5  # 249,600 minutes at 50,000 a page
    assert plan.seconds == pytest.approx(5 * 12.0 + 249_600 / 250_000)


@pytest.mark.parametrize(
    ("own", "seconds"),
    [
        ({}, 4 * 60.0),  # 23 calls, five at once each minute
        ({"crypto": Quota(1, 1.0)}, 2 * 60.0),  # stocks' 13 calls take longer than crypto's 10
        ({"crypto": Quota(1, 30.0)}, 9 * 30.0),
    ],
)
def test_each_quota_has_its_own_time(own: dict[str, Quota], seconds: float) -> None:
    ranges = CallCost(1.0, market_day_rows=None)
    plans = [("stocks", cheapest(full(10, 2), ranges)), ("crypto", cheapest(full(10, 2), ranges, "crypto"))]
    plan = join(plans, Quotas(Quota(5, 60.0), own), splits=1, minutes=2)
    assert plan.planned_calls == 23
    assert plan.seconds == pytest.approx(seconds, abs=1.0)


def test_nothing_missing_costs_nothing() -> None:
    assert cheapest(grid(np.zeros((3, 4), np.bool_)), FREE) == Plan((), 0, 0.0)


def test_eleven_thousand_tickers_and_five_years_are_planned() -> None:
    rng = np.random.default_rng(3)
    mask = rng.random((11_000, 1_258)) < 0.0005
    mask[:, -4:] = True
    mask[rng.choice(11_000, 40, replace=False)] = True
    plan = cheapest(grid(mask), PAID)
    assert plan.cells == np.count_nonzero(mask)
    assert plan.market_days >= 4


def test_batches_keep_the_order() -> None:
    calls = [MarketDay(date(2024, 1, d), ("A",)) for d in (2, 3, 4)] + [TickerRange("B", (date(2024, 1, 2),))]
    assert [len(batch) for batch in batches(calls, 3)] == [3, 1]
    assert [call for batch in batches(calls, 3) for call in batch] == calls


@pytest.mark.parametrize(("size", "at_once", "count"), [(1, 1, 100), (3, 2, 34), (4, 8, 25), (50, 8, 8), (7, 3, 15)])
def test_batches_that_are_worked_on_at_once_go_through_the_calls_together(size: int, at_once: int, count: int) -> None:
    calls = range(100)
    parts = batches(calls, size, at_once)
    assert sorted(call for part in parts for call in part) == [*calls]
    assert len(parts) == count
    assert max(map(len, parts)) <= size
    for i in range(0, len(parts), at_once):
        abreast = zip_longest(*parts[i : i + at_once])
        together = [call for row in abreast for call in row if call is not None]
        assert together == sorted(together)


@pytest.mark.parametrize(
    ("calls", "size", "at_once", "lengths"),
    [
        (523, 100, 8, [66, 66, 66, 65, 65, 65, 65, 65]),
        (20, 100, 8, [5, 5, 5, 5]),
        (9, 100, 8, [9]),
        (3, 2, 8, [2, 1]),
        (850, 100, 8, [100] * 8 + [7, 7, 6, 6, 6, 6, 6, 6]),
        (523, 100, 1, [100, 100, 100, 100, 100, 23]),
    ],
)
def test_each_of_those_who_work_at_once_has_a_share(calls: int, size: int, at_once: int, lengths: list[int]) -> None:
    assert [len(part) for part in batches(range(calls), size, at_once)] == lengths


@pytest.mark.parametrize(
    ("begins", "order"),
    [
        ([], [0, 1, 2, 3, 4, 5]),
        ([0], [0, 1, 2, 3, 4, 5]),
        ([9], [5, 4, 3, 2, 1, 0]),
        ([3, 3, 0], [3, 4, 5, 2, 1, 0]),
    ],
)
def test_market_days_go_outward_from_what_is_stored(begins: list[int], order: list[int]) -> None:
    cells = full(9, 6)
    plan = cheapest(cells, FREE, by_name=np.arange(9) == 8)
    first = cells.sessions[0].item()
    found = plan.outward(Watermark(first + timedelta(days=i), date(2024, 2, 1)) for i in begins)
    *market_days, last = found.calls
    assert [(call.session - first).days for call in market_days if isinstance(call, MarketDay)] == order
    assert isinstance(last, TickerRange)
    assert (set(found.calls), found.summary()) == (set(plan.calls), plan.summary())


def test_what_market_days_do_not_carry_is_asked_by_name() -> None:
    by_name = np.zeros(523, np.bool_)
    by_name[:40] = True
    plan = cheapest(full(523, 2), PAID, by_name=by_name)
    assert (plan.market_days, plan.ranges) == (2, 40)
    assert plan.cells == 523 * 2
