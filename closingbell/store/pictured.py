"""What pictures are made of, each in a few queries, however many tickers there are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final, TypeVar

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.calendar import asset_class
from closingbell.cells import REASONS, Cells, Watermark
from closingbell.errors import ConfigurationError
from closingbell.store import audit
from closingbell.store.columns import around
from closingbell.store.database import database_of
from closingbell.store.faults import transaction
from closingbell.store.lives import is_gone
from closingbell.store.schema import bar, event, gap, run, split, watermark

_T = TypeVar("_T", bound=np.generic)

#: Rows that are read at once: a ledger may have more gaps than fit into memory as rows.
_AT_ONCE: Final = 50_000

_NUMBERS: Final = ("open", "high", "low", "close", "volume")

_SPANS: Final = sa.table(
    "split_factor", *(sa.column(name) for name in ("source", "ticker", "first_session", "before_session", "factor"))
)


@dataclass(frozen=True, slots=True)
class Standing:
    """The ledger of some tickers as columns.

    Attributes:
        tickers: n tickers.
        marks: the watermarks of those that have one.
        rows: the ticker of each gap, a position in ``tickers``; shape (k,), int32.
        days: its session, as days since 1970; shape (k,), int32.
        reasons: why, a position in :data:`closingbell.cells.REASONS`; shape (k,), uint8.
        first: the first session looked at; None: nothing is known of any ticker.
        last: the last one.
        wrong: cells that the bars contradict, where they were held against the ledger.
    """

    tickers: tuple[str, ...]
    marks: Mapping[str, Watermark]
    rows: NDArray[np.int32]
    days: NDArray[np.int32]
    reasons: NDArray[np.uint8]
    first: date | None
    last: date | None
    wrong: Sequence[tuple[str, date]] = field(default=())


@dataclass(frozen=True, slots=True)
class Cause:
    """Why some cells have no bar.

    Attributes:
        reason: the gaps'.
        what: what failed, without the particulars, so that it is the same of every ticker; empty where nobody said.
        example: such an error in full.
        cells: how many.
        tickers: how many tickers they are of.
        named: the first of these, byte by byte.
        first: the first session.
        last: the last one.
    """

    reason: str
    what: str
    example: str
    cells: int
    tickers: int
    named: tuple[str, ...]
    first: date
    last: date


def series(engine: sa.Engine) -> list[tuple[str, str, int]]:
    """Source and timeframe of every ledger there is, and how many tickers are in it."""
    key = (watermark.c.source, watermark.c.timeframe)
    query = sa.select(*key, sa.func.count()).group_by(*key).order_by(*key)
    with transaction(engine) as connection:
        return [(source, timeframe, count) for source, timeframe, count in connection.execute(query)]


def standing(
    engine: sa.Engine,
    source: str,
    timeframe: str,
    tickers: Sequence[str] | None = None,
    first: date | None = None,
    last: date | None = None,
    *,
    verified: bool = True,
) -> Standing:
    """The ledger of some tickers, of one moment.

    Args:
        engine: of a store.
        source: the vendor.
        timeframe: of the bars.
        tickers: whose; None: of all that have a watermark.
        first: the first session; None: the first of any watermark.
        last: the last one; None: the last of any watermark.
        verified: hold every cell against the bars too.
    """
    mine = (watermark.c.source == source, watermark.c.timeframe == timeframe)
    with transaction(engine, snapshot=True) as connection:
        database = database_of(connection)
        query = sa.select(watermark.c.ticker, watermark.c.first_session, watermark.c.last_session).where(*mine)
        if tickers is not None:
            query = query.where(database.among(connection, watermark.c.ticker, tickers))
        marks = {ticker: Watermark(*span) for ticker, *span in connection.execute(query)}
        names = tuple(sorted(marks)) if tickers is None else tuple(dict.fromkeys(tickers))
        if marks:
            first = first or min(mark.first for mark in marks.values())
            last = last or max(mark.last for mark in marks.values())
        if not marks or first is None or last is None:
            none = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint8)
            return Standing(names, marks, *none, first, last)
        wanted = [gap.c.source == source, gap.c.timeframe == timeframe, gap.c.session.between(first, last)]
        if tickers is not None:
            wanted.append(database.among(connection, gap.c.ticker, names))
        gaps = _gaps(connection, sa.select(gap.c.ticker, gap.c.session, gap.c.reason).where(*wanted), names)
        wrong = _wrong(connection, source, timeframe, marks, first, last) if verified else ()
    return Standing(names, marks, *gaps, first, last, wrong)


def _gaps(
    connection: sa.Connection, query: sa.Select[Any], tickers: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    row = {ticker: i for i, ticker in enumerate(tickers)}
    code = {reason: i for i, reason in enumerate(REASONS)}
    rows, days, reasons = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], [np.zeros(0, np.uint8)]
    for block in database_of(connection).selected(connection, query, _AT_ONCE):
        names, why = block["ticker"], block["reason"]
        places = np.array([row.get(name, -1) for name in names.texts or ()], np.int32)[names.values]
        codes = np.array([code[reason] for reason in why.texts or ()], np.uint8)[why.values]
        known = places >= 0
        rows.append(places[known])
        days.append(block["session"].values[known].astype("M8[D]").astype(np.int32))
        reasons.append(codes[known])
    return _whole(rows), _whole(days), _whole(reasons)


def _whole(parts: list[NDArray[_T]]) -> NDArray[_T]:
    """One array of its parts, which are given up: of a new market's gaps there are millions."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def _wrong(
    connection: sa.Connection, source: str, timeframe: str, marks: Mapping[str, Watermark], first: date, last: date
) -> list[tuple[str, date]]:
    """Cells from ``first`` to ``last`` that have neither a bar nor a gap, or both."""
    inside = {
        ticker: Watermark(max(mark.first, first), min(mark.last, last))
        for ticker, mark in marks.items()
        if mark.first <= last and first <= mark.last and has_calendar(ticker)
    }
    grids: list[Cells] = audit.inside(inside)
    damage = audit.examine(connection, source, timeframe, grids).damage
    return [*damage.lost, *damage.contradicted]


