"""Bars that came after the others of their cell: what the ledger, which counts cells, does not tell."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from closingbell.bars import Bars
from closingbell.store.columns import around
from closingbell.store.database import Series, Values, database_of, moment
from closingbell.store.schema import bar, late_cell


def note(connection: sa.Connection, series: Series, bars: Bars, at: datetime) -> None:
    """Keep which cells got another bar in this transaction.

    Args:
        connection: in the transaction that wrote them.
        series: whose bars they are.
        bars: those of cells that had some before; of these the ones that this run wrote last are meant.
        at: the instant of the writing, aware.
    """
    database = database_of(connection)
    cells = {(bars.tickers[row["ticker"]], row["session"].item()) for row in bars.rows[["ticker", "session"]]}
    first, last = bars.rows["session"].min().item(), bars.rows["session"].max().item()
    written = (
        sa.select(bar.c.ticker, bar.c.session)
        .where(
            bar.c.timeframe == series.timeframe,
            bar.c.run_id == series.run_id,
            database.among(connection, bar.c.ticker, {ticker for ticker, _ in cells}),
            bar.c.ts.between(*around(first, last)),
        )
        .distinct()
    )
    late = sorted(cells.intersection(connection.execute(written).tuples().all()))
    if not late:
        return
    columns: dict[str, Values] = {
        "ticker": (bar.c.ticker.type, [ticker for ticker, _ in late]),
        "session": (sa.Date, [session for _, session in late]),
    }
    came = database.rows(connection, "came", columns)
    values = {
        "source": sa.literal(series.source),
        "timeframe": sa.literal(series.timeframe),
        **{column.name: column for column in came.c},
        "run_id": sa.literal(series.run_id, sa.Uuid),
        "seen_at": moment(at),
    }
    connection.execute(sa.insert(late_cell).from_select(list(values), sa.select(*values.values())))
