"""A flush that the database refuses, stored all the same but for what is at fault.

Bars that it refuses go into quarantine with its own words, and their cells become gaps. What else it refuses, a gap's
text for example, costs that ticker its answer, not the others theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import psycopg2
import sqlalchemy as sa

from closingbell.bars import Bars
from closingbell.outcome import FlushResult, Outcome
from closingbell.store.faults import RefusedError, explain
from closingbell.store.patience import log
from closingbell.store.poison import Poison
from closingbell.store.statements import PUT_BACK

#: Not a ticker of anybody's.
STRANGER: Final = "CLOSINGBELL"

#: Writes outcomes in a transaction of their own.
Write = Callable[[Sequence[Outcome]], FlushResult]

#: Loads bars in a transaction that has begun, new ones and changed ones alike.
Load = Callable[[sa.Connection, Bars], object]

_AT_ONCE: Final = sa.text("SET CONSTRAINTS ALL IMMEDIATE")


def find_poison(connection: sa.Connection, bars: Bars, load: Load) -> dict[int, str]:
    """The bars that the database refuses, by their positions, and its words.

    Args:
        connection: in a transaction that holds the locks of a flush, and is to be undone.
        bars: each ticker and instant once.
        load: see :data:`Load`.

    Raises:
        FatalError: the database takes no bar at all, or refuses very many.
    """

    def attempt(work: Callable[[], object], *, keep: bool) -> str | None:
        try:
            with connection.begin_nested() as savepoint:
                work()
                connection.execute(_AT_ONCE)
                if not keep:
                    savepoint.rollback()
        except (sa.exc.SQLAlchemyError, psycopg2.Error) as error:
            failure = explain(error, connection.engine.url)
            if not isinstance(failure, RefusedError):
                raise
            return failure.message
        return None

    def load_some(first: int, end: int) -> str | None:
        return attempt(lambda: load(connection, bars.only(np.arange(first, end))), keep=True)

    def takes_any() -> bool:
        put_back: list[int] = []
        said = attempt(lambda: put_back.append(_put_back(connection, bars)), keep=False)
        if said is None and any(put_back):
            return True
        return any(attempt(partial(load, connection, other), keep=False) is None for other in _harmless(bars))

    return Poison(load_some, takes_any).find(len(bars))


def _put_back(connection: sa.Connection, bars: Bars) -> int:
    """Take the bar of another ticker out and put it back as it was; how many there were to do it with."""
    values = {"timeframe": bars.timeframe, "tickers": list(bars.tickers)}
    return connection.execute(PUT_BACK, values).rowcount


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
