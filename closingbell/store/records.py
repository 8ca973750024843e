"""Everything in the database that is not the hot path: runs, what is known, facts, reconciliation.

SQLAlchemy Core throughout, so that it reads the same on every database.
"""

from __future__ import annotations

import contextvars
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell import healing
from closingbell.bars import BAR, VALUES, Bars
from closingbell.cells import RETRYABLE, Cells, Gap, Ledger, Watermark, halves
from closingbell.errors import ConfigurationError
from closingbell.healing import Damage
from closingbell.store import audit, mending
from closingbell.store.audit import Reconciliation
from closingbell.store.claims import drop_old
from closingbell.store.columns import bounds, instants
from closingbell.store.database import database_of
from closingbell.store.faults import transaction
from closingbell.store.lives import bury, is_gone
from closingbell.store.origin import vendor
from closingbell.store.pulse import pulse
from closingbell.store.redo import persistent
from closingbell.store.schema import bar, gap, quarantine, revision, run, watermark
from closingbell.store.ticker import of_ticker
from closingbell.zones import in_utc

#: What is counted of a run while it goes on; see :func:`closingbell.store.marks.counted`.
COUNTERS: Final = ("actual_calls", "done_cells", "accepted_bars", "inserted", "rewritten")

#: In a run's plan: the first and the last of its market days, which it looks at once more when all have come.
SWEEP: Final = "sweep"

#: In the plan of a run that another process began, and did not sweep up.
_RESUMED: Final = "resumed"

#: So many runs are looked through for the last recheck, and for what was left unswept.
_RUNS: Final = 50

#: Cells of a grid from which on it is reconciled in halves.
_MANY: Final = 250_000


@dataclass(frozen=True, slots=True)
class Unswept:
    """Daily bars that nobody has looked at once more since they came market day by market day.

    Attributes:
        run_id: the run that fetched them.
        first: the first session.
        last: the last one.
        tickers: whose; also some that came by range, or not at all.
    """

    run_id: UUID
    first: date
    last: date
    tickers: tuple[str, ...]


