"""What runs that came to their end had asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from closingbell.cells import Watermark
from closingbell.store.schema import run, watermark

#: Requests that are in memory at once: one may name every ticker there is.
_AT_ONCE: Final = 10


def asked_for(
    connection: sa.Connection, source: str, timeframe: str, tickers: Collection[str] | None = None
) -> Iterator[tuple[str, Watermark]]:
    """Tickers without a watermark, of these or of all, that a run asked for: from when to when, once for each run.

    Only sessions that were over by then: those of tickers with a prefix, crypto and currencies, are so at midnight
    UTC.
    """
    marked = sa.select(watermark.c.ticker).where(watermark.c.source == source, watermark.c.timeframe == timeframe)
    known = frozenset(connection.execute(marked).scalars())
    wanted = None if tickers is None else frozenset(tickers) - known
    if wanted is not None and not wanted:
        return
    query = sa.select(run.c.asked, run.c.as_of).where(
        run.c.source == source,
        run.c.flow.in_(("ingest", "backfill")),
        run.c.state.in_(("Completed", "PartiallyCompleted")),
    )
    for asked, as_of in connection.execute(query.execution_options(yield_per=_AT_ONCE)):
        if timeframe not in asked.get("timeframes", [asked.get("timeframe", timeframe)]):
            continue
        names = frozenset(asked.get("tickers") or ())
        for ticker in names - known if wanted is None else names & wanted:
            if span := _span(ticker, asked, as_of):
                yield ticker, span


def _span(ticker: str, asked: Mapping[str, Any], as_of: datetime) -> Watermark | None:
    first, last = (asked.get("limits") or {}).get(ticker) or (None, None)
    first, last = first or asked.get("start"), last or asked.get("end")
    over = as_of.astimezone(UTC).date() - timedelta(days=int(":" in ticker))
    if first is None:
        return None
    begin, end = date.fromisoformat(first), min(date.fromisoformat(last), over) if last else over
    return Watermark(begin, end) if begin <= end else None
