"""Dividends as they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa

from closingbell.store.database import database_of, moment
from closingbell.store.merge import upsert
from closingbell.store.schema import dividend


class CashDividend(Protocol):
    """A cash dividend, as :class:`closingbell.sources.base.Dividend` has it."""

    @property
    def ticker(self) -> str: ...
    @property
    def ex_date(self) -> date: ...
    @property
    def cash_amount(self) -> float: ...
    @property
    def currency(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def pay_date(self) -> date | None: ...
    @property
    def id(self) -> str | None: ...


def write(
    connection: sa.Connection,
    source: str,
    run_id: UUID,
    as_of: datetime,
    dividends: Iterable[CashDividend],
    span: tuple[date, date],
    ticker: str | None,
) -> int:
    """Make a list the dividends that are known of the days from and to which was looked; of one ticker, or of all.

    Returns:
        How many rows were written or removed.
    """
    paid = _paid(connection, _numbered(dividends))
    same = sa.and_(*(paid.c[name] == dividend.c[name] for name in ("ticker", "ex_date", "seq")))
    there = sa.exists(sa.select(sa.literal_column("1")).select_from(paid).where(same))
    looked_at = [dividend.c.source == source, dividend.c.ex_date.between(*span)]
    if ticker is not None:
        looked_at.append(dividend.c.ticker == ticker)
    removed = connection.execute(sa.delete(dividend).where(*looked_at, ~there)).rowcount
    values = {
        "source": sa.literal(source),
        **{column.name: column for column in paid.c},
        "run_id": sa.literal(run_id, sa.Uuid),
        "seen_at": moment(as_of),
    }
    return removed + connection.execute(upsert(dividend, paid, values, always=("run_id", "seen_at"))).rowcount


def _paid(connection: sa.Connection, numbered: Sequence[tuple[int, CashDividend]]) -> sa.FromClause:
    entries = [entry for _, entry in numbered]
    return database_of(connection).rows(
        connection,
        "paid",
        {
            "ticker": (sa.String, [entry.ticker for entry in entries]),
            "ex_date": (sa.Date, [entry.ex_date for entry in entries]),
            "seq": (sa.SmallInteger, [number for number, _ in numbered]),
            "kind": (sa.String, [entry.kind for entry in entries]),
            "cash_amount": (sa.Double, [entry.cash_amount for entry in entries]),
            "currency": (sa.String, [entry.currency for entry in entries]),
            "pay_date": (sa.Date, [entry.pay_date for entry in entries]),
            "vendor_id": (sa.String, [entry.id or None for entry in entries]),
        },
    )


def _numbered(dividends: Iterable[CashDividend]) -> list[tuple[int, CashDividend]]:
    """Each dividend once, with its number among those of its ticker and ex-date, whatever order they came in."""
    by_id = {(entry.ticker, entry.id or position): entry for position, entry in enumerate(dividends)}
    unique: dict[tuple[Any, ...], CashDividend] = {}
    for entry in by_id.values():
        unique[entry.ticker, entry.ex_date, entry.kind, entry.cash_amount, entry.currency, entry.pay_date] = entry
    counts: dict[tuple[str, date], int] = {}
    numbered = []
    for key in sorted(unique, key=lambda key: (*key[:5], str(key[5]))):
        entry = unique[key]
        counts[entry.ticker, entry.ex_date] = number = counts.get((entry.ticker, entry.ex_date), 0) + 1
        numbered.append((number, entry))
    return numbered