def has_calendar(ticker: str) -> bool:
    """Whether there are sessions of a ticker: somebody may have put others into the tables, such as an index."""
    try:
        return bool(asset_class(ticker))
    except ConfigurationError:
        return False


def causes(
    engine: sa.Engine,
    source: str,
    timeframe: str,
    tickers: Sequence[str] | None,
    first: date,
    last: date,
    *,
    limit: int = 20,
    named: int = 8,
) -> tuple[list[Cause], int, int]:
    """Why cells have no bar, the most cells first; of those that are ``empty`` there is nothing to tell.

    Args:
        engine: of a store.
        source: the vendor.
        timeframe: of the bars.
        tickers: whose; None: of all.
        first: the first session.
        last: the last one.
        limit: so many causes at most.
        named: so many tickers of each by name.

    Returns:
        The causes; how many there are beyond them, and with how many cells.
    """
    key = (gap.c.reason, gap.c.last_error, gap.c.ticker)
    query = (
        sa.select(*key, sa.func.count(), sa.func.min(gap.c.session), sa.func.max(gap.c.session))
        .where(
            gap.c.source == source,
            gap.c.timeframe == timeframe,
            gap.c.session.between(first, last),
            gap.c.reason != "empty",
        )
        .group_by(*key)
    )
    groups: dict[tuple[str, str], _Group] = {}
    with transaction(engine, snapshot=True) as connection:
        if tickers is not None:
            query = query.where(database_of(connection).among(connection, gap.c.ticker, tickers))
        for reason, error, *row in connection.execute(query, execution_options={"yield_per": _AT_ONCE}):
            message = error or ""
            groups.setdefault((reason, message.partition(": ")[0]), _Group(first=last, last=first)).add(message, *row)
    order = sorted(groups.items(), key=lambda item: (-item[1].cells, item[0]))
    found = [
        Cause(
            reason, what, group.example, group.cells, len(group.tickers), tuple(sorted(group.tickers)[:named]),
            group.first, group.last,
        )
        for (reason, what), group in order[:limit]
    ]  # fmt: skip
    return found, len(order[limit:]), sum(group.cells for _, group in order[limit:])


@dataclass(slots=True)
class _Group:
    """A cause while it is counted."""

    first: date
    last: date
    example: str = ""
    cells: int = 0
    tickers: set[str] = field(default_factory=set)

    def add(self, message: str, ticker: str, cells: int, first: date, last: date) -> None:
        """Take in the gaps of one ticker with one message; the example is the first one, byte by byte."""
        self.example = min(self.example or message, message)
        self.cells += cells
        self.tickers.add(ticker)
        self.first, self.last = min(self.first, first), max(self.last, last)


def totals(engine: sa.Engine) -> dict[str, Any]:
    """Rows of the tables that a page tells of, bars by source and timeframe as well; of one moment."""
    key = (bar.c.source, bar.c.timeframe)
    with transaction(engine, snapshot=True) as connection:
        bars = connection.execute(sa.select(*key, sa.func.count()).group_by(*key).order_by(*key)).all()
        found: dict[str, Any] = {"bars": [tuple(row) for row in bars]}
        for name in ("gap", "quarantine", "revision", "split", "dividend", "event", "run"):
            table = bar.metadata.tables[name]
            found[name] = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    return found


