"""Oracle beside PostgreSQL: what either can keep and look for, and the whole of Oracle's tables.

A statement of DDL commits on Oracle, so this may have been ended half-way there: it makes what is missing, and is
finished by the next one.
"""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

TICKER = sa.String(32, collation="C")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        _make(op.get_bind())
        return
    op.add_column(
        "run", sa.Column("recheck_sessions", sa.Integer, comment="as asked: how many sessions it looked at once more")
    )
    op.add_column(
        "run", sa.Column("unchecked_calls", sa.Integer, comment="as reported: calls for rechecks that it did not make")
    )
    op.execute("""
        UPDATE run SET recheck_sessions = CAST(asked ->> 'recheck_sessions' AS integer),
            unchecked_calls = CAST(report ->> 'unchecked_calls' AS integer)
    """)
    # What is in flight now belongs to runs of an older version, which cannot go on in these tables; what is done
    # counts for runs that are under way. So no row is worth keeping.
    op.drop_table("claim")
    op.create_table(
        "claim",
        *_of_a_claim(),
        sa.Column("ticker", TICKER, comment="the one that a call for a range asks for; NULL: a call for a market day"),
        sa.Column(
            "tickers", postgresql.JSONB, nullable=False, comment="the cells: these, first_session to last_session"
        ),
        *_times_of_a_claim(),
    )
    _index_claims()


def downgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        _unmake(op.get_bind())
        return
    op.drop_table("claim")
    op.create_table(
        "claim",
        *_of_a_claim(),
        sa.Column(
            "tickers",
            postgresql.ARRAY(TICKER),
            nullable=False,
            comment="the cells: these, first_session to last_session",
        ),
        *_times_of_a_claim(),
        sa.Column("done_in", sa.BigInteger, comment="the transaction that wrote the answer"),
    )
    _index_claims()
    op.drop_column("run", "unchecked_calls")
    op.drop_column("run", "recheck_sessions")


def _of_a_claim() -> list[sa.Column[Any]]:
    return [
        sa.Column("claim_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that makes the call"),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("timeframe", sa.String(4), nullable=False),
        sa.Column("first_session", sa.Date, nullable=False),
        sa.Column("last_session", sa.Date, nullable=False),
    ]


def _times_of_a_claim() -> list[sa.Column[Any]]:
    return [
        sa.Column("claimed_at", INSTANT, nullable=False, server_default=sa.func.now()),
        sa.Column("done_at", INSTANT, comment="when it was answered; NULL: in flight"),
    ]


def _index_claims() -> None:
    op.create_index("claim_of_run", "claim", ["run_id"])
    op.create_index("claim_of_sessions", "claim", ["source", "timeframe", "last_session"])


def _make(connection: sa.Connection) -> None:
    """Oracle's tables, indexes and views, as far as they are missing."""
    there = _there(connection)
    for name, statement in (TABLES | INDEXES).items():
        if name not in there:
            connection.exec_driver_sql(statement)
    for column, comment in COMMENTS.items():
        quoted = comment.replace("'", "''")
        connection.exec_driver_sql(f"COMMENT ON COLUMN {column} IS '{quoted}'")
    for statement in VIEWS.values():
        connection.exec_driver_sql(statement)


def _unmake(connection: sa.Connection) -> None:
    there = _there(connection)
    for kind, names in (("VIEW", VIEWS), ("TABLE", TABLES)):
        for name in reversed(names):
            if name in there:
                connection.exec_driver_sql(f"DROP {kind} {name}")


def _there(connection: sa.Connection) -> set[str]:
    """The names of the tables, indexes and views that this user has."""
    owner = "owner = SYS_CONTEXT('USERENV', 'CURRENT_SCHEMA')"
    query = f"""
        SELECT table_name FROM all_tables WHERE {owner} UNION ALL SELECT view_name FROM all_views WHERE {owner}
        UNION ALL SELECT index_name FROM all_indexes WHERE {owner}
    """  # noqa: S608  (fixed text)
    return {name.lower() for name in connection.exec_driver_sql(query).scalars()}


