"""When each thing was known, who held a ticker, what was paid; and the views that derive prices from it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TICKER = sa.String(32).with_variant(sa.String(32, collation="C"), "postgresql")
SHORT = sa.String(16)
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        return  # its tables begin with 0004
    op.add_column(
        "run",
        sa.Column(
            "as_of",
            INSTANT,
            nullable=False,
            server_default=sa.func.now(),
            comment="what the run took for the present: all that it wrote is known since then",
        ),
    )
    op.execute("UPDATE run SET as_of = started_at")

    op.add_column("revision", sa.Column("old_run_id", sa.Uuid, comment="the run that had written the old values"))
    # Who wrote what a bar's first revision replaced is not known; what each later one replaced, the one before wrote.
    op.execute("""
        UPDATE revision SET old_run_id = before.run_id
        FROM (SELECT revision_id, lag(run_id) OVER (PARTITION BY ticker, timeframe, ts ORDER BY revision_id) AS run_id
              FROM revision) AS before
        WHERE before.revision_id = revision.revision_id AND before.run_id IS NOT NULL
    """)

    op.add_column(
        "facts_watermark",
        sa.Column("known", sa.Integer, comment="rows in the span after the last look; NULL where nobody counted"),
    )
    op.add_column("split", sa.Column("known_from", INSTANT, comment="since when this version could be known"))
    op.execute("UPDATE split SET known_from = CAST(execution_date AS timestamp) AT TIME ZONE 'UTC'")
    op.alter_column("split", "known_from", nullable=False)
    op.create_index("split_of_ticker", "split", ["ticker"])
    op.create_table(
        "split_revision",
        sa.Column("revision_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("source", SHORT, nullable=False),
        sa.Column("ticker", TICKER, nullable=False),
        sa.Column("execution_date", sa.Date, nullable=False),
        sa.Column("old_split_from", sa.Double, nullable=False),
        sa.Column("old_split_to", sa.Double, nullable=False),
        sa.Column("new_split_from", sa.Double, comment="NULL: the vendor lists it no longer"),
        sa.Column("new_split_to", sa.Double),
        sa.Column("old_known_from", INSTANT, nullable=False, comment="the old version counts from here until seen_at"),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that saw the change"),
        sa.Column("old_run_id", sa.Uuid, nullable=False, comment="the run that had written the old version"),
    )
    op.create_index("revision_of_split", "split_revision", ["ticker", "execution_date"])

    op.create_table(
        "dividend",
        sa.Column("source", SHORT, primary_key=True),
        sa.Column("ticker", TICKER, primary_key=True),
        sa.Column("ex_date", sa.Date, primary_key=True),
        sa.Column("seq", sa.SmallInteger, primary_key=True, comment="counts the dividends of one ex-date, from 1"),
        sa.Column("kind", SHORT, nullable=False, comment="the vendor's word: CD regular, SC special, ..."),
        sa.Column("cash_amount", sa.Double, nullable=False, comment="for one share of the ex-date's scale"),
        sa.Column("currency", sa.String(8), nullable=False),
        sa.Column("pay_date", sa.Date),
        sa.Column("vendor_id", sa.String(100)),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
    )
    op.create_index("dividend_of_ticker", "dividend", ["ticker", "ex_date"])

    op.create_table(
        "ticker_history",
        sa.Column("source", SHORT, primary_key=True),
        sa.Column("ticker", TICKER, primary_key=True),
        sa.Column("first_day", sa.Date, primary_key=True),
        sa.Column("end_day", sa.Date, comment="the first day without the ticker; NULL while it lasts"),
        sa.Column("instrument_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("origin", SHORT, nullable=False),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.CheckConstraint("origin IN ('vendor', 'shipped')", name="ticker_history_origin"),
        sa.CheckConstraint("end_day > first_day", name="ticker_history_days"),
    )
    op.create_index("history_of_ticker", "ticker_history", ["ticker"])
    op.create_index("history_of_instrument", "ticker_history", ["instrument_id"])

    if op.get_bind().dialect.name == "postgresql":
        for statement in CREATE:
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        return
    if op.get_bind().dialect.name == "postgresql":
        for statement in DROP:
            op.get_bind().exec_driver_sql(statement)
    for table in ("ticker_history", "dividend", "split_revision"):
        op.drop_table(table)
    op.drop_index("split_of_ticker", "split")
    op.drop_column("split", "known_from")
    op.drop_column("facts_watermark", "known")
    op.drop_column("revision", "old_run_id")
    op.drop_column("run", "as_of")


#: As closingbell/store/views.py had them when this migration was written.
CREATE = (
    """CREATE OR REPLACE AGGREGATE product(double precision) (SFUNC = float8mul, STYPE = double precision,
    COMBINEFUNC = float8mul, INITCOND = '1', PARALLEL = SAFE)""",
    """CREATE OR REPLACE VIEW split_factor AS
    SELECT source, ticker, first_session, before_session, factor
    FROM (
        SELECT source, ticker,
            COALESCE(lead(execution_date) OVER latest_first, held_since) AS first_session,
            execution_date AS before_session,
            product(split_from / split_to) OVER latest_first AS factor
        FROM (
            SELECT s.source, s.ticker, s.execution_date, s.split_from, s.split_to,
    COALESCE(
        (SELECT max(CASE
             WHEN h.end_day < s.execution_date THEN h.end_day
             WHEN h.origin = 'vendor' OR EXISTS (
                 SELECT FROM ticker_history e
                 WHERE e.source = h.source AND e.instrument_id = h.instrument_id AND e.first_day < h.first_day)
             THEN h.first_day
             ELSE (SELECT max(e.end_day) FROM ticker_history e
                   WHERE e.source = h.source AND e.ticker = h.ticker AND e.end_day <= h.first_day)
             END)
         FROM ticker_history h
         WHERE h.source = s.source AND h.ticker = s.ticker AND h.first_day <= s.execution_date),
        DATE '0001-01-01') AS held_since
            FROM split s
        ) AS held
        WINDOW latest_first AS (PARTITION BY source, ticker, held_since ORDER BY execution_date DESC)
    ) AS spans
    WHERE first_session < before_session
    ORDER BY before_session""",
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
    LEFT JOIN split_factor f ON f.source = b.source AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session""",
    """CREATE OR REPLACE VIEW bar_total_return AS
    SELECT b.ticker, b.session, b.ts, b.close,
        b.close * COALESCE(f.factor, 1) AS adjusted_close,
        b.close * COALESCE(f.factor, 1) * COALESCE(d.factor, 1) AS total_return_close,
        COALESCE(f.factor, 1) AS factor,
        COALESCE(d.factor, 1) AS dividend_factor,
        b.source, b.run_id
    FROM bar b
    LEFT JOIN split_factor f ON f.source = b.source AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session
    LEFT JOIN (
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
            SELECT p.source, p.ticker, p.ex_date, p.cash,
    COALESCE(
        (SELECT max(CASE
             WHEN h.end_day < p.ex_date THEN h.end_day
             WHEN h.origin = 'vendor' OR EXISTS (
                 SELECT FROM ticker_history e
                 WHERE e.source = h.source AND e.instrument_id = h.instrument_id AND e.first_day < h.first_day)
             THEN h.first_day
             ELSE (SELECT max(e.end_day) FROM ticker_history e
                   WHERE e.source = h.source AND e.ticker = h.ticker AND e.end_day <= h.first_day)
             END)
         FROM ticker_history h
         WHERE h.source = p.source AND h.ticker = p.ticker AND h.first_day <= p.ex_date),
        DATE '0001-01-01') AS held_since
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
    ORDER BY before_session
    ) AS d ON d.source = b.source AND d.ticker = b.ticker
        AND b.session >= d.first_session AND b.session < d.before_session
    WHERE b.timeframe = '1d'""",
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
            WHERE n.source = r.source AND n.instrument_id = r.instrument_id AND n.first_day > r.first_day))
    ORDER BY l.instrument_id
    ) AS l
    JOIN ticker_history h ON h.source = l.source AND h.instrument_id = l.instrument_id
    JOIN bar b ON b.source = h.source AND b.ticker = h.ticker
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
            WHERE n.source = r.source AND n.instrument_id = r.instrument_id AND n.first_day > r.first_day))
    ORDER BY l.instrument_id
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
    ORDER BY before_session
    ) AS f ON f.source = l.source AND f.ticker = l.ticker AND f.instrument_id = l.instrument_id
        AND b.session >= f.first_session AND b.session < f.before_session
    UNION ALL
    SELECT b.ticker, CAST(NULL AS varchar(40)), b.ticker, b.timeframe, b.session, b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1)
    FROM bar b
    LEFT JOIN split_factor f ON f.source = b.source AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session
    WHERE NOT EXISTS (SELECT FROM ticker_history h WHERE h.source = b.source AND h.ticker = b.ticker)""",
    """CREATE OR REPLACE FUNCTION split_factor_as_of(instant timestamptz)
