"""What is derived, never stored: adjusted prices, what was known when, total return, histories over renames.

Each is a view, or a function of an instant that the planner opens up like one. All of them are made of a few
pieces, so that a split means the same in every place. A database gets them through a migration, which carries its
own copy of the text; a test holds the two together. docs/reading.md shows their use.

The functions return rows of a table or view instead of columns of their own: columns would lose the collation of
``ticker``, and with it the use of every index.
"""

from __future__ import annotations

from typing import Final

# Since when whoever held ticker {x}.ticker on {x}.{day} had it; whoever had it before is somebody else, told of or not.
# A split on the day on which a ticker ends is the last act of its holder, unless the next one starts on that day.
# A shipped chain starts where its membership of an index does, which is no reason to think of another holder before.
_HELD_SINCE: Final = """
    COALESCE(
        (SELECT max(CASE
             WHEN h.end_day < {x}.{day} THEN h.end_day
             WHEN h.origin = 'vendor' OR EXISTS (
                 SELECT FROM ticker_history e
                 WHERE e.source = h.source AND e.instrument_id = h.instrument_id AND e.first_day < h.first_day)
             THEN h.first_day
             ELSE (SELECT max(e.end_day) FROM ticker_history e
                   WHERE e.source = h.source AND e.ticker = h.ticker AND e.end_day <= h.first_day)
             END)
         FROM ticker_history h
         WHERE h.source = {x}.source AND h.ticker = {x}.ticker AND h.first_day <= {x}.{day}),
        DATE '0001-01-01')"""

# Two things here and below are for the planner. The window is partitioned by ticker: only then does a reader's
# `WHERE ticker = ...` reach the index below it. And the spans are sorted, against the window's order: what is sorted is
# kept, and read again for free, where new tables without statistics make it expect one bar and there are thousands.
_SPLIT_FACTOR: Final = """
    SELECT source, ticker, first_session, before_session, factor
    FROM (
        SELECT source, ticker,
            COALESCE(lead(execution_date) OVER latest_first, held_since) AS first_session,
            execution_date AS before_session,
            product(split_from / split_to) OVER latest_first AS factor
        FROM (
            SELECT s.source, s.ticker, s.execution_date, s.split_from, s.split_to, {held_since} AS held_since
            FROM {split} s
        ) AS held
        WINDOW latest_first AS (PARTITION BY source, ticker, held_since ORDER BY execution_date DESC)
    ) AS spans
    WHERE first_session < before_session
    ORDER BY before_session"""

_BAR_ADJUSTED: Final = """
    SELECT b.ticker, b.timeframe, b.session, b.ts,
        b.open * COALESCE(f.factor, 1) AS open,
        b.high * COALESCE(f.factor, 1) AS high,
        b.low * COALESCE(f.factor, 1) AS low,
        b.close * COALESCE(f.factor, 1) AS close,
        b.volume / COALESCE(f.factor, 1) AS volume,
        b.vwap * COALESCE(f.factor, 1) AS vwap,
        b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1) AS factor
    FROM bar b
    LEFT JOIN {split_factor} f ON f.source = b.source AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session"""

#: The splits as they were known at an instant: what is listed now, and what has been taken back or corrected since.
_KNOWN_SPLITS: Final = """(
                SELECT source, ticker, execution_date, split_from, split_to FROM split WHERE known_from <= instant
                UNION ALL
                SELECT source, ticker, execution_date, old_split_from, old_split_to FROM split_revision
                WHERE old_known_from <= instant AND seen_at > instant
            )"""

# Of a bar's values that have been replaced since, the oldest ones are those of the instant. A bar that was taken out
# of the table has left a revision like any other.
_BAR_AS_OF: Final = """
    SELECT b.ticker, b.timeframe, b.session, b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id
    FROM bar b
    WHERE b.ts <= instant
      AND NOT EXISTS (SELECT FROM run r WHERE r.run_id = b.run_id AND r.as_of > instant)
      AND NOT EXISTS (
        SELECT FROM revision v
        WHERE v.ticker = b.ticker AND v.timeframe = b.timeframe AND v.ts = b.ts AND v.seen_at > instant)
    UNION ALL
    SELECT v.ticker, v.timeframe, v.session, v.ts,
        v.old_open, v.old_high, v.old_low, v.old_close, v.old_volume, v.old_vwap, v.old_trades, v.source, v.old_run_id
    FROM revision v
    WHERE v.ts <= instant AND v.seen_at > instant
      AND NOT EXISTS (SELECT FROM run r WHERE r.run_id = v.old_run_id AND r.as_of > instant)
      AND NOT EXISTS (
        SELECT FROM revision e
        WHERE e.ticker = v.ticker AND e.timeframe = v.timeframe AND e.ts = v.ts
          AND e.seen_at > instant AND e.revision_id < v.revision_id)"""

