"""The planner at a whole market: missing cells in, the cheapest calls out.

    python -m benchmarks planner

Pure computing: 11,000 tickers, the cells that are missing in some situations, and the quota of the free plan or of a
paid one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Table
from closingbell.calendar import calendar_for
from closingbell.cells import Cells
from closingbell.plan import CallCost, Plan, cheapest
from closingbell.quota import Quota

_QUOTAS: Final = ("5/min", "100/s")

Mask = NDArray[np.bool_]


def measure(*, quick: bool = False) -> list[Table]:
    """Plan every situation at every quota."""
    tickers = tuple(f"T{number:05}" for number in range(1_100 if quick else 11_000))
    rows = []
    for situation, make in _SITUATIONS.items():
        sessions = calendar_for("stocks").sessions(date(2021, 3, 8), date(2026, 3, 6))
        mask = make(len(tickers), len(sessions))
        cells = Cells(tickers, sessions, mask)
        for quota in _QUOTAS:
            seconds, plan = _planned(cells, CallCost(Quota.parse(quota).interval), 2 if quick else 5)
            days = sum(hasattr(call, "session") for call in plan.calls)
            rows.append((situation, quota, plan.cells, len(plan.calls) - days, days, 1000 * seconds))
    columns = ("missing", "quota", "cells", "ranges", "market days", "ms")
    note = "Five years (1,256 sessions) of every ticker; medians of five. The calls come with their dates and tickers."
    return [Table(f"Plans for {len(tickers):,} tickers", columns, rows, [note])]


def _planned(cells: Cells, cost: CallCost, times: int) -> tuple[float, Plan]:
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        plan = cheapest(cells, cost)
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent), plan


def _everything(tickers: int, sessions: int) -> Mask:
    return np.ones((tickers, sessions), np.bool_)


def _last(count: int) -> Callable[[int, int], Mask]:
    def mask(tickers: int, sessions: int) -> Mask:
        found = np.zeros((tickers, sessions), np.bool_)
        found[:, -count:] = True
        return found

    return mask


def _scattered(share: float) -> Callable[[int, int], Mask]:
    def mask(tickers: int, sessions: int) -> Mask:
        return np.random.default_rng(1792).random((tickers, sessions)) < share

    return mask


def _night_and_newcomers(tickers: int, sessions: int) -> Mask:
    found = _last(1)(tickers, sessions)
    found[::200] = True
    return found


_SITUATIONS: Final[Mapping[str, Callable[[int, int], Mask]]] = {
    "the last session": _last(1),
    "the last 5 sessions": _last(5),
    "the last session, all of one ticker in 200": _night_and_newcomers,
    "1 cell in 10,000, anywhere": _scattered(0.0001),
    "1 cell in 100, anywhere": _scattered(0.01),
    "everything": _everything,
}