RETURNS SETOF split_factor LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT source, ticker, first_session, before_session, factor
    FROM (
        SELECT source, ticker,
            COALESCE(lead(execution_date) OVER latest_first, held_since) AS first_session,
            execution_date AS before_session,
            product(split_from / split_to) OVER latest_first AS factor
        FROM (
            SELECT s.source, s.ticker, s.execution_date, s.split_from, s.split_to,
    COALESCE(
        (SELECT max(CASE
             WHEN h.end_day < s.execution_date THEN h.end_day
             WHEN h.origin = 'vendor' OR EXISTS (
                 SELECT FROM ticker_history e
                 WHERE e.source = h.source AND e.instrument_id = h.instrument_id AND e.first_day < h.first_day)
             THEN h.first_day
             ELSE (SELECT max(e.end_day) FROM ticker_history e
                   WHERE e.source = h.source AND e.ticker = h.ticker AND e.end_day <= h.first_day)
             END)
         FROM ticker_history h
         WHERE h.source = s.source AND h.ticker = s.ticker AND h.first_day <= s.execution_date),
        DATE '0001-01-01') AS held_since
            FROM (
                SELECT source, ticker, execution_date, split_from, split_to FROM split WHERE known_from <= instant
                UNION ALL
                SELECT source, ticker, execution_date, old_split_from, old_split_to FROM split_revision
                WHERE old_known_from <= instant AND seen_at > instant
            ) s
        ) AS held
        WINDOW latest_first AS (PARTITION BY source, ticker, held_since ORDER BY execution_date DESC)
    ) AS spans
    WHERE first_session < before_session
    ORDER BY before_session;