# Reinvested at the close before the ex-date, which is brought into the ex-date's scale where a split lies between
# them. A day's dividends add up. Passed over: other currencies; what exceeds the price itself (a vendor's slip); an
# ex-date that no bar has reached, for the close before it is not known yet.
_DIVIDEND_FACTOR: Final = f"""
    SELECT source, ticker,
        COALESCE(lead(ex_date) OVER latest_first, held_since) AS first_session,
        ex_date AS before_session,
        product(1 - cash / before_ex) OVER latest_first AS factor
    FROM (
        SELECT d.source, d.ticker, d.ex_date, d.held_since, d.cash,
            c.close * (SELECT product(s.split_from / s.split_to) FROM split s
                       WHERE s.source = d.source AND s.ticker = d.ticker
                         AND s.execution_date > c.session AND s.execution_date <= d.ex_date) AS before_ex
        FROM (
            SELECT p.source, p.ticker, p.ex_date, p.cash, {_HELD_SINCE.format(x="p", day="ex_date")} AS held_since
            FROM (
                SELECT source, ticker, ex_date, sum(cash_amount) AS cash FROM dividend
                WHERE currency = 'USD' GROUP BY source, ticker, ex_date
            ) AS p
        ) AS d
        CROSS JOIN LATERAL (
            SELECT b.session, b.close FROM bar b
            WHERE b.ticker = d.ticker AND b.timeframe = '1d' AND b.source = d.source
              AND b.session < d.ex_date
              AND b.ts < d.ex_date + 7 -- the key has no session, but every bar opens within days of its own
            ORDER BY b.ts DESC LIMIT 1
        ) AS c
        WHERE d.ex_date <= (
            SELECT b.session FROM bar b
            WHERE b.ticker = d.ticker AND b.timeframe = '1d' AND b.source = d.source
            ORDER BY b.ts DESC LIMIT 1)
    ) AS paid
    WHERE cash < before_ex
    WINDOW latest_first AS (PARTITION BY source, ticker, held_since ORDER BY ex_date DESC)
    ORDER BY before_session"""  # noqa: S608  (fixed text)

_BAR_TOTAL_RETURN: Final = f"""
    SELECT b.ticker, b.session, b.ts, b.close,
        b.close * COALESCE(f.factor, 1) AS adjusted_close,
        b.close * COALESCE(f.factor, 1) * COALESCE(d.factor, 1) AS total_return_close,
        COALESCE(f.factor, 1) AS factor,
        COALESCE(d.factor, 1) AS dividend_factor,
        b.source, b.run_id
    FROM bar b
    LEFT JOIN split_factor f ON f.source = b.source AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session
    LEFT JOIN ({_DIVIDEND_FACTOR}
    ) AS d ON d.source = b.source AND d.ticker = b.ticker
        AND b.session >= d.first_session AND b.session < d.before_session
    WHERE b.timeframe = '1d'"""  # noqa: S608  (fixed text)

#: The last ticker of every instrument; of several that ended under the same one, only the latest holder's.
_LAST: Final = """
    SELECT l.source, l.ticker, l.instrument_id FROM ticker_history l
    WHERE NOT EXISTS (
        SELECT FROM ticker_history n
        WHERE n.source = l.source AND n.instrument_id = l.instrument_id AND n.first_day > l.first_day)
      AND NOT EXISTS (
        SELECT FROM ticker_history r
        WHERE r.source = l.source AND r.ticker = l.ticker AND r.first_day > l.first_day
          AND NOT EXISTS (
            SELECT FROM ticker_history n
            WHERE n.source = r.source AND n.instrument_id = r.instrument_id AND n.first_day > r.first_day))
    ORDER BY l.instrument_id"""

# A split on the day of a rename may be listed under the old ticker, the new one, or both; it is one split.
_INSTRUMENT_FACTOR: Final = f"""
    SELECT source, ticker, instrument_id,
        COALESCE(lead(execution_date) OVER latest_first, DATE '0001-01-01') AS first_session,
        execution_date AS before_session,
        product(split_from / split_to) OVER latest_first AS factor
    FROM (
        SELECT l.source, l.ticker, l.instrument_id, s.execution_date, s.split_from, s.split_to,
            row_number() OVER (PARTITION BY l.source, l.ticker, l.instrument_id, s.execution_date
                               ORDER BY h.first_day DESC) AS listing
        FROM ({_LAST}
        ) AS l
        JOIN ticker_history h ON h.source = l.source AND h.instrument_id = l.instrument_id
        JOIN split s ON s.source = h.source AND s.ticker = h.ticker AND s.execution_date >= h.first_day
            AND (h.end_day IS NULL OR s.execution_date < h.end_day
                 OR (s.execution_date = h.end_day AND NOT EXISTS (
                     SELECT FROM ticker_history n
                     WHERE n.source = h.source AND n.ticker = h.ticker AND n.first_day = h.end_day)))
    ) AS listed
    WHERE listing = 1
    WINDOW latest_first AS (PARTITION BY source, ticker, instrument_id ORDER BY execution_date DESC)
    ORDER BY before_session"""  # noqa: S608  (fixed text)

