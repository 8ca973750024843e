"""The statements of the PostgreSQL store that are set-based or lock; everything in them is bound."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

MARKS: Final = sa.text("""
    SELECT ticker, first_session, last_session FROM watermark
    WHERE source = :source AND timeframe = :timeframe AND ticker = ANY(:tickers)
""")

LOCK_MARKS: Final = sa.text("""
    SELECT ticker, first_session, last_session FROM watermark
    WHERE source = :source AND timeframe = :timeframe AND ticker = ANY(:tickers)
    ORDER BY ticker FOR UPDATE
""")

MAKE_MARKS: Final = sa.text("""
    INSERT INTO watermark (source, ticker, timeframe, first_session, last_session, run_id)
    SELECT :source, ticker, :timeframe, first_session, last_session, :run_id
    FROM unnest(CAST(:tickers AS text[]), CAST(:firsts AS date[]), CAST(:lasts AS date[]))
        AS made (ticker, first_session, last_session)
    ON CONFLICT DO NOTHING
    RETURNING ticker
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

SET_MARKS: Final = sa.text("""
    UPDATE watermark SET first_session = new.first_session, last_session = new.last_session, run_id = :run_id
    FROM unnest(CAST(:tickers AS text[]), CAST(:firsts AS date[]), CAST(:lasts AS date[]))
        AS new (ticker, first_session, last_session)
    WHERE watermark.source = :source AND watermark.timeframe = :timeframe AND watermark.ticker = new.ticker
      AND (watermark.first_session, watermark.last_session) IS DISTINCT FROM (new.first_session, new.last_session)
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

GAPS: Final = sa.text("""
    SELECT ticker, session, reason, attempts, last_error, updated_at FROM gap
    WHERE source = :source AND timeframe = :timeframe AND ticker = ANY(:tickers)
      AND session BETWEEN :first AND :last
""")

CLOSE_GAPS: Final = sa.text("""
    DELETE FROM gap USING unnest(CAST(:tickers AS text[]), CAST(:sessions AS date[])) AS closed (ticker, session)
    WHERE gap.source = :source AND gap.timeframe = :timeframe
      AND gap.ticker = closed.ticker AND gap.session = closed.session
""")

SET_GAPS: Final = sa.text("""
    INSERT INTO gap (source, ticker, timeframe, session, reason, attempts, last_error, updated_at, run_id)
    SELECT :source, ticker, :timeframe, session, reason, attempts, last_error, asked_at, :run_id
    FROM unnest(CAST(:tickers AS text[]), CAST(:sessions AS date[]), CAST(:reasons AS text[]),
                CAST(:attempts AS integer[]), CAST(:errors AS text[]), CAST(:asked AS timestamptz[]))
        AS new (ticker, session, reason, attempts, last_error, asked_at)
    ON CONFLICT (source, ticker, timeframe, session) DO UPDATE SET
        reason = excluded.reason, attempts = excluded.attempts, last_error = excluded.last_error,
        run_id = excluded.run_id, updated_at = excluded.updated_at
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

QUARANTINE: Final = sa.text("""
    INSERT INTO quarantine AS kept (source, ticker, timeframe, ts, copy, session, rule,
        open, high, low, close, volume, vwap, trades, run_id, message)
    SELECT :source, new.ticker, :timeframe, new.ts, new.copy, new.session, new.rule,
        new.open, new.high, new.low, new.close, new.volume, new.vwap, new.trades, :run_id,
        new.message
    FROM unnest(CAST(:tickers AS text[]), CAST(:instants AS timestamptz[]), CAST(:copies AS smallint[]),
                CAST(:sessions AS date[]), CAST(:rules AS text[]),
                CAST(:open AS float8[]), CAST(:high AS float8[]), CAST(:low AS float8[]), CAST(:close AS float8[]),
                CAST(:volume AS float8[]), CAST(:vwap AS float8[]), CAST(:trades AS bigint[]),
                CAST(:messages AS text[]))
        AS new (ticker, ts, copy, session, rule, open, high, low, close, volume, vwap, trades, message)
    ON CONFLICT (source, ticker, timeframe, ts, copy) DO UPDATE SET
        rule = excluded.rule, open = excluded.open, high = excluded.high, low = excluded.low,
        close = excluded.close, volume = excluded.volume, vwap = excluded.vwap, trades = excluded.trades,
        run_id = excluded.run_id, seen_at = now(), message = excluded.message
    WHERE (kept.rule, kept.open, kept.high, kept.low, kept.close, kept.volume, kept.vwap, kept.trades,
           kept.message)
        IS DISTINCT FROM (excluded.rule, excluded.open, excluded.high, excluded.low, excluded.close,
                          excluded.volume, excluded.vwap, excluded.trades, excluded.message)
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

# First and last session asked of each ticker.
_SPANS = """
    unnest(CAST(:tickers AS text[]), CAST(:firsts AS date[]), CAST(:lasts AS date[])) AS span (ticker, first, last)
"""

# The key has no session, but every bar opens within days of its session: without these bounds the night's three
# sessions would read the whole history.
_BARS_OF_SPAN = """
    bar.ticker = span.ticker AND bar.timeframe = :timeframe AND bar.session BETWEEN span.first AND span.last
    AND bar.session = ANY(:sessions) AND bar.ts BETWEEN span.first - 7 AND span.last + 7
"""

#: Days of bars, where each is one row.
COUNT_DAILY: Final = sa.text(f"""
    SELECT span.ticker, count(*) FROM {_SPANS} JOIN bar ON {_BARS_OF_SPAN} GROUP BY span.ticker
""")  # noqa: S608  (fixed text, no value in it)

#: The same where a session has many rows.
COUNT_SESSIONS: Final = sa.text(f"""
    SELECT span.ticker, count(DISTINCT bar.session) FROM {_SPANS} JOIN bar ON {_BARS_OF_SPAN} GROUP BY span.ticker
""")  # noqa: S608  (fixed text, no value in it)

COUNT_GAPS: Final = sa.text(f"""
    SELECT gap.ticker, gap.reason, count(*) FROM {_SPANS}
    JOIN gap ON gap.source = :source AND gap.timeframe = :timeframe AND gap.ticker = span.ticker
        AND gap.session BETWEEN span.first AND span.last
    GROUP BY gap.ticker, gap.reason
""")  # noqa: S608  (fixed text, no value in it)

_HAS_BAR = """
    EXISTS (SELECT FROM bar WHERE bar.ticker = gap.ticker AND bar.timeframe = gap.timeframe
            AND bar.session = gap.session AND bar.ts BETWEEN gap.session - 7 AND gap.session + 7{of_source})
"""

# Another vendor's bar does not unsay what this one answered: only its own contradicts a gap.
_HAS_OWN_BAR = _HAS_BAR.format(of_source=" AND bar.source = gap.source")

#: Gaps whose cell has a bar of any vendor, and those whose cell has one of their own.
COUNT_BOTH: Final = sa.text(f"""
    SELECT gap.ticker, count(*), count(*) FILTER (WHERE {_HAS_OWN_BAR}) FROM {_SPANS}
    JOIN gap ON gap.source = :source AND gap.timeframe = :timeframe AND gap.ticker = span.ticker
        AND gap.session BETWEEN span.first AND span.last
    WHERE {_HAS_BAR.format(of_source="")} GROUP BY gap.ticker
""")  # noqa: S608  (fixed text, no value in it)

CLOSE_CONTRADICTED: Final = sa.text(f"""
    DELETE FROM gap USING unnest(CAST(:tickers AS text[]), CAST(:sessions AS date[])) AS cell (ticker, session)
    WHERE gap.source = :source AND gap.timeframe = :timeframe
      AND gap.ticker = cell.ticker AND gap.session = cell.session AND {_HAS_OWN_BAR}
""")  # noqa: S608  (fixed text, no value in it)

#: Tickers without a watermark though a run that came to its end had asked for them: from when to when it did. Only
#: sessions that were over: those of tickers with a prefix, crypto and currencies, are so at midnight UTC.
ASKED: Final = sa.text("""
    SELECT ticker, min(first) FILTER (WHERE first <= last), max(last) FILTER (WHERE first <= last)
    FROM (
        SELECT asked -> 'tickers' AS tickers, asked -> 'limits' AS limits, asked ->> 'start' AS start_day,
            asked ->> 'end' AS end_day, CAST(as_of AT TIME ZONE 'UTC' AS date) AS today
        FROM run
        WHERE run.source = :source AND run.timeframe = :timeframe AND run.flow = 'ingest'
          AND run.state IN ('Completed', 'PartiallyCompleted')
        OFFSET 0 -- else the whole request would be unpacked again for each of its tickers
    ) AS ended
    CROSS JOIN LATERAL jsonb_array_elements_text(tickers) AS of (ticker)
    CROSS JOIN LATERAL (
        SELECT CAST(COALESCE(limits -> ticker ->> 0, start_day) AS date) AS first,
            LEAST(CAST(COALESCE(limits -> ticker ->> 1, end_day) AS date),
                  today - CAST(strpos(ticker, ':') > 0 AS integer)) AS last
    ) AS span
    WHERE (CAST(:tickers AS text[]) IS NULL OR of.ticker = ANY(:tickers))
      AND NOT EXISTS (SELECT FROM watermark WHERE watermark.source = :source
                      AND watermark.timeframe = :timeframe AND watermark.ticker = of.ticker)
    GROUP BY ticker HAVING bool_or(first <= last)
""")

CLOSE_UNPROVEN: Final = sa.text("""
    DELETE FROM gap USING unnest(CAST(:tickers AS text[]), CAST(:sessions AS date[])) AS cell (ticker, session)
    WHERE gap.source = :source AND gap.timeframe = :timeframe AND gap.reason = 'quarantined'
      AND gap.ticker = cell.ticker AND gap.session = cell.session
      AND NOT EXISTS (SELECT FROM quarantine AS kept WHERE kept.source = gap.source AND kept.ticker = gap.ticker
                      AND kept.timeframe = gap.timeframe AND kept.session = gap.session)
""")

#: A lost cell is ``pending``, unless somebody stored its bar or its gap in the meantime, or made the watermark anew
#: without it.
REOPEN: Final = sa.text("""
    INSERT INTO gap (source, ticker, timeframe, session, reason, attempts, updated_at, run_id)
    SELECT :source, lost.ticker, :timeframe, lost.session, 'pending', 0, :at, :run_id
    FROM unnest(CAST(:tickers AS text[]), CAST(:sessions AS date[])) AS lost (ticker, session)
    WHERE NOT EXISTS (SELECT FROM bar WHERE bar.ticker = lost.ticker AND bar.timeframe = :timeframe
                      AND bar.session = lost.session AND bar.ts BETWEEN lost.session - 7 AND lost.session + 7)
      AND EXISTS (SELECT FROM watermark AS mark
                  WHERE mark.source = :source AND mark.timeframe = :timeframe AND mark.ticker = lost.ticker
                    AND lost.session BETWEEN mark.first_session AND mark.last_session)
    ON CONFLICT DO NOTHING
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

#: Bars that were accepted and proved bad: out of ``bar``, into quarantine, their values kept, their cells gaps in every
#: ledger that counts on them. One that somebody rewrote in the meantime stays.
TAKE_OUT: Final = sa.text("""
    WITH bad AS (
        SELECT * FROM unnest(CAST(:tickers AS text[]), CAST(:instants AS timestamptz[]), CAST(:rules AS text[]),
            CAST(:closes AS float8[]), CAST(:volumes AS float8[])) AS bad (ticker, ts, rule, close, volume)
    ), gone AS (
        DELETE FROM bar USING bad
        WHERE bar.ticker = bad.ticker AND bar.timeframe = :timeframe AND bar.ts = bad.ts
          AND bar.close = bad.close AND bar.volume = bad.volume
        RETURNING bar.*, bad.rule
    ), kept AS (
        INSERT INTO quarantine (source, ticker, timeframe, ts, copy, session, rule,
            open, high, low, close, volume, vwap, trades, run_id, seen_at)
        SELECT :source, ticker, timeframe, ts, 0, session, rule,
            open, high, low, close, volume, vwap, trades, :run_id, :at FROM gone
        ON CONFLICT (source, ticker, timeframe, ts, copy) DO UPDATE SET
            rule = excluded.rule, open = excluded.open, high = excluded.high, low = excluded.low,
            close = excluded.close, volume = excluded.volume, vwap = excluded.vwap, trades = excluded.trades,
            run_id = excluded.run_id, seen_at = excluded.seen_at, message = NULL
    ), told AS (
        INSERT INTO revision (source, ticker, timeframe, session, ts,
            old_open, old_high, old_low, old_close, old_volume, old_vwap, old_trades, run_id, old_run_id, seen_at)
        SELECT source, ticker, timeframe, session, ts,
            open, high, low, close, volume, vwap, trades, :run_id, run_id, :at FROM gone
    ), opened AS (
        INSERT INTO gap (source, ticker, timeframe, session, reason, attempts, updated_at, run_id)
        SELECT DISTINCT mark.source, gone.ticker, gone.timeframe, gone.session,
            CASE WHEN mark.source = :source THEN 'quarantined' ELSE 'pending' END,
            CAST(mark.source = :source AS integer), CAST(:at AS timestamptz), CAST(:run_id AS uuid)
        FROM gone JOIN watermark AS mark ON mark.ticker = gone.ticker AND mark.timeframe = gone.timeframe
            AND gone.session BETWEEN mark.first_session AND mark.last_session
        WHERE NOT EXISTS (
            SELECT FROM bar WHERE bar.ticker = gone.ticker AND bar.timeframe = gone.timeframe
              AND bar.session = gone.session AND bar.ts BETWEEN gone.session - 7 AND gone.session + 7
              AND bar.ts NOT IN (SELECT ts FROM gone AS other WHERE other.ticker = gone.ticker))
        ON CONFLICT DO NOTHING
    )
    SELECT ticker, session, rule FROM gone ORDER BY ticker, ts
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

#: Bars that this run stored, though the very same came under another ticker and are in quarantine for it.
COPIED: Final = sa.text("""
    SELECT bar.ticker, bar.session, bar.ts, bar.close, bar.volume FROM bar JOIN quarantine AS copied
        ON copied.timeframe = bar.timeframe AND copied.ts = bar.ts AND copied.ticker <> bar.ticker
        AND (copied.open, copied.high, copied.low, copied.close, copied.volume)
            = (bar.open, bar.high, bar.low, bar.close, bar.volume)
    WHERE bar.timeframe = :timeframe AND bar.ticker = ANY(:tickers) AND bar.run_id = :run_id
      AND copied.source = :source AND copied.run_id = :run_id AND copied.rule = 'same_series'
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

#: Which of some tickers have the very bars that came under another one.
OWNERS: Final = sa.text("""
    SELECT bar.ticker, count(*) FROM bar
    JOIN unnest(CAST(:instants AS timestamptz[]), CAST(:opens AS float8[]), CAST(:closes AS float8[]),
                CAST(:volumes AS float8[])) AS came (ts, open, close, volume)
        ON (came.open, came.close, came.volume) = (bar.open, bar.close, bar.volume) AND came.ts = bar.ts
    WHERE bar.timeframe = :timeframe AND bar.ticker = ANY(:tickers) AND bar.ticker <> :but
      AND bar.ts = ANY(CAST(:instants AS timestamptz[]))
    GROUP BY bar.ticker ORDER BY count(*) DESC, bar.ticker LIMIT 1
""")

#: Made once a session and emptied at each commit. No text in it: rows of fixed width are the fastest. A pooler gives
#: the session, and the table with it, to other clients of the same user, older versions of this program among them:
#: whoever changes the columns changes the name.
STAGE: Final = sa.text("""
    CREATE TEMPORARY TABLE IF NOT EXISTS staged_bar_1 (
        n integer NOT NULL, session date NOT NULL, ts timestamptz NOT NULL,
        open float8 NOT NULL, high float8 NOT NULL, low float8 NOT NULL, close float8 NOT NULL,
        volume float8 NOT NULL, vwap float8, trades bigint
    ) ON COMMIT DELETE ROWS
""")

EMPTY_STAGE: Final = sa.text("TRUNCATE staged_bar_1")

COPY_TO_STAGE: Final = (
    "COPY staged_bar_1 (n, session, ts, open, high, low, close, volume, vwap, trades) FROM STDIN (FORMAT binary)"
)

# OFFSET 0 keeps the planner from joining bars to staged rows by the instant alone, before it has their tickers:
# all the bars of a market day have one instant, and 11,000 tickers would be 121 million pairs.
_STAGED = """
    (SELECT named.ticker, staged_bar_1.* FROM staged_bar_1
     JOIN unnest(CAST(:tickers AS text[])) WITH ORDINALITY AS named (ticker, n) USING (n) OFFSET 0)
"""

# The bounds on ts are constants to the planner: without them it reads the whole table when its statistics
# are older than the data.
_SAME = """
    bar.ticker = staged.ticker AND bar.timeframe = :timeframe AND bar.ts = staged.ts
    AND bar.ticker = ANY(:tickers) AND bar.ts BETWEEN :lo AND :hi
"""

_DIFFERS = """
    (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.vwap, bar.trades) IS DISTINCT FROM
    (staged.open, staged.high, staged.low, staged.close, staged.volume, staged.vwap, staged.trades)
"""

REVISE: Final = sa.text(f"""
    INSERT INTO revision (source, ticker, timeframe, session, ts,
        old_open, old_high, old_low, old_close, old_volume, old_vwap, old_trades,
        new_open, new_high, new_low, new_close, new_volume, new_vwap, new_trades, run_id, old_run_id, seen_at)
    SELECT :source, bar.ticker, bar.timeframe, bar.session, bar.ts,
        bar.open, bar.high, bar.low, bar.close, bar.volume, bar.vwap, bar.trades,
        staged.open, staged.high, staged.low, staged.close, staged.volume, staged.vwap, staged.trades, :run_id,
        bar.run_id, COALESCE((SELECT as_of FROM run WHERE run_id = :run_id), now())
    FROM bar JOIN {_STAGED} AS staged ON {_SAME}
    WHERE {_DIFFERS}
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))  # noqa: S608  (fixed text, no value in it)

MERGE: Final = sa.text(f"""
    MERGE INTO bar USING {_STAGED} AS staged ON {_SAME}
    WHEN MATCHED AND {_DIFFERS} THEN UPDATE SET
        open = staged.open, high = staged.high, low = staged.low, close = staged.close,
        volume = staged.volume, vwap = staged.vwap, trades = staged.trades, source = :source, run_id = :run_id
    WHEN NOT MATCHED THEN INSERT
        (ticker, timeframe, session, ts, open, high, low, close, volume, vwap, trades, source, run_id)
        VALUES (staged.ticker, :timeframe, staged.session, staged.ts, staged.open, staged.high, staged.low,
                staged.close, staged.volume, staged.vwap, staged.trades, :source, :run_id)
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))  # noqa: S608  (fixed text, no value in it)

#: A bar of none of these tickers, taken out and put back as it was.
PUT_BACK: Final = sa.text("""
    WITH one AS (
        SELECT ticker, timeframe, ts FROM bar WHERE timeframe = :timeframe AND ticker <> ALL(CAST(:tickers AS text[]))
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM bar USING one
        WHERE bar.ticker = one.ticker AND bar.timeframe = one.timeframe AND bar.ts = one.ts
        RETURNING bar.*
    )
    INSERT INTO bar SELECT * FROM gone
""")

#: Last in the transaction: until it commits, every other flush of the run waits for this row.
COUNT: Final = sa.text("""
    UPDATE run SET actual_calls = actual_calls + :calls, done_cells = done_cells + :cells,
        accepted_bars = accepted_bars + :stored, inserted = inserted + :inserted, rewritten = rewritten + :rewritten
    WHERE run_id = :run_id
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

# A lock that a run holds for as long as it lives, in a transaction of its own: it goes with its process, however
# that ends. The number is made of the run's id.
_LOCK = "CAST(CAST('x' || substr(md5(CAST(run_id AS text)), 1, 16) AS bit(64)) AS bigint)"

HOLD: Final = sa.text(f"""
    SELECT pg_advisory_xact_lock({_LOCK}) FROM (SELECT CAST(:run_id AS uuid) AS run_id) AS this
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))  # noqa: S608  (fixed text, no value in it)

#: The transaction that holds it is idle from beat to beat. A machine that dies without a word is found out in a minute.
KEEP_IDLE: Final = sa.text("""
    SELECT set_config('idle_in_transaction_session_timeout', '60s', true),
        set_config('tcp_keepalives_idle', '20', true), set_config('tcp_keepalives_interval', '10', true),
        set_config('tcp_keepalives_count', '3', true)
""")

#: Whether its connection still stands.
BEAT: Final = sa.text("SELECT 1")

#: Whether the run's process is gone.
GONE: Final = sa.text(f"""
    SELECT pg_try_advisory_xact_lock({_LOCK}) FROM (SELECT CAST(:run_id AS uuid) AS run_id) AS this
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))  # noqa: S608  (fixed text, no value in it)

BURY: Final = sa.text(f"""
    WITH running AS MATERIALIZED (SELECT run_id FROM run WHERE state = 'Running' FOR UPDATE SKIP LOCKED)
    UPDATE run SET state = 'Crashed', ended_at = now()
    FROM running WHERE run.run_id = running.run_id
      AND pg_try_advisory_xact_lock({_LOCK.replace("run_id", "running.run_id")})
""")  # noqa: S608  (fixed text, no value in it)
