"""Which cells are in flight: what one run is fetching or has just fetched, no other run fetches as well.

A run takes a claim on a call's cells before it makes the call, and closes it in the transaction that writes the
answer. A claim lives as long as its run does (:meth:`closingbell.store.records.Records.alive`), so that a killed
run holds nothing. Nobody holds a claim while waiting for another: claims cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from closingbell.outcome import Outcome, tickers
from closingbell.plan import Call, MarketDay
from closingbell.store.database import database_of
from closingbell.store.lives import is_gone
from closingbell.store.marks import counted
from closingbell.store.schema import claim

#: Answers that say nothing of the vendor's data: another run asks for itself.
_NO_ANSWER: Final = ("failed", "pending")

#: One taker at a time, of whatever vendor and timeframe: the ids of claims then become visible in their order.
_LOCK: Final = "claims"

#: No call is on its way for longer, whatever it waits for: a claim older than this is that of a process that hangs.
_LONGEST: Final[sa.ColumnElement[Any]] = sa.literal_column("INTERVAL '1' HOUR")

#: No run was planned so long ago that it still wants to know what others fetched since.
_WEEK: Final[sa.ColumnElement[Any]] = sa.literal_column("INTERVAL '7' DAY")

_DROP_OLD: Final = sa.delete(claim).where(sa.func.coalesce(claim.c.done_at, claim.c.claimed_at) < sa.func.now() - _WEEK)

_LAST: Final = sa.select(sa.func.max(claim.alias("any_claim").c.claim_id))

# In one statement, for it has to be of one moment.
_MARK: Final = sa.select(claim.c.claim_id, claim.c.done_at).where(
    sa.or_(claim.c.done_at.is_(None), claim.c.claim_id == _LAST.scalar_subquery())
)

# Claims on sessions of a call, in flight or closed; those that were closed before a mark among them, if one was open
# then that is older.
_OTHERS: Final = sa.select(
    claim.c.claim_id, claim.c.run_id, claim.c.first_session, claim.c.last_session, claim.c.done_at
).where(
    claim.c.source == sa.bindparam("of_source"),
    claim.c.timeframe == sa.bindparam("of_timeframe"),
    claim.c.run_id != sa.bindparam("me"),
    claim.c.last_session >= sa.bindparam("first"),
    claim.c.first_session <= sa.bindparam("last"),
    sa.or_(
        sa.and_(claim.c.done_at.is_(None), claim.c.claimed_at > sa.func.now() - _LONGEST),
        sa.and_(claim.c.done_at.is_not(None), claim.c.claim_id >= sa.bindparam("since")),
    ),
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a run may fetch of a call that it planned.

    Attributes:
        call: the call, less the cells that other runs fetched meanwhile; None where nothing of it is left.
        claim_id: the claim on it; None where there is none.
        busy: another run has some of its cells in flight, and nothing is claimed: to be asked for again.
    """

    call: Call | None
    claim_id: int | None = None
    busy: bool = False


def mark(connection: sa.Connection) -> str:
    """The present moment: the last claim that there is, and those that are not closed, as ``last:open,open``.

    Ids grow in the order in which claims become visible. What was closed at a later moment has a higher one, or was
    open at this one. A claim that is closed by a transaction still on its way counts as open.
    """
    rows = connection.execute(_MARK).all()
    opened = sorted(row.claim_id for row in rows if row.done_at is None)
    return f"{max((row.claim_id for row in rows), default=0)}:{','.join(map(str, opened))}"


def drop_old(connection: sa.Connection) -> None:
    """Forget claims that nobody asks about any more."""
    connection.execute(_DROP_OLD)


