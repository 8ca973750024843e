"""A flush that the database refuses, stored all the same but for what is at fault.

Bars that it refuses go into quarantine with its own words, and their cells become gaps. What else it refuses, a gap's
text for example, costs that ticker its answer, not the others theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import sqlalchemy as sa

from closingbell.bars import Bars
from closingbell.outcome import FlushResult, Outcome
from closingbell.store.faults import RefusedError, driver_errors, explain
from closingbell.store.patience import log
from closingbell.store.poison import Poison

#: Not a ticker of anybody's.
STRANGER: Final = "CLOSINGBELL"

#: Writes outcomes in a transaction of their own.
Write = Callable[[Sequence[Outcome]], FlushResult]

#: Loads bars in a transaction that has begun, new ones and changed ones alike.
Load = Callable[[sa.Connection, Bars], object]

#: Takes a stored bar of none of the bars' tickers out and puts it back as it was; how many there were to do it with.
PutBack = Callable[[sa.Connection, Bars], int]


def refusal(connection: sa.Connection, work: Callable[[], object], *, keep: bool) -> str | None:
    """Why the database refuses something; None: it takes it.

    Args:
        connection: in a transaction.
        work: what to do in it; where it is refused, nothing of it remains.
        keep: whether it remains where it is taken.
    """
    try:
        with connection.begin_nested() as savepoint:
            work()
            if not keep:
                savepoint.rollback()
    except driver_errors(connection) as error:
        failure = explain(error, connection)
        if not isinstance(failure, RefusedError):
            raise
        return failure.message
    return None


def find_poison(connection: sa.Connection, bars: Bars, load: Load, put_back: PutBack) -> dict[int, str]:
    """The bars that the database refuses, by their positions, and its words; found by halves.

    Args:
        connection: in a transaction that holds the locks of a flush, and is to be undone.
        bars: each ticker and instant once.
        load: see :data:`Load`.
        put_back: see :data:`PutBack`.

    Raises:
        FatalError: the database takes no bar at all, or refuses very many.
    """

    def load_some(first: int, end: int) -> str | None:
        return refusal(connection, lambda: load(connection, bars.only(np.arange(first, end))), keep=True)

    return Poison(load_some, lambda: takes_any(connection, bars, load, put_back)).find(len(bars))


def takes_any(connection: sa.Connection, bars: Bars, load: Load, put_back: PutBack) -> bool:
    """Whether there is any bar at all that the database takes, having refused these."""
    done: list[int] = []
    said = refusal(connection, lambda: done.append(put_back(connection, bars)), keep=False)
    if said is None and any(done):
        return True
    return any(refusal(connection, partial(load, connection, other), keep=False) is None for other in _harmless(bars))


def _harmless(bars: Bars) -> list[Bars]:
    """Bars that nobody has a reason to refuse: the first one under another name, and one of plain values."""
    row = bars.rows[:1].copy()
    plain = row.copy()
    for name in ("open", "high", "low", "close", "volume", "vwap", "trades"):
        plain[name] = 1
    ticker = bars.tickers[int(row["ticker"][0])]
    row["ticker"] = plain["ticker"] = 0
    return [Bars((STRANGER,), row, bars.timeframe), Bars((ticker,), plain, bars.timeframe)]


def store_by_ticker(
    outcomes: Sequence[Outcome],
    write: Write,
    without_poison: Callable[[Sequence[Outcome]], Sequence[Outcome]],
    takes_any: Callable[[], bool],
) -> FlushResult:
    """Store what is not at fault, in as many transactions as it takes: each holds all that is said of its tickers.

    Args:
        outcomes: what was refused as a whole.
        write: see :data:`Write`.
        without_poison: the same outcomes, the bars that the database refuses in quarantine.
        takes_any: whether there is any outcome that would be taken.

    Raises:
        FatalError: the database takes nothing at all.
    """
    names = sorted({ticker for outcome in outcomes for ticker in outcome.tickers})
    result = FlushResult()

    def attempt(parts: Sequence[Outcome]) -> str | None:
        try:
            result.add(write(parts))
        except RefusedError as error:
            return error.message
        return None

    def load(first: int, end: int) -> str | None:
        wanted = frozenset(names[first:end])
        parts = [part for outcome in outcomes if (part := outcome.only(wanted))]
        said = attempt(parts)
        if said is None or end - first > 1:
            return said
        mended = without_poison(parts)
        said = attempt(mended)
        if said is None:
            return None
        log.error("%s: what the vendor answered is not stored: the database says %r", names[first], said)
        result.refused[names[first]] = said
        return attempt([part.empty_handed(f"the database refused it: {said}") for part in mended]) and said

    found = Poison(load, takes_any).find(len(names))
    for position, said in found.items():
        log.error("%s: not accounted for: the database says %r", names[position], said)
    result.refused |= {names[position]: said for position, said in found.items()}
    return result
