"""Bars held against the ledger, to the cell.

Counts first, which an index answers; only the tickers whose counts are off are looked at session by session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.calendar import asset_class, by_asset_class, calendar_for
from closingbell.cells import Cells, Ledger, Watermark, accounted, mask_of
from closingbell.healing import Cell, Damage
from closingbell.store import statements as sql
from closingbell.store.reading import instants
from closingbell.store.schema import bar, gap, quarantine, watermark


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Expected cells against what the database holds, to the cell.

    Attributes:
        expected: cells asked for.
        stored: cells that have a bar.
        gaps: cells that have none of this vendor, by reason.
        damage: the cells that have neither a bar nor a gap, or both, and tickers that lost their watermark.
        barless: tickers of which not one cell has a bar: more often a typing error than a fact.
    """

    expected: int
    stored: int
    gaps: Mapping[str, int]
    damage: Damage = field(default_factory=Damage)
    barless: tuple[str, ...] = ()

    @property
    def unexplained(self) -> Mapping[str, int]:
        """For each ticker that is not right, how many of its cells are not."""
        return self.damage.per_ticker

    @property
    def balanced(self) -> bool:
        """Whether every cell is accounted for."""
        return not self.damage

    def __str__(self) -> str:
        parts = [f"{self.expected:,} expected = {self.stored:,} stored"]
        parts += [f"{count:,} {reason}" for reason, count in sorted(self.gaps.items())]
        wrong = sum(self.unexplained.values())
        return " + ".join(parts) + (f", {wrong:,} unexplained" if wrong else "")


def examine(connection: sa.Connection, source: str, timeframe: str, grids: Sequence[Cells]) -> Reconciliation:
    """Hold cells against bars and gaps.

    Args:
        connection: a snapshot, so that bars and gaps are of one moment.
        source: the vendor.
        timeframe: the bars' timeframe.
        grids: the cells that each have to have a bar or a gap.
    """
    expected = stored = 0
    reasons: Counter[str] = Counter()
    lost: list[Cell] = []
    contradicted: list[Cell] = []
    barless: list[str] = []
    for cells in grids:
        cells = _asked(cells)
        if not cells.count:
            continue
        wanted = cells.mask.sum(axis=1)
        bars = _bars(connection, timeframe, cells)
        gaps = _gaps(connection, source, timeframe, cells)
        both, own = _both(connection, source, timeframe, cells)
        bars -= both  # what this vendor answered stands beside another one's bar
        off = np.flatnonzero((bars + sum(gaps.values(), np.zeros_like(bars)) != wanted) | (own > 0))
        expected += int(wanted.sum())
        right = np.ones(len(wanted), np.bool_)
        right[off] = False
        stored += int(bars[right].sum())
        reasons.update({reason: int(counts[right].sum()) for reason, counts in gaps.items()})
        barless += [cells.tickers[i] for i in np.flatnonzero((bars == 0) & right)]
        if len(off):
            part = Cells(tuple(cells.tickers[i] for i in off), cells.sessions, cells.mask[off])
            found = _looked_at(connection, source, timeframe, part)
            stored += found.stored
            reasons.update(found.gaps)
            lost += found.damage.lost
            contradicted += found.damage.contradicted
            barless += found.barless
    counts = {reason: count for reason, count in reasons.items() if count}
    return Reconciliation(expected, stored, counts, Damage(tuple(lost), tuple(contradicted)), tuple(barless))


def inside(marks: Mapping[str, Watermark]) -> list[Cells]:
    """Every cell inside the watermarks: one grid for each asset class."""
    grids = []
    for name, tickers in by_asset_class(marks).items():
        first, last = min(marks[t].first for t in tickers), max(marks[t].last for t in tickers)
        whole = Cells.all(tickers, calendar_for(name).sessions(first, last))
        grids.append(whole.only(accounted(whole, Ledger(marks, []), again=())))
    return grids


