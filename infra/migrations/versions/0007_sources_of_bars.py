"""Splits reach the bars that came by flat file or were made here of minutes, whose source says so: ``polygon-flat``.

Views only; the old ones come back by undoing what is new in their texts.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for statement in VIEWS.values() if op.get_bind().dialect.name == "oracle" else CREATE:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for statement in VIEWS.values() if op.get_bind().dialect.name == "oracle" else CREATE:
        op.get_bind().exec_driver_sql(_before(statement))


def _before(statement: str) -> str:
    """A statement as it was."""
    for new, old in BEFORE.items():
        statement = statement.replace(new, old)
    return statement


#: What stands now for what.
BEFORE: Final = {
    "b.source IN (f.source, f.source || '-flat', f.source || ':1m')": "f.source = b.source",
    "JOIN bar b ON b.source IN (h.source, h.source || '-flat', h.source || ':1m')": "JOIN bar b ON b.source = h.source",
    "WHERE b.source IN (h.source, h.source || '-flat', h.source || ':1m')": "WHERE h.source = b.source",
}

#: As closingbell/store/views.py and postgres.py had them when this migration was written.
CREATE: Final = (
    """CREATE OR REPLACE VIEW bar_adjusted AS
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
    LEFT JOIN split_factor f ON b.source IN (f.source, f.source || '-flat', f.source || ':1m') AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session""",
    """CREATE OR REPLACE VIEW bar_history AS
    SELECT l.ticker, l.instrument_id, b.ticker AS traded_as, b.timeframe, b.session, b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1) AS factor
    FROM (
    SELECT l.source, l.ticker, l.instrument_id FROM ticker_history l
    WHERE NOT EXISTS (
        SELECT FROM ticker_history n
        WHERE n.source = l.source AND n.instrument_id = l.instrument_id AND n.first_day > l.first_day)
      AND NOT EXISTS (
        SELECT FROM ticker_history r
        WHERE r.source = l.source AND r.ticker = l.ticker AND r.first_day > l.first_day
          AND NOT EXISTS (
            SELECT FROM ticker_history n
            WHERE n.source = r.source AND n.instrument_id = r.instrument_id
              AND n.first_day > r.first_day))
    ORDER BY l.instrument_id
    ) l
    JOIN ticker_history h ON h.source = l.source AND h.instrument_id = l.instrument_id
    JOIN bar b ON b.source IN (h.source, h.source || '-flat', h.source || ':1m') AND b.ticker = h.ticker
        AND b.session >= h.first_day AND (h.end_day IS NULL OR b.session < h.end_day)
    LEFT JOIN (
    SELECT source, ticker, instrument_id,
        COALESCE(lead(execution_date) OVER latest_first, DATE '0001-01-01') AS first_session,
        execution_date AS before_session,
        product(split_from / split_to) OVER latest_first AS factor
    FROM (
        SELECT l.source, l.ticker, l.instrument_id, s.execution_date, s.split_from, s.split_to,
            row_number() OVER (PARTITION BY l.source, l.ticker, l.instrument_id, s.execution_date
                               ORDER BY h.first_day DESC) AS listing
        FROM (
    SELECT l.source, l.ticker, l.instrument_id FROM ticker_history l
    WHERE NOT EXISTS (
        SELECT FROM ticker_history n
        WHERE n.source = l.source AND n.instrument_id = l.instrument_id AND n.first_day > l.first_day)
      AND NOT EXISTS (
        SELECT FROM ticker_history r
        WHERE r.source = l.source AND r.ticker = l.ticker AND r.first_day > l.first_day
          AND NOT EXISTS (
            SELECT FROM ticker_history n
            WHERE n.source = r.source AND n.instrument_id = r.instrument_id
              AND n.first_day > r.first_day))
    ORDER BY l.instrument_id
        ) l
        JOIN ticker_history h ON h.source = l.source AND h.instrument_id = l.instrument_id
        JOIN split s ON s.source = h.source AND s.ticker = h.ticker AND s.execution_date >= h.first_day
            AND (h.end_day IS NULL OR s.execution_date < h.end_day
                 OR (s.execution_date = h.end_day AND NOT EXISTS (
                     SELECT FROM ticker_history n
                     WHERE n.source = h.source AND n.ticker = h.ticker AND n.first_day = h.end_day)))
    ) listed
    WHERE listing = 1
    WINDOW latest_first AS (PARTITION BY source, ticker, instrument_id ORDER BY execution_date DESC)
    ORDER BY before_session
    ) f ON f.source = l.source AND f.ticker = l.ticker AND f.instrument_id = l.instrument_id
        AND b.session >= f.first_session AND b.session < f.before_session
    UNION ALL
    SELECT b.ticker, CAST(NULL AS varchar(40)), b.ticker, b.timeframe, b.session, b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1)
    FROM bar b
    LEFT JOIN split_factor f ON b.source IN (f.source, f.source || '-flat', f.source || ':1m') AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session
    WHERE NOT EXISTS (
        SELECT FROM ticker_history h WHERE b.source IN (h.source, h.source || '-flat', h.source || ':1m')
        AND h.ticker = b.ticker)""",
    """CREATE OR REPLACE FUNCTION bar_adjusted_as_of(instant timestamptz)
