"""Bars and outcomes to flush: short to write, each value different from every other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.bars import BAR, NO_TRADES, Bars
from closingbell.calendar import calendar_for
from closingbell.outcome import Judge, Outcome
from closingbell.plan import Call, MarketDay, TickerRange
from closingbell.store import Store
from closingbell.store.schema import bar, gap, watermark

FIRST, LAST = date(2024, 1, 2), date(2024, 3, 28)
SESSIONS = calendar_for("stocks").sessions(FIRST, LAST)
JUDGE = Judge("stocks", SESSIONS, np.datetime64("2030-01-01"), np.datetime64("2030-01-01"))


def days(first: int, last: int) -> NDArray[np.datetime64]:
    """Sessions by their position, both included."""
    return SESSIONS[first : last + 1]


def bars(tickers: Sequence[str] | str, sessions: NDArray[np.datetime64], shift: float = 0.0) -> Bars:
    """A proper bar for each ticker and session; ``shift`` moves every price."""
    names = (tickers,) if isinstance(tickers, str) else tuple(tickers)
    rows = np.zeros(len(names) * len(sessions), BAR)
    rows["ticker"] = np.repeat(np.arange(len(names)), len(sessions))
    rows["session"] = np.tile(sessions, len(names))
    rows["ts"] = calendar_for("stocks").opens(rows["session"])
    rows["open"] = 100 + shift + np.arange(len(rows)) / 7
    rows["high"], rows["low"] = rows["open"] + 2 / 3, rows["open"] - 1 / 3
    rows["close"] = rows["open"] + 0.1
    rows["volume"] = 1e6 + np.arange(len(rows)) / 3
    rows["vwap"] = rows["open"] + 0.05
    rows["trades"] = 1_000 + np.arange(len(rows))
    return Bars(names, rows)


def range_of(ticker: str, sessions: NDArray[np.datetime64]) -> TickerRange:
    return TickerRange(ticker, tuple(sessions.tolist()))


def answered(call: Call, block: Bars) -> Outcome:
    return JUDGE.answered(call, block, len(block))


def ranged(ticker: str, sessions: NDArray[np.datetime64], shift: float = 0.0) -> Outcome:
    """A ticker range, answered in full."""
    return answered(range_of(ticker, sessions), bars(ticker, sessions, shift))


def market_day(position: int, tickers: Sequence[str], shift: float = 0.0) -> Outcome:
    """A market day, answered in full."""
    call = MarketDay(SESSIONS[position].item(), tuple(tickers))
    return answered(call, bars(tickers, days(position, position), shift))


def start(store: Store) -> UUID:
    """The row of a new run."""
    run_id = uuid4()
    asked = {"source": "polygon", "timeframe": "1d", "tickers": ["AAPL"], "start": str(FIRST), "end": str(LAST)}
    store.records.start_run(run_id, "ingest", asked, {"planned_calls": 1, "cells": 1})
    return run_id


def query(store: Store, what: str | sa.Executable, **values: Any) -> list[Any]:
    """The rows of a statement; of a text each database gives dates, instants and UUIDs as its driver has them."""
    statement = sa.text(what) if isinstance(what, str) else what
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(statement, values)]


def rows_of(store: Store, table: sa.Table, *columns: str, where: Any = True) -> list[Any]:
    """Columns of a table (none: all), ordered by them; of the same types on each database."""
    chosen = [table.c[name] for name in columns] or list(table.c)
    # What a database does not sort by is at the end.
    order = [column for column in chosen if not isinstance(column.type, sa.JSON)]
    return query(store, sa.select(*chosen).where(sa.true() if where is True else where).order_by(*order))


def count(store: Store, table: sa.Table, where: Any = True) -> int:
    """How many rows a table has."""
    wanted = sa.select(sa.func.count()).select_from(table).where(sa.true() if where is True else where)
    return int(query(store, wanted)[0][0])


def change(store: Store, statement: sa.Executable, **values: Any) -> int:
    """Execute something behind the store's back; how many rows it changed."""
    with store.engine.begin() as connection:
        return connection.execute(statement, values).rowcount


def stored(store: Store) -> list[Any]:
    """Every bar's values; instants as UTC without saying so, as in :class:`~closingbell.bars.Bars`."""
    names = ("open", "high", "low", "close", "volume", "vwap", "trades", "source", "run_id")
    found = query(
        store,
        sa.select(bar.c.ticker, bar.c.timeframe, bar.c.session, bar.c.ts, *(bar.c[name] for name in names)).order_by(
            bar.c.ticker, bar.c.ts
        ),
    )
    return [(*row[:3], row[3].astimezone(UTC).replace(tzinfo=None), *row[4:]) for row in found]


def expected(block: Bars, run_id: UUID, source: str = "polygon") -> list[Any]:
    """What :func:`stored` gives for a block."""
    rows = block.rows[np.lexsort((block.rows["ts"], np.array(block.tickers)[block.rows["ticker"]]))]
    return [
        (
            block.tickers[row["ticker"]],
            block.timeframe,
            row["session"].item(),
            row["ts"].item(),
            *(float(row[name]) for name in ("open", "high", "low", "close", "volume")),
            None if np.isnan(row["vwap"]) else float(row["vwap"]),
            None if row["trades"] == NO_TRADES else int(row["trades"]),
            source,
            run_id,
        )
        for row in rows
    ]


def session_of(connection: sa.Connection) -> int:
    """The server process that does a transaction's work; behind a pooler the driver knows of another one."""
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def is_default(connection: sa.Connection, name: str) -> bool:
    """Whether a PostgreSQL's session has a setting as the server, the database and the role have it."""
    own = name.startswith("transaction_")  # the transaction's own, taken from a default of another name
    asked = sa.text(
        "SELECT own.setting = given.reset_val FROM pg_settings AS own, pg_settings AS given"
        " WHERE own.name = :name AND given.name = :given"
    )
    return bool(connection.execute(asked, {"name": name, "given": f"default_{name}" if own else name}).scalar_one())


def read_only(store: Store, server: sa.URL, on: bool) -> None:
    """Make every new session read-only, as on a primary that was demoted; those that are there are ended."""
    name = store.engine.url.database
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = {'on' if on else 'off'}")
        connection.execute(
            sa.text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"),
            {"name": name},
        )


def gaps(store: Store) -> dict[tuple[str, date], tuple[str, int, str | None]]:
    rows = rows_of(store, gap, "ticker", "session", "reason", "attempts", "last_error")
    return {(ticker, session): (reason, attempts, error) for ticker, session, reason, attempts, error in rows}


def marks(store: Store) -> dict[str, tuple[date, date]]:
    rows = rows_of(store, watermark, "ticker", "first_session", "last_session")
    return {ticker: (first, last) for ticker, first, last in rows}
