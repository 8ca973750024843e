"""Bars and ledger: one transaction a flush.

Bars, watermarks, gaps, quarantine, revisions and the run's counters are written together or not at all. How bars get
into the table fast is each database's own matter (:meth:`closingbell.store.database.Database.load`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime
from functools import cache, lru_cache
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.bars import VALUES, Bars
from closingbell.calendar import AssetClass, asset_class, calendar_for
from closingbell.cells import Days, Gap, Watermark
from closingbell.clock import Clock
from closingbell.errors import ClosingbellError
from closingbell.outcome import FlushResult, Outcome
from closingbell.plan import Call, TickerRange
from closingbell.quality import NOTHING
from closingbell.store import claims as claimed
from closingbell.store import late
from closingbell.store.claims import Claim
from closingbell.store.columns import apart, around, bounds, by_ticker, instants, is_latest, joined, nullable
from closingbell.store.database import Database, Series, Values, database_of
from closingbell.store.faults import OvertakenError, RaceError, RefusedError
from closingbell.store.ledger import LOOK_BACK, Settlement, is_all_new, spans
from closingbell.store.marks import counted, has_bar, is_gap_of, lock_all_marks, make_marks, stretch_marks
from closingbell.store.merge import upsert
from closingbell.store.origin import origin, vendor
from closingbell.store.patience import log
from closingbell.store.redo import Redo, undo
from closingbell.store.refusals import STRANGER, store_by_ticker
from closingbell.store.rolls import store_rolls
from closingbell.store.schema import bar, gap, quarantine, revision, watermark


def sessions_between(ticker: str, after: date, before: date) -> Days:
    """The sessions of a ticker's calendar strictly between two dates; shape (k,), datetime64[D]."""
    return _between(asset_class(ticker), after, before)


@lru_cache(1024)  # the tickers of a market day all ask for the same
def _between(kind: AssetClass, after: date, before: date) -> Days:
    sessions = calendar_for(kind).sessions(after, before)
    between = sessions[(sessions > np.datetime64(after)) & (sessions < np.datetime64(before))]
    between.setflags(write=False)
    return between