_BAR_HISTORY: Final = f"""
    SELECT l.ticker, l.instrument_id, b.ticker AS traded_as, b.timeframe, b.session, b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1) AS factor
    FROM ({_LAST}
    ) AS l
    JOIN ticker_history h ON h.source = l.source AND h.instrument_id = l.instrument_id
    JOIN bar b ON b.source = h.source AND b.ticker = h.ticker
        AND b.session >= h.first_day AND (h.end_day IS NULL OR b.session < h.end_day)
    LEFT JOIN ({_INSTRUMENT_FACTOR}
    ) AS f ON f.source = l.source AND f.ticker = l.ticker AND f.instrument_id = l.instrument_id
        AND b.session >= f.first_session AND b.session < f.before_session
    UNION ALL
    SELECT b.ticker, CAST(NULL AS varchar(40)), b.ticker, b.timeframe, b.session, b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1)
    FROM bar b
    LEFT JOIN split_factor f ON f.source = b.source AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session
    WHERE NOT EXISTS (SELECT FROM ticker_history h WHERE h.source = b.source AND h.ticker = b.ticker)"""  # noqa: S608


def _as_of(name: str, rows: str, body: str) -> tuple[str, str]:
    """A function of an instant, and the same of a day: its end, the last microsecond of it in UTC."""
    head = "CREATE OR REPLACE FUNCTION {name}({argument})\nRETURNS SETOF {rows} LANGUAGE sql STABLE PARALLEL SAFE"
    end = "((day + 1)::timestamp - interval '1 microsecond') AT TIME ZONE 'UTC'"
    return (
        f"{head.format(name=name, argument='instant timestamptz', rows=rows)} BEGIN ATOMIC {body};\nEND",
        f"{head.format(name=name, argument='day date', rows=rows)} BEGIN ATOMIC\n    SELECT * FROM {name}({end});\nEND",  # noqa: S608
    )


_SPLITS: Final = _HELD_SINCE.format(x="s", day="execution_date")

#: Statements for PostgreSQL 15 or newer, in order.
CREATE: Final = (
    "CREATE OR REPLACE AGGREGATE product(double precision) (SFUNC = float8mul, STYPE = double precision,\n    "
    "COMBINEFUNC = float8mul, INITCOND = '1', PARALLEL = SAFE)",
    f"CREATE OR REPLACE VIEW split_factor AS {_SPLIT_FACTOR.format(split='split', held_since=_SPLITS)}",
    f"CREATE OR REPLACE VIEW bar_adjusted AS {_BAR_ADJUSTED.format(split_factor='split_factor')}",
    f"CREATE OR REPLACE VIEW bar_total_return AS {_BAR_TOTAL_RETURN}",
    f"CREATE OR REPLACE VIEW bar_history AS {_BAR_HISTORY}",
    *_as_of("split_factor_as_of", "split_factor", _SPLIT_FACTOR.format(split=_KNOWN_SPLITS, held_since=_SPLITS)),
    *_as_of(
        "bar_adjusted_as_of",
        "bar_adjusted",
        f"{_BAR_ADJUSTED.format(split_factor='split_factor_as_of(instant)')}\n    WHERE b.ts <= instant",
    ),
    *_as_of("bar_as_of", "bar", _BAR_AS_OF),
)

#: The views, those that others are made of last; and the functions, with the types of their arguments.
VIEWS: Final = ("bar_history", "bar_total_return", "bar_adjusted", "split_factor")
FUNCTIONS: Final = tuple(
    f"{name}({argument})"
    for name in ("bar_as_of", "bar_adjusted_as_of", "split_factor_as_of")
    for argument in ("date", "timestamptz")
)
AGGREGATES: Final = ("product(double precision)",)

DROP: Final = (
    *(f"DROP FUNCTION IF EXISTS {signature}" for signature in FUNCTIONS),
    *(f"DROP VIEW IF EXISTS {name}" for name in VIEWS),
    *(f"DROP AGGREGATE IF EXISTS {signature}" for signature in AGGREGATES),
)
