"""Who held a ticker from when to when, as it is stored, and as it becomes once more is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Final, Literal, Protocol
from uuid import UUID

import sqlalchemy as sa

from closingbell.store.database import database_of, moment
from closingbell.store.schema import ticker_history

Origin = Literal["vendor", "shipped"]

#: From so many new rows on the planner is told of them at once: it would take the table for an empty one until
#: autovacuum comes by, and a join of every bar with it for a small matter.
_MANY: Final = 100


class HeldTicker(Protocol):
    """An instrument traded under ``ticker`` from ``first`` on, until the day before ``end``; None: it still does."""

    @property
    def ticker(self) -> str: ...
    @property
    def instrument_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def first(self) -> date: ...
    @property
    def end(self) -> date | None: ...


@dataclass(frozen=True, slots=True)
class StoredTenure:
    """A row of ``ticker_history``.

    Attributes:
        ticker: as the vendor writes it.
        instrument_id: stable over renames.
        name: the company's or fund's; may be empty.
        first: the first day under this ticker.
        end: the first day without it; None while it lasts.
        origin: ``vendor``, or ``shipped`` with the project.
    """

    ticker: str
    instrument_id: str
    name: str
    first: date
    end: date | None
    origin: str

    def overlaps(self, other: StoredTenure) -> bool:
        """Whether both hold the same ticker on some day."""
        return (
            self.ticker == other.ticker
            and (self.end is None or other.first < self.end)
            and (other.end is None or self.first < other.end)
        )


def read(
    connection: sa.Connection, source: str, tickers: Iterable[str] | None, instruments: Iterable[str] = ()
) -> list[StoredTenure]:
    """Rows of every instrument that is named, or that ever held one of the tickers; None: all rows.

    By instrument and first day.
    """
    database, table = database_of(connection), ticker_history.c
    query = sa.select(table.ticker, table.instrument_id, table.name, table.first_day, table.end_day, table.origin)
    query = query.where(table.source == source)
    if tickers is not None:
        holders = sa.select(table.instrument_id).where(
            table.source == source, database.among(connection, table.ticker, tickers)
        )
        named = database.rows(connection, "named", {"instrument_id": (sa.String, list(instruments))})
        # One set of both: a condition with OR would be tried out on every row.
        query = query.where(table.instrument_id.in_(holders.union(sa.select(named.c.instrument_id))))
    rows = connection.execute(query.order_by(table.instrument_id, table.first_day))
    # Where an empty text is NULL, a name that is NULL was an empty one.
    return [StoredTenure(ticker, instrument, name or "", *more) for ticker, instrument, name, *more in rows]


def write(connection: sa.Connection, source: str, run_id: UUID, as_of: datetime, told: Sequence[StoredTenure]) -> int:
    """Take in what is told of some instruments, all of one origin; how many rows were written or removed."""
    instruments = {row.instrument_id for row in told}
    stored = read(connection, source, [row.ticker for row in told], instruments)
    wanted, before = set(_reconciled(stored, told)), set(stored)
    gone, new = list(before - wanted), list(wanted - before)
    if gone:
        _remove(connection, source, gone)
    if new:
        _add(connection, source, run_id, as_of, new)
    if len(new) >= _MANY:
        database_of(connection).analyze(connection, ticker_history)
    return len({(row.ticker, row.first) for row in (*gone, *new)})


def _remove(connection: sa.Connection, source: str, tenures: Sequence[StoredTenure]) -> None:
    gone = database_of(connection).rows(
        connection,
        "gone",
        {
            "ticker": (sa.String, [row.ticker for row in tenures]),
            "first_day": (sa.Date, [row.first for row in tenures]),
        },
    )
    same = sa.and_(gone.c.ticker == ticker_history.c.ticker, gone.c.first_day == ticker_history.c.first_day)
    named = sa.exists(sa.select(sa.literal_column("1")).select_from(gone).where(same))
    connection.execute(sa.delete(ticker_history).where(ticker_history.c.source == source, named))


def _add(
    connection: sa.Connection, source: str, run_id: UUID, as_of: datetime, tenures: Sequence[StoredTenure]
) -> None:
    held = database_of(connection).rows(
        connection,
        "held",
        {
            "ticker": (sa.String, [row.ticker for row in tenures]),
            "first_day": (sa.Date, [row.first for row in tenures]),
            "end_day": (sa.Date, [row.end for row in tenures]),
            "instrument_id": (sa.String, [row.instrument_id for row in tenures]),
            "name": (sa.String, [row.name for row in tenures]),
            "origin": (sa.String, [row.origin for row in tenures]),
        },
    )
    values = {
        "source": sa.literal(source),
        **{column.name: column for column in held.c},
        "run_id": sa.literal(run_id, sa.Uuid),
        "seen_at": moment(as_of),
    }
    rows = sa.select(*values.values()).select_from(held)
    connection.execute(sa.insert(ticker_history).from_select(list(values), rows))


def _reconciled(stored: Sequence[StoredTenure], told: Sequence[StoredTenure]) -> list[StoredTenure]:
    """What ``stored`` becomes once ``told``, all of one origin, is taken in."""
    if told and told[0].origin == "shipped":
        vendors = [row for row in stored if row.origin == "vendor"]
        known = {row.instrument_id for row in vendors}
        told = _apart([row for row in told if row.instrument_id not in known], vendors)
    instruments = {row.instrument_id for row in told}
    others = [row for row in stored if row.instrument_id not in instruments]
    by_vendor = [row for row in told if row.origin == "vendor"]
    others = [row for row in others if row.origin == "vendor"] + _apart(
        [row for row in others if row.origin == "shipped"], by_vendor
    )
    rows = {(row.ticker, row.first): row for row in (*others, *told)}
    whole: list[StoredTenure] = []
    for row in sorted(rows.values(), key=lambda row: (row.ticker, row.first), reverse=True):
        ends = bool(whole) and row.overlaps(whole[-1])
        whole.append(replace(row, end=whole[-1].first) if ends else row)
    return whole


def _apart(rows: Iterable[StoredTenure], others: Iterable[StoredTenure]) -> list[StoredTenure]:
    """Those rows that share no day of a ticker with any of the others."""
    holders: dict[str, list[StoredTenure]] = {}
    for other in others:
        holders.setdefault(other.ticker, []).append(other)
    return [row for row in rows if not any(map(row.overlaps, holders.get(row.ticker, ())))]
