"""Everything in the database that is not the hot path: runs, what is known, facts, reconciliation.

SQLAlchemy Core throughout, so that it reads the same on every database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from closingbell.calendar import AssetClass, asset_class, calendar_for
from closingbell.cells import Cells, Gap, Ledger, Watermark, accounted
from closingbell.errors import ConfigurationError
from closingbell.store import statements as sql
from closingbell.store.faults import transaction
from closingbell.store.schema import bar, gap, quarantine, revision, run, watermark

#: A bar opens no further than this from the midnight that its session is named after.
_NEAR: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Expected cells against what the database holds, to the cell.

    Attributes:
        expected: cells asked for.
        stored: cells that have a bar.
        gaps: cells that have none, by reason.
        unexplained: for each ticker that is not right, how many cells have neither a bar nor a gap, have
            both, or were not asked for.
        barless: tickers of which not one cell has a bar: more often a typing error than a fact.
    """

    expected: int
    stored: int
    gaps: Mapping[str, int]
    unexplained: Mapping[str, int] = field(default_factory=dict)
    barless: tuple[str, ...] = ()

    @property
    def balanced(self) -> bool:
        """Whether every cell is accounted for."""
        return not self.unexplained

    def __str__(self) -> str:
        parts = [f"{self.expected:,} expected = {self.stored:,} stored"]
        parts += [f"{count:,} {reason}" for reason, count in sorted(self.gaps.items())]
        return " + ".join(parts) + (
            "" if self.balanced else f", {sum(map(abs, self.unexplained.values())):,} unexplained"
        )