RETURNS SETOF bar_adjusted LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
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
    LEFT JOIN split_factor_as_of(instant) f ON b.source IN (f.source, f.source || '-flat', f.source || ':1m')
        AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session
    WHERE b.ts <= instant;
END""",
)

#: The same for Oracle.
VIEWS: Final = {
    "bar_adjusted": """CREATE OR REPLACE VIEW bar_adjusted AS
    SELECT b.ticker, b.timeframe, b."SESSION", b.ts,
        b.open * COALESCE(f.factor, 1) AS open,
        b.high * COALESCE(f.factor, 1) AS high,
        b.low * COALESCE(f.factor, 1) AS low,
        b.close * COALESCE(f.factor, 1) AS close,
        b.volume / COALESCE(f.factor, 1) AS volume,
        b.vwap * COALESCE(f.factor, 1) AS vwap,
        b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1) AS factor
    FROM bar b
    LEFT JOIN split_factor f ON b.source IN (f.source, f.source || '-flat', f.source || ':1m') AND f.ticker = b.ticker
        AND b."SESSION" >= f.first_session AND b."SESSION" < f.before_session""",
    "bar_history": """CREATE OR REPLACE VIEW bar_history AS
    SELECT l.ticker, l.instrument_id, b.ticker AS traded_as, b.timeframe, b."SESSION", b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1) AS factor
    FROM (
    SELECT l.source, l.ticker, l.instrument_id FROM ticker_history l
    WHERE NOT EXISTS (
        SELECT 1 FROM ticker_history n
        WHERE n.source = l.source AND n.instrument_id = l.instrument_id AND n.first_day > l.first_day)
      AND NOT EXISTS (
        SELECT 1 FROM ticker_history r
        WHERE r.source = l.source AND r.ticker = l.ticker AND r.first_day > l.first_day
          AND NOT EXISTS (
            SELECT 1 FROM ticker_history n
            WHERE n.source = r.source AND n.instrument_id = r.instrument_id
              AND n.first_day > r.first_day))
    ) l
    JOIN ticker_history h ON h.source = l.source AND h.instrument_id = l.instrument_id
    JOIN bar b ON b.source IN (h.source, h.source || '-flat', h.source || ':1m') AND b.ticker = h.ticker
        AND b."SESSION" >= h.first_day AND (h.end_day IS NULL OR b."SESSION" < h.end_day)
    LEFT JOIN (
    SELECT source, ticker, instrument_id,
        COALESCE(lead(execution_date) OVER (PARTITION BY source, ticker, instrument_id ORDER BY execution_date
            DESC), DATE '0001-01-01') AS first_session,
        execution_date AS before_session,
        COALESCE(CAST(CASE WHEN COUNT(CASE WHEN split_from <> ROUND(split_from) OR split_to <> ROUND(split_to)
            THEN 1 END) OVER (PARTITION BY source, ticker, instrument_id ORDER BY execution_date DESC) = 0
            THEN ROUND(EXP(SUM(LN(CAST(split_from AS NUMBER))) OVER (PARTITION BY source, ticker,
            instrument_id ORDER BY execution_date DESC))) / ROUND(EXP(SUM(LN(CAST(split_to AS NUMBER))) OVER
            (PARTITION BY source, ticker, instrument_id ORDER BY execution_date DESC))) ELSE
            EXP(SUM(LN(CAST(split_from AS NUMBER))) OVER (PARTITION BY source, ticker, instrument_id ORDER BY
            execution_date DESC)) / EXP(SUM(LN(CAST(split_to AS NUMBER))) OVER (PARTITION BY source, ticker,
            instrument_id ORDER BY execution_date DESC)) END AS BINARY_DOUBLE), 1) AS factor
    FROM (
        SELECT l.source, l.ticker, l.instrument_id, s.execution_date, s.split_from, s.split_to,
            row_number() OVER (PARTITION BY l.source, l.ticker, l.instrument_id, s.execution_date
                               ORDER BY h.first_day DESC) AS listing
        FROM (
    SELECT l.source, l.ticker, l.instrument_id FROM ticker_history l
    WHERE NOT EXISTS (
        SELECT 1 FROM ticker_history n
        WHERE n.source = l.source AND n.instrument_id = l.instrument_id AND n.first_day > l.first_day)
      AND NOT EXISTS (
        SELECT 1 FROM ticker_history r
        WHERE r.source = l.source AND r.ticker = l.ticker AND r.first_day > l.first_day
          AND NOT EXISTS (
            SELECT 1 FROM ticker_history n
            WHERE n.source = r.source AND n.instrument_id = r.instrument_id
              AND n.first_day > r.first_day))
        ) l
        JOIN ticker_history h ON h.source = l.source AND h.instrument_id = l.instrument_id
        JOIN split s ON s.source = h.source AND s.ticker = h.ticker AND s.execution_date >= h.first_day
            AND (h.end_day IS NULL OR s.execution_date < h.end_day
                 OR (s.execution_date = h.end_day AND NOT EXISTS (
                     SELECT 1 FROM ticker_history n
                     WHERE n.source = h.source AND n.ticker = h.ticker AND n.first_day = h.end_day)))
    ) listed
    WHERE listing = 1
    ) f ON f.source = l.source AND f.ticker = l.ticker AND f.instrument_id = l.instrument_id
        AND b."SESSION" >= f.first_session AND b."SESSION" < f.before_session
    UNION ALL
    SELECT b.ticker, CAST(NULL AS varchar(40)), b.ticker, b.timeframe, b."SESSION", b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1)
    FROM bar b
    LEFT JOIN split_factor f ON b.source IN (f.source, f.source || '-flat', f.source || ':1m') AND f.ticker = b.ticker
        AND b."SESSION" >= f.first_session AND b."SESSION" < f.before_session
    WHERE NOT EXISTS (
        SELECT 1 FROM ticker_history h WHERE b.source IN (h.source, h.source || '-flat', h.source || ':1m')
        AND h.ticker = b.ticker)""",
    "bar_adjusted_as_of": """CREATE OR REPLACE VIEW bar_adjusted_as_of AS
    SELECT b.ticker, b.timeframe, b."SESSION", b.ts,
        b.open * COALESCE(f.factor, 1) AS open,
        b.high * COALESCE(f.factor, 1) AS high,
        b.low * COALESCE(f.factor, 1) AS low,
        b.close * COALESCE(f.factor, 1) AS close,
        b.volume / COALESCE(f.factor, 1) AS volume,
        b.vwap * COALESCE(f.factor, 1) AS vwap,
        b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1) AS factor
    FROM bar b
    LEFT JOIN split_factor_as_of f ON b.source IN (f.source, f.source || '-flat', f.source || ':1m')
        AND f.ticker = b.ticker
        AND b."SESSION" >= f.first_session AND b."SESSION" < f.before_session
    WHERE b.ts <= (SELECT p.instant FROM present p)""",
}