class Records:
    """Reads and small writes, each in a transaction of its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @persistent
    def start_run(
        self,
        run_id: UUID,
        flow: str,
        asked: Mapping[str, Any],
        plan: Mapping[str, Any],
        as_of: datetime | None = None,
    ) -> None:
        """Open a run's row, with what it is asked and going to do; one that is there already keeps its counters.

        Rows of runs that died without closing theirs are closed as ``Crashed``.

        Args:
            run_id: the run's.
            flow: which kind of run.
            asked: the request, with its source and timeframe.
            plan: the plan's summary.
            as_of: the instant that the run takes for the present, aware; None: the database's. A row that is there
                already keeps its own: what the run wrote is known since then.
        """
        values = {
            "state": "Running",
            "ended_at": None,
            "plan": dict(plan),
            "planned_calls": plan["planned_calls"],
            "planned_cells": plan["cells"],
            "recheck_sessions": asked.get("recheck_sessions"),
        }
        with transaction(self._engine) as connection:
            bury(connection)
            drop_old(connection)
            database_of(connection).forget(connection)
            before = connection.execute(sa.select(run.c.plan, run.c.report).where(run.c.run_id == run_id)).first()
            if before:
                values |= {"plan": _resumed(plan, *before), "report": None}
                connection.execute(sa.update(run).where(run.c.run_id == run_id).values(**values))
                return
            now = sa.func.now()
            row = {"flow": flow, "source": asked["source"], "timeframe": asked["timeframe"], "asked": dict(asked)}
            row |= dict.fromkeys(COUNTERS, 0) | {"started_at": now, "as_of": now if as_of is None else as_of}
            connection.execute(sa.insert(run).values(run_id=run_id, **row, **values))

    @contextmanager
    def alive(self, run_id: UUID) -> Iterator[None]:
        """Be known to run, for the time of the block: whoever dies in it is found out by the lock that goes too."""
        with pulse(self._engine, run_id):
            yield

    @persistent
    def is_alive(self, run_id: UUID) -> bool:
        """Whether a process holds that run."""
        with transaction(self._engine) as connection:
            return not is_gone(connection, run_id)

    @persistent
    def end_run(self, run_id: UUID, state: str, report: Mapping[str, Any]) -> None:
        """Close a run's row with its report."""
        values = {
            "state": state,
            "report": dict(report),
            "actual_calls": report["actual_calls"],
            "unchecked_calls": report.get("unchecked_calls"),
            "ended_at": sa.func.now(),
        }
        with transaction(self._engine) as connection:
            connection.execute(sa.update(run).where(run.c.run_id == run_id).values(**values))

    @persistent
    def run(self, run_id: UUID) -> Mapping[str, Any] | None:
        """One run's row."""
        with transaction(self._engine) as connection:
            row = connection.execute(sa.select(run).where(run.c.run_id == run_id)).mappings().first()
        return dict(row) if row else None

    @persistent
    def last_run(self, flows: Sequence[str] = ("ingest", "backfill")) -> Mapping[str, Any] | None:
        """The run of these flows that was started last."""
        with transaction(self._engine) as connection:
            query = sa.select(run).where(run.c.flow.in_(flows)).order_by(run.c.started_at.desc()).limit(1)
            row = connection.execute(query).mappings().first()
        return dict(row) if row else None

    @persistent
    def rechecked(self, source: str, timeframe: str, tickers: Iterable[str]) -> date | None:
        """The last session of the last run that asked again for these tickers' last sessions, and got all it asked
        for; None if no such run is known."""
        query = (
            sa.select(run.c.asked)
            .where(
                run.c.source == source,
                run.c.state.in_(("Completed", "PartiallyCompleted")),
                run.c.planned_calls > 0,
                run.c.recheck_sessions > 0,
                sa.func.coalesce(run.c.unchecked_calls, 0) == 0,
            )
            .order_by(run.c.started_at.desc())
            .limit(_RUNS)
        )
        names = set(tickers)
        with transaction(self._engine) as connection:
            for asked in connection.execute(query).scalars():
                if timeframe in asked.get("timeframes", [asked["timeframe"]]) and names <= set(asked["tickers"]):
                    return date.fromisoformat(asked["end"])
        return None

    @persistent
    def unswept(self, source: str, run_id: UUID) -> list[Unswept]:
        """What runs had fetched by market day that were killed, or had to stop, before they swept up after themselves.

        Args:
            source: the vendor.
            run_id: the run that asks: what an earlier process of it left is among it.
        """
        in_order = run.c.state.in_(("Completed", "PartiallyCompleted"))
        ended = sa.and_(~in_order, run.c.state != "Running", run.c.accepted_bars > 0)
        query = (
            sa.select(run.c.run_id, run.c.asked, run.c.plan, run.c.report)
            .where(run.c.source == source, sa.or_(run.c.run_id == run_id, ended))
            .order_by(run.c.started_at.desc())
            .limit(_RUNS)
        )
        with transaction(self._engine) as connection:
            rows = connection.execute(query).all()
        left = []
        for whose, asked, plan, report in reversed(rows):
            if _is_unswept(plan, report) and (whose != run_id or _RESUMED in plan):
                first, last = map(date.fromisoformat, plan[SWEEP])
                left.append(Unswept(whose, first, last, tuple(asked["tickers"])))
        return left

    @persistent
    def swept(self, run_ids: Sequence[UUID]) -> None:
        """Note that nothing of these runs, which have ended, is left to be swept."""
        with transaction(self._engine) as connection:
            for run_id in run_ids:
                mine = run.c.run_id == run_id
                plan = connection.execute(sa.select(run.c.plan).where(mine)).scalar_one()
                kept = {name: value for name, value in plan.items() if name != SWEEP}
                connection.execute(sa.update(run).where(mine).values(plan=kept))

    @persistent
    def ledger(
        self,
        source: str,
        timeframe: str,
        tickers: Iterable[str],
        first: date | None,
        last: date,
        due_by: datetime | None = None,
    ) -> Ledger:
        """Watermarks of some tickers, and their gaps.

        Args:
            source: the vendor.
            timeframe: of the bars.
            tickers: whose.
            first: the first session; None: the first there is.
            last: the last one.
            due_by: without the answers that stand at this instant, of which young tickers have years; None: all gaps.
        """
        names = list(tickers)
        of_span = gap.c.session <= last if first is None else gap.c.session.between(first, last)
        if due_by is not None:
            of_span = sa.and_(of_span, _to_ask(due_by))
        with transaction(self._engine, snapshot=True) as connection:
            among = partial(database_of(connection).among, connection, values=names)
            known = _marks(connection, source, timeframe, among(watermark.c.ticker))
            gaps = _gaps(connection, source, timeframe, among(gap.c.ticker), of_span)
        return Ledger(known, gaps)

    @persistent
    def gaps(self, source: str, timeframe: str, reasons: Sequence[str]) -> list[Gap]:
        """Every gap with one of these reasons, by ticker and session."""
        with transaction(self._engine) as connection:
            return _gaps(connection, source, timeframe, gap.c.reason.in_(reasons))

    def reconcile(
        self, source: str, timeframe: str, grids: Sequence[Cells], *, stopped: bool = False
    ) -> Reconciliation:
        """Hold what was asked for against what is there, each ticker as of one moment.

        Args:
            source: the vendor.
            timeframe: the bars' timeframe.
            grids: the cells asked for; each a whole grid of its tickers and sessions.
            stopped: whoever asked for them had to stop: what no watermark has reached is ``pending``.
        """
        parts = [part for grid in grids for part in (halves(grid) if grid.mask.size > _MANY else [grid])]
        if len(parts) == len(grids):
            return self._reconcile(source, timeframe, grids, stopped=stopped)
        # The database counts millions of bars, of each ticker for itself: two connections count twice as fast.
        with ThreadPoolExecutor(2) as pool:

            def one(keep: contextvars.Context, part: Cells) -> Reconciliation:
                return keep.run(lambda: self._reconcile(source, timeframe, [part], stopped=stopped))

            return audit.summed(pool.map(one, [contextvars.copy_context() for _ in parts], parts))

    @persistent
    def _reconcile(self, source: str, timeframe: str, grids: Sequence[Cells], *, stopped: bool) -> Reconciliation:
        with transaction(self._engine, snapshot=True) as connection:
            if not stopped:
                return audit.examine(connection, source, timeframe, grids)
            names = [ticker for grid in grids for ticker in grid.tickers]
            marked = database_of(connection).among(connection, watermark.c.ticker, names)
            marks = _marks(connection, source, timeframe, marked)
            return audit.examine_reached(connection, source, timeframe, grids, marks)

    @persistent
    def count_bars(self, timeframe: str, grids: Sequence[Cells]) -> int:
        """How many bars there are of what was asked for; a session may have many."""
        with transaction(self._engine) as connection:
            return audit.count_bars(connection, timeframe, grids)

    @persistent
    def damage(self, source: str, timeframe: str, tickers: Sequence[str]) -> Damage:
        """Where bars and ledger of these tickers contradict each other, over all that their watermarks span."""
        with transaction(self._engine, snapshot=True) as connection:
            marked = database_of(connection).among(connection, watermark.c.ticker, tickers)
            marks = _marks(connection, source, timeframe, marked)
            return self._damage(connection, source, timeframe, marks, tickers)[1]

    @persistent
    def audit(self) -> dict[tuple[str, str], Reconciliation]:
        """Hold every watermark against bars and gaps: for each source and timeframe, expected = stored + gaps."""
        with transaction(self._engine, snapshot=True) as connection:
            keys: set[tuple[str, str]] = set()
            for table in (watermark, gap, bar):
                found_here = connection.execute(sa.select(table.c.source, table.c.timeframe).distinct())
                keys.update((vendor(source), timeframe) for source, timeframe in found_here.tuples())
            found = {}
            for source, timeframe in sorted(keys):
                marks = _marks(connection, source, timeframe)
                sums, damage = self._damage(connection, source, timeframe, marks, None)
                found[source, timeframe] = replace(sums, damage=damage)
            return found

    @staticmethod
    def _damage(
        connection: sa.Connection,
        source: str,
        timeframe: str,
        marks: Mapping[str, Watermark],
        tickers: Sequence[str] | None,
    ) -> tuple[Reconciliation, Damage]:
        """The sums inside all watermarks, those that were lost put back; and what is wrong."""
        unmarked = None if tickers is None else [ticker for ticker in tickers if ticker not in marks]
        orphans = {} if unmarked == [] else mending.orphans(connection, source, timeframe, unmarked)
        sums = audit.examine(connection, source, timeframe, audit.inside({**marks, **orphans}))
        unproven = mending.unproven(connection, source, timeframe, tickers)
        return sums, replace(sums.damage, orphans=orphans, unproven=unproven)

    @persistent
    def mend(self, run_id: UUID, source: str, timeframe: str, damage: Damage, at: datetime) -> None:
        """Make the ledger true again, in one transaction; the cells that lost their bar are then ``pending``."""
        with transaction(self._engine) as connection:
            mending.mend(connection, run_id, source, timeframe, damage, at)

    @persistent
    def progress(self, run_id: UUID) -> Mapping[str, Any] | None:
        """A run's plan and counters as of its last commit: calls, cells, bars; None before it has a row."""
        names = (
            "state",
            "plan",
            "planned_calls",
            "actual_calls",
            "planned_cells",
            "done_cells",
            "accepted_bars",
            "inserted",
            "rewritten",
        )
        with transaction(self._engine) as connection:
            query = sa.select(*(run.c[name] for name in names)).where(run.c.run_id == run_id)
            row = connection.execute(query).mappings().first()
        return dict(row) if row else None

    @persistent
    def runs(self, limit: int = 10) -> list[dict[str, Any]]:
        """The last runs, newest first, without their reports."""
        names = ("run_id", "flow", "state", "started_at", "ended_at", "planned_calls", "actual_calls", "inserted")
        with transaction(self._engine) as connection:
            query = sa.select(*(run.c[name] for name in names)).order_by(run.c.started_at.desc()).limit(limit)
            rows = [dict(row) for row in connection.execute(query).mappings()]
            for row in rows:
                if row["state"] == "Running" and is_gone(connection, row["run_id"]):
                    row["state"] = "Crashed"
        return rows

    @persistent
    def revisions(self, run_id: UUID, limit: int = 20) -> list[str]:
        """What a run changed in stored bars, in words: the oldest sessions first, the first ``limit`` of them."""
        columns = [revision.c.ticker, revision.c.session]
        columns += [revision.c[side + name] for name in VALUES for side in ("old_", "new_")]
        query = (
            sa.select(*columns)
            .where(revision.c.run_id == run_id)
            .order_by(revision.c.session, revision.c.ticker)
            .limit(limit)
        )
        with transaction(self._engine) as connection:
            return [described(dict(row)) for row in connection.execute(query).mappings()]

    @persistent
    def over_flat_files(self, run_id: UUID) -> int:
        """How many stored bars without vwap, as those of flat files are, a run replaced by some that have it."""
        gained = sa.and_(revision.c.old_vwap.is_(None), revision.c.new_vwap.is_not(None))
        with transaction(self._engine) as connection:
            query = sa.select(sa.func.count()).where(revision.c.run_id == run_id, gained)
            return connection.execute(query).scalar_one()

    @persistent
    def copied(self, run_id: UUID, source: str, timeframe: str, tickers: Sequence[str]) -> Bars:
        """Bars of these tickers that the run stored, although the same came under another ticker as well.

        Of each only ticker, session, ts, close and volume are set.
        """
        same = ("open", "high", "low", "close", "volume")
        query = (
            sa.select(bar.c.ticker, bar.c.session, bar.c.ts, bar.c.close, bar.c.volume)
            .join_from(
                bar,
                quarantine,
                sa.and_(
                    quarantine.c.timeframe == bar.c.timeframe,
                    quarantine.c.ts == bar.c.ts,
                    quarantine.c.ticker != bar.c.ticker,
                    *(quarantine.c[name] == bar.c[name] for name in same),
                ),
            )
            .where(
                bar.c.timeframe == timeframe,
                bar.c.run_id == run_id,
                quarantine.c.source == source,
                quarantine.c.run_id == run_id,
                quarantine.c.rule == "same_series",
            )
            .distinct()  # the same may have come under several others
        )
        with transaction(self._engine) as connection:
            of_these = database_of(connection).among(connection, bar.c.ticker, tickers)
            return _few(connection.execute(query.where(of_these)).all(), tickers, timeframe)

    @persistent
    def shared(self, run_id: UUID, timeframe: str, tickers: Sequence[str]) -> Bars:
        """Bars that the run stored of these tickers, each of them under two or more of them.

        Of each only ticker, session, ts, close and volume are set.
        """
        same = ("ts", "open", "high", "low", "close", "volume")
        other = bar.alias("other")
        query = (
            sa.select(bar.c.ticker, bar.c.session, bar.c.ts, bar.c.close, bar.c.volume)
            .join_from(bar, other, sa.and_(*(other.c[name] == bar.c[name] for name in same)))
            .where(
                *(each.c.timeframe == timeframe for each in (bar, other)),
                *(each.c.run_id == run_id for each in (bar, other)),
                other.c.ticker != bar.c.ticker,
            )
            .distinct()
        )
        with transaction(self._engine) as connection:
            database = database_of(connection)
            of_these = (database.among(connection, each.c.ticker, tickers) for each in (bar, other))
            return _few(connection.execute(query.where(*of_these)).all(), tickers, timeframe)

    @persistent
    def owner(
        self, timeframe: str, tickers: Sequence[str], but: str, bars: NDArray[np.void], at_least: int
    ) -> str | None:
        """The one of some tickers, ``but`` one, that has these very bars stored, or so many; None if none has."""
        at = instants(bars["ts"])
        values = {name: (sa.Double, bars[name].tolist()) for name in ("open", "close", "volume")}
        with transaction(self._engine) as connection:
            database = database_of(connection)
            came = database.rows(connection, "came", {"ts": (bar.c.ts.type, at), **values})
            query = (
                sa.select(bar.c.ticker, sa.func.count().label("bars"))
                .join_from(bar, came, sa.and_(came.c.ts == bar.c.ts, *(came.c[name] == bar.c[name] for name in values)))
                .where(
                    bar.c.timeframe == timeframe,
                    database.among(connection, bar.c.ticker, tickers),
                    bar.c.ticker != but,
                    database.among(connection, bar.c.ts, at),
                    bar.c.ts.between(*bounds(bars["ts"])),
                )
                .group_by(bar.c.ticker)
                .order_by(sa.func.count().desc(), bar.c.ticker)
                .limit(1)
            )
            found = connection.execute(query).first()
        return str(found.ticker) if found and found.bars >= at_least else None

    @persistent
    def series(self, source: str, timeframe: str, tickers: Sequence[str], first: date, last: date) -> Bars:
        """A vendor's stored bars of some tickers from session ``first`` to session ``last``, by ticker and ``ts``."""
        with transaction(self._engine) as connection:
            return database_of(connection).series(connection, source, timeframe, tickers, first, last)

    @persistent
    def tickers(self, source: str, timeframe: str) -> tuple[str, ...]:
        """Every ticker that the ledger knows, in order."""
        with transaction(self._engine) as connection:
            return tuple(_marks(connection, source, timeframe))

    @persistent
    def span(self, source: str, timeframe: str, tickers: Sequence[str]) -> Watermark | None:
        """The first and the last session that is accounted for of any of these tickers; None if none is."""
        with transaction(self._engine) as connection:
            marked = database_of(connection).among(connection, watermark.c.ticker, tickers)
            marks = _marks(connection, source, timeframe, marked).values()
        if not marks:
            return None
        return Watermark(min(mark.first for mark in marks), max(mark.last for mark in marks))

    @persistent
    def quarantined(self, run_id: UUID, source: str, timeframe: str, grids: Sequence[Cells]) -> Mapping[str, int]:
        """Bars kept apart between the first and the last session of each grid, by rule.

        Those that stand for a cell without a bar, and those that the run itself refused; not those whose bar was
        mended since.
        """
        stands = sa.exists().where(
            gap.c.source == quarantine.c.source,
            gap.c.ticker == quarantine.c.ticker,
            gap.c.timeframe == quarantine.c.timeframe,
            gap.c.session == quarantine.c.session,
            gap.c.reason == "quarantined",
        )
        found: Counter[str] = Counter()
        for cells in grids:
            if not cells.count:
                continue
            query = (
                sa.select(quarantine.c.rule, sa.func.count())
                .where(
                    quarantine.c.source == source,
                    quarantine.c.timeframe == timeframe,
                    quarantine.c.session.between(cells.sessions[0].item(), cells.sessions[-1].item()),
                    sa.or_(stands, quarantine.c.run_id == run_id),
                )
                .group_by(quarantine.c.rule)
            )
            with transaction(self._engine) as connection:
                asked = database_of(connection).among(connection, quarantine.c.ticker, cells.tickers)
                found.update(dict(connection.execute(query.where(asked)).tuples().all()))
        return dict(sorted(found.items()))

    @persistent
    def overview(self) -> Mapping[str, Any]:
        """The whole database in a few numbers."""
        with transaction(self._engine) as connection:
            bars = connection.execute(
                sa.select(
                    sa.func.count(),
                    sa.func.count(sa.distinct(bar.c.ticker)),
                    sa.func.min(bar.c.session),
                    sa.func.max(bar.c.session),
                )
            ).one()
            gaps = connection.execute(sa.select(gap.c.reason, sa.func.count()).group_by(gap.c.reason)).tuples().all()
            kept = connection.execute(sa.select(sa.func.count()).select_from(quarantine)).scalar_one()
            changed = connection.execute(sa.select(sa.func.count()).select_from(revision)).scalar_one()
        return {
            "bars": bars[0],
            "tickers": bars[1],
            "first_session": bars[2],
            "last_session": bars[3],
            "gaps": dict(gaps),
            "quarantined": kept,
            "revisions": changed,
        }

    @persistent
    def prepared_until(self) -> date | None:
        """The day from which on bars share one last partition of their table; None: it has none, or needs none."""
        with transaction(self._engine) as connection:
            return database_of(connection).prepared_until(connection)

    @persistent
    def of_ticker(self, ticker: str, limit: int = 10) -> Mapping[str, Any]:
        """What is known of one ticker; see :func:`closingbell.store.ticker.of_ticker`."""
        with transaction(self._engine) as connection:
            return of_ticker(connection, ticker, limit)