class Records:
    """Reads and small writes, each in a transaction of its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

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
        }
        with transaction(self._engine) as connection:
            connection.execute(sql.BURY)
            if connection.execute(sa.select(run.c.run_id).where(run.c.run_id == run_id)).first():
                connection.execute(sa.update(run).where(run.c.run_id == run_id).values(**values))
                return
            row = {"flow": flow, "source": asked["source"], "timeframe": asked["timeframe"], "asked": dict(asked)}
            if as_of is not None:
                row["as_of"] = as_of
            connection.execute(sa.insert(run).values(run_id=run_id, **row, **values))

    @contextmanager
    def alive(self, run_id: UUID) -> Iterator[None]:
        """Be known to run, for the time of the block: whoever dies in it is found out by the lock that goes too."""
        with transaction(self._engine):
            pass  # an error in connecting is the project's own
        connection = self._engine.connect()
        try:
            connection.execute(sql.HOLD, {"run_id": run_id})
            yield
        finally:
            with suppress(sa.exc.SQLAlchemyError):
                connection.close()

    def is_alive(self, run_id: UUID) -> bool:
        """Whether a process holds that run."""
        with transaction(self._engine) as connection:
            return not connection.execute(sql.GONE, {"run_id": run_id}).scalar_one()

    def end_run(self, run_id: UUID, state: str, report: Mapping[str, Any]) -> None:
        """Close a run's row with its report."""
        with transaction(self._engine) as connection:
            connection.execute(
                sa.update(run)
                .where(run.c.run_id == run_id)
                .values(state=state, report=dict(report), actual_calls=report["actual_calls"], ended_at=sa.func.now())
            )

    def run(self, run_id: UUID) -> Mapping[str, Any] | None:
        """One run's row."""
        with transaction(self._engine) as connection:
            row = connection.execute(sa.select(run).where(run.c.run_id == run_id)).mappings().first()
        return dict(row) if row else None

    def last_run(self, flows: Sequence[str] = ("ingest",)) -> Mapping[str, Any] | None:
        """The run of these flows that was started last."""
        with transaction(self._engine) as connection:
            query = sa.select(run).where(run.c.flow.in_(flows)).order_by(run.c.started_at.desc()).limit(1)
            row = connection.execute(query).mappings().first()
        return dict(row) if row else None

    def ledger(self, source: str, timeframe: str, tickers: Iterable[str], first: date, last: date) -> Ledger:
        """Watermarks of these tickers, and their gaps between two sessions, inclusive."""
        names = list(tickers)
        with transaction(self._engine, snapshot=True) as connection:
            marks = connection.execute(
                sa.select(watermark.c.ticker, watermark.c.first_session, watermark.c.last_session).where(
                    watermark.c.source == source, watermark.c.timeframe == timeframe, watermark.c.ticker.in_(names)
                )
            )
            known = {row.ticker: Watermark(row.first_session, row.last_session) for row in marks}
            gaps = _gaps(connection, source, timeframe, gap.c.ticker.in_(names), gap.c.session.between(first, last))
        return Ledger(known, gaps)

    def gaps(self, source: str, timeframe: str, reasons: Sequence[str]) -> list[Gap]:
        """Every gap with one of these reasons, by ticker and session."""
        with transaction(self._engine) as connection:
            return _gaps(connection, source, timeframe, gap.c.reason.in_(reasons))

    def reconcile(self, source: str, timeframe: str, grids: Sequence[Cells]) -> Reconciliation:
        """Hold what was asked for against what is there.

        Args:
            source: the vendor.
            timeframe: the bars' timeframe.
            grids: the cells asked for; each a whole grid of its tickers and sessions.
        """
        with transaction(self._engine, snapshot=True) as connection:
            return _reconcile(connection, source, timeframe, grids)

    def audit(self) -> dict[tuple[str, str], Reconciliation]:
        """Hold every watermark against bars and gaps: for each source and timeframe, expected = stored + gaps."""
        with transaction(self._engine, snapshot=True) as connection:
            rows = connection.execute(
                sa.select(
                    watermark.c.source,
                    watermark.c.timeframe,
                    watermark.c.ticker,
                    watermark.c.first_session,
                    watermark.c.last_session,
                ).order_by(watermark.c.source, watermark.c.timeframe, watermark.c.ticker)
            ).all()
            marks: dict[tuple[str, str], dict[str, Watermark]] = {}
            for row in rows:
                marks.setdefault((row.source, row.timeframe), {})[row.ticker] = Watermark(
                    row.first_session, row.last_session
                )
            return {key: _reconcile(connection, *key, _grids(of_key)) for key, of_key in marks.items()}

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

    def runs(self, limit: int = 10) -> list[dict[str, Any]]:
        """The last runs, newest first, without their reports."""
        names = ("run_id", "flow", "state", "started_at", "ended_at", "planned_calls", "actual_calls", "inserted")
        with transaction(self._engine) as connection:
            query = sa.select(*(run.c[name] for name in names)).order_by(run.c.started_at.desc()).limit(limit)
            rows = [dict(row) for row in connection.execute(query).mappings()]
            for row in rows:
                if row["state"] == "Running" and connection.execute(sql.GONE, {"run_id": row["run_id"]}).scalar_one():
                    row["state"] = "Crashed"
        return rows

    def quarantined(self, source: str, timeframe: str, grids: Sequence[Cells]) -> Mapping[str, int]:
        """Bars kept apart between the first and the last session of each grid, by rule."""
        found: Counter[str] = Counter()
        for cells in grids:
            if not cells.count:
                continue
            query = (
                sa.select(quarantine.c.rule, sa.func.count())
                .where(
                    quarantine.c.source == source,
                    quarantine.c.timeframe == timeframe,
                    quarantine.c.ticker.in_(cells.tickers),
                    quarantine.c.session.between(cells.sessions[0].item(), cells.sessions[-1].item()),
                )
                .group_by(quarantine.c.rule)
            )
            with transaction(self._engine) as connection:
                found.update(dict(connection.execute(query).tuples().all()))
        return dict(sorted(found.items()))

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

    def of_ticker(self, ticker: str, limit: int = 10) -> Mapping[str, Any]:
        """What is known of one ticker: watermarks, gaps by reason, quarantine and revisions, newest first."""
        with transaction(self._engine) as connection:

            def rows(query: sa.Select[Any]) -> list[dict[str, Any]]:
                return [dict(row) for row in connection.execute(query).mappings()]

            return {
                "ticker": ticker,
                "watermarks": rows(
                    sa.select(
                        watermark.c.source, watermark.c.timeframe, watermark.c.first_session, watermark.c.last_session
                    ).where(watermark.c.ticker == ticker)
                ),
                "bars": rows(
                    sa.select(bar.c.timeframe, sa.func.count().label("bars"))
                    .where(bar.c.ticker == ticker)
                    .group_by(bar.c.timeframe)
                ),
                "gaps": rows(
                    sa.select(gap.c.session, gap.c.reason, gap.c.attempts, gap.c.last_error)
                    .where(gap.c.ticker == ticker)
                    .order_by(gap.c.session.desc())
                    .limit(limit)
                ),
                "quarantine": rows(
                    sa.select(quarantine.c.session, quarantine.c.rule)
                    .where(quarantine.c.ticker == ticker)
                    .order_by(quarantine.c.ts.desc())
                    .limit(limit)
                ),
                "revisions": rows(
                    sa.select(
                        revision.c.session,
                        revision.c.old_close,
                        revision.c.new_close,
                        revision.c.old_volume,
                        revision.c.new_volume,
                        revision.c.seen_at,
                    )
                    .where(revision.c.ticker == ticker)
                    .order_by(revision.c.revision_id.desc())
                    .limit(limit)
                ),
            }