#: As closingbell/store/schema.py and oracle.py had them when this migration was written. Identities are not
#: cached, so that they are given out in order over all instances of a cluster.
TABLES: Final = {
    "bar": """CREATE TABLE bar (
        ticker VARCHAR2(32 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL, "SESSION" DATE NOT NULL,
        ts TIMESTAMP(6) NOT NULL, open BINARY_DOUBLE NOT NULL, high BINARY_DOUBLE NOT NULL,
        low BINARY_DOUBLE NOT NULL, close BINARY_DOUBLE NOT NULL, volume BINARY_DOUBLE NOT NULL, vwap BINARY_DOUBLE,
        trades NUMBER(19), source VARCHAR2(16 CHAR) NOT NULL, run_id CHAR(32) NOT NULL,
        PRIMARY KEY (ticker, timeframe, ts)
    )""",
    "watermark": """CREATE TABLE watermark (
        source VARCHAR2(16 CHAR) NOT NULL, ticker VARCHAR2(32 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL,
        first_session DATE NOT NULL, last_session DATE NOT NULL, run_id CHAR(32) NOT NULL,
        PRIMARY KEY (source, ticker, timeframe)
    )""",
    "gap": """CREATE TABLE gap (
        source VARCHAR2(16 CHAR) NOT NULL, ticker VARCHAR2(32 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL,
        "SESSION" DATE NOT NULL, reason VARCHAR2(16 CHAR) NOT NULL, attempts INTEGER NOT NULL,
        last_error VARCHAR2(500 CHAR), run_id CHAR(32) NOT NULL, updated_at TIMESTAMP(6) NOT NULL,
        PRIMARY KEY (source, ticker, timeframe, "SESSION"),
        CONSTRAINT gap_reason CHECK (
            reason IN ('empty', 'unpublished', 'unentitled', 'failed', 'quarantined', 'pending')
        )
    )""",
    "quarantine": """CREATE TABLE quarantine (
        source VARCHAR2(16 CHAR) NOT NULL, ticker VARCHAR2(32 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL,
        ts TIMESTAMP(6) NOT NULL, copy SMALLINT NOT NULL, "SESSION" DATE NOT NULL, rule VARCHAR2(40 CHAR) NOT NULL,
        open BINARY_DOUBLE, high BINARY_DOUBLE, low BINARY_DOUBLE, close BINARY_DOUBLE, volume BINARY_DOUBLE,
        vwap BINARY_DOUBLE, trades NUMBER(19), run_id CHAR(32) NOT NULL, seen_at TIMESTAMP(6) NOT NULL,
        message VARCHAR2(500 CHAR),
        PRIMARY KEY (source, ticker, timeframe, ts, copy)
    )""",
    "revision": """CREATE TABLE revision (
        revision_id NUMBER(19) GENERATED ALWAYS AS IDENTITY (NOCACHE), source VARCHAR2(16 CHAR) NOT NULL,
        ticker VARCHAR2(32 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL, "SESSION" DATE NOT NULL,
        ts TIMESTAMP(6) NOT NULL, old_open BINARY_DOUBLE, old_high BINARY_DOUBLE, old_low BINARY_DOUBLE,
        old_close BINARY_DOUBLE, old_volume BINARY_DOUBLE, old_vwap BINARY_DOUBLE, old_trades NUMBER(19),
        new_open BINARY_DOUBLE, new_high BINARY_DOUBLE, new_low BINARY_DOUBLE, new_close BINARY_DOUBLE,
        new_volume BINARY_DOUBLE, new_vwap BINARY_DOUBLE, new_trades NUMBER(19), run_id CHAR(32) NOT NULL,
        seen_at TIMESTAMP(6) NOT NULL, old_run_id CHAR(32),
        PRIMARY KEY (revision_id)
    )""",
    "split": """CREATE TABLE split (
        source VARCHAR2(16 CHAR) NOT NULL, ticker VARCHAR2(32 CHAR) NOT NULL, execution_date DATE NOT NULL,
        split_from BINARY_DOUBLE NOT NULL, split_to BINARY_DOUBLE NOT NULL, vendor_id VARCHAR2(100 CHAR),
        run_id CHAR(32) NOT NULL, seen_at TIMESTAMP(6) NOT NULL, known_from TIMESTAMP(6) NOT NULL,
        PRIMARY KEY (source, ticker, execution_date)
    )""",
    "split_revision": """CREATE TABLE split_revision (
        revision_id NUMBER(19) GENERATED ALWAYS AS IDENTITY (NOCACHE), source VARCHAR2(16 CHAR) NOT NULL,
        ticker VARCHAR2(32 CHAR) NOT NULL, execution_date DATE NOT NULL, old_split_from BINARY_DOUBLE NOT NULL,
        old_split_to BINARY_DOUBLE NOT NULL, new_split_from BINARY_DOUBLE, new_split_to BINARY_DOUBLE,
        old_known_from TIMESTAMP(6) NOT NULL, seen_at TIMESTAMP(6) NOT NULL, run_id CHAR(32) NOT NULL,
        old_run_id CHAR(32) NOT NULL,
        PRIMARY KEY (revision_id)
    )""",
    "dividend": """CREATE TABLE dividend (
        source VARCHAR2(16 CHAR) NOT NULL, ticker VARCHAR2(32 CHAR) NOT NULL, ex_date DATE NOT NULL,
        seq SMALLINT NOT NULL, kind VARCHAR2(16 CHAR), cash_amount BINARY_DOUBLE NOT NULL, currency VARCHAR2(8 CHAR),
        pay_date DATE, vendor_id VARCHAR2(100 CHAR), run_id CHAR(32) NOT NULL, seen_at TIMESTAMP(6) NOT NULL,
        PRIMARY KEY (source, ticker, ex_date, seq)
    )""",
    "ticker_history": """CREATE TABLE ticker_history (
        source VARCHAR2(16 CHAR) NOT NULL, ticker VARCHAR2(32 CHAR) NOT NULL, first_day DATE NOT NULL, end_day DATE,
        instrument_id VARCHAR2(40 CHAR) NOT NULL, name VARCHAR2(200 CHAR), origin VARCHAR2(16 CHAR) NOT NULL,
        run_id CHAR(32) NOT NULL, seen_at TIMESTAMP(6) NOT NULL,
        PRIMARY KEY (source, ticker, first_day),
        CONSTRAINT ticker_history_origin CHECK (origin IN ('vendor', 'shipped')),
        CONSTRAINT ticker_history_days CHECK (end_day > first_day)
    )""",
    "facts_watermark": """CREATE TABLE facts_watermark (
        source VARCHAR2(16 CHAR) NOT NULL, kind VARCHAR2(16 CHAR) NOT NULL, first_day DATE NOT NULL,
        last_day DATE NOT NULL, run_id CHAR(32) NOT NULL, known INTEGER,
        PRIMARY KEY (source, kind)
    )""",
    "run": """CREATE TABLE run (
        run_id CHAR(32) NOT NULL, flow VARCHAR2(40 CHAR) NOT NULL, source VARCHAR2(16 CHAR) NOT NULL,
        timeframe VARCHAR2(4 CHAR) NOT NULL, state VARCHAR2(32 CHAR) NOT NULL, asked CLOB NOT NULL,
        plan CLOB NOT NULL, planned_calls INTEGER DEFAULT 0 NOT NULL, actual_calls INTEGER DEFAULT 0 NOT NULL,
        planned_cells INTEGER DEFAULT 0 NOT NULL, done_cells INTEGER DEFAULT 0 NOT NULL,
        accepted_bars INTEGER DEFAULT 0 NOT NULL, inserted INTEGER DEFAULT 0 NOT NULL,
        rewritten INTEGER DEFAULT 0 NOT NULL, started_at TIMESTAMP(6) NOT NULL, ended_at TIMESTAMP(6), report CLOB,
        as_of TIMESTAMP(6) NOT NULL, recheck_sessions INTEGER, unchecked_calls INTEGER,
        PRIMARY KEY (run_id)
    )""",
    "claim": """CREATE TABLE claim (
        claim_id NUMBER(19) GENERATED ALWAYS AS IDENTITY (NOCACHE), run_id CHAR(32) NOT NULL,
        source VARCHAR2(16 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL, first_session DATE NOT NULL,
        last_session DATE NOT NULL, ticker VARCHAR2(32 CHAR), tickers CLOB NOT NULL,
        claimed_at TIMESTAMP(6) NOT NULL, done_at TIMESTAMP(6),
        PRIMARY KEY (claim_id)
    )""",
    "given": """CREATE GLOBAL TEMPORARY TABLE given (
        batch NUMBER(19) NOT NULL, text1 VARCHAR2(500 CHAR), text2 VARCHAR2(500 CHAR), text3 VARCHAR2(500 CHAR),
        text4 VARCHAR2(500 CHAR), text5 VARCHAR2(500 CHAR), text6 VARCHAR2(500 CHAR), text7 VARCHAR2(500 CHAR),
        text8 VARCHAR2(500 CHAR), day1 DATE, day2 DATE, day3 DATE, instant1 TIMESTAMP(6), instant2 TIMESTAMP(6),
        whole1 NUMBER(19), whole2 NUMBER(19), whole3 NUMBER(19), real1 BINARY_DOUBLE, real2 BINARY_DOUBLE,
        real3 BINARY_DOUBLE, real4 BINARY_DOUBLE, real5 BINARY_DOUBLE, real6 BINARY_DOUBLE
    ) ON COMMIT DELETE ROWS""",
    "staged_bar": """CREATE GLOBAL TEMPORARY TABLE staged_bar (
        ticker VARCHAR2(32 CHAR) NOT NULL, "SESSION" DATE NOT NULL, ts TIMESTAMP(6) NOT NULL, open BINARY_DOUBLE,
        high BINARY_DOUBLE, low BINARY_DOUBLE, close BINARY_DOUBLE, volume BINARY_DOUBLE, vwap BINARY_DOUBLE,
        trades NUMBER(19)
    ) ON COMMIT DELETE ROWS""",
    "loaded_bar": """CREATE TABLE loaded_bar (
        ticker VARCHAR2(32 CHAR) NOT NULL, "SESSION" DATE NOT NULL, ts TIMESTAMP(6) NOT NULL, open BINARY_DOUBLE,
        high BINARY_DOUBLE, low BINARY_DOUBLE, close BINARY_DOUBLE, volume BINARY_DOUBLE, vwap BINARY_DOUBLE,
        trades NUMBER(19)
    )""",
    "latch": """CREATE TABLE latch (
        name VARCHAR2(64 CHAR) NOT NULL,
        PRIMARY KEY (name)
    )""",
    "present": """CREATE GLOBAL TEMPORARY TABLE present (
        instant TIMESTAMP(6) NOT NULL
    ) ON COMMIT DELETE ROWS""",
}

