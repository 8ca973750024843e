"""Sessions of many bars: the ledger counts cells, whatever order the pages of a history come in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sa
from blocks import JUDGE, bars, change, count, days, start

from closingbell.bars import Bars
from closingbell.cells import Cells
from closingbell.errors import RetryableError
from closingbell.outcome import Outcome
from closingbell.plan import TickerRange
from closingbell.store import Store
from closingbell.store.schema import bar, gap, quarantine

AT = datetime(2024, 4, 1, 6, tzinfo=UTC)
MINUTES = 30
#: From 04:00 New York, and to the last minute before 20:00, which is the next day in UTC.
HOURS = np.append(np.arange(MINUTES - 1), 959) * np.timedelta64(1, "m")


def minutes(ticker: str, first: int, last: int) -> Bars:
    """Bars of each session by its position, before and after regular hours among them."""
    block = bars(ticker, days(0, last))
    rows = np.repeat(block.rows[first:], MINUTES)
    rows["ts"] += np.tile(HOURS, last - first + 1) - np.timedelta64(330, "m")  # 04:00 is so long before the open
    return Bars(block.tickers, rows, "1m")


def page(ticker: str, first: int, last: int, block: Bars | None = None) -> Outcome:
    block = minutes(ticker, first, last) if block is None else block
    return JUDGE.answered(asked(ticker, first, last), block, len(block))


def asked(ticker: str, first: int, last: int) -> TickerRange:
    return TickerRange(ticker, tuple(days(first, last).tolist()), timeframe="1m")


def test_cells_are_counted_and_not_bars(store: Store) -> None:
    run_id, grid = start(store), [Cells.all(("AAPL", "MSFT", "GONE"), days(0, 8))]
    odd = minutes("MSFT", 0, 8)
    odd.rows["close"][3 * MINUTES] = -1.0  # one bad minute of the fourth session
    odd = odd.where(odd.rows["session"] != days(5, 5)[0])
    outcomes = [
        page("AAPL", 6, 8),  # the last page comes first: what is between is pending
        page("AAPL", 0, 2),
        page("MSFT", 0, 8, odd),
        JUDGE.failed(asked("GONE", 0, 8), RetryableError("no answer")),
    ]
    for outcome in outcomes:
        store.writer.flush(run_id, "polygon", "1m", [outcome], at=AT)

    held = store.records.reconcile("polygon", "1m", grid)
    assert (held.expected, held.stored, held.balanced) == (27, 6 + 8, True)
    assert held.gaps == {"pending": 3, "empty": 1, "failed": 9}
    assert held.barless == ("GONE",)
    assert count(store, quarantine) == 1
    assert store.records.count_bars("1m", grid) == count(store, bar) == 14 * MINUTES - 1
    assert store.records.count_bars("1m", [replace(grid[0], mask=grid[0].mask & (np.arange(9) < 1))]) == 2 * MINUTES

    result = store.writer.flush(run_id, "polygon", "1m", [page("AAPL", 3, 5)], at=AT)
    assert (result.inserted, count(store, gap, gap.c.ticker == "AAPL")) == (3 * MINUTES, 0)
    again = store.writer.flush(run_id, "polygon", "1m", [page("AAPL", 0, 8)], at=AT)
    assert (again.inserted, again.rewritten) == (0, 0)


def test_a_lost_session_is_found_and_a_lost_minute_is_no_gap(store: Store) -> None:
    run_id = start(store)
    store.writer.flush(run_id, "polygon", "1m", [page("AAPL", 0, 8)], at=AT)
    third, fourth = (days(at, at)[0].item() for at in (3, 4))
    change(store, sa.delete(bar).where(bar.c.session == third))
    kept = sa.select(sa.func.min(bar.c.ts)).where(bar.c.session == fourth).scalar_subquery()
    change(store, sa.delete(bar).where(bar.c.session == fourth, bar.c.ts > kept))

    damage = store.records.damage("polygon", "1m", ["AAPL"])
    assert damage.lost == (("AAPL", third),)
    store.records.mend(run_id, "polygon", "1m", damage, AT)
    held = store.records.reconcile("polygon", "1m", [Cells.all(("AAPL",), days(0, 8))])
    assert (held.stored, held.gaps, held.balanced) == (8, {"pending": 1}, True)
