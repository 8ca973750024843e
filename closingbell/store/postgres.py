"""Bars and ledger in PostgreSQL 15 or newer: one transaction a flush.

Bars of cells that the ledger knows to be empty go by binary COPY straight into ``bar``. The others go by
COPY into a temporary table and from there by one MERGE that rewrites only rows that differ; each one it
rewrites leaves a revision. Watermarks, gaps, quarantine and the run's counters follow in the same transaction.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
import psycopg2.errors
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.bars import NO_TRADES, VALUES, Bars
from closingbell.calendar import asset_class, calendar_for
from closingbell.cells import Days, Gap, Watermark
from closingbell.clock import Clock
from closingbell.outcome import FlushResult, Outcome
from closingbell.plan import Call, TickerRange
from closingbell.quality import Verdict
from closingbell.store import statements as sql
from closingbell.store.claims import MARK, Claim, close, take
from closingbell.store.copy import Field, binary
from closingbell.store.faults import RefusedError
from closingbell.store.ledger import LOOK_BACK, Settlement, spans
from closingbell.store.patience import log
from closingbell.store.redo import Redo, undo
from closingbell.store.refusals import STRANGER, find_poison, store_by_ticker

_NOTHING: Final = Verdict(Bars(()), Bars(()), (), {})

_COLUMNS: Final = "ticker, timeframe, session, ts, open, high, low, close, volume, vwap, trades, source, run_id"


def sessions_between(ticker: str, after: date, before: date) -> Days:
    """The sessions of a ticker's calendar strictly between two dates; shape (k,), datetime64[D]."""
    sessions = calendar_for(asset_class(ticker)).sessions(after, before)
    return sessions[(sessions > np.datetime64(after)) & (sessions < np.datetime64(before))]