class Writer:
    """Writes outcomes; safe to use from several threads, each flush on a connection of its own.

    Args:
        engine: of a store; its patience says how long a database that is away is waited for.
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
        claims: Sequence[int | None] = (),
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
            claims: the one on the cells of each outcome, to be closed with it, or None; see :meth:`claim`. Empty:
                there is none.

        Raises:
            ConfigurationError: the database refuses for a reason that a person has to mend.
            RetryableError: it could not be reached, or was locked, for longer than the patience; a race was lost too
                often.
            RunEndingError: the run is being stopped while the database is waited for.
            FatalError: it refused a statement, or takes nothing at all.
        """
        when, series = at or Clock().now(), Series(source, timeframe, run_id)

        def write(
            parts: Sequence[Outcome], calls: int = 0, claims: Sequence[int | None] = (), keep: bool = True
        ) -> FlushResult:
            lost = 0

            def work(connection: sa.Connection) -> FlushResult:
                if claims:
                    claimed.close(connection, run_id, outcomes, claims)
                result = self._flush(connection, series, parts, calls, when)
                if not keep:
                    undo(connection)
                return result

            def count(_: ClosingbellError) -> None:
                nonlocal lost
                lost += 1

            result = self._redo(work, count)
            result.commits, result.retries = int(bool(parts)), lost
            return result

        def without_poison(parts: Sequence[Outcome]) -> Sequence[Outcome]:
            def work(connection: sa.Connection) -> Sequence[Outcome]:
                mended = _without_poison(connection, series, parts)
                undo(connection)
                return mended

            try:
                return self._redo(work)
            except RefusedError:
                return parts  # no bar is at fault: not even the watermarks are taken

        def takes_any() -> bool:
            call = TickerRange(STRANGER, (outcomes[0].sessions[0].item(),))
            try:
                write([Outcome(call, NOTHING, (STRANGER,), outcomes[0].sessions[:1], "failed", "a test")], keep=False)
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
        return self._redo(claimed.mark)

    def claim(self, run_id: UUID, source: str, timeframe: str, call: Call, mark: str) -> Claim:
        """Claim the cells of a call before it is made; see :meth:`claim_all`."""
        return self.claim_all(run_id, source, timeframe, [call], mark)[0]

    def claim_all(self, run_id: UUID, source: str, timeframe: str, calls: Sequence[Call], mark: str) -> list[Claim]:
        """Claim the cells of calls before they are made, so that no other run fetches them meanwhile or after it.

        Args:
            run_id: the run, which is alive.
            source: the vendor.
            timeframe: of the bars.
            calls: the calls, which share no cell.
            mark: the moment that the run was planned at; what others fetched since is not fetched again.

        Returns:
            A claim for each call, in their order; those that are busy do not keep the others from being claimed.

        Raises:
            ClosingbellError: as :meth:`flush`.
        """
        return self._redo(lambda connection: claimed.take(connection, run_id, source, timeframe, calls, mark))

    def unanswered(self, run_id: UUID, source: str, timeframe: str, calls: Sequence[Call]) -> list[Call]:
        """What a run has yet to ask for of calls that another process of it may have made, in part, before it died.

        Raises:
            ClosingbellError: as :meth:`flush`.
        """
        return self._redo(lambda connection: claimed.unanswered(connection, run_id, source, timeframe, calls))

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

        def work(connection: sa.Connection) -> list[tuple[str, date, str]]:
            return _take_out(connection, Series(source, timeframe, run_id), bars, rules, at)

        return self._redo(work) if len(bars) else []

    def _flush(
        self, connection: sa.Connection, series: Series, outcomes: Sequence[Outcome], calls: int, at: datetime
    ) -> FlushResult:
        asked = spans(outcomes)
        marks = _lock(connection, series, asked) if asked else {}
        begun = asked if len(marks) == len(asked) else {ticker: asked[ticker] for ticker in marks}
        # Without a watermark there is no gap.
        gaps = _gaps(connection, series, begun) if begun and not is_all_new(outcomes, marks) else {}
        settlement = Settlement(marks, gaps, sessions_between, at)
        result = FlushResult()
        fresh, others = defaultdict[str, list[Bars]](list), defaultdict[str, list[Bars]](list)
        for outcome in outcomes:
            is_fresh = settlement.settle(outcome)
            accepted = outcome.verdict.accepted
            result.stored += len(accepted)
            result.add(FlushResult(examples={rule: list(named) for rule, named in outcome.verdict.examples.items()}))
            written = origin(series.source, outcome.call)
            fresh[written].append(accepted.where(is_fresh))
            others[written].append(accepted.where(~is_fresh))
        result.quarantined = _quarantine(connection, series, outcomes)
        for written in fresh:
            new, known = apart(by_ticker(fresh[written]), joined(by_ticker(others[written])))
            if not new and not len(known):
                continue
            mine = replace(series, origin=written)
            inserted, rewritten = database_of(connection).load(connection, mine, new, known)
            result.inserted, result.rewritten = result.inserted + inserted, result.rewritten + rewritten
            if len(known) and inserted > sum(map(len, new)):
                late.note(connection, series, known, at)
        result.absent = settlement.absent
        result.gaps = _write_ledger(connection, series, settlement)
        result.holes = settlement.holes(outcomes)
        store_rolls(connection, series, outcomes, at)
        cells = sum(outcome.done for outcome in outcomes)
        # Last in the transaction: until it commits, every other flush of the run waits for this row.
        counted(connection, series.run_id, calls, cells, result.stored, result.inserted, result.rewritten)
        return result