def _reconcile(connection: sa.Connection, source: str, timeframe: str, grids: Sequence[Cells]) -> Reconciliation:
    expected = stored = 0
    gaps: Counter[str] = Counter()
    unexplained: dict[str, int] = {}
    barless: list[str] = []
    for cells in grids:
        if not cells.count:
            continue
        per_ticker = dict(zip(cells.tickers, cells.mask.sum(axis=1).tolist(), strict=True))
        sessions: list[date] = cells.sessions[cells.mask.any(axis=0)].tolist()
        bars = _bars_by_ticker(connection, timeframe, cells.tickers, sessions)
        contradictory = _both_by_ticker(connection, source, timeframe, cells.tickers, sessions)
        reasons = _gaps_by_ticker(connection, source, timeframe, cells.tickers, sessions)
        expected += sum(per_ticker.values())
        for ticker, wanted in per_ticker.items():
            have, both = bars.get(ticker, 0), contradictory.get(ticker, 0)
            lacking = reasons.get(ticker, {})
            stored += have
            if wanted and not have:
                barless.append(ticker)
            gaps.update(lacking)
            off = abs(wanted - (have + sum(lacking.values()) - both)) + both
            if off:
                unexplained[ticker] = off
    return Reconciliation(expected, stored, dict(gaps), unexplained, tuple(barless))


def _grids(marks: Mapping[str, Watermark]) -> list[Cells]:
    """Every cell inside the watermarks: one grid for each asset class."""
    by_class: dict[AssetClass, list[str]] = {}
    for ticker in marks:
        by_class.setdefault(asset_class(ticker), []).append(ticker)
    grids = []
    for name, tickers in by_class.items():
        first, last = min(marks[t].first for t in tickers), max(marks[t].last for t in tickers)
        whole = Cells.all(tickers, calendar_for(name).sessions(first, last))
        grids.append(whole.only(accounted(whole, Ledger(marks, []), again=())))
    return grids


def _gaps(connection: sa.Connection, source: str, timeframe: str, *where: sa.ColumnElement[bool]) -> list[Gap]:
    columns = (gap.c.ticker, gap.c.session, gap.c.reason, gap.c.attempts, gap.c.last_error)
    query = (
        sa.select(*columns)
        .where(gap.c.source == source, gap.c.timeframe == timeframe, *where)
        .order_by(gap.c.ticker, gap.c.session)
    )
    return [Gap(*row) for row in connection.execute(query)]


def _bars_by_ticker(
    connection: sa.Connection, timeframe: str, tickers: Sequence[str], sessions: Sequence[date]
) -> dict[str, int]:
    """How many of these sessions have a bar, by ticker."""
    query = (
        sa.select(bar.c.ticker, sa.func.count(sa.distinct(bar.c.session)))
        .where(
            bar.c.timeframe == timeframe,
            bar.c.ticker.in_(tickers),
            # The key has no session, but every bar opens within days of its session: without these bounds the
            # night's three sessions would read the whole history.
            bar.c.ts.between(_midnight(sessions[0]) - _NEAR, _midnight(sessions[-1]) + _NEAR),
            bar.c.session.in_(sessions),
        )
        .group_by(bar.c.ticker)
    )
    return dict(connection.execute(query).tuples().all())


def _both_by_ticker(
    connection: sa.Connection, source: str, timeframe: str, tickers: Sequence[str], sessions: Sequence[date]
) -> dict[str, int]:
    """How many of these sessions have a gap although there is a bar, by ticker."""
    in_gap = sa.exists().where(
        bar.c.ticker == gap.c.ticker,
        bar.c.timeframe == gap.c.timeframe,
        bar.c.session == gap.c.session,
        bar.c.ts.between(gap.c.session - _NEAR.days, gap.c.session + _NEAR.days),
    )
    query = (
        sa.select(gap.c.ticker, sa.func.count())
        .where(
            gap.c.source == source,
            gap.c.timeframe == timeframe,
            gap.c.ticker.in_(tickers),
            gap.c.session.in_(sessions),
            in_gap,
        )
        .group_by(gap.c.ticker)
    )
    return dict(connection.execute(query).tuples().all())


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _gaps_by_ticker(
    connection: sa.Connection, source: str, timeframe: str, tickers: Sequence[str], sessions: Sequence[date]
) -> dict[str, dict[str, int]]:
    query = (
        sa.select(gap.c.ticker, gap.c.reason, sa.func.count())
        .where(
            gap.c.source == source,
            gap.c.timeframe == timeframe,
            gap.c.ticker.in_(tickers),
            gap.c.session.in_(sessions),
        )
        .group_by(gap.c.ticker, gap.c.reason)
    )
    found: dict[str, dict[str, int]] = {}
    for ticker, reason, count in connection.execute(query):
        found.setdefault(ticker, {})[reason] = count
    return found


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