class PostgresWriter:
    """Writes outcomes; safe to use from several threads, each flush on a connection of its own.

    Args:
        engine: an engine for ``postgresql+psycopg2``; its patience says how long a database that is away is waited
            for.
        retries: how often a flush is done again that lost a race: a deadlock, a failed serialization.
        delay: seconds before the first of those; doubles each time.
        lock_timeout: seconds to wait for a lock before the flush is rolled back and tried again, within the patience.
    """

    def __init__(self, engine: sa.Engine, *, retries: int = 3, delay: float = 0.5, lock_timeout: float = 30.0) -> None:
        self._redo = Redo(engine, retries=retries, delay=delay, lock_timeout=lock_timeout)

    def flush(
        self,
        run_id: UUID,
        source: str,
        timeframe: str,
        outcomes: Sequence[Outcome],
        calls: int = 0,
        at: datetime | None = None,
        claims: Sequence[int] = (),
    ) -> FlushResult:
        """Write outcomes and all that follows from them in one transaction.

        Where the database refuses a value, that value alone is kept apart: a bar in quarantine under the rule
        ``refused``, with the database's words; what else it does not take costs its ticker the answer.

        Args:
            run_id: the run that does it; its row in ``run`` exists.
            source: the vendor.
            timeframe: of every bar in ``outcomes``.
            outcomes: what came of the calls.
            calls: HTTP attempts since the last flush, for the run's counter.
            at: the instant of the outcomes, aware; None: the machine's present one.
            claims: those on the cells of ``outcomes``, to be closed with them; see :meth:`claim`.

        Raises:
            ConfigurationError: the database refuses for a reason that a person has to mend.
            RetryableError: it could not be reached, or was locked, for longer than the patience; a race was lost too
                often.
            RunEndingError: the run is being stopped while the database is waited for.
            FatalError: it refused a statement, or takes nothing at all.
        """
        when = at or Clock().now()

        def write(
            parts: Sequence[Outcome], calls: int = 0, claims: Sequence[int] = (), keep: bool = True
        ) -> FlushResult:
            def work(connection: sa.Connection) -> FlushResult:
                if claims:
                    close(connection, outcomes, claims)
                result = self._flush(connection, run_id, source, timeframe, parts, calls, when)
                if not keep:
                    undo(connection)
                return result

            return self._redo(work)

        def without_poison(parts: Sequence[Outcome]) -> Sequence[Outcome]:
            def work(connection: sa.Connection) -> Sequence[Outcome]:
                key = {"source": source, "timeframe": timeframe}
                mended = self._without_poison(connection, key, run_id, parts)
                undo(connection)
                return mended

            try:
                return self._redo(work)
            except RefusedError:
                return parts  # no bar is at fault: not even the watermarks are taken

        def takes_any() -> bool:
            call = TickerRange(STRANGER, (outcomes[0].sessions[0].item(),))
            try:
                write([Outcome(call, _NOTHING, (STRANGER,), outcomes[0].sessions[:1], "failed", "a test")], keep=False)
            except RefusedError:
                return False
            return True

        try:
            return write(outcomes, calls, claims)
        except RefusedError as error:
            if not outcomes:
                raise
            log.warning("%s: %s; looking for what is at fault", error.what, error.value)
        mended = without_poison(outcomes)
        with suppress(RefusedError):
            return write(mended, calls, claims)
        result = store_by_ticker(mended, write, without_poison, takes_any)
        result.add(write([], calls, claims))
        return result

    def mark(self) -> str:
        """The present moment, as :meth:`claim` wants it: taken before a run reads what is stored."""
        return self._redo(lambda connection: str(connection.execute(MARK).scalar_one()))

    def claim(self, run_id: UUID, source: str, timeframe: str, call: Call, mark: str) -> Claim:
        """Claim the cells of a call before it is made, so that no other run fetches them meanwhile or after it.

        Args:
            run_id: the run, which is alive.
            source: the vendor.
            timeframe: of the bars.
            call: the call.
            mark: the moment that the run was planned at; what others fetched since is not fetched again.

        Raises:
            ClosingbellError: as :meth:`flush`.
        """
        return self._redo(lambda connection: take(connection, run_id, source, timeframe, call, mark))

    def take_out(
        self, run_id: UUID, source: str, timeframe: str, bars: Bars, rules: Sequence[str], at: datetime
    ) -> list[tuple[str, date, str]]:
        """Take stored bars that proved bad out of ``bar`` into quarantine, in one transaction.

        Their cells become gaps, and ``revision`` keeps the old values with no new ones. A bar whose close or volume
        is no longer the one given stays.

        Args:
            run_id: the run that found them out.
            source: the vendor whose ledger it is.
            timeframe: of the bars.
            bars: as they are stored.
            rules: shape (n,): the rule that each broke.
            at: the instant of the finding, aware.

        Returns:
            Ticker, session and rule of each bar taken out.

        Raises:
            ClosingbellError: as :meth:`flush`.
        """
        rows = bars.rows
        values = {
            "run_id": run_id,
            "source": source,
            "timeframe": timeframe,
            "at": at,
            "tickers": [bars.tickers[i] for i in rows["ticker"]],
            "instants": _instants(rows["ts"]),
            "rules": list(rules),
            "closes": rows["close"].tolist(),
            "volumes": rows["volume"].tolist(),
        }

        def work(connection: sa.Connection) -> list[tuple[str, date, str]]:
            key = {"source": source, "timeframe": timeframe}
            connection.execute(sql.LOCK_MARKS, {**key, "tickers": sorted(set(values["tickers"]))})
            return [tuple(row) for row in connection.execute(sql.TAKE_OUT, values)]

        return self._redo(work) if len(rows) else []

    def _flush(
        self,
        connection: sa.Connection,
        run_id: UUID,
        source: str,
        timeframe: str,
        outcomes: Sequence[Outcome],
        calls: int,
        at: datetime,
    ) -> FlushResult:
        key = {"source": source, "timeframe": timeframe}
        asked = spans(outcomes)
        marks = self._lock(connection, key, run_id, asked) if asked else {}
        settlement = Settlement(marks, _gaps(connection, key, asked) if asked else {}, sessions_between, at)
        result = FlushResult()
        fresh, overlapping = [], []
        for outcome in outcomes:
            is_fresh = settlement.settle(outcome)
            accepted = outcome.verdict.accepted
            result.stored += len(accepted)
            result.add(FlushResult(examples={rule: list(named) for rule, named in outcome.verdict.examples.items()}))
            fresh.append(accepted.where(is_fresh))
            overlapping.append(accepted.where(~is_fresh))
            result.quarantined += self._quarantine(connection, key, run_id, outcome)
        self._load(connection, key, run_id, _joined(fresh), _joined(overlapping), result)
        result.absent = settlement.absent
        result.gaps = self._write_ledger(connection, key, run_id, settlement)
        result.holes = settlement.holes(outcomes)
        connection.execute(
            sql.COUNT,
            {
                "run_id": run_id,
                "calls": calls,
                "cells": sum(len(outcome.call.cells) for outcome in outcomes),
                "stored": result.stored,
                "inserted": result.inserted,
                "rewritten": result.rewritten,
            },
        )
        return result

    def _without_poison(
        self, connection: sa.Connection, key: dict[str, str], run_id: UUID, outcomes: Sequence[Outcome]
    ) -> Sequence[Outcome]:
        """The same outcomes, the bars that the database refuses in quarantine; the transaction is to be undone."""
        self._lock(connection, key, run_id, spans(outcomes))
        accepted = [outcome.verdict.accepted for outcome in outcomes]
        whole = _joined(accepted)
        if not len(whole):
            return outcomes
        tried = np.flatnonzero(_is_latest(whole))

        def load(connection: sa.Connection, bars: Bars) -> None:
            _merge(connection, key, run_id, bars)
            connection.execute(sql.EMPTY_STAGE)

        found = find_poison(connection, Bars(whole.tickers, whole.rows[tried], whole.timeframe), load)
        refused = {int(tried[position]): said for position, said in found.items()}
        ends = np.cumsum([len(bars) for bars in accepted])
        return [
            outcome.without({row - begin: said for row, said in refused.items() if begin <= row < end})
            for outcome, begin, end in zip(outcomes, [0, *ends[:-1].tolist()], ends.tolist(), strict=True)
        ]

    def _lock(
        self, connection: sa.Connection, key: dict[str, str], run_id: UUID, asked: Mapping[str, Watermark]
    ) -> dict[str, Watermark]:
        """Lock the watermarks of the tickers, making those that are missing, and return what was known before.

        Rows are made first and locked after, each in the order of the tickers: two writers of overlapping
        tickers then wait for each other and never deadlock.
        """
        names = sorted(asked)
        known = {row.ticker for row in connection.execute(sql.MARKS, {**key, "tickers": names})}
        new = [name for name in names if name not in known]
        made: set[str] = set()
        if new:
            rows = connection.execute(
                sql.MAKE_MARKS,
                {
                    **key,
                    "run_id": run_id,
                    "tickers": new,
                    "firsts": [asked[name].first for name in new],
                    "lasts": [asked[name].last for name in new],
                },
            )
            made = {row.ticker for row in rows}
        locked = connection.execute(sql.LOCK_MARKS, {**key, "tickers": names})
        return {row.ticker: Watermark(row.first_session, row.last_session) for row in locked if row.ticker not in made}

    def _load(
        self,
        connection: sa.Connection,
        key: dict[str, str],
        run_id: UUID,
        fresh: Bars,
        overlapping: Bars,
        result: FlushResult,
    ) -> None:
        if len(fresh):
            try:
                with connection.begin_nested():
                    _copy(connection, f"COPY bar ({_COLUMNS}) FROM STDIN (FORMAT binary)", _rows(fresh, key, run_id))
                result.inserted += len(fresh)
            except psycopg2.errors.UniqueViolation:
                # Somebody removed ledger rows but left the bars, or another source's bars are there: they are
                # compared, not trusted to be absent.
                overlapping = _joined([fresh, overlapping])
        if len(overlapping):
            rewritten, inserted = _merge(connection, key, run_id, _latest(overlapping))
            result.rewritten += rewritten
            result.inserted += inserted

    def _quarantine(self, connection: sa.Connection, key: dict[str, str], run_id: UUID, outcome: Outcome) -> int:
        bars = outcome.verdict.quarantined
        if not len(bars):
            return 0
        rows = bars.rows
        columns: dict[str, list[Any]] = {name: _nullable(rows[name]) for name in VALUES}
        connection.execute(
            sql.QUARANTINE,
            {
                **key,
                **columns,
                "run_id": run_id,
                "tickers": [bars.tickers[i] for i in rows["ticker"]],
                "instants": _instants(rows["ts"]),
                "copies": _copies(bars).tolist(),
                "sessions": rows["session"].tolist(),
                "rules": list(outcome.verdict.rules),
                "messages": list(outcome.verdict.messages) or [None] * len(bars),
            },
        )
        return len(bars)

    def _write_ledger(
        self, connection: sa.Connection, key: dict[str, str], run_id: UUID, settlement: Settlement
    ) -> int:
        marks = sorted(settlement.new_marks.items())
        if marks:
            connection.execute(
                sql.SET_MARKS,
                {
                    **key,
                    "run_id": run_id,
                    "tickers": [ticker for ticker, _ in marks],
                    "firsts": [mark.first for _, mark in marks],
                    "lasts": [mark.last for _, mark in marks],
                },
            )
        closed = settlement.closed_gaps
        if closed:
            connection.execute(
                sql.CLOSE_GAPS, {**key, "tickers": [t for t, _ in closed], "sessions": [s for _, s in closed]}
            )
        gaps = settlement.new_gaps
        if gaps:
            connection.execute(
                sql.SET_GAPS,
                {
                    **key,
                    "run_id": run_id,
                    "tickers": [gap.ticker for gap in gaps],
                    "sessions": [gap.session for gap in gaps],
                    "reasons": [gap.reason for gap in gaps],
                    "attempts": [gap.attempts for gap in gaps],
                    "errors": [gap.last_error for gap in gaps],
                    "asked": [gap.asked_at for gap in gaps],
                },
            )
        return len(gaps)