def _is_unswept(plan: Mapping[str, Any], report: Mapping[str, Any] | None) -> bool:
    """Whether a run fetched by market day and did not come to its end."""
    return SWEEP in plan and (report is None or "error" in report)


def _resumed(plan: Mapping[str, Any], before: Mapping[str, Any], report: Mapping[str, Any] | None) -> dict[str, Any]:
    """The plan of a run that was begun before, with what was left to be swept then."""
    if not _is_unswept(before, report):
        return dict(plan)
    days = sorted([*before[SWEEP], *plan.get(SWEEP, ())])  # ISO dates
    return {**plan, SWEEP: [days[0], days[-1]], _RESUMED: True}


def _marks(
    connection: sa.Connection, source: str, timeframe: str, *where: sa.ColumnElement[bool]
) -> dict[str, Watermark]:
    query = (
        sa.select(watermark.c.ticker, watermark.c.first_session, watermark.c.last_session)
        .where(watermark.c.source == source, watermark.c.timeframe == timeframe, *where)
        .order_by(watermark.c.ticker)
    )
    return {ticker: Watermark(first, last) for ticker, first, last in connection.execute(query)}


def _to_ask(now: datetime) -> sa.ColumnElement[bool]:
    """That the next run asks for a gap's cell, as :mod:`closingbell.healing` says."""
    answered = (
        sa.and_(
            gap.c.reason == reason,
            gap.c.attempts.between(least, most),
            gap.c.updated_at <= sa.literal(since, gap.c.updated_at.type),
        )
        for reason, least, most, since in healing.due_by(now)
    )
    return sa.or_(gap.c.reason.in_(RETRYABLE), *answered)