def orphans(
    connection: sa.Connection, source: str, timeframe: str, tickers: Sequence[str] | None = None
) -> dict[str, Watermark]:
    """Tickers that lost their watermark, of these or of all, and what it spanned.

    They have bars or gaps, or a run that came to its end had asked for them.
    """
    spans: list[tuple[str, date, date]] = []
    for table in (bar, gap):
        marked = sa.exists().where(
            watermark.c.source == source, watermark.c.timeframe == timeframe, watermark.c.ticker == table.c.ticker
        )
        query = (
            sa.select(table.c.ticker, sa.func.min(table.c.session), sa.func.max(table.c.session))
            .where(table.c.source == source, table.c.timeframe == timeframe, ~marked)
            .group_by(table.c.ticker)
        )
        if tickers is not None:
            query = query.where(table.c.ticker.in_(tickers))
        spans += connection.execute(query).tuples()
    names = None if tickers is None else list(tickers)
    asked = {"source": source, "timeframe": timeframe, "tickers": names}
    spans += connection.execute(sql.ASKED, asked).tuples()
    found: dict[str, Watermark] = {}
    for ticker, first, last in spans:
        known = found.get(ticker, Watermark(first, last))
        found[ticker] = Watermark(min(first, known.first), max(last, known.last))
    return {ticker: mark for ticker, span in found.items() if (mark := _on_sessions(ticker, span))}


def _on_sessions(ticker: str, span: Watermark) -> Watermark | None:
    """The same from session to session; None if there is none in it."""
    sessions = calendar_for(asset_class(ticker)).sessions(span.first, span.last)
    return Watermark(sessions[0].item(), sessions[-1].item()) if len(sessions) else None


def unproven(
    connection: sa.Connection, source: str, timeframe: str, tickers: Sequence[str] | None = None
) -> tuple[Cell, ...]:
    """Cells of these tickers or of all that are in quarantine by the ledger, while no bar of theirs is."""
    kept = sa.exists().where(
        quarantine.c.source == gap.c.source,
        quarantine.c.ticker == gap.c.ticker,
        quarantine.c.timeframe == gap.c.timeframe,
        quarantine.c.session == gap.c.session,
    )
    query = sa.select(gap.c.ticker, gap.c.session).where(
        gap.c.source == source, gap.c.timeframe == timeframe, gap.c.reason == "quarantined", ~kept
    )
    if tickers is not None:
        query = query.where(gap.c.ticker.in_(tickers))
    return tuple(connection.execute(query.order_by(gap.c.ticker, gap.c.session)).tuples())


def mend(connection: sa.Connection, run_id: UUID, source: str, timeframe: str, damage: Damage, at: datetime) -> None:
    """Make the ledger true again: what is lost becomes ``pending``, what has its bar is no gap.

    Watermarks are made and locked as in every flush, in the order of the tickers. What somebody else has mended in
    the meantime stays.
    """
    key = {"source": source, "timeframe": timeframe}
    marks = sorted(damage.orphans.items())
    if marks:
        values = {
            "run_id": run_id,
            "tickers": [ticker for ticker, _ in marks],
            "firsts": [mark.first for _, mark in marks],
            "lasts": [mark.last for _, mark in marks],
        }
        connection.execute(sql.MAKE_MARKS, {**key, **values})
    connection.execute(sql.LOCK_MARKS, {**key, "tickers": sorted(damage.per_ticker)})
    for statement, cells in (
        (sql.REOPEN, damage.lost),
        (sql.CLOSE_CONTRADICTED, damage.contradicted),
        (sql.CLOSE_UNPROVEN, damage.unproven),
        (sql.REOPEN, damage.unproven),
    ):
        if cells:
            values = {"tickers": [ticker for ticker, _ in cells], "sessions": [session for _, session in cells]}
            more = {"run_id": run_id, "at": at} if statement is sql.REOPEN else {}
            connection.execute(statement, {**key, **values, **more})


def _asked(cells: Cells) -> Cells:
    """Without the sessions and tickers of which nothing is asked."""
    tickers, sessions = np.asarray(cells.mask.any(axis=1)), np.asarray(cells.mask.any(axis=0))
    if tickers.all() and sessions.all():
        return cells
    names = tuple(name for name, some in zip(cells.tickers, tickers, strict=True) if some)
    return Cells(names, cells.sessions[sessions], cells.mask[np.ix_(tickers, sessions)])


def _spans(cells: Cells) -> dict[str, list[object]]:
    """First and last session asked of each ticker, for a statement to bind."""
    first = cells.mask.argmax(axis=1)
    last = cells.mask.shape[1] - 1 - cells.mask[:, ::-1].argmax(axis=1)
    return {
        "tickers": list(cells.tickers),
        "firsts": cells.sessions[first].tolist(),
        "lasts": cells.sessions[last].tolist(),
    }