def take(connection: sa.Connection, run_id: UUID, source: str, timeframe: str, call: Call, mark: str) -> Claim:
    """Claim the cells of a call; in a transaction of its own.

    Args:
        connection: in a transaction.
        run_id: the run that is going to make the call; it is alive.
        source: the vendor.
        timeframe: of the bars.
        call: the call.
        mark: :func:`mark` as of the moment the run was planned.
    """
    database = database_of(connection)
    database.relaxed(connection)  # a claim need not outlive the server, and nobody waits for the disk
    database.lock(connection, _LOCK)
    others = _others(connection, run_id, source, timeframe, call, mark)
    if _in_flight(connection, {other.run_id for other in others if other.done_at is None}):
        return Claim(call, busy=True)
    left = _left(call, [other for other in others if other.done_at is not None])
    if done := len(call.cells) - (len(left.cells) if left else 0):
        counted(connection, run_id, 0, done, 0, 0, 0)
    if left is None:
        return Claim(None)
    names, (first, last) = list(tickers(left)), _span(left)
    values = {
        "run_id": run_id,
        "source": source,
        "timeframe": timeframe,
        "first_session": first,
        "last_session": last,
        "ticker": None if isinstance(left, MarketDay) else left.ticker,
        "tickers": names,
        "claimed_at": sa.func.now(),
    }
    connection.execute(sa.insert(claim).values(**values).inline())
    return Claim(left, connection.execute(_LAST).scalar_one())  # nobody else is here


def close(connection: sa.Connection, outcomes: Sequence[Outcome], claims: Sequence[int | None]) -> None:
    """Close each claim with the outcome of its call, in the transaction that writes these; None: it has none."""
    database, answered, in_vain = database_of(connection), list[int](), list[int]()
    for outcome, claim_id in zip(outcomes, claims, strict=True):
        if claim_id is not None:
            (in_vain if outcome.reason in _NO_ANSWER else answered).append(claim_id)
    if answered:
        these = database.among(connection, claim.c.claim_id, answered)
        connection.execute(sa.update(claim).where(these).values(done_at=sa.func.now()))
    if in_vain:
        connection.execute(sa.delete(claim).where(database.among(connection, claim.c.claim_id, in_vain)))


def _others(
    connection: sa.Connection, run_id: UUID, source: str, timeframe: str, call: Call, mark: str
) -> list[sa.Row[Any]]:
    """The claims of other runs that share a cell with a call: those in flight, and those closed since a mark."""
    newest, _, listed = mark.partition(":")
    opened = {int(one) for one in listed.split(",") if one}
    first, last = _span(call)
    values = {"me": run_id, "of_source": source, "of_timeframe": timeframe, "first": first, "last": last}
    values["since"] = min(opened, default=int(newest) + 1)
    found: Iterable[sa.Row[Any]]
    if isinstance(call, MarketDay):
        wanted = frozenset(call.tickers)
        found = connection.execute(_OTHERS.add_columns(claim.c.tickers), values)
        found = (other for other in found if not wanted.isdisjoint(other.tickers))
    else:
        of_day = sa.and_(claim.c.ticker.is_(None), database_of(connection).lists(claim.c.tickers, call.ticker))
        found = connection.execute(_OTHERS.where(sa.or_(claim.c.ticker == call.ticker, of_day)), values)
    return [o for o in found if o.done_at is None or o.claim_id > int(newest) or o.claim_id in opened]


def _in_flight(connection: sa.Connection, runs: Iterable[UUID]) -> bool:
    """Whether any of these runs lives; the claims of those that do not are dropped."""
    alive = False
    for run_id in runs:
        if is_gone(connection, run_id):
            connection.execute(sa.delete(claim).where(claim.c.run_id == run_id, claim.c.done_at.is_(None)))
        else:
            alive = True
    return alive


def _span(call: Call) -> tuple[date, date]:
    if isinstance(call, MarketDay):
        return call.session, call.session
    return call.sessions[0], call.sessions[-1]


def _left(call: Call, done: Sequence[sa.Row[Any]]) -> Call | None:
    """What is left of a call, given answers that overlap it, as :func:`_others` reads them."""
    if not done:
        return call
    if isinstance(call, MarketDay):
        fetched = {ticker for other in done for ticker in other.tickers}
        names = tuple(ticker for ticker in call.tickers if ticker not in fetched)
        return replace(call, tickers=names) if names else None
    days = tuple(day for day in call.sessions if not any(o.first_session <= day <= o.last_session for o in done))
    return replace(call, sessions=days) if days else None
