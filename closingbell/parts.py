"""An answer cut into batches that are committed one by one.

Plain values in, plain values out. The law it keeps: a session is accounted for only by the batch that brings the last
of its bars. A batch may end inside a session; what it has of it is stored, and the ledger says so
(:data:`closingbell.cells.PARTIAL`), until the batch with the rest is committed. Wherever a run dies, nothing of what it
has not stored counts as stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars, Roll
from closingbell.outcome import Outcome
from closingbell.quality import Verdict

T = TypeVar("T")

_DAY: Final = np.timedelta64(1, "D")
_BEFORE: Final = np.datetime64("0001-01-01", "D")
_AFTER: Final = np.datetime64("9999-12-31", "D")


def in_batches(outcome: Outcome, size: int, rolls: Sequence[Roll] = ()) -> list[Outcome]:
    """A range's outcome as outcomes of at most ``size`` accepted bars, oldest first; together they say the same.

    Bars that are kept apart come with the batch that accounts for their session.

    Args:
        outcome: of one ticker.
        size: accepted bars in one.
        rolls: where the ticker rolled, to be stored with the bars.
    """
    verdict, bars = outcome.verdict, outcome.verdict.accepted
    rows = bars.rows[np.argsort(bars.rows["ts"], kind="stable")]
    days, bad = rows["session"], verdict.quarantined.rows["session"]
    asked = np.array([session for _, session in outcome.call.cells], "M8[D]")
    ends = [*range(size, len(rows), size), len(rows)]
    found: list[Outcome] = []
    told, begin, waiting = _BEFORE, 0, list(rolls)  # what the batches before account for; where they end
    for end in ends:
        is_last = end == len(rows)
        until = _AFTER if is_last else days[end - 1]
        partial = not is_last and bool(days[end] == until)
        through = until - _DAY if partial else until
        here = (outcome.sessions > told) & (outcome.sessions <= until)
        apart = (bad > told) & (bad <= through)
        rolled = [roll for roll in waiting if is_last or roll.ts <= rows["ts"][end - 1]]
        waiting = waiting[len(rolled) :]
        part = replace(
            outcome,
            verdict=Verdict(
                Bars(bars.tickers, rows[begin:end], bars.timeframe),
                verdict.quarantined.where(apart),
                _some(verdict.rules, apart),
                {},
                messages=_some(verdict.messages, apart) if verdict.messages else (),
            ),
            sessions=outcome.sessions[here],
            doubtful=None if outcome.doubtful is None else outcome.doubtful[here],
            rows=0,
            partial=partial,
            settles=int(np.count_nonzero((asked > told) & (asked <= through))),
            rolls=tuple(rolled),
        )
        found.append(part)
        told, begin = through, end
    # What is counted of the whole answer is counted once, with the first.
    judged = replace(found[0].verdict, warned=verdict.warned, examples=verdict.examples)
    return [replace(found[0], verdict=judged, rows=outcome.rows), *found[1:]]


def _some(values: Sequence[T], mask: NDArray[np.bool_]) -> tuple[T, ...]:
    return tuple(value for value, here in zip(values, mask, strict=True) if here)
