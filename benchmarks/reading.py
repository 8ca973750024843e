"""Reading into frames: :mod:`closingbell.read` beside the database's own COPY, and beside what pandas does of itself.

    python -m benchmarks reading

Each round reads every form once. ``COPY`` is the same statement received and thrown away: what the database and the
driver take for it, and so the limit.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pandas as pd

from benchmarks.adjusted import fill
from benchmarks.report import Table, ratio
from closingbell import read
from closingbell.read import arrow
from infra.postgres import EmbeddedPostgres

_COLUMNS: Final = "ticker, session, ts, open, high, low, close, volume, vwap, trades, source"

#: What is read, by what it is called: the relation with its condition, and what to ask :mod:`closingbell.read` for.
_READS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "one ticker, 1d": ("bar WHERE ticker = 'T0004' AND timeframe = '1d'", {"tickers": "T0004"}),
    "one ticker, 1m": ("bar WHERE ticker = 'T0004' AND timeframe = '1m'", {"tickers": "T0004", "timeframe": "1m"}),
    "five tickers, 1m": ("bar WHERE timeframe = '1m'", {"timeframe": "1m"}),
    "all tickers, 1d": ("bar WHERE timeframe = '1d'", {}),
    "all tickers, 1d, adjusted": ("bar_adjusted WHERE timeframe = '1d'", {"adjusted": True}),
}


def measure(*, quick: bool = False) -> list[Table]:
    """How long each form takes, and its ratio to COPY."""
    tickers, sessions, rounds = (50, 504, 3) if quick else (500, 1260, 9)
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as home, EmbeddedPostgres(Path(home)) as server:
        server.ensure_database("benchmark")
        fill(server.url("benchmark"), {"tickers": tickers, "sessions": sessions, "run": str(uuid4())})
        with read.connect(server.url("benchmark")) as database, database.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            for name, (relation, asked) in _READS.items():
                statement = f"SELECT {_COLUMNS} FROM {relation} ORDER BY ticker, ts"  # noqa: S608
                forms: dict[str, Callable[[], object]] = {
                    "COPY": lambda statement=statement: _copy(driver, statement),
                    "read.bars": lambda asked=asked: read.bars(**asked, database=database),
                    "read.arrow.bars": lambda asked=asked: arrow.bars(**asked, database=database),
                    "pandas.read_sql": lambda statement=statement: pd.read_sql(statement, connection),
                }
                count = len(read.bars(**asked, database=database))
                spent: dict[str, list[float]] = {form: [] for form in forms}
                for turn in range(rounds + 1):
                    for form, work in forms.items():
                        begun = time.perf_counter()
                        work()
                        if turn:  # the first round warms the caches
                            spent[form].append(time.perf_counter() - begun)
                rows += [
                    (name, form, count, 1000 * statistics.median(each), ratio(each, spent["COPY"]))
                    for form, each in spent.items()
                ]
    note = f"{tickers:,} tickers, {sessions:,} sessions of days, a year of minutes of five tickers."
    return [Table("Reading into frames", ("read", "form", "rows", "ms", "times COPY"), rows, [note])]


def _copy(driver: Any, statement: str) -> None:
    with driver.cursor() as cursor:
        cursor.copy_expert(f"COPY ({statement}) TO STDOUT (FORMAT binary)", io.BytesIO())
