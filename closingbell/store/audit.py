"""Bars held against the ledger, to the cell.

Counts first, which an index answers; only the tickers whose counts are off are looked at session by session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.calendar import asset_class, by_asset_class, calendar_for
from closingbell.cells import PARTIAL, Cells, Ledger, Watermark, accounted, mask_of
from closingbell.healing import Cell, Damage
from closingbell.intraday import is_intraday, reach
from closingbell.store.columns import around, instants
from closingbell.store.database import Values, database_of
from closingbell.store.marks import has_bar
from closingbell.store.origin import origins
from closingbell.store.schema import bar, gap

#: Days from a session within which its bars open: the key of ``bar`` has ``ts`` and no session.
_NEAR: Final[sa.ColumnElement[Any]] = sa.literal_column("7")

#: Of a gap: some of its bars are stored, and the others to come. It contradicts none of them.
_BEGUN: Final = gap.c.last_error.startswith(PARTIAL)

_ONE, _NONE = (sa.literal_column(digit, sa.Integer) for digit in "10")

#: Whose bar there is where there is a gap too: nobody's, another vendor's, this one's.
_MINE: Final = 2
_NOBODYS, _ANOTHERS, _OWN = (sa.literal_column(digit, sa.Integer) for digit in f"01{_MINE}")


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


def summed(parts: Iterable[Reconciliation]) -> Reconciliation:
    """One of several, of cells that are not the same."""
    found = list(parts)
    gaps: Counter[str] = Counter()
    for part in found:
        gaps.update(part.gaps)
    damage = Damage(
        tuple(cell for part in found for cell in part.damage.lost),
        tuple(cell for part in found for cell in part.damage.contradicted),
    )
    barless = tuple(dict.fromkeys(ticker for part in found for ticker in part.barless))
    return Reconciliation(
        sum(part.expected for part in found), sum(part.stored for part in found), dict(gaps), damage, barless
    )


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
        bars = (_within_days if is_intraday(timeframe) else _bars)(connection, timeframe, cells)
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


def examine_reached(
    connection: sa.Connection, source: str, timeframe: str, grids: Sequence[Cells], marks: Mapping[str, Watermark]
) -> Reconciliation:
    """The same of those cells that the watermarks have reached; the others are ``pending``, for nobody tried them."""
    reached = [grid.only(accounted(grid, Ledger(marks, []), again=())) for grid in grids]
    found = examine(connection, source, timeframe, reached)
    untried = sum(grid.count for grid in grids) - found.expected
    gaps = Counter(found.gaps) + Counter(pending=untried)
    return replace(found, expected=found.expected + untried, gaps=dict(gaps))


def inside(marks: Mapping[str, Watermark]) -> list[Cells]:
    """Every cell inside the watermarks: one grid for each asset class."""
    grids = []
    for name, tickers in by_asset_class(marks).items():
        first, last = min(marks[t].first for t in tickers), max(marks[t].last for t in tickers)
        whole = Cells.all(tickers, calendar_for(name).sessions(first, last))
        grids.append(whole.only(accounted(whole, Ledger(marks, []), again=())))
    return grids


def _asked(cells: Cells) -> Cells:
    """Without the sessions and tickers of which nothing is asked."""
    tickers, sessions = np.asarray(cells.mask.any(axis=1)), np.asarray(cells.mask.any(axis=0))
    if tickers.all() and sessions.all():
        return cells
    names = tuple(name for name, some in zip(cells.tickers, tickers, strict=True) if some)
    return Cells(names, cells.sessions[sessions], cells.mask[np.ix_(tickers, sessions)])


def _spans(connection: sa.Connection, cells: Cells, *, to_instants: bool = False) -> sa.FromClause:
    """First and last session asked of each ticker, as a table; also from when and before when their bars open."""
    n, m = cells.mask.shape
    first, last = np.zeros(n, np.intp), np.full(n, m - 1)
    if not cells.mask.all():  # of most runs it is; numpy would copy the mask, which is one value, n * m times
        first, last = cells.mask.argmax(axis=1), m - 1 - cells.mask[:, ::-1].argmax(axis=1)
    columns: dict[str, Values] = {
        "ticker": (bar.c.ticker.type, cells.tickers),
        "first_session": (sa.Date, cells.sessions[first].tolist()),
        "last_session": (sa.Date, cells.sessions[last].tolist()),
    }
    if to_instants:
        begins, ends = reach(asset_class(cells.tickers[0]), cells.sessions)
        columns["begins"] = (bar.c.ts.type, instants(begins[first]))
        columns["ends"] = (bar.c.ts.type, instants(ends[last]))
    return database_of(connection).rows(connection, "span", columns)


def _around(cells: Cells) -> tuple[datetime, datetime]:
    return around(cells.sessions[0].item(), cells.sessions[-1].item())


def _gaps_of(source: str, timeframe: str, span: sa.FromClause) -> sa.ColumnElement[bool]:
    return sa.and_(
        gap.c.source == source,
        gap.c.timeframe == timeframe,
        gap.c.ticker == span.c.ticker,
        gap.c.session.between(span.c.first_session, span.c.last_session),
    )


def _counts(cells: Cells, counted: Iterable[tuple[str, int]]) -> NDArray[np.int64]:
    """Counts in the order of the grid's tickers; shape (n,)."""
    by_ticker = dict(counted)
    return np.array([by_ticker.get(ticker, 0) for ticker in cells.tickers], np.int64)


