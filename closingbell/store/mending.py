"""What is wrong with a ledger, beside the sums, and how it is made true again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa

from closingbell.calendar import asset_class, calendar_for
from closingbell.cells import Watermark
from closingbell.healing import Cell, Damage
from closingbell.store.asked import asked_for
from closingbell.store.columns import around
from closingbell.store.database import Series, database_of, moment
from closingbell.store.marks import cells_as_rows, has_bar, is_gap_of, lock_marks, make_marks
from closingbell.store.origin import MADE, origins
from closingbell.store.schema import bar, gap, quarantine, watermark


def orphans(
    connection: sa.Connection, source: str, timeframe: str, tickers: Sequence[str] | None = None
) -> dict[str, Watermark]:
    """Tickers that lost their watermark, of these or of all, and what it spanned.

    They have bars or gaps, or a run that came to its end had asked for them.
    """
    spans: list[tuple[str, date, date]] = []
    for table in (bar, gap):
        marked = sa.exists().where(
            watermark.c.source == source, watermark.c.timeframe == timeframe, watermark.c.ticker == table.c.ticker
        )
        query = (
            sa.select(table.c.ticker, sa.func.min(table.c.session), sa.func.max(table.c.session))
            .where(table.c.source.in_(origins(source)), table.c.timeframe == timeframe, ~marked)
            .group_by(table.c.ticker)
        )
        if tickers is not None:
            query = query.where(database_of(connection).among(connection, table.c.ticker, tickers))
        spans += connection.execute(query).tuples()
    spans += [(name, span.first, span.last) for name, span in asked_for(connection, source, timeframe, tickers)]
    found: dict[str, Watermark] = {}
    for ticker, first, last in spans:
        known = found.get(ticker, Watermark(first, last))
        found[ticker] = Watermark(min(first, known.first), max(last, known.last))
    return {ticker: mark for ticker, span in found.items() if (mark := _on_sessions(ticker, span))}


def _on_sessions(ticker: str, span: Watermark) -> Watermark | None:
    """The same from session to session; None if there is none in it."""
    sessions = calendar_for(asset_class(ticker)).sessions(span.first, span.last)
    return Watermark(sessions[0].item(), sessions[-1].item()) if len(sessions) else None


def unproven(
    connection: sa.Connection, source: str, timeframe: str, tickers: Sequence[str] | None = None
) -> tuple[Cell, ...]:
    """Cells of these tickers or of all that are in quarantine by the ledger, while no bar of theirs is."""
    query = sa.select(gap.c.ticker, gap.c.session).where(
        gap.c.source == source, gap.c.timeframe == timeframe, _is_unproven()
    )
    if tickers is not None:
        query = query.where(database_of(connection).among(connection, gap.c.ticker, tickers))
    return tuple(connection.execute(query.order_by(gap.c.ticker, gap.c.session)).tuples())


def mend(connection: sa.Connection, run_id: UUID, source: str, timeframe: str, damage: Damage, at: datetime) -> None:
    """Make the ledger true again: what is lost becomes ``pending``, what has its bar is no gap.

    Watermarks are made and locked as in every flush, in the order of the tickers. What somebody else has mended in
    the meantime stays.
    """
    series = Series(source, timeframe, run_id)
    if damage.orphans:
        make_marks(connection, series, damage.orphans)
    lock_marks(connection, series, damage.per_ticker)
    _reopen(connection, series, damage.lost, at)
    near = _near(damage.contradicted)
    # Another vendor's bar does not unsay what this one answered.
    own = has_bar(timeframe, gap, gap.c.source, between=near)
    _close(connection, series, damage.contradicted, own)
    _close(connection, series, damage.unproven, _is_unproven())
    _reopen(connection, series, damage.unproven, at)


def _is_unproven() -> sa.ColumnElement[bool]:
    """That a gap is in quarantine by the ledger, while no bar of it is; a derived one's are among the minutes."""
    kept = sa.exists().where(
        quarantine.c.source == gap.c.source,
        quarantine.c.ticker == gap.c.ticker,
        quarantine.c.timeframe == gap.c.timeframe,
        quarantine.c.session == gap.c.session,
    )
    return sa.and_(gap.c.reason == "quarantined", gap.c.source.not_like(f"%{MADE}"), ~kept)


def _close(connection: sa.Connection, series: Series, cells: Sequence[Cell], still: sa.ColumnElement[bool]) -> None:
    """Delete the gaps of some cells of which something is still true."""
    if not cells:
        return
    connection.execute(sa.delete(gap).where(is_gap_of(connection, series, cells), still))


def _reopen(connection: sa.Connection, series: Series, cells: Sequence[Cell], at: datetime) -> None:
    """Make lost cells ``pending``, unless somebody stored their bar or their gap in the meantime, or made the watermark
    anew without them."""
    if not cells:
        return
    lost = cells_as_rows(connection, "lost", cells)
    values = {
        "source": sa.literal(series.source),
        "ticker": lost.c.ticker,
        "timeframe": sa.literal(series.timeframe),
        "session": lost.c.session,
        "reason": sa.literal("pending"),
        "attempts": sa.literal(0),
        "updated_at": moment(at),
        "run_id": sa.literal(series.run_id, sa.Uuid),
    }
    spanned = sa.and_(
        watermark.c.source == series.source,
        watermark.c.timeframe == series.timeframe,
        watermark.c.ticker == lost.c.ticker,
        lost.c.session.between(watermark.c.first_session, watermark.c.last_session),
    )
    query = sa.select(*values.values()).join_from(lost, watermark, spanned)
    none = ~has_bar(series.timeframe, lost, between=_near(cells))
    database_of(connection).insert_missing(connection, gap, values, query.where(none))


def _near(cells: Sequence[Cell]) -> tuple[datetime, datetime] | None:
    """Instants between which all bars of some cells open; None where there are no cells."""
    sessions = [session for _, session in cells]
    return around(min(sessions), max(sessions)) if sessions else None
