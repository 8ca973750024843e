"""Events as they are stored, and how far they are derived.

An ``event_mark`` is to events what a watermark is to bars: its span is derived, but for what it says is to do. Events
and mark are written in one transaction. Of several runs that derive the same, each writes only what it computed since
the mark was last changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.cells import Watermark
from closingbell.store.columns import around, instants
from closingbell.store.database import Values, database_of
from closingbell.store.faults import transaction
from closingbell.store.redo import Redo, persistent
from closingbell.store.schema import event, event_mark, gap, late_cell, revision, watermark

#: Sessions from the first to the last, both included.
Span = tuple[date, date]

#: The numbers of an event; NaN is none.
_NUMBERS: Final = ("upper", "upper_slope", "lower", "lower_slope", "apex_bars")


@dataclass(frozen=True, slots=True)
class Derived:
    """Whose events: of which bars, found by what.

    Attributes:
        ticker: of the bars.
        timeframe: of the bars that the detector looks at.
        detector: its name.
        version: its revision and parameters.
        source: of the stored bars.
        from_timeframe: of the stored bars; where it is another one, they are resampled on the way.
    """

    ticker: str
    timeframe: str
    detector: str
    version: str
    source: str
    from_timeframe: str


@dataclass(frozen=True, slots=True)
class Mark:
    """How far events are derived.

    Attributes:
        first: the first session.
        last: the last one; all between is derived, but for ``todo``.
        todo: spans that are yet to be derived, or again, in order.
        reach: the first session whose bars were looked at, for the warm-up.
        bars_from: where the bars' watermark began.
        gaps: the sessions of the bars' watermark that had no bar, or not all.
        revision_id: the last revision of the bars that is seen to; 0: none.
        late_id: the last late cell that is seen to; 0: none.
        turn: counts the changes of the mark.
    """

    first: date
    last: date
    todo: tuple[Span, ...]
    reach: date
    bars_from: date
    gaps: frozenset[date]
    revision_id: int
    late_id: int
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What is derived, and what there is to be derived from, as of one moment.

    Attributes:
        mark: how far events are derived; None: not at all.
        bars: the bars' watermark; None: nothing is stored.
        gaps: its sessions that have no bar, or not all.
        changed: the sessions, from ``mark.reach`` on, with bars that were changed, taken out, or came late since.
        revision_id: the last revision of the bars.
        late_id: the last late cell.
    """

    mark: Mark | None
    bars: Watermark | None
    gaps: frozenset[date]
    changed: frozenset[date]
    revision_id: int
    late_id: int


class Events:
    """Reads and writes events; safe to use from several threads.

    Args:
        engine: of a store.
        retries: how often a transaction that lost a race is done again.
        lock_timeout: seconds that one waits for a lock before it is rolled back and tried again.
    """

    def __init__(self, engine: sa.Engine, *, retries: int = 3, lock_timeout: float = 30.0) -> None:
        self._engine = engine
        self._redo = Redo(engine, retries=retries, delay=0.5, lock_timeout=lock_timeout)

    @persistent
    def standing(self, of: Derived) -> Standing:
        """What is derived, and what has become of the bars since.

        A revision's number is given while its ticker's watermark is locked, so that of one vendor's bars none comes
        to light later than one with a higher number.
        """
        with transaction(self._engine, snapshot=True) as connection:
            mark = _mark(connection, of)
            bars = _of_bars(connection, watermark, of, watermark.c.first_session, watermark.c.last_session)
            gaps = _of_bars(connection, gap, of, gap.c.session)
            changed: set[date] = set()
            last: list[int] = []
            # Another vendor's flush may replace bars of this one: revisions and late cells are of all of them.
            for table, number in ((revision, revision.c.revision_id), (late_cell, late_cell.c.late_id)):
                ours = (table.c.ticker == of.ticker, table.c.timeframe == of.from_timeframe)
                last.append(connection.execute(sa.select(sa.func.max(number)).where(*ours)).scalar() or 0)
                seen = 0 if mark is None else (mark.revision_id if table is revision else mark.late_id)
                if mark is not None and last[-1] > seen:
                    span = table.c.session.between(mark.reach, mark.last)
                    query = sa.select(table.c.session).where(*ours, number > seen, span).distinct()
                    changed.update(connection.execute(query).scalars())
        return Standing(
            mark,
            Watermark(*bars[0]) if bars else None,
            frozenset(session for (session,) in gaps),
            frozenset(changed),
            *last,
        )

    def settle(self, of: Derived, run_id: UUID, old: Mark | None, new: Mark, purge: Span | None = None) -> int | None:
        """Write what is to be done, before it is.

        Args:
            of: whose events.
            run_id: the run that will do it.
            old: the mark as it was read; None: there was none.
            new: as it is to be.
            purge: delete the events of these sessions.

        Returns:
            How many events were deleted; None, and nothing is written: another run has changed the mark meanwhile.
        """

        def work(connection: sa.Connection) -> int | None:
            if old is None and not _begin(connection, of, run_id, new):
                return None
            if not _lock(connection, of, 0 if old is None else old.turn):
                return None
            removed = _delete(connection, of, purge) if purge else 0
            values = {
                "first_session": new.first,
                "last_session": new.last,
                "reach_session": new.reach,
                "bars_from": new.bars_from,
                "gaps": [day.isoformat() for day in sorted(new.gaps)],
                "revision_id": new.revision_id,
                "late_id": new.late_id,
            }
            _advance(connection, of, run_id, new.turn, new.todo, values)
            return removed

        return self._redo(work)

    def replace(
        self, of: Derived, run_id: UUID, mark: Mark, span: Span, kinds: Sequence[str], found: NDArray[np.void]
    ) -> tuple[int, int] | None:
        """Make some events all that there are in a span of sessions, and move the mark, in one transaction.

        Args:
            of: whose events.
            run_id: the run.
            mark: as it is to be, one turn after the one that is stored.
            span: whose events are replaced.
            kinds: what the numbers in ``found["kind"]`` mean.
            found: shape (n,), dtype :data:`closingbell.events.base.EVENT`; duplicates are ignored.

        Returns:
            How many were deleted, and how many inserted; None, and nothing is written: another run has changed the
            mark meanwhile.
        """

        def work(connection: sa.Connection) -> tuple[int, int] | None:
            if not _lock(connection, of, mark.turn - 1):
                return None
            removed = _delete(connection, of, span)
            inserted = _insert(connection, of, run_id, kinds, found) if len(found) else 0
            _advance(connection, of, run_id, mark.turn, mark.todo, {"reach_session": mark.reach})
            return removed, inserted

        return self._redo(work)

    @persistent
    def count(self, of: Derived) -> int:
        """How many events are stored."""
        with transaction(self._engine) as connection:
            query = sa.select(sa.func.count()).select_from(event).where(*_are(event, of))
            return int(connection.execute(query).scalar_one())


