"""Watermarks and the run's counters, as statements: made, locked and moved in the order of the tickers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from closingbell.cells import Watermark
from closingbell.store.database import Series, Values, database_of
from closingbell.store.merge import Merge
from closingbell.store.origin import of_vendor
from closingbell.store.schema import bar, gap, run, watermark


def _of(connection: sa.Connection, series: Series, tickers: Iterable[str]) -> sa.Select[Any]:
    return (
        sa.select(watermark.c.ticker, watermark.c.first_session, watermark.c.last_session)
        .where(
            watermark.c.source == series.source,
            watermark.c.timeframe == series.timeframe,
            database_of(connection).among(connection, watermark.c.ticker, sorted(tickers)),
        )
        .order_by(watermark.c.ticker)
    )


def _read(connection: sa.Connection, query: sa.Select[Any]) -> dict[str, Watermark]:
    """Watermarks by ticker; those that are equal are one object, by which the ledger knows them."""
    same = lru_cache(None)(Watermark)
    return {ticker: same(first, last) for ticker, first, last in connection.execute(query)}


def _columns(marks: Mapping[str, Watermark]) -> dict[str, Values]:
    names = sorted(marks)
    return {
        "ticker": (watermark.c.ticker.type, names),
        "first_session": (sa.Date, [marks[name].first for name in names]),
        "last_session": (sa.Date, [marks[name].last for name in names]),
    }


def lock_marks(connection: sa.Connection, series: Series, tickers: Iterable[str]) -> dict[str, Watermark]:
    """The watermarks of those of some tickers that have one, locked until the transaction ends."""
    return _read(connection, _of(connection, series, tickers).with_for_update())


def lock_all_marks(connection: sa.Connection, timeframe: str, tickers: Iterable[str]) -> None:
    """Lock every vendor's watermarks of some tickers until the transaction ends."""
    connection.execute(
        sa.select(watermark.c.ticker)
        .where(
            watermark.c.timeframe == timeframe,
            database_of(connection).among(connection, watermark.c.ticker, sorted(tickers)),
        )
        .order_by(watermark.c.ticker, watermark.c.source)
        .with_for_update()
    )


def make_marks(connection: sa.Connection, series: Series, marks: Mapping[str, Watermark]) -> int:
    """Make watermarks that are not there; how many were made, the others being somebody else's by now."""
    database = database_of(connection)
    count = database.make_marks(connection, series, {name: marks[name] for name in sorted(marks)})
    if count is not None:
        return count
    made = database.rows(connection, "made", _columns(marks))
    values = {
        "source": sa.literal(series.source),
        "timeframe": sa.literal(series.timeframe),
        **{column.name: column for column in made.c},
        "run_id": sa.literal(series.run_id, sa.Uuid),
    }
    return database.insert_missing(connection, watermark, values, sa.select(*values.values()))


def stretch_marks(connection: sa.Connection, series: Series, asked: Mapping[str, Watermark]) -> dict[str, Watermark]:
    """Lock watermarks until the transaction ends, and stretch them over what is asked of their tickers.

    Args:
        connection: in a transaction.
        series: whose they are.
        asked: first and last session asked, by ticker; of one at least.

    Returns:
        What those that there are were before.
    """
    span = next(iter(asked.values()))
    if all(each is span or each == span for each in asked.values()):  # of a market day, or of one piece of history
        before = database_of(connection).stretch(connection, series, sorted(asked), span.first, span.last)
        if before is not None:
            return dict(before)
    locked = lock_marks(connection, series, asked)
    over = lru_cache(None)(Watermark.over)
    moved = {ticker: over(mark, asked[ticker]) for ticker, mark in locked.items()}
    if moved := {ticker: mark for ticker, mark in moved.items() if mark != locked[ticker]}:
        _set_marks(connection, series, moved)
    return locked


def _set_marks(connection: sa.Connection, series: Series, marks: Mapping[str, Watermark]) -> None:
    new = database_of(connection).rows(connection, "new", _columns(marks))
    mine = sa.and_(
        watermark.c.source == series.source,
        watermark.c.timeframe == series.timeframe,
        watermark.c.ticker == new.c.ticker,
    )
    moved = {name: new.c[name] for name in ("first_session", "last_session")}
    update = {**moved, "run_id": sa.literal(series.run_id, sa.Uuid)}
    differs = sa.or_(*(watermark.c[name] != value for name, value in moved.items()))
    connection.execute(Merge(watermark, new, mine, update=update, where=differs))


_COUNTERS: Final = ("actual_calls", "done_cells", "accepted_bars", "inserted", "rewritten")

_COUNT: Final = (
    sa.update(run)
    .where(run.c.run_id == sa.bindparam("counted", type_=sa.Uuid))
    .values({name: run.c[name] + sa.bindparam(f"more_{name}", type_=sa.Integer) for name in _COUNTERS})
)


def counted(
    connection: sa.Connection, run_id: UUID, calls: int, cells: int, stored: int, inserted: int, rewritten: int
) -> None:
    """Add to a run's counters."""
    more = dict(zip(_COUNTERS, (calls, cells, stored, inserted, rewritten), strict=True))
    if any(more.values()):
        connection.execute(_COUNT, {"counted": run_id, **{f"more_{name}": count for name, count in more.items()}})


def cells_as_rows(connection: sa.Connection, name: str, cells: Sequence[tuple[str, date]]) -> sa.FromClause:
    """Cells as a table with columns ticker and session."""
    columns: dict[str, Values] = {
        "ticker": (gap.c.ticker.type, [ticker for ticker, _ in cells]),
        "session": (gap.c.session.type, [session for _, session in cells]),
    }
    return database_of(connection).rows(connection, name, columns)


def is_gap_of(connection: sa.Connection, series: Series, cells: Sequence[tuple[str, date]]) -> sa.ColumnElement[bool]:
    """That a gap is of one of some cells, given by ticker and session.

    Source and timeframe are compared with those of the list, and behind a fence (``OFFSET 0``): by them alone a
    database that has no statistics yet takes a table of a hundred thousand gaps for one of a few, and goes through the
    whole list for each.
    """
    listed = cells_as_rows(connection, "cell", cells)
    mine = (sa.literal(series.source, gap.c.source.type), sa.literal(series.timeframe, gap.c.timeframe.type))
    wanted = sa.select(*mine, listed.c.ticker, listed.c.session).offset(0)
    return sa.tuple_(gap.c.source, gap.c.timeframe, gap.c.ticker, gap.c.session).in_(wanted)


def has_bar(
    timeframe: str,
    cell: sa.FromClause,
    source: sa.ColumnElement[str] | None = None,
    *,
    between: tuple[datetime, datetime] | None = None,
) -> sa.ColumnElement[bool]:
    """That a cell of ``cell``, with columns ticker and session, has a bar, of this vendor or of any.

    The key of ``bar`` has ``ts`` and no session, but every bar opens within days of its own.

    Args:
        timeframe: of the bar.
        cell: where the cells are.
        source: the vendor; None: any.
        between: instants between which the bars of all the cells open, where they are known.
    """
    near: sa.ColumnElement[Any] = sa.literal_column("7" if timeframe == "1d" else "3")
    of = bar.alias("of_cell")
    where = [
        of.c.ticker == cell.c.ticker,
        of.c.timeframe == timeframe,
        of.c.session == cell.c.session,
        of.c.ts.between(cell.c.session - near, cell.c.session + near),
    ]
    if source is not None:
        where.append(of_vendor(of.c.source, source))
    if between:
        where.append(of.c.ts.between(*between))
    return sa.exists(sa.select(sa.literal_column("1")).select_from(of).where(*where))
