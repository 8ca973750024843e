"""Which contract a continuous future stood for, written in the transaction that writes its bars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from closingbell.outcome import Outcome
from closingbell.store.columns import instants
from closingbell.store.database import Series, Values, database_of, moment
from closingbell.store.merge import upsert
from closingbell.store.schema import roll


def store_rolls(connection: sa.Connection, series: Series, outcomes: Sequence[Outcome], at: datetime) -> None:
    """Write the rolls of outcomes; what is known already stays as it is.

    Args:
        connection: in the transaction of the bars.
        series: whose they are.
        outcomes: most of which have none.
        at: the instant of the outcomes, aware.
    """
    found = {(each.ticker, each.ts): each for outcome in outcomes for each in outcome.rolls}
    if not found:
        return
    rolls = [found[key] for key in sorted(found)]
    columns: dict[str, Values] = {
        "ticker": (roll.c.ticker.type, [each.ticker for each in rolls]),
        "ts": (roll.c.ts.type, instants(np.array([each.ts for each in rolls], "M8[us]"))),
        "session": (sa.Date, [each.session for each in rolls]),
        "instrument_id": (sa.BigInteger, [each.instrument_id for each in rolls]),
    }
    new = database_of(connection).rows(connection, "new", columns)
    values = {
        "source": sa.literal(series.source),
        "timeframe": sa.literal(series.timeframe),
        **{column.name: column for column in new.c},
        "run_id": sa.literal(series.run_id, sa.Uuid),
        "seen_at": moment(at),
    }
    connection.execute(upsert(roll, new, values, always=("run_id", "seen_at")))


def changes(connection: sa.Connection, ticker: str) -> list[dict[str, Any]]:
    """Where a symbol rolled: each first bar of another contract than before it, newest first.

    Of every source and timeframe; ``from_id`` is None for the first one that is known.
    """
    columns = ("source", "timeframe", "ts", "session", "instrument_id")
    order = (roll.c.source, roll.c.timeframe, roll.c.ts)
    query = sa.select(*(roll.c[name] for name in columns)).where(roll.c.ticker == ticker).order_by(*order)
    found: list[dict[str, Any]] = []
    known: dict[tuple[str, str], int] = {}
    for row in connection.execute(query).mappings():
        series, now = (row["source"], row["timeframe"]), row["instrument_id"]
        if known.get(series) != now:
            found.append({**row, "from_id": known.get(series)})
            known[series] = now
    return found[::-1]