def _without_poison(connection: sa.Connection, series: Series, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """The same outcomes, the bars that the database refuses in quarantine; the transaction is to be undone."""
    _lock(connection, series, spans(outcomes))
    accepted = [outcome.verdict.accepted for outcome in outcomes]
    whole = joined(accepted)
    if not len(whole):
        return outcomes
    tried = np.flatnonzero(is_latest(whole))
    bars = Bars(whole.tickers, whole.rows[tried], whole.timeframe)
    found = database_of(connection).refused(connection, series, bars)
    refused = {int(tried[position]): said for position, said in found.items()}
    ends = np.cumsum([len(bars) for bars in accepted])
    return [
        outcome.without({row - begin: said for row, said in refused.items() if begin <= row < end})
        for outcome, begin, end in zip(outcomes, [0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    ]


def _lock(connection: sa.Connection, series: Series, asked: Mapping[str, Watermark]) -> dict[str, Watermark]:
    """Lock the watermarks of the tickers, making those that are missing, and return what was known before.

    They are stretched over what is asked at once: whatever the answer is, each cell of it is accounted for.

    Those that are there are locked first, then the others made, each in the order of the tickers; and nobody who holds
    a watermark waits for one that comes before it. Two writers of overlapping tickers then wait for each other and
    never deadlock.

    Args:
        connection: in a transaction.
        series: whose they are.
        asked: first and last session asked, by ticker.

    Raises:
        OvertakenError: others have just begun some of the tickers; all is to be done again.
    """
    known = stretch_marks(connection, series, asked)
    new = {ticker: span for ticker, span in asked.items() if ticker not in known}
    if new and make_marks(connection, series, new) < len(new):
        raise OvertakenError("other runs begin the same tickers", value=", ".join(sorted(new)[:3]))
    return known


def _gaps(connection: sa.Connection, series: Series, asked: Mapping[str, Watermark]) -> dict[tuple[str, date], Gap]:
    """The gaps of the tickers from the session before the first one asked of any of them to the last one."""
    database = database_of(connection)
    values = {
        "source": series.source,
        "timeframe": series.timeframe,
        "first": min(span.first for span in asked.values()) - LOOK_BACK,
        "last": max(span.last for span in asked.values()),
        "tickers": database.listing(connection, asked),
    }
    rows = connection.execute(_gaps_query(type(database)), values)
    return {(row.ticker, row.session): Gap(*row) for row in rows}


@cache
def _gaps_query(kind: type[Database]) -> sa.Select[Any]:
    """Built once, for to build it takes longer than to execute it."""
    columns = (gap.c.ticker, gap.c.session, gap.c.reason, gap.c.attempts, gap.c.last_error, gap.c.updated_at)
    return sa.select(*columns).where(
        gap.c.source == sa.bindparam("source"),
        gap.c.timeframe == sa.bindparam("timeframe"),
        gap.c.session.between(sa.bindparam("first"), sa.bindparam("last")),
        kind.one_of(gap.c.ticker, "tickers"),
    )


def _quarantine(connection: sa.Connection, series: Series, outcomes: Sequence[Outcome]) -> int:
    """Put what the rules refused into quarantine; how many bars it is."""
    verdicts = [outcome.verdict for outcome in outcomes if len(outcome.verdict.quarantined)]
    rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}  # by the key: of several answers the last one counts
    for verdict in verdicts:
        bars = verdict.quarantined
        columns = {
            "ticker": [bars.tickers[i] for i in bars.rows["ticker"]],
            "ts": instants(bars.rows["ts"]),
            "copy": _copies(bars).tolist(),
            "session": bars.rows["session"].tolist(),
            "rule": verdict.rules,
            "message": verdict.messages or [None] * len(bars),
            **{name: nullable(bars.rows[name]) for name in VALUES},
        }
        rows |= {row[:3]: row for row in zip(*columns.values(), strict=True)}
    if rows:
        values = zip(columns, zip(*rows.values(), strict=True), strict=True)
        kept_apart(connection, series, {name: (quarantine.c[name].type, told) for name, told in values}, sa.func.now())
    return sum(len(verdict.quarantined) for verdict in verdicts)


def kept_apart(
    connection: sa.Connection, series: Series, columns: Mapping[str, Values], seen_at: sa.ColumnElement[datetime]
) -> None:
    """Put bars into quarantine, given as columns; what is there already stays as it is."""
    new = database_of(connection).rows(connection, "new", columns)
    values = {
        "source": sa.literal(series.source),
        "timeframe": sa.literal(series.timeframe),
        **{name: new.c[name] for name in columns},
        "run_id": sa.literal(series.run_id, sa.Uuid),
        "seen_at": seen_at,
    }
    connection.execute(upsert(quarantine, new, values, always=("session", "run_id", "seen_at")))


def _write_ledger(connection: sa.Connection, series: Series, settlement: Settlement) -> int:
    """Write what changed of the gaps; the watermarks are what they will be since they were locked."""
    database = database_of(connection)
    if closed := settlement.closed_gaps:
        connection.execute(sa.delete(gap).where(is_gap_of(connection, series, closed)))
    if gaps := settlement.new_gaps:
        new = database.rows(
            connection,
            "new",
            {
                "ticker": (gap.c.ticker.type, [gap.ticker for gap in gaps]),
                "session": (sa.Date, [gap.session for gap in gaps]),
                "reason": (gap.c.reason.type, [gap.reason for gap in gaps]),
                "attempts": (sa.Integer, [gap.attempts for gap in gaps]),
                "last_error": (gap.c.last_error.type, [gap.last_error for gap in gaps]),
                "updated_at": (gap.c.updated_at.type, [gap.asked_at for gap in gaps]),
            },
        )
        values = {
            "source": sa.literal(series.source),
            "timeframe": sa.literal(series.timeframe),
            **{column.name: column for column in new.c},
            "run_id": sa.literal(series.run_id, sa.Uuid),
        }
        connection.execute(upsert(gap, new, values, always=("run_id",)))
    return len(gaps)


def _take_out(
    connection: sa.Connection, series: Series, bars: Bars, rules: Sequence[str], at: datetime
) -> list[tuple[str, date, str]]:
    database = database_of(connection)
    # Every vendor's: one whose flush compares such a bar, and finds it stored, would count on it.
    lock_all_marks(connection, series.timeframe, set(bars.tickers))
    rows = bars.rows
    bad = database.rows(
        connection,
        "bad",
        {
            "ticker": (bar.c.ticker.type, [bars.tickers[i] for i in rows["ticker"]]),
            "ts": (bar.c.ts.type, instants(rows["ts"])),
            "rule": (quarantine.c.rule.type, list(rules)),
            "close": (sa.Double, rows["close"].tolist()),
            "volume": (sa.Double, rows["volume"].tolist()),
        },
    )
    same = ("ticker", "ts", "close", "volume")
    among = sa.and_(bar.c.timeframe == series.timeframe, bar.c.ts.between(*bounds(rows["ts"])))
    stands = sa.and_(among, *(bar.c[name] == bad.c[name] for name in same))
    gone = connection.execute(sa.select(*bar.c, bad.c.rule).join_from(bar, bad, stands)).all()
    if not gone:
        return []
    told: dict[str, Values] = {
        column.name: (column.type, [_told(row, column.name) for row in gone])
        for column in (*bar.c, quarantine.c.rule)
        if column.name != "timeframe"
    }
    out = database.rows(connection, "gone", told)
    deleted = connection.execute(
        sa.delete(bar).where(
            among,
            sa.tuple_(*(bar.c[name] for name in same)).in_(sa.select(*(out.c[name] for name in same))),
        )
    )
    if deleted.rowcount != len(gone):
        raise RaceError("another run has rewritten the same bars", value=f"{gone[0].ticker} {gone[0].session}")
    mine = {"source": sa.literal(series.source), "timeframe": sa.literal(series.timeframe)}
    me, seen = sa.literal(series.run_id, sa.Uuid), sa.literal(at, sa.DateTime(timezone=True))
    copies: dict[str, Values] = {
        "copy": (quarantine.c.copy.type, [0] * len(gone)),
        "message": (sa.String, [None] * len(gone)),
    }
    apart = {name: values for name, values in told.items() if name not in ("source", "run_id")}
    kept_apart(connection, series, {**apart, **copies}, seen)
    old = {"timeframe": mine["timeframe"], **{name: out.c[name] for name in ("source", "ticker", "session", "ts")}}
    old |= {f"old_{name}": out.c[name] for name in VALUES}
    old |= {"run_id": me, "old_run_id": out.c.run_id, "seen_at": seen}
    connection.execute(sa.insert(revision).from_select(list(old), sa.select(*old.values())))
    cells = sorted({(row.ticker, row.session) for row in gone})
    near = around(min(session for _, session in cells), max(session for _, session in cells))
    cell = database.rows(
        connection,
        "cell",
        {"ticker": (bar.c.ticker.type, [t for t, _ in cells]), "session": (sa.Date, [s for _, s in cells])},
    )
    is_mine = watermark.c.source == series.source
    opened = {
        "source": watermark.c.source,
        "ticker": cell.c.ticker,
        "timeframe": mine["timeframe"],
        "session": cell.c.session,
        "reason": sa.case((is_mine, "quarantined"), else_="pending"),
        "attempts": sa.case((is_mine, 1), else_=0),
        "updated_at": seen,
        "run_id": me,
    }
    spanned = sa.select(*opened.values()).join_from(
        cell,
        watermark,
        sa.and_(
            watermark.c.ticker == cell.c.ticker,
            watermark.c.timeframe == series.timeframe,
            cell.c.session.between(watermark.c.first_session, watermark.c.last_session),
        ),
    )
    database.insert_missing(connection, gap, opened, spanned.where(~has_bar(series.timeframe, cell, between=near)))
    return sorted((row.ticker, row.session, row.rule) for row in gone)


def _told(row: sa.Row[Any], name: str) -> Any:
    """A stored bar's value as the ledger tells it."""
    value = getattr(row, name)
    return vendor(value) if name == "source" else value


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
