"""Splits as they are stored: what a look at the vendor's list changes, what is kept of it, since when it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from closingbell.errors import MalformedResponseError
from closingbell.sources.base import Split
from closingbell.store.database import database_of, moment
from closingbell.store.merge import Merge
from closingbell.store.schema import facts_watermark, gap, split, split_revision

#: From this many known splits on, an answer that lacks more than half of them is taken for a broken one.
GUARDED: Final = 3

#: A split explains the scale of bars up to so many days from its own.
REOPENED: Final = 14

_ONE: Final[sa.ColumnElement[int]] = sa.literal_column("1")


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a vendor's list of splits.

    Attributes:
        source: the vendor.
        run_id: the run that looked.
        as_of: what the run takes for the present, aware.
        first: the first day looked at.
        last: the last one, included.
        seen: the days that earlier looks were at; None: there was none.
    """

    source: str
    run_id: UUID
    as_of: datetime
    first: date
    last: date
    seen: tuple[date, date] | None

    def write(self, connection: sa.Connection, splits: Sequence[Split]) -> int:
        """Make a list, each ticker and day once, the splits that are known of the days looked at.

        Returns:
            How many are new, changed or retracted.

        Raises:
            MalformedResponseError: see :meth:`closingbell.store.facts.Facts.store_splits`.
        """
        listed = self._listed(connection, splits)
        self._believe(connection, listed)
        revised = self._revise(connection, listed)
        self._retract(connection, listed)
        self._change(connection, listed)
        return revised + self._add(connection, listed)

    def _listed(self, connection: sa.Connection, splits: Sequence[Split]) -> sa.FromClause:
        return database_of(connection).rows(
            connection,
            "listed",
            {
                "ticker": (sa.String, [entry.ticker for entry in splits]),
                "execution_date": (sa.Date, [entry.execution_date for entry in splits]),
                "split_from": (sa.Double, [entry.split_from for entry in splits]),
                "split_to": (sa.Double, [entry.split_to for entry in splits]),
                "vendor_id": (sa.String, [entry.id or None for entry in splits]),
                "known_from": (sa.DateTime(timezone=True), [self._public(entry.execution_date) for entry in splits]),
            },
        )

    def _public(self, day: date) -> datetime:
        """Since when a split of a day that is new in the list counts as known, but for what else the look finds.

        What a first look at its day finds was public on that day. What an earlier look did not find is late.
        """
        if self.seen and self.seen[0] <= day <= self.seen[1]:
            return self.as_of
        return min(self.as_of, datetime(day.year, day.month, day.day, tzinfo=UTC))

    def _in_span(self) -> sa.ColumnElement[bool]:
        return sa.and_(split.c.source == self.source, split.c.execution_date.between(self.first, self.last))

    def _believe(self, connection: sa.Connection, listed: sa.FromClause) -> None:
        """Refuse a list that lacks most of what is known."""
        counts = sa.select(sa.func.count(split.c.ticker), sa.func.count(listed.c.ticker))
        both = split.outerjoin(listed, _same(split, listed))
        known, there = connection.execute(counts.select_from(both).where(self._in_span())).one()
        if known >= GUARDED and (known - there) * 2 > known:
            raise MalformedResponseError(
                "the list of splits lacks more than half of those known",
                value=f"{known - there} of {known} from {self.first} to {self.last}",
                fix="Ask again; nothing is changed. If the vendor did retract them, delete their rows in split.",
                status=200,  # there was an answer: it costs the run its splits, not its bars
            )

    def _revise(self, connection: sa.Connection, listed: sa.FromClause) -> int:
        """Keep what is about to be changed or retracted; how many rows."""
        values: dict[str, sa.ColumnElement[Any]] = {
            "source": split.c.source,
            "ticker": split.c.ticker,
            "execution_date": split.c.execution_date,
            "old_split_from": split.c.split_from,
            "old_split_to": split.c.split_to,
            "new_split_from": listed.c.split_from,
            "new_split_to": listed.c.split_to,
            "old_known_from": split.c.known_from,
            "seen_at": sa.func.greatest(moment(self.as_of), split.c.known_from),
            "run_id": sa.literal(self.run_id, sa.Uuid),
            "old_run_id": split.c.run_id,
        }
        gone = sa.and_(listed.c.ticker.is_(None), split.c.execution_date.between(self.first, self.last))
        rows = (
            sa.select(*values.values())
            .select_from(split.outerjoin(listed, _same(split, listed)))
            .where(split.c.source == self.source, sa.or_(_differs(listed), gone))
        )
        insert = sa.insert(split_revision).from_select(list(values), rows)
        return connection.execute(insert, execution_options={"preserve_rowcount": True}).rowcount

    def _retract(self, connection: sa.Connection, listed: sa.FromClause) -> None:
        there = sa.exists(sa.select(_ONE).select_from(listed).where(_same(split, listed)))
        connection.execute(sa.delete(split).where(self._in_span(), ~there))

    def _change(self, connection: sa.Connection, listed: sa.FromClause) -> None:
        mine = sa.and_(split.c.source == self.source, _same(split, listed))
        changed = {
            "split_from": listed.c.split_from,
            "split_to": listed.c.split_to,
            "vendor_id": listed.c.vendor_id,
            "run_id": sa.literal(self.run_id, sa.Uuid),
            "seen_at": moment(self.as_of),
            "known_from": sa.func.greatest(moment(self.as_of), split.c.known_from),
        }
        connection.execute(Merge(split, listed, mine, update=changed, where=_differs(listed)))
        renumbered = {"vendor_id": listed.c.vendor_id}
        other = split.c.vendor_id.is_distinct_from(listed.c.vendor_id)
        connection.execute(Merge(split, listed, mine, update=renumbered, where=other))

    def _add(self, connection: sa.Connection, listed: sa.FromClause) -> int:
        """Insert what is new; how many rows.

        A split whose ticker lost another one in the same look has been moved: it is known since the look. One that
        returns is known again no sooner than it was gone.
        """
        moved, gone = split_revision.alias("moved"), split_revision.alias("gone")
        lost = sa.exists(
            sa.select(_ONE)
            .select_from(moved)
            .where(
                moved.c.source == self.source,
                moved.c.ticker == listed.c.ticker,
                moved.c.run_id == self.run_id,
                moved.c.new_split_to.is_(None),
            )
        )
        since = sa.select(sa.func.max(gone.c.seen_at)).where(gone.c.source == self.source, _same(gone, listed))
        public = sa.case((lost, moment(self.as_of)), else_=listed.c.known_from)
        values: dict[str, sa.ColumnElement[Any]] = {
            "source": sa.literal(self.source),
            **{name: listed.c[name] for name in ("ticker", "execution_date", "split_from", "split_to", "vendor_id")},
            "run_id": sa.literal(self.run_id, sa.Uuid),
            "seen_at": moment(self.as_of),
            # A database may know nothing greater than NULL.
            "known_from": sa.func.greatest(public, sa.func.coalesce(since.scalar_subquery(), listed.c.known_from)),
        }
        rows = sa.select(*values.values()).select_from(listed)
        return database_of(connection).insert_missing(connection, split, values, rows)