def _counts(cells: Cells, counted: Iterable[tuple[str, int]]) -> NDArray[np.int64]:
    """Counts in the order of the grid's tickers; shape (n,)."""
    by_ticker = dict(counted)
    return np.array([by_ticker.get(ticker, 0) for ticker in cells.tickers], np.int64)


def _bars(connection: sa.Connection, timeframe: str, cells: Cells) -> NDArray[np.int64]:
    """How many sessions between the first and the last one asked have a bar; shape (n,)."""
    statement = sql.COUNT_DAILY if timeframe == "1d" else sql.COUNT_SESSIONS
    # Without the sessions, a bar on a day that is none would make up for one that is lost.
    rows = connection.execute(statement, {"timeframe": timeframe, "sessions": cells.sessions.tolist(), **_spans(cells)})
    return _counts(cells, rows.tuples().all())


def _gaps(connection: sa.Connection, source: str, timeframe: str, cells: Cells) -> dict[str, NDArray[np.int64]]:
    """How many sessions between the first and the last one asked have a gap, by reason; each of shape (n,)."""
    key = {"source": source, "timeframe": timeframe}
    by_reason: dict[str, list[tuple[str, int]]] = {}
    for ticker, reason, count in connection.execute(sql.COUNT_GAPS, {**key, **_spans(cells)}):
        by_reason.setdefault(reason, []).append((ticker, count))
    return {reason: _counts(cells, counted) for reason, counted in by_reason.items()}


def _both(
    connection: sa.Connection, source: str, timeframe: str, cells: Cells
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many sessions between the first and the last one asked have a gap although there is a bar, and how many
    although there is one of this vendor; each of shape (n,)."""
    key = {"source": source, "timeframe": timeframe}
    rows = connection.execute(sql.COUNT_BOTH, {**key, **_spans(cells)}).all()
    both = _counts(cells, [(ticker, count) for ticker, count, _ in rows])
    return both, _counts(cells, [(ticker, count) for ticker, _, count in rows])


def _looked_at(connection: sa.Connection, source: str, timeframe: str, cells: Cells) -> Reconciliation:
    """The same for a few tickers, session by session."""
    first, last = cells.sessions[0].item(), cells.sessions[-1].item()
    near = bar.c.ts.between(*instants(first, last))
    stored = connection.execute(
        sa.select(bar.c.ticker, bar.c.session, bar.c.source == source)
        .where(bar.c.timeframe == timeframe, bar.c.ticker.in_(cells.tickers), near)
        .distinct()
    ).all()
    has_bar = mask_of(cells, [(ticker, session) for ticker, session, _ in stored])
    has_own = mask_of(cells, [(ticker, session) for ticker, session, own in stored if own])
    rows = connection.execute(
        sa.select(gap.c.ticker, gap.c.session, gap.c.reason).where(
            gap.c.source == source,
            gap.c.timeframe == timeframe,
            gap.c.ticker.in_(cells.tickers),
            gap.c.session.between(first, last),
        )
    ).all()
    by_reason: dict[str, list[Cell]] = {}
    for ticker, session, reason in rows:
        by_reason.setdefault(reason, []).append((ticker, session))
    masks = {reason: mask_of(cells, of_reason) & cells.mask for reason, of_reason in by_reason.items()}
    has_gap = np.logical_or.reduce([np.zeros_like(cells.mask), *masks.values()])
    lost = _cells(cells, cells.mask & ~has_bar & ~has_gap)
    contradicted = _cells(cells, cells.mask & has_own & has_gap)
    has_bar &= has_own | ~has_gap
    with_bar = np.asarray((has_bar & cells.mask).any(axis=1))
    barless = tuple(ticker for ticker, some in zip(cells.tickers, with_bar, strict=True) if not some)
    return Reconciliation(
        cells.count,
        int(np.count_nonzero(cells.mask & has_bar)),
        {reason: int(np.count_nonzero(mask)) for reason, mask in masks.items()},
        Damage(lost, contradicted),
        barless,
    )


def _cells(cells: Cells, mask: NDArray[np.bool_]) -> tuple[Cell, ...]:
    return tuple((cells.tickers[i], cells.sessions[j].item()) for i, j in zip(*np.nonzero(mask), strict=True))