def _gaps(connection: sa.Connection, source: str, timeframe: str, *where: sa.ColumnElement[bool]) -> list[Gap]:
    columns = (gap.c.ticker, gap.c.session, gap.c.reason, gap.c.attempts, gap.c.last_error, gap.c.updated_at)
    query = (
        sa.select(*columns)
        .where(gap.c.source == source, gap.c.timeframe == timeframe, *where)
        .order_by(gap.c.ticker, gap.c.session)
    )
    return [Gap(*row) for row in connection.execute(query)]


def described(change: Mapping[str, Any]) -> str:
    """A revision in words: only what changed; a bar that was taken out has no new values."""
    cell = f"{change['ticker']} {change['session']}"
    if change["new_close"] is None:
        return f"{cell} close {change['old_close']:g}, taken out"
    values = [(name, change["old_" + name], change["new_" + name]) for name in VALUES]
    return f"{cell} " + ", ".join(f"{name} {old} -> {new}" for name, old, new in values if old != new)


def as_run_id(text: str) -> UUID:
    """A run's id from text.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise ConfigurationError(
            "this is not a run's id", value=repr(text), fix="closingbell status lists the last runs with their ids."
        ) from None


def _few(found: Sequence[sa.Row[Any]], tickers: Sequence[str], timeframe: str) -> Bars:
    """Bars of which no more than ticker, session, ts, close and volume is known."""
    number = {ticker: i for i, ticker in enumerate(tickers)}
    rows = np.zeros(len(found), BAR)
    for row, (ticker, session, ts, close, volume) in zip(rows, found, strict=True):
        row["ticker"], row["session"] = number[ticker], session
        row["ts"] = np.datetime64(in_utc(ts))  # a server tells instants in its own time zone
        row["close"], row["volume"] = close, volume
    return Bars(tuple(tickers), rows, timeframe)
