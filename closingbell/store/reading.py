"""Bars out of the database, as the same column block that went in."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from closingbell.bars import BAR, Bars
from closingbell.store.copy import parse
from closingbell.store.faults import transaction
from closingbell.store.redo import again

#: A bar opens no further than this from the midnight that its session is named after.
_NEAR: Final = timedelta(days=7)

# Bound by the driver (COPY takes no parameters on the wire).
_SERIES: Final = """
    COPY (
        SELECT CAST(named.n - 1 AS integer), bar.session, bar.ts, bar.open, bar.high, bar.low, bar.close, bar.volume,
            coalesce(bar.vwap, 'NaN'), coalesce(bar.trades, -1)
        FROM unnest(CAST(%(tickers)s AS text[])) WITH ORDINALITY AS named (ticker, n)
        JOIN bar ON bar.ticker = named.ticker AND bar.timeframe = %(timeframe)s AND bar.source = %(source)s
            AND bar.ts BETWEEN %(lo)s AND %(hi)s AND bar.session BETWEEN %(first)s AND %(last)s
        ORDER BY named.n, bar.ts
    ) TO STDOUT (FORMAT binary)
"""

_FIELDS: Final = (
    ("ticker", "int4"),
    ("session", "date"),
    ("ts", "timestamptz"),
    *((name, "float8") for name in ("open", "high", "low", "close", "volume", "vwap")),
    ("trades", "int8"),
)


def series(engine: sa.Engine, source: str, timeframe: str, tickers: Sequence[str], first: date, last: date) -> Bars:
    """A vendor's stored bars of some tickers from session ``first`` to session ``last``, by ticker and ``ts``.

    Raises:
        ClosingbellError: what the database refuses or fails to do, see :mod:`closingbell.store.faults`.
    """
    values = {
        "tickers": list(tickers),
        "source": source,
        "timeframe": timeframe,
        "first": first,
        "last": last,
        **dict(zip(("lo", "hi"), instants(first, last), strict=True)),
    }

    def read() -> bytes:
        stream = io.BytesIO()
        with transaction(engine) as connection:
            driver: Any = connection.connection
            with driver.cursor() as cursor:
                cursor.copy_expert(cursor.mogrify(_SERIES, values), stream)
        return stream.getvalue()

    rows = parse(again(engine, read), _FIELDS)
    block = np.empty(len(rows), BAR)
    for name, _ in _FIELDS:
        block[name] = rows[name]
    return Bars(tuple(tickers), block, timeframe)


def instants(first: date, last: date) -> tuple[datetime, datetime]:
    """Instants, UTC, between which every bar of these sessions opens: the key of ``bar`` has ``ts``, no session."""
    lo, hi = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first, last))
    return lo - _NEAR, hi + _NEAR
