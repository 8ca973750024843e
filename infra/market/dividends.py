"""The dividends of generated stocks: four a year for two thirds of them, a part of the price each."""

from __future__ import annotations

from typing import Final

import numpy as np

from infra.market import hashing
from infra.market.hashing import Floats
from infra.market.hours import FIRST_BAR
from infra.market.issues import Issues
from infra.market.source import Dividend

_STREAM: Final = 200

#: Days from the declaration to the ex-date, from there to the record, and to the payment.
DECLARED_BEFORE: Final = 30
RECORDED_AFTER: Final = 1
PAID_AFTER: Final = 21


def dividends_of(batch: Issues, first: np.datetime64, last: np.datetime64) -> list[Dividend]:
    """What a batch of stocks pays with an ex-date from ``first`` to ``last``, by month.

    Ex-dates are sessions. An amount is in the scale of its ex-date: for one share as it is then.
    """

    def draw(part: int) -> Floats:
        return hashing.uniform(batch.hashes, _STREAM, np.array(part))

    sessions = batch.hours.sessions
    first, last = max(first, FIRST_BAR), min(last, sessions[-1])
    if first > last:
        return []
    months = np.arange(first.astype("M8[M]") - 1, last.astype("M8[M]") + 1)
    turn, day, rate = (draw(1) * 3).astype(np.int64), (draw(2) * 28).astype(np.int64), 0.002 + 0.008 * draw(3)
    due = (draw(0) < 0.66)[:, None] & (months.astype(np.int64)[None, :] % 3 == turn[:, None])
    rows, month = np.nonzero(due)
    at = np.searchsorted(sessions, months[month].astype("M8[D]") + day[rows])  # on, or next after, a day off
    kept = (at < len(sessions)) & (at > batch.listed[rows]) & (at < batch.delisted[rows])
    rows, at = rows[kept], at[kept]
    kept = (sessions[at] >= first) & (sessions[at] <= last)
    rows, at = rows[kept], at[kept]
    if not len(rows):
        return []
    price = np.exp(batch.economic_level(at - 1, rows=rows)) * batch.split_scale(at, rows)
    cash = np.round(price * rate[rows], 4)
    dates = [sessions[at] + days for days in (0, -DECLARED_BEFORE, RECORDED_AFTER, PAID_AFTER)]
    return [
        Dividend(ex_date, batch.tickers[row], amount, *others)
        for row, amount, ex_date, *others in zip(
            rows.tolist(), cash.tolist(), *(np.datetime_as_string(days).tolist() for days in dates), strict=True
        )
        if amount > 0
    ]
