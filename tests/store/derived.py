"""Reads what is derived, as it is now or as it was known, in the same words on each database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa

from closingbell.store import Store
from closingbell.store.oracle import present
from closingbell.store.schema import bar

#: The columns of the views, in the types that each database gives them back in.
OF: dict[str, sa.ColumnClause[Any]] = {
    **{column.name: sa.column(column.name, column.type) for column in bar.c},
    **{name: sa.column(name, sa.Date()) for name in ("first_session", "before_session")},
    **{name: sa.column(name, sa.String()) for name in ("traded_as", "instrument_id")},
    **{
        name: sa.column(name, sa.Double())
        for name in ("factor", "dividend_factor", "adjusted_close", "total_return_close")
    },
}


def read(
    store: Store,
    relation: str,
    *columns: str,
    where: sa.ColumnElement[bool] | None = None,
    known: date | datetime | None = None,
    order: Sequence[str] = ("ticker", "ts"),
) -> list[Any]:
    """Columns of a table or view.

    Args:
        store: the database.
        relation: the table's or view's name.
        columns: see :data:`OF`.
        where: which rows; None: all.
        known: the instant, or the day by its end in UTC, as of which a relation that ends in ``as_of`` is read.
        order: the columns to sort by.
    """
    with store.engine.connect() as connection:
        query = sa.select(*(OF[name] for name in columns)).select_from(_as_of(connection, relation, known))
        if where is not None:
            query = query.where(where)
        return [tuple(row) for row in connection.execute(query.order_by(*(OF[name] for name in order)))]


def _as_of(connection: sa.Connection, relation: str, known: date | datetime | None) -> sa.FromClause:
    if known is None:
        return sa.table(relation)
    if connection.dialect.name == "postgresql":
        of_a_day = sa.DateTime(timezone=True) if isinstance(known, datetime) else sa.Date()
        return getattr(sa.func, relation)(sa.cast(known, of_a_day)).alias("known")  # type: ignore[no-any-return]
    if not isinstance(known, datetime):
        known = datetime.combine(known, time(), UTC) + timedelta(days=1, microseconds=-1)
    connection.execute(sa.insert(present).values(instant=known))  # gone with the transaction
    return sa.table(relation)