def _bars(connection: sa.Connection, timeframe: str, cells: Cells) -> NDArray[np.int64]:
    """How many sessions between the first and the last one asked have a bar; shape (n,)."""
    span = _spans(connection, cells)
    days: dict[str, Values] = {"session": (sa.Date, cells.sessions.tolist())}
    known = database_of(connection).rows(connection, "known", days)
    of_span = sa.and_(
        bar.c.ticker == span.c.ticker,
        bar.c.timeframe == timeframe,
        bar.c.session.between(span.c.first_session, span.c.last_session),
        # Without these bounds the night's three sessions would read the whole history.
        bar.c.ts.between(span.c.first_session - _NEAR, span.c.last_session + _NEAR),
        bar.c.ts.between(*_around(cells)),  # the same for all, by which the planner knows the partitions
    )
    # Without the sessions, a bar on a day that is none would make up for one that is lost. In the list of columns they
    # are looked up in a hash; as a condition they would be gone through for each of a million bars.
    session = sa.case((bar.c.session.in_(sa.select(known.c.session)), bar.c.session))
    # Each ticker for itself, for to group all of them the database would sort a million rows, on its disk.
    there = sa.select(sa.func.count(session)).select_from(bar).where(of_span).correlate(span).scalar_subquery()
    return _counts(cells, connection.execute(sa.select(span.c.ticker, there)).tuples().all())


def count_bars(connection: sa.Connection, timeframe: str, grids: Sequence[Cells]) -> int:
    """How many bars of any vendor there are of each ticker from the first to the last session asked."""
    found = 0
    for cells in map(_asked, grids):
        if not cells.count:
            continue
        span = _spans(connection, cells, to_instants=True)
        of_span = sa.and_(
            bar.c.ticker == span.c.ticker,
            bar.c.timeframe == timeframe,
            bar.c.ts >= span.c.begins,
            bar.c.ts < span.c.ends,
            bar.c.ts.between(*_around(cells)),
            bar.c.session.between(span.c.first_session, span.c.last_session),
        )
        query = sa.select(sa.func.count()).select_from(span.join(bar, of_span))
        found += int(connection.execute(query).scalar_one())
    return found


def _within_days(connection: sa.Connection, timeframe: str, cells: Cells) -> NDArray[np.int64]:
    """The same where a session has many bars: each cell is looked up by itself, up to its first bar."""
    span = _spans(connection, cells)
    begins, ends = reach(asset_class(cells.tickers[0]), cells.sessions)
    days: dict[str, Values] = {
        "session": (sa.Date, cells.sessions.tolist()),
        "begins": (bar.c.ts.type, instants(begins)),
        "ends": (bar.c.ts.type, instants(ends)),
    }
    known = database_of(connection).rows(connection, "known", days)
    some = sa.exists(
        sa.select(_ONE)
        .select_from(bar)
        .where(
            bar.c.ticker == span.c.ticker,
            bar.c.timeframe == timeframe,
            bar.c.session == known.c.session,
            bar.c.ts >= known.c.begins,
            bar.c.ts < known.c.ends,
            bar.c.ts.between(*_around(cells)),
        )
        .correlate(span, known)
    )
    # In the list of columns it is a look-up for each cell; as a condition it might be a join with all bars.
    cell = (
        sa.select(span.c.ticker, sa.case((some, _ONE), else_=_NONE).label("there"))
        .join_from(span, known, known.c.session.between(span.c.first_session, span.c.last_session))
        .subquery("cell")
    )
    query = sa.select(cell.c.ticker, sa.func.sum(cell.c.there)).group_by(cell.c.ticker)
    return _counts(cells, [(ticker, int(count)) for ticker, count in connection.execute(query)])