def _gaps(
    connection: sa.Connection, key: dict[str, str], asked: Mapping[str, Watermark]
) -> dict[tuple[str, date], Gap]:
    """The gaps of the tickers from the session before the first one asked of any of them to the last one."""
    rows = connection.execute(
        sql.GAPS,
        {
            **key,
            "tickers": list(asked),
            "first": min(span.first for span in asked.values()) - LOOK_BACK,
            "last": max(span.last for span in asked.values()),
        },
    )
    return {(row.ticker, row.session): Gap(*row) for row in rows}


def _merge(connection: sa.Connection, key: dict[str, str], run_id: UUID, bars: Bars) -> tuple[int, int]:
    """Stage and merge: how many bars were rewritten, and how many were not there at all."""
    connection.execute(sql.STAGE)
    _copy(connection, sql.COPY_TO_STAGE, binary(_staged(bars.rows)))
    values = {
        **key,
        "run_id": run_id,
        "tickers": list(bars.tickers),
        "lo": bars.rows["ts"].min().item(),
        "hi": bars.rows["ts"].max().item(),
    }
    values = {name: _aware(value) if isinstance(value, datetime) else value for name, value in values.items()}
    rewritten = connection.execute(sql.REVISE, values).rowcount
    touched = connection.execute(sql.MERGE, values).rowcount
    return rewritten, touched - rewritten