INDEXES: Final = {
    "revision_of_bar": "CREATE INDEX revision_of_bar ON revision (ticker, timeframe, ts)",
    "split_of_ticker": "CREATE INDEX split_of_ticker ON split (ticker)",
    "revision_of_split": "CREATE INDEX revision_of_split ON split_revision (ticker, execution_date)",
    "dividend_of_ticker": "CREATE INDEX dividend_of_ticker ON dividend (ticker, ex_date)",
    "history_of_instrument": "CREATE INDEX history_of_instrument ON ticker_history (instrument_id)",
    "history_of_ticker": "CREATE INDEX history_of_ticker ON ticker_history (ticker)",
    "claim_of_run": "CREATE INDEX claim_of_run ON claim (run_id)",
    "claim_of_sessions": "CREATE INDEX claim_of_sessions ON claim (source, timeframe, last_session)",
}

COMMENTS: Final = {
    "bar.ts": "UTC instant at which the bar opens",
    "bar.run_id": "the run that last wrote the row",
    "watermark.last_session": "first..last is all accounted for, inclusive",
    "quarantine.copy": "counts bars of one instant in one answer",
    "quarantine.message": "what the database said when it refused",
    "revision.run_id": "the run that saw the new values",
    "revision.old_run_id": "the run that had written the old values",
    "split.known_from": "since when this version could be known",
    "split_revision.new_split_from": "NULL: the vendor lists it no longer",
    "split_revision.old_known_from": "the old version counts from here until seen_at",
    "split_revision.run_id": "the run that saw the change",
    "split_revision.old_run_id": "the run that had written the old version",
    "dividend.seq": "counts the dividends of one ex-date, from 1",
    "dividend.kind": "the vendor's word: CD regular, SC special, ...",
    "dividend.cash_amount": "for one share of the ex-date's scale",
    "ticker_history.end_day": "the first day without the ticker; NULL while it lasts",
    "facts_watermark.known": "rows in the span after the last look; NULL where nobody counted",
    "run.state": "Running until the run has ended",
    "run.plan": "the calls by kind, as announced before the first",
    "run.as_of": "what the run took for the present: all that it wrote is known since then",
    "run.recheck_sessions": "as asked: how many sessions it looked at once more",
    "run.unchecked_calls": "as reported: calls for rechecks that it did not make",
    "claim.run_id": "the run that makes the call",
    "claim.ticker": "the one that a call for a range asks for; NULL: a call for a market day",
    "claim.tickers": "the cells: these, first_session to last_session",
    "claim.done_at": "when it was answered; NULL: in flight",
}