END""",
    """CREATE OR REPLACE FUNCTION split_factor_as_of(day date)
RETURNS SETOF split_factor LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT * FROM split_factor_as_of(((day + 1)::timestamp - interval '1 microsecond') AT TIME ZONE 'UTC');
END""",
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
    LEFT JOIN split_factor_as_of(instant) f ON f.source = b.source AND f.ticker = b.ticker
        AND b.session >= f.first_session AND b.session < f.before_session
    WHERE b.ts <= instant;
END""",
    """CREATE OR REPLACE FUNCTION bar_adjusted_as_of(day date)
RETURNS SETOF bar_adjusted LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT * FROM bar_adjusted_as_of(((day + 1)::timestamp - interval '1 microsecond') AT TIME ZONE 'UTC');
END""",
    """CREATE OR REPLACE FUNCTION bar_as_of(instant timestamptz)
RETURNS SETOF bar LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
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
          AND e.seen_at > instant AND e.revision_id < v.revision_id);
END""",
    """CREATE OR REPLACE FUNCTION bar_as_of(day date)
RETURNS SETOF bar LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT * FROM bar_as_of(((day + 1)::timestamp - interval '1 microsecond') AT TIME ZONE 'UTC');
END""",
)

DROP = (
    "DROP FUNCTION IF EXISTS bar_as_of(date)",
    "DROP FUNCTION IF EXISTS bar_as_of(timestamptz)",
    "DROP FUNCTION IF EXISTS bar_adjusted_as_of(date)",
    "DROP FUNCTION IF EXISTS bar_adjusted_as_of(timestamptz)",
    "DROP FUNCTION IF EXISTS split_factor_as_of(date)",
    "DROP FUNCTION IF EXISTS split_factor_as_of(timestamptz)",
    "DROP VIEW IF EXISTS bar_history",
    "DROP VIEW IF EXISTS bar_total_return",
    "DROP VIEW IF EXISTS bar_adjusted",
    "DROP VIEW IF EXISTS split_factor",
    "DROP AGGREGATE IF EXISTS product(double precision)",
)
