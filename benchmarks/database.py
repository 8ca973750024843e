"""A database to write into, with durability on, and the real bars that are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import UUID, uuid4

import numpy as np
import sqlalchemy as sa

from closingbell.bars import BAR, NO_TRADES, Bars
from closingbell.calendar import calendar_for
from closingbell.outcome import Judge, Outcome
from closingbell.plan import TickerRange
from closingbell.store import Store, open_store
from infra import migrations
from infra.postgres import EmbeddedPostgres

_FILE: Final = "daily/sp500_5yr.parquet"
_TABLES: Final = "bar, watermark, gap, quarantine, revision, run, claim"


class Bench:
    """An embedded PostgreSQL with a migrated database.

    Attributes:
        url: where it is.
        store: a store on it.
    """

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        self.store: Store = open_store(url.render_as_string(hide_password=False))
        self._admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")

    def empty(self) -> None:
        """Empty the tables, and write out what earlier measurements left to be written."""
        self.do(f"TRUNCATE {_TABLES}")
        self.do("CHECKPOINT")

    def do(self, statement: str) -> None:
        """Execute something by itself."""
        with self._admin.connect() as connection:
            connection.exec_driver_sql(statement)

    def number(self, query: str) -> int:
        """The number that a query gives."""
        with self._admin.connect() as connection:
            return int(connection.exec_driver_sql(query).scalar_one())

    def wal(self) -> int:
        """Bytes of write-ahead log since the cluster was made."""
        return self.number("SELECT CAST(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') AS bigint)")

    def run(self) -> UUID:
        """The row of a new run."""
        run_id = uuid4()
        asked = {"source": "polygon", "timeframe": "1d", "tickers": [], "start": "2013-02-08", "end": "2018-02-07"}
        self.store.records.start_run(run_id, "benchmark", asked, {"planned_calls": 0, "cells": 0})
        return run_id

    def close(self) -> None:
        """Close the connections."""
        self.store.close()
        self._admin.dispose()


@contextmanager
def bench() -> Iterator[Bench]:
    """A database of its own for the time of the block, on a server of its own."""
    with TemporaryDirectory(prefix="closingbell-bench-") as home, EmbeddedPostgres(Path(home)) as server:
        server.ensure_database("bench")
        found = Bench(sa.make_url(server.url("bench")))
        try:
            migrations.upgrade(found.store.engine)
            yield found
        finally:
            found.close()


def data() -> Path | None:
    """The file of real bars, where ``CLOSINGBELL_DATA`` names the folder that has it."""
    folder = os.environ.get("CLOSINGBELL_DATA")
    path = Path(folder or "") / _FILE
    return path if folder and path.exists() else None


def real_bars(path: Path) -> dict[str, Bars]:
    """Five years of the S&P 500, a block for each ticker, as a source would hand them on.

    Args:
        path: the file.
    """
    from pyarrow import parquet  # an extra of this project's

    table = parquet.read_table(path)
    names, tickers = np.unique(table["ticker"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    rows = np.zeros(len(table), BAR)
    rows["session"] = table["date"].to_numpy().astype("M8[D]")
    rows["ts"] = calendar_for("stocks").opens(rows["session"])
    for name in ("open", "high", "low", "close", "volume"):
        rows[name] = table[name].to_numpy()
    rows["vwap"], rows["trades"] = np.nan, NO_TRADES
    parts = np.split(rows[np.argsort(tickers, kind="stable")], np.bincount(tickers).cumsum()[:-1])
    return {str(name): Bars((str(name),), part) for name, part in zip(names, parts, strict=True)}


def real_outcomes(path: Path, share: int = 1) -> list[Outcome]:
    """The same, an outcome for each ticker as if its range had been asked for, judged by the rules.

    Args:
        path: the file.
        share: only every so many-th ticker.
    """
    blocks = real_bars(path)
    days = np.concatenate([block.rows["session"] for block in blocks.values()])
    sessions = calendar_for("stocks").sessions(days.min().item(), days.max().item())
    judge = Judge("stocks", sessions, np.datetime64("2026-01-01"), np.datetime64("2026-01-01"))
    asked = tuple(sessions.tolist())
    return [
        judge.answered(TickerRange(ticker, asked), block, len(block)) for ticker, block in list(blocks.items())[::share]
    ]