def count(connection: sa.Connection, source: str) -> None:
    """Write down how many splits there are in the span that has been looked at, to notice if somebody removes some."""
    seen = facts_watermark
    known = (
        sa.select(sa.func.count())
        .select_from(split)
        .where(split.c.source == seen.c.source, split.c.execution_date.between(seen.c.first_day, seen.c.last_day))
    )
    connection.execute(
        sa.update(seen)
        .where(seen.c.source == source, seen.c.kind == "split")
        .values(known=known.correlate(seen).scalar_subquery())
    )


def lost(connection: sa.Connection, source: str) -> int:
    """How many splits fewer there are than were counted last."""
    seen = facts_watermark
    inside = sa.and_(split.c.source == seen.c.source, split.c.execution_date.between(seen.c.first_day, seen.c.last_day))
    query = (
        sa.select(seen.c.known - sa.func.count(split.c.ticker))
        .select_from(seen.outerjoin(split, inside))
        .where(seen.c.source == source, seen.c.kind == "split", seen.c.known.is_not(None))
        .group_by(seen.c.known)
    )
    return int(connection.execute(query).scalar_one_or_none() or 0)


def reopen(connection: sa.Connection, source: str, run_id: UUID) -> None:
    """Have the next run ask once more for bars that were refused by a scale which a split now explains."""
    days: sa.ColumnElement[Any] = sa.literal_column(str(REOPENED))
    learned = split.alias("learned")
    explained = sa.exists(
        sa.select(_ONE)
        .select_from(learned)
        .where(
            learned.c.source == source,
            learned.c.run_id == run_id,
            learned.c.ticker == gap.c.ticker,
            gap.c.session.between(learned.c.execution_date - days, learned.c.execution_date + days),
        )
    )
    refused = sa.and_(gap.c.source == source, gap.c.reason == "quarantined")
    connection.execute(sa.update(gap).where(refused, explained).values(reason="pending", run_id=run_id))


def _same(known: sa.FromClause, listed: sa.FromClause) -> sa.ColumnElement[bool]:
    return sa.and_(known.c.ticker == listed.c.ticker, known.c.execution_date == listed.c.execution_date)


def _differs(listed: sa.FromClause) -> sa.ColumnElement[bool]:
    return sa.or_(split.c.split_from != listed.c.split_from, split.c.split_to != listed.c.split_to)