def _are(table: sa.Table, of: Derived) -> Iterable[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in asdict(of).items()]


def _of_bars(connection: sa.Connection, table: sa.Table, of: Derived, *columns: sa.Column[Any]) -> Sequence[Any]:
    query = sa.select(*columns).where(
        table.c.source == of.source, table.c.ticker == of.ticker, table.c.timeframe == of.from_timeframe
    )
    return connection.execute(query).all()


def _mark(connection: sa.Connection, of: Derived) -> Mark | None:
    row = connection.execute(sa.select(event_mark).where(*_are(event_mark, of))).first()
    if row is None:
        return None
    day = date.fromisoformat
    return Mark(
        row.first_session,
        row.last_session,
        tuple((day(first), day(last)) for first, last in row.todo or ()),
        row.reach_session,
        row.bars_from,
        frozenset(map(day, row.gaps or ())),
        row.revision_id,
        row.late_id,
        row.turn,
    )


def _begin(connection: sa.Connection, of: Derived, run_id: UUID, mark: Mark) -> bool:
    """Make a mark that is not there; False: another run has just made it."""
    database = database_of(connection)
    one = database.rows(connection, "one", {"ticker": (event_mark.c.ticker.type, [of.ticker])})
    days = ("first_session", "last_session", "reach_session", "bars_from")
    values = {
        **{name: sa.literal(value, event_mark.c[name].type) for name, value in asdict(of).items()},
        "ticker": one.c.ticker,
        **{
            name: sa.literal(day, sa.Date)
            for name, day in zip(days, (mark.first, mark.last, mark.reach, mark.bars_from), strict=True)
        },
        **{name: sa.literal(0, sa.Integer) for name in ("revision_id", "late_id", "turn")},
        "run_id": sa.literal(run_id, sa.Uuid),
        "updated_at": sa.func.now(),
    }
    return database.insert_missing(connection, event_mark, values, sa.select(*values.values())) == 1


def _lock(connection: sa.Connection, of: Derived, turn: int) -> bool:
    """Lock a mark until the transaction ends; whether it is still as it was read."""
    query = sa.select(event_mark.c.turn).where(*_are(event_mark, of)).with_for_update()
    return connection.execute(query).scalar() == turn


def _advance(
    connection: sa.Connection, of: Derived, run_id: UUID, turn: int, todo: Sequence[Span], more: dict[str, Any]
) -> None:
    values = {
        "todo": [[first.isoformat(), last.isoformat()] for first, last in todo],
        "turn": turn,
        "run_id": run_id,
        "updated_at": sa.func.now(),
    }
    connection.execute(sa.update(event_mark).where(*_are(event_mark, of)).values(**values, **more))


def _delete(connection: sa.Connection, of: Derived, span: Span) -> int:
    there = (event.c.ts.between(*around(*span)), event.c.session.between(*span))
    return connection.execute(sa.delete(event).where(*_are(event, of), *there)).rowcount


def _insert(connection: sa.Connection, of: Derived, run_id: UUID, kinds: Sequence[str], found: NDArray[np.void]) -> int:
    database = database_of(connection)
    columns: dict[str, Values] = {
        "ts": (event.c.ts.type, instants(found["ts"])),
        "kind": (sa.String, [kinds[i] for i in found["kind"].tolist()]),
        "session": (sa.Date, found["session"].tolist()),
        "first_ts": (event.c.first_ts.type, instants(found["first_ts"])),
        "bars": (sa.Integer, found["bars"].tolist()),
        **{name: (sa.Double, _or_none(found[name])) for name in _NUMBERS},
    }
    new = database.rows(connection, "found", columns)
    values = {
        **{name: sa.literal(value, event.c[name].type) for name, value in asdict(of).items()},
        **{column.name: column for column in new.c},
        "run_id": sa.literal(run_id, sa.Uuid),
    }
    return database.insert_missing(connection, event, values, sa.select(*values.values()))


def _or_none(numbers: NDArray[np.float64]) -> list[float | None]:
    if not np.isnan(numbers).any():
        return list(numbers.tolist())
    return [None if number != number else number for number in numbers.tolist()]
