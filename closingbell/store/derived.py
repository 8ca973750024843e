"""What the store knows of a derived series and of the bars that it is made of, as of one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from closingbell.cells import Gap, Ledger, Watermark
from closingbell.healing import Cell
from closingbell.store.columns import around
from closingbell.store.database import database_of
from closingbell.store.faults import transaction
from closingbell.store.redo import again
from closingbell.store.schema import bar, gap, late_cell, revision, run, watermark

_EVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Known:
    """The ledgers of some tickers, and what changed since the coarser bars were made.

    Attributes:
        finer: of the bars that the others are made of.
        made: of the derived series.
        others: of the same timeframe from elsewhere, by source.
        changed: cells whose finer bars were written, revised or taken out after the coarser ones were written.
    """

    finer: Ledger
    made: Ledger
    others: Mapping[str, Ledger]
    changed: frozenset[Cell]


@dataclass(frozen=True, slots=True)
class Making:
    """Which series is made of which.

    Attributes:
        source: of the finer bars, in the ledger.
        finer: their timeframe.
        made: the source of the coarser ones.
        coarser: their timeframe.
    """

    source: str
    finer: str
    made: str
    coarser: str


def known(engine: sa.Engine, making: Making, tickers: Sequence[str], first: date, last: date) -> Known:
    """What is known of some tickers between two sessions.

    Raises:
        ClosingbellError: the database cannot be read.
    """

    def read() -> Known:
        with transaction(engine, snapshot=True) as connection:
            ledgers = {
                timeframe: _ledgers(connection, timeframe, tickers, first, last)
                for timeframe in (making.finer, making.coarser)
            }
            coarser = ledgers[making.coarser]
            made = coarser.pop(making.made, Ledger({}, ()))
            changed = _changed(connection, making, tickers, first, last) if made.watermarks else frozenset()
        finer = ledgers[making.finer].get(making.source, Ledger({}, ()))
        return Known(finer, made, coarser, changed)

    return again(engine, read)


def _ledgers(
    connection: sa.Connection, timeframe: str, tickers: Sequence[str], first: date, last: date
) -> dict[str, Ledger]:
    """The ledger of each source of a timeframe; gaps between two sessions only."""
    database = database_of(connection)
    names = (watermark.c.source, watermark.c.ticker, watermark.c.first_session, watermark.c.last_session)
    marks: dict[str, dict[str, Watermark]] = {}
    of_these = database.among(connection, watermark.c.ticker, tickers)
    for source, ticker, begin, end in connection.execute(
        sa.select(*names).where(watermark.c.timeframe == timeframe, of_these)
    ):
        marks.setdefault(source, {})[ticker] = Watermark(begin, end)
    columns = (gap.c.ticker, gap.c.session, gap.c.reason, gap.c.attempts, gap.c.last_error, gap.c.updated_at)
    query = sa.select(gap.c.source, *columns).where(
        gap.c.timeframe == timeframe,
        gap.c.session.between(first, last),
        database.among(connection, gap.c.ticker, tickers),
    )
    gaps: dict[str, list[Gap]] = {}
    for source, *columns_of in connection.execute(query):
        gaps.setdefault(source, []).append(Gap(*columns_of))
    return {source: Ledger(of_source, gaps.get(source, [])) for source, of_source in marks.items()}


def _changed(
    connection: sa.Connection, making: Making, tickers: Sequence[str], first: date, last: date
) -> frozenset[Cell]:
    """The cells whose finer bars changed in a run that had not ended when the run began that made the coarser ones.

    A bar that changed, or was taken out, has left a revision; one that came after the others of its cell is noted as
    late. What came into a cell that had none closed a gap, which the ledgers tell.
    """

    def told(table: sa.Table) -> list[Any]:
        query = sa.select(table.c.ticker, table.c.session, table.c.run_id).where(
            table.c.source == making.source,
            table.c.timeframe == making.finer,
            table.c.session.between(first, last),
            database_of(connection).among(connection, table.c.ticker, tickers),
        )
        return list(connection.execute(query.distinct()))

    touched = [*told(revision), *told(late_cell)]
    if not touched:
        return frozenset()
    makers = _makers(connection, making, sorted({ticker for ticker, _, _ in touched}), first, last)
    ids = {run_id for _, _, run_id in touched} | {run_id for runs in makers.values() for run_id in runs}
    began, ended = _lives(connection, sorted(ids))
    return frozenset(
        (ticker, session)
        for ticker, session, run_id in touched
        if (runs := makers.get((ticker, session)))
        and run_id not in runs
        and ended.get(run_id, _EVER) >= max(began.get(maker, _EVER) for maker in runs)
    )


def _makers(
    connection: sa.Connection, making: Making, tickers: Sequence[str], first: date, last: date
) -> dict[Cell, set[UUID]]:
    """The runs that wrote the coarser bars of each cell."""
    lo, hi = around(first, last)
    query = sa.select(bar.c.ticker, bar.c.session, bar.c.run_id).where(
        bar.c.source == making.made,
        bar.c.timeframe == making.coarser,
        bar.c.session.between(first, last),
        bar.c.ts.between(lo, hi),
        database_of(connection).among(connection, bar.c.ticker, tickers),
    )
    makers: dict[Cell, set[UUID]] = {}
    for ticker, session, run_id in connection.execute(query.distinct()):
        makers.setdefault((ticker, session), set()).add(run_id)
    return makers


def _lives(connection: sa.Connection, ids: Sequence[UUID]) -> tuple[dict[UUID, datetime], dict[UUID, datetime]]:
    """When runs began, and when those that ended did."""
    began: dict[UUID, datetime] = {}
    ended: dict[UUID, datetime] = {}
    for begin in range(0, len(ids), 500):
        some = run.c.run_id.in_(ids[begin : begin + 500])
        for run_id, start, end in connection.execute(
            sa.select(run.c.run_id, run.c.started_at, run.c.ended_at).where(some)
        ):
            began[run_id] = start
            if end is not None:
                ended[run_id] = end
    return began, ended