#: The views, in order.
VIEWS: Final = {
    "split_factor": """CREATE OR REPLACE VIEW split_factor AS
    SELECT source, ticker, first_session, before_session, factor
    FROM (
        SELECT source, ticker,
            COALESCE(lead(execution_date) OVER (PARTITION BY source, ticker, held_since ORDER BY execution_date
                DESC), held_since) AS first_session,
            execution_date AS before_session,
            COALESCE(CAST(CASE WHEN COUNT(CASE WHEN split_from <> ROUND(split_from) OR split_to <>
                ROUND(split_to) THEN 1 END) OVER (PARTITION BY source, ticker, held_since ORDER BY
                execution_date DESC) = 0 THEN ROUND(EXP(SUM(LN(CAST(split_from AS NUMBER))) OVER (PARTITION BY
                source, ticker, held_since ORDER BY execution_date DESC))) / ROUND(EXP(SUM(LN(CAST(split_to AS
                NUMBER))) OVER (PARTITION BY source, ticker, held_since ORDER BY execution_date DESC))) ELSE
                EXP(SUM(LN(CAST(split_from AS NUMBER))) OVER (PARTITION BY source, ticker, held_since ORDER BY
                execution_date DESC)) / EXP(SUM(LN(CAST(split_to AS NUMBER))) OVER (PARTITION BY source, ticker,
                held_since ORDER BY execution_date DESC)) END AS BINARY_DOUBLE), 1) AS factor
        FROM (
            SELECT s.source, s.ticker, s.execution_date, s.split_from, s.split_to,
    COALESCE(
        (SELECT max(CASE
             WHEN h.end_day < s.execution_date THEN h.end_day
             WHEN h.origin = 'vendor' OR EXISTS (
                 SELECT 1 FROM ticker_history e
                 WHERE e.source = h.source AND e.instrument_id = h.instrument_id AND e.first_day < h.first_day)
             THEN h.first_day
             ELSE (SELECT max(e.end_day) FROM ticker_history e
                   WHERE e.source = h.source AND e.ticker = h.ticker AND e.end_day <= h.first_day)
             END)
         FROM ticker_history h
         WHERE h.source = s.source AND h.ticker = s.ticker AND h.first_day <= s.execution_date),
        DATE '0001-01-01') AS held_since
            FROM split s
        ) held
    ) spans
    WHERE first_session < before_session""",
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
    LEFT JOIN split_factor f ON f.source = b.source AND f.ticker = b.ticker
        AND b."SESSION" >= f.first_session AND b."SESSION" < f.before_session""",
    "bar_total_return": """CREATE OR REPLACE VIEW bar_total_return AS
    SELECT b.ticker, b."SESSION", b.ts, b.close,
        b.close * COALESCE(f.factor, 1) AS adjusted_close,
        b.close * COALESCE(f.factor, 1) * COALESCE(d.factor, 1) AS total_return_close,
        COALESCE(f.factor, 1) AS factor,
        COALESCE(d.factor, 1) AS dividend_factor,
        b.source, b.run_id
    FROM bar b
    LEFT JOIN split_factor f ON f.source = b.source AND f.ticker = b.ticker
        AND b."SESSION" >= f.first_session AND b."SESSION" < f.before_session
    LEFT JOIN (
    SELECT source, ticker,
        COALESCE(lead(ex_date) OVER (PARTITION BY source, ticker, held_since ORDER BY ex_date DESC), held_since)
            AS first_session,
        ex_date AS before_session,
        CAST(EXP(SUM(LN(CAST(1 - cash / before_ex AS NUMBER))) OVER (PARTITION BY source, ticker, held_since
            ORDER BY ex_date DESC)) AS BINARY_DOUBLE) AS factor
    FROM (
        SELECT d.source, d.ticker, d.ex_date, d.held_since, d.cash,
            c.close * (SELECT COALESCE(CAST(CASE WHEN COUNT(CASE WHEN split_from <> ROUND(split_from) OR
                split_to <> ROUND(split_to) THEN 1 END)  = 0 THEN ROUND(EXP(SUM(LN(CAST(split_from AS NUMBER)))
                )) / ROUND(EXP(SUM(LN(CAST(split_to AS NUMBER))) )) ELSE EXP(SUM(LN(CAST(split_from AS NUMBER)))
                ) / EXP(SUM(LN(CAST(split_to AS NUMBER))) ) END AS BINARY_DOUBLE), 1) FROM split s
                       WHERE s.source = d.source AND s.ticker = d.ticker
                         AND s.execution_date > c."SESSION" AND s.execution_date <= d.ex_date) AS before_ex
        FROM (
            SELECT p.source, p.ticker, p.ex_date, p.cash,
    COALESCE(
        (SELECT max(CASE
             WHEN h.end_day < p.ex_date THEN h.end_day
             WHEN h.origin = 'vendor' OR EXISTS (
                 SELECT 1 FROM ticker_history e
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
            ) p
        ) d
        JOIN (
            SELECT b.source, b.ticker, b."SESSION", b.close,
                LEAD(b."SESSION") OVER (PARTITION BY b.source, b.ticker ORDER BY b.ts) AS next_session
            FROM bar b WHERE b.timeframe = '1d'
        ) c ON c.source = d.source AND c.ticker = d.ticker
            AND c."SESSION" < d.ex_date AND c.next_session >= d.ex_date
    ) paid
    WHERE cash < before_ex
    ) d ON d.source = b.source AND d.ticker = b.ticker
        AND b."SESSION" >= d.first_session AND b."SESSION" < d.before_session
    WHERE b.timeframe = '1d'""",
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
    JOIN bar b ON b.source = h.source AND b.ticker = h.ticker
        AND b."SESSION" >= h.first_day AND (h.end_day IS NULL OR b."SESSION" < h.end_day)
    LEFT JOIN (
    SELECT source, ticker, instrument_id,
        COALESCE(lead(execution_date) OVER (PARTITION BY source, ticker, instrument_id ORDER BY execution_date
            DESC), DATE '0001-01-01') AS first_session,
        execution_date AS before_session,
        COALESCE(CAST(CASE WHEN COUNT(CASE WHEN split_from <> ROUND(split_from) OR split_to <> ROUND(split_to)
            THEN 1 END) OVER (PARTITION BY source, ticker, instrument_id ORDER BY execution_date DESC) = 0 THEN
            ROUND(EXP(SUM(LN(CAST(split_from AS NUMBER))) OVER (PARTITION BY source, ticker, instrument_id ORDER
            BY execution_date DESC))) / ROUND(EXP(SUM(LN(CAST(split_to AS NUMBER))) OVER (PARTITION BY source,
            ticker, instrument_id ORDER BY execution_date DESC))) ELSE EXP(SUM(LN(CAST(split_from AS NUMBER)))
            OVER (PARTITION BY source, ticker, instrument_id ORDER BY execution_date DESC)) /
            EXP(SUM(LN(CAST(split_to AS NUMBER))) OVER (PARTITION BY source, ticker, instrument_id ORDER BY
            execution_date DESC)) END AS BINARY_DOUBLE), 1) AS factor
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
    LEFT JOIN split_factor f ON f.source = b.source AND f.ticker = b.ticker
        AND b."SESSION" >= f.first_session AND b."SESSION" < f.before_session
    WHERE NOT EXISTS (
        SELECT 1 FROM ticker_history h WHERE h.source = b.source AND h.ticker = b.ticker)""",
    "split_factor_as_of": """CREATE OR REPLACE VIEW split_factor_as_of AS
    SELECT source, ticker, first_session, before_session, factor
    FROM (
        SELECT source, ticker,
            COALESCE(lead(execution_date) OVER (PARTITION BY source, ticker, held_since ORDER BY execution_date
                DESC), held_since) AS first_session,
            execution_date AS before_session,
            COALESCE(CAST(CASE WHEN COUNT(CASE WHEN split_from <> ROUND(split_from) OR split_to <>
                ROUND(split_to) THEN 1 END) OVER (PARTITION BY source, ticker, held_since ORDER BY
                execution_date DESC) = 0 THEN ROUND(EXP(SUM(LN(CAST(split_from AS NUMBER))) OVER (PARTITION BY
                source, ticker, held_since ORDER BY execution_date DESC))) / ROUND(EXP(SUM(LN(CAST(split_to AS
                NUMBER))) OVER (PARTITION BY source, ticker, held_since ORDER BY execution_date DESC))) ELSE
                EXP(SUM(LN(CAST(split_from AS NUMBER))) OVER (PARTITION BY source, ticker, held_since ORDER BY
                execution_date DESC)) / EXP(SUM(LN(CAST(split_to AS NUMBER))) OVER (PARTITION BY source, ticker,
                held_since ORDER BY execution_date DESC)) END AS BINARY_DOUBLE), 1) AS factor
        FROM (
            SELECT s.source, s.ticker, s.execution_date, s.split_from, s.split_to,
    COALESCE(
        (SELECT max(CASE
             WHEN h.end_day < s.execution_date THEN h.end_day
             WHEN h.origin = 'vendor' OR EXISTS (
                 SELECT 1 FROM ticker_history e
                 WHERE e.source = h.source AND e.instrument_id = h.instrument_id AND e.first_day < h.first_day)
             THEN h.first_day
             ELSE (SELECT max(e.end_day) FROM ticker_history e
                   WHERE e.source = h.source AND e.ticker = h.ticker AND e.end_day <= h.first_day)
             END)
         FROM ticker_history h
         WHERE h.source = s.source AND h.ticker = s.ticker AND h.first_day <= s.execution_date),
        DATE '0001-01-01') AS held_since
            FROM (
                SELECT source, ticker, execution_date, split_from, split_to FROM split
                WHERE known_from <= (SELECT p.instant FROM present p)
                UNION ALL
                SELECT source, ticker, execution_date, old_split_from, old_split_to FROM split_revision
                WHERE old_known_from <= (SELECT p.instant FROM present p) AND seen_at > (SELECT p.instant FROM
                    present p)
            ) s
        ) held
    ) spans
    WHERE first_session < before_session""",
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
    LEFT JOIN split_factor_as_of f ON f.source = b.source AND f.ticker = b.ticker
        AND b."SESSION" >= f.first_session AND b."SESSION" < f.before_session
    WHERE b.ts <= (SELECT p.instant FROM present p)""",
    "bar_as_of": """CREATE OR REPLACE VIEW bar_as_of AS
    SELECT b.ticker, b.timeframe, b."SESSION", b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id
    FROM bar b
    WHERE b.ts <= (SELECT p.instant FROM present p)
      AND NOT EXISTS (SELECT 1 FROM run r WHERE r.run_id = b.run_id AND r.as_of > (SELECT p.instant FROM present p))
      AND NOT EXISTS (
        SELECT 1 FROM revision v
        WHERE v.ticker = b.ticker AND v.timeframe = b.timeframe AND v.ts = b.ts AND v.seen_at > (SELECT
            p.instant FROM present p))
    UNION ALL
    SELECT v.ticker, v.timeframe, v."SESSION", v.ts,
        v.old_open, v.old_high, v.old_low, v.old_close, v.old_volume, v.old_vwap, v.old_trades, v.source,
            v.old_run_id
    FROM revision v
    WHERE v.ts <= (SELECT p.instant FROM present p) AND v.seen_at > (SELECT p.instant FROM present p)
      AND NOT EXISTS (SELECT 1 FROM run r WHERE r.run_id = v.old_run_id AND r.as_of > (SELECT p.instant FROM
          present p))
      AND NOT EXISTS (
        SELECT 1 FROM revision e
        WHERE e.ticker = v.ticker AND e.timeframe = v.timeframe AND e.ts = v.ts
          AND e.seen_at > (SELECT p.instant FROM present p) AND e.revision_id < v.revision_id)""",
}