def _copy(connection: sa.Connection, statement: str, stream: bytes) -> None:
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.copy_expert(statement, io.BytesIO(stream))


def _measured(rows: NDArray[np.void]) -> list[Field]:
    prices = [Field.numbers(rows[name], ">f8") for name in ("open", "high", "low", "close", "volume")]
    vwap = Field.numbers(rows["vwap"], ">f8", np.isnan(rows["vwap"]))
    return [*prices, vwap, Field.numbers(rows["trades"], ">i8", rows["trades"] == NO_TRADES)]


def _rows(bars: Bars, key: dict[str, str], run_id: UUID) -> bytes:
    """The COPY stream of whole rows of ``bar``, in the order of its key."""
    rows, n = bars.rows, len(bars)
    return binary(
        [
            Field.texts(bars.tickers, rows["ticker"]),
            Field.constant(key["timeframe"].encode(), n),
            Field.dates(rows["session"]),
            Field.instants(rows["ts"]),
            *_measured(rows),
            Field.constant(key["source"].encode(), n),
            Field.constant(run_id.bytes, n),
        ]
    )


def _staged(rows: NDArray[np.void]) -> list[Field]:
    return [
        Field.numbers(rows["ticker"] + 1, ">i4"),
        Field.dates(rows["session"]),
        Field.instants(rows["ts"]),
        *_measured(rows),
    ]


def _joined(blocks: Sequence[Bars]) -> Bars:
    parts = [block for block in blocks if len(block)]
    if len(parts) <= 1:
        return parts[0] if parts else Bars(())
    return Bars.concat(parts)


def _latest(bars: Bars) -> Bars:
    """Each bar once: of several answers in one flush the last one counts, and a MERGE takes no row twice."""
    return bars.where(_is_latest(bars))


def _is_latest(bars: Bars) -> NDArray[np.bool_]:
    """Which bars have none of the same ticker and instant after them; shape (n,)."""
    rows = bars.rows
    order = np.lexsort((rows["ts"], rows["ticker"]))
    ordered = rows[order]
    last = np.ones(len(rows), np.bool_)
    last[:-1] = (ordered["ticker"][1:] != ordered["ticker"][:-1]) | (ordered["ts"][1:] != ordered["ts"][:-1])
    kept = np.zeros(len(rows), np.bool_)
    kept[order[last]] = True
    return kept


def _copies(bars: Bars) -> NDArray[np.int64]:
    """For each bar, how many of the same ticker and instant stand before it in the block; shape (n,)."""
    order = np.lexsort((bars.rows["ts"], bars.rows["ticker"]))
    rows = bars.rows[order]
    starts = np.ones(len(rows), np.bool_)
    starts[1:] = (rows["ticker"][1:] != rows["ticker"][:-1]) | (rows["ts"][1:] != rows["ts"][:-1])
    begin = np.maximum.accumulate(np.where(starts, np.arange(len(rows)), 0))
    copies = np.empty(len(rows), np.int64)
    copies[order] = np.arange(len(rows)) - begin
    return copies


def _nullable(values: NDArray[Any]) -> list[Any]:
    """Python numbers, None for what the vendor did not send."""
    absent = np.isnan(values) if values.dtype.kind == "f" else values == NO_TRADES
    return [None if gone else value for value, gone in zip(values.tolist(), absent, strict=True)]


def _aware(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC)


def _instants(values: NDArray[np.datetime64]) -> list[datetime]:
    return [_aware(value) for value in values.tolist()]