def _gaps(connection: sa.Connection, source: str, timeframe: str, cells: Cells) -> dict[str, NDArray[np.int64]]:
    """How many sessions between the first and the last one asked have a gap, by reason; each of shape (n,)."""
    span = _spans(connection, cells)
    query = (
        sa.select(gap.c.ticker, gap.c.reason, sa.func.count())
        .join_from(span, gap, _gaps_of(source, timeframe, span))
        .group_by(gap.c.ticker, gap.c.reason)
    )
    by_reason: dict[str, list[tuple[str, int]]] = {}
    for ticker, reason, count in connection.execute(query):
        by_reason.setdefault(reason, []).append((ticker, count))
    return {reason: _counts(cells, counted) for reason, counted in by_reason.items()}


def _both(
    connection: sa.Connection, source: str, timeframe: str, cells: Cells
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many sessions between the first and the last one asked have a gap although there is a bar, and how many
    although there is one of this vendor; each of shape (n,)."""
    span = _spans(connection, cells)
    there = has_bar(timeframe, gap, between=_around(cells))
    own = has_bar(timeframe, gap, gap.c.source, between=_around(cells))
    # In the list of columns it is a look-up for each gap; as a condition it might be a join with all bars.
    whose = sa.case((~there, _NOBODYS), (_BEGUN, _ANOTHERS), (own, _OWN), else_=_ANOTHERS)
    each = (
        sa.select(gap.c.ticker, whose.label("whose"))
        .join_from(span, gap, _gaps_of(source, timeframe, span))
        .subquery("each_gap")
    )
    query = sa.select(each.c.ticker, each.c.whose, sa.func.count()).group_by(each.c.ticker, each.c.whose)
    anybodys, mine = Counter[str](), Counter[str]()
    for ticker, which, count in connection.execute(query):
        anybodys[ticker] += count if which else 0
        mine[ticker] += count if which == _MINE else 0
    return _counts(cells, anybodys.items()), _counts(cells, mine.items())


def _looked_at(connection: sa.Connection, source: str, timeframe: str, cells: Cells) -> Reconciliation:
    """The same for a few tickers, session by session."""
    first, last = cells.sessions[0].item(), cells.sessions[-1].item()
    lo, hi = _around(cells)
    database = database_of(connection)
    stored = connection.execute(
        sa.select(bar.c.ticker, bar.c.session, sa.case((bar.c.source.in_(origins(source)), _ONE), else_=_NONE))
        .where(
            bar.c.timeframe == timeframe,
            database.among(connection, bar.c.ticker, cells.tickers),
            bar.c.ts.between(lo, hi),
        )
        .distinct()
    ).all()
    with_any = mask_of(cells, [(ticker, session) for ticker, session, _ in stored])
    with_own = mask_of(cells, [(ticker, session) for ticker, session, own in stored if own])
    rows = connection.execute(
        sa.select(gap.c.ticker, gap.c.session, gap.c.reason, sa.case((_BEGUN, _ONE), else_=_NONE)).where(
            gap.c.source == source,
            gap.c.timeframe == timeframe,
            database.among(connection, gap.c.ticker, cells.tickers),
            gap.c.session.between(first, last),
        )
    ).all()
    by_reason: dict[str, list[Cell]] = {}
    for ticker, session, reason, _ in rows:
        by_reason.setdefault(reason, []).append((ticker, session))
    begun = mask_of(cells, [(ticker, session) for ticker, session, _, some in rows if some])
    with_any, with_own = with_any & ~begun, with_own & ~begun
    masks = {reason: mask_of(cells, of_reason) & cells.mask for reason, of_reason in by_reason.items()}
    has_gap = np.logical_or.reduce([np.zeros_like(cells.mask), *masks.values()])
    lost = _cells(cells, cells.mask & ~with_any & ~has_gap)
    contradicted = _cells(cells, cells.mask & with_own & has_gap)
    with_any &= with_own | ~has_gap
    some_bar = np.asarray((with_any & cells.mask).any(axis=1))
    barless = tuple(ticker for ticker, some in zip(cells.tickers, some_bar, strict=True) if not some)
    return Reconciliation(
        cells.count,
        int(np.count_nonzero(cells.mask & with_any)),
        {reason: int(np.count_nonzero(mask)) for reason, mask in masks.items()},
        Damage(lost, contradicted),
        barless,
    )


def _cells(cells: Cells, mask: NDArray[np.bool_]) -> tuple[Cell, ...]:
    return tuple((cells.tickers[i], cells.sessions[j].item()) for i, j in zip(*np.nonzero(mask), strict=True))