def runs(engine: sa.Engine, since: datetime | None = None) -> list[dict[str, Any]]:
    """Every run whose present is ``since`` (aware) or later, in that order, with its report."""
    names = (
        *("run_id", "flow", "state", "as_of", "started_at", "ended_at", "planned_calls", "actual_calls"),
        *("inserted", "rewritten", "report"),
    )
    query = sa.select(*(run.c[name] for name in names)).order_by(run.c.as_of, run.c.started_at)
    if since is not None:
        query = query.where(run.c.as_of >= since)
    with transaction(engine) as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
        for row in rows:
            if row["state"] == "Running" and is_gone(connection, row["run_id"]):
                row["state"] = "Crashed"
    return rows


def days_of_runs(engine: sa.Engine) -> tuple[datetime, datetime] | None:
    """The present of the first and of the last run; None: there was none."""
    query = sa.select(sa.func.min(run.c.as_of), sa.func.max(run.c.as_of))
    with transaction(engine) as connection:
        first, last = connection.execute(query).one()
    return None if first is None else (first, last)


@dataclass(frozen=True, slots=True)
class Series:
    """The stored bars of one ticker and what else a chart of it shows, of one moment.

    Attributes:
        bars: ``session, ts, open, high, low, close, volume, source``, by ``ts``; prices as traded.
        factors: ``source, first_session, before_session, factor``: the spans between splits.
        splits: ``source, execution_date, split_from, split_to``.
        events: rows of ``event``.
        gaps: ``source, session, reason`` from the first bar's session to the last one's.
    """

    bars: list[Any]
    factors: list[Any]
    splits: list[Any]
    events: list[Any]
    gaps: list[Any]


def chart(
    engine: sa.Engine, ticker: str, timeframe: str, first: date | None, last: date | None, newest: int | None
) -> Series:
    """What a chart of one ticker shows.

    Args:
        engine: of a store.
        ticker: as the vendor writes it.
        timeframe: of the bars.
        first: the first session; None: the first there is.
        last: the last one; None: the last there is.
        newest: so many bars at most, the last ones; None: all.
    """
    columns = [bar.c[name] for name in ("session", "ts", *_NUMBERS, "source")]
    query = sa.select(*columns).where(bar.c.ticker == ticker, bar.c.timeframe == timeframe)
    if first is not None:
        query = query.where(bar.c.session >= first, bar.c.ts >= around(first, first)[0])
    if last is not None:
        query = query.where(bar.c.session <= last, bar.c.ts <= around(last, last)[1])
    query = query.order_by(bar.c.ts.desc())
    with transaction(engine, snapshot=True) as connection:
        bars = list(connection.execute(query.limit(newest) if newest else query))[::-1]
        if not bars:
            return Series([], [], [], [], [])
        since, until = bars[0].session, bars[-1].session
        spans = [_SPANS.c[name] for name in ("source", "first_session", "before_session", "factor")]
        factors = list(connection.execute(sa.select(*spans).where(_SPANS.c.ticker == ticker)))
        told = [split.c[name] for name in ("source", "execution_date", "split_from", "split_to")]
        known = sa.and_(split.c.ticker == ticker, split.c.execution_date.between(since, until))
        splits = list(connection.execute(sa.select(*told).where(known).order_by(split.c.execution_date)))
        seen = sa.and_(
            event.c.ticker == ticker, event.c.timeframe == timeframe, event.c.ts.between(bars[0].ts, bars[-1].ts)
        )
        events = list(connection.execute(sa.select(event).where(seen).order_by(event.c.ts, event.c.kind)))
        missing = sa.and_(gap.c.ticker == ticker, gap.c.timeframe == timeframe, gap.c.session.between(since, until))
        gaps = list(
            connection.execute(
                sa.select(gap.c.source, gap.c.session, gap.c.reason).where(missing).order_by(gap.c.session)
            )
        )
    return Series(bars, factors, splits, events, gaps)


def charted(engine: sa.Engine, preferred: Collection[str]) -> tuple[str, str] | None:
    """A ticker and a timeframe to show a chart of where nobody names one; None: there is no ledger.

    Args:
        engine: of a store.
        preferred: one of these, in their order, where it has daily bars.
    """
    with transaction(engine) as connection:
        query = sa.select(watermark.c.ticker).where(watermark.c.timeframe == "1d")
        known = set(connection.execute(query.where(watermark.c.ticker.in_(list(preferred)))).scalars())
        for ticker in preferred:
            if ticker in known:
                return ticker, "1d"
        order = (sa.case((watermark.c.timeframe == "1d", 0), else_=1), watermark.c.ticker, watermark.c.timeframe)
        row = connection.execute(sa.select(watermark.c.ticker, watermark.c.timeframe).order_by(*order).limit(1)).first()
    return None if row is None else (row.ticker, row.timeframe)
