"""What adjusting costs: the same bars read raw from ``bar`` and through the views, medians side by side.

    python -m benchmarks adjusted

An embedded PostgreSQL with daily bars of every ticker and minutes of a few, up to four splits for each ticker and
as many again for a market of others, and who held each ticker. Each round reads every form once, so that what else
the machine does hits all alike; a read fetches every column of every row, in the order of ``ts``.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg2
import psycopg2.extensions

from benchmarks.report import Table, ratio
from closingbell.store import open_store
from infra import migrations
from infra.postgres import EmbeddedPostgres

_FILL: Final = (
    """
    INSERT INTO run (run_id, flow, source, timeframe, state, asked, plan)
    VALUES (%(run)s, 'ingest', 'polygon', '1d', 'Completed', '{}', '{}')""",
    """
    INSERT INTO bar (
        ticker, timeframe, session, ts, open, high, low, close, volume, vwap, trades, source, run_id
    )
    SELECT 'T' || lpad(i::text, 4, '0'), '1d', day, day + time '14:30' AT TIME ZONE 'UTC',
        o, o * 1.02, o * 0.98, o * 1.01, 1e6 + n, o * 1.003, 1000 + n, 'polygon', %(run)s
    FROM generate_series(1, %(tickers)s) AS i,
        LATERAL (SELECT n, DATE '2016-01-04' + n AS day, 100 + i + sin(n / 50.0) * 37 AS o
                 FROM generate_series(1, %(sessions)s) AS n) AS days
    ORDER BY 1, 4""",
    """
    INSERT INTO bar (
        ticker, timeframe, session, ts, open, high, low, close, volume, vwap, trades, source, run_id
    )
    SELECT 'T' || lpad(i::text, 4, '0'), '1m', day, day + time '14:30' AT TIME ZONE 'UTC' + m * interval '1 minute',
        o, o * 1.02, o * 0.98, o * 1.01, 1e3 + m, o * 1.003, 10 + m, 'polygon', %(run)s
    FROM generate_series(1, 5) AS i,
        LATERAL (SELECT n, m, DATE '2022-01-03' + n AS day, 100 + i + sin(m / 50.0) * 37 AS o
                 FROM generate_series(1, 252) AS n, generate_series(0, 389) AS m) AS minutes
    ORDER BY 1, 4""",
    """
    INSERT INTO split (source, ticker, execution_date, split_from, split_to, run_id, known_from)
    SELECT 'polygon', t || lpad(i::text, 4, '0'), DATE '2016-01-04' + (%(sessions)s * k / 5) + i %% 50,
        CASE WHEN i %% 3 = 0 THEN 10 ELSE 1 END, 2 + k, %(run)s, now()
    FROM (VALUES ('T'), ('U'), ('V'), ('W')) AS of_ticker (t), generate_series(1, %(tickers)s) AS i,
        LATERAL generate_series(1, i %% 5) AS k""",
    """
    INSERT INTO ticker_history (source, ticker, first_day, instrument_id, name, origin, run_id, seen_at)
    SELECT 'polygon', t || lpad(i::text, 4, '0'), DATE '2003-09-10', 'BBG' || t || i, t || i, 'vendor', %(run)s, now()
    FROM (VALUES ('T'), ('U')) AS of_ticker (t), generate_series(1, %(tickers)s) AS i""",
    """
    INSERT INTO dividend (source, ticker, ex_date, seq, kind, cash_amount, currency, run_id, seen_at)
    SELECT 'polygon', t || lpad(i::text, 4, '0'), DATE '2016-02-01' + 63 * k, 1, 'CD', 0.5, 'USD', %(run)s, now()
    FROM (VALUES ('T'), ('U')) AS of_ticker (t), generate_series(1, %(tickers)s) AS i,
        generate_series(0, %(sessions)s / 63 - 1) AS k""",
    "VACUUM ANALYZE",
)

#: What is read, by what it is called: a condition, and how many of the rounds read it.
_READS: Final = {
    "one ticker, 1d": ("WHERE ticker = 'T0004' AND timeframe = '1d'", 1.0),
    "one ticker, 1m": ("WHERE ticker = 'T0004' AND timeframe = '1m'", 0.5),
    "everything": ("WHERE timeframe = '1d'", 0.1),
}
_FORMS: Final = {
    "raw": "bar",
    "bar_adjusted": "bar_adjusted",
    "adjusted_as_of": "bar_adjusted_as_of(date '2030-01-01')",
    "bar_as_of": "bar_as_of(date '2030-01-01')",
    "bar_history": "bar_history",
    "total_return": "(SELECT '1d' AS timeframe, * FROM bar_total_return) AS of_days",
}


def read(connection: psycopg2.extensions.connection, condition: str, rounds: int) -> dict[str, tuple[list[float], int]]:
    """The seconds of each round, and the rows, of each form."""
    forms = {form: relation for form, relation in _FORMS.items() if "1d" in condition or form != "total_return"}
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    rows = dict.fromkeys(forms, 0)
    for turn in range(rounds + 1):
        for form, relation in forms.items():
            begun = time.perf_counter()
            rows[form] = _read(connection, f"SELECT * FROM {relation} {condition} ORDER BY ticker, ts")  # noqa: S608
            if turn:  # the first round warms the caches
                seconds[form].append(time.perf_counter() - begun)
    return {form: (seconds[form], rows[form]) for form in forms}


def _read(connection: psycopg2.extensions.connection, statement: str) -> int:
    """Fetch all rows, in parts, so that the client's memory does not count."""
    with connection.cursor("reading") as cursor:
        cursor.itersize = 50_000
        cursor.execute(statement)
        count = 0
        while rows := cursor.fetchmany(50_000):
            count += len(rows)
    connection.rollback()
    return count


def fill(url: str, values: dict[str, Any]) -> None:
    """Make the tables and the rows."""
    store = open_store(url)
    migrations.upgrade(store.engine)
    store.close()
    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in _FILL:
            cursor.execute(statement, values)
    connection.close()


def measure(*, quick: bool = False) -> list[Table]:
    """How long each form takes, and its ratio to the raw read."""
    tickers, sessions, rounds = (50, 504, 5) if quick else (500, 2520, 41)
    rows = []
    with tempfile.TemporaryDirectory() as home, EmbeddedPostgres(Path(home)) as server:
        server.ensure_database("benchmark")
        url = server.url("benchmark")
        fill(url, {"tickers": tickers, "sessions": sessions, "run": str(uuid4())})
        # A cursor is planned for its first rows, unless told that all of them will be read.
        connection = psycopg2.connect(url.replace("+psycopg2", ""), options="-c cursor_tuple_fraction=1")
        for name, (condition, share) in _READS.items():
            found = read(connection, condition, max(3, int(rounds * share)))
            raw = found["raw"][0]
            rows += [
                (name, form, count, 1000 * statistics.median(spent), ratio(spent, raw))
                for form, (spent, count) in found.items()
            ]
        connection.close()
    columns = ("read", "form", "rows", "ms", "times raw")
    note = f"{tickers:,} tickers, {sessions:,} sessions of days, a year of minutes of five; every column of every row."
    return [Table("Adjusting while reading", columns, rows, [note])]
