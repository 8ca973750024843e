"""Which cells are in flight: what one run is fetching or has just fetched, no other run fetches as well.

A run takes a claim on a call's cells before it makes the call, and closes it in the transaction that writes the
answer. A claim lives as long as its run does (:meth:`closingbell.store.records.Records.alive`), so that a killed
run holds nothing. Nobody holds a claim while waiting for another: claims cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from closingbell.store.schema import claim, gap

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


def take(
    connection: sa.Connection, run_id: UUID, source: str, timeframe: str, calls: Sequence[Call], mark: str
) -> list[Claim]:
    """Claim the cells of calls; in a transaction of its own.

    Args:
        connection: in a transaction.
        run_id: the run that is going to make the calls; it is alive.
        source: the vendor.
        timeframe: of the bars.
        calls: the calls; no two of them share a cell.
        mark: :func:`mark` as of the moment the run was planned.

    Returns:
        A claim for each call, in their order.
    """
    database = database_of(connection)
    database.relaxed(connection)  # a claim need not outlive the server, and nobody waits for the disk
    database.lock(connection, _LOCK)
    if _is_alone(connection, run_id, source, timeframe, calls, mark):
        found = [Claim(call) for call in calls]
    else:
        found = [_free(connection, run_id, source, timeframe, call, mark) for call in calls]
    done = sum(call.count - (each.call.count if each.call else 0) for call, each in zip(calls, found, strict=True))
    if done:
        counted(connection, run_id, 0, done, 0, 0, 0)
    taken = [each.call for each in found if each.call and not each.busy]
    if not taken:
        return found
    now: list[Mapping[str, Any]] = [_row(run_id, source, timeframe, call) for call in taken]
    connection.execute(sa.insert(claim).values(claimed_at=sa.func.now()).inline(), now)
    # Nobody else is here: the newest ones are those just made, in the order of the rows.
    newest = sa.select(claim.c.claim_id).order_by(claim.c.claim_id.desc()).limit(len(taken))
    ids = iter(sorted(connection.execute(newest).scalars()))
    return [replace(each, claim_id=next(ids)) if each.call and not each.busy else each for each in found]


def close(connection: sa.Connection, run_id: UUID, outcomes: Sequence[Outcome], claims: Sequence[int | None]) -> None:
    """Close each claim with the outcome of its call, in the transaction that writes these; None: it has none.

    One that a crash of the server has lost, and whose number is another run's by now, is left to that.
    """
    database, answered, in_vain = database_of(connection), list[int](), list[int]()
    for outcome, claim_id in zip(outcomes, claims, strict=True):
        if claim_id is not None:
            (in_vain if outcome.reason in _NO_ANSWER else answered).append(claim_id)
    if answered:
        these = database.among(connection, claim.c.claim_id, answered)
        connection.execute(sa.update(claim).where(these, claim.c.run_id == run_id).values(done_at=sa.func.now()))
    if in_vain:
        these = database.among(connection, claim.c.claim_id, in_vain)
        connection.execute(sa.delete(claim).where(these, claim.c.run_id == run_id))


def unanswered(
    connection: sa.Connection, run_id: UUID, source: str, timeframe: str, calls: Sequence[Call]
) -> list[Call]:
    """What a run has yet to ask for of calls that a process of it was handed, and died over, as far as is known.

    What that process has in flight is dropped: whoever takes its place claims it anew. A call that was answered with an
    error is asked again as a whole, for nobody lives who could tell of it.

    Args:
        connection: in a transaction.
        run_id: the run.
        source: the vendor.
        timeframe: of the bars.
        calls: the calls, on which nobody else works.
    """
    if not calls:
        return []
    spans = [_span(call) for call in calls]
    first, last = min(first for first, _ in spans), max(last for _, last in spans)
    names = sorted({ticker for call in calls for ticker in tickers(call)})
    database = database_of(connection)
    of_run = sa.and_(
        claim.c.run_id == run_id,
        claim.c.source == source,
        claim.c.timeframe == timeframe,
        claim.c.last_session >= first,
        claim.c.first_session <= last,
        sa.or_(claim.c.ticker.is_(None), database.among(connection, claim.c.ticker, names)),
    )
    columns = ("claim_id", "ticker", "tickers", "first_session", "last_session", "done_at")
    mine = connection.execute(sa.select(*(claim.c[name] for name in columns)).where(of_run)).all()
    found = [[one for one in mine if _covers(one, call)] for call in calls]
    if left := [one.claim_id for these in found for one in these if one.done_at is None]:
        connection.execute(sa.delete(claim).where(database.among(connection, claim.c.claim_id, left)))
    if not any(one.done_at for these in found for one in these):
        return list(calls)
    failed = connection.execute(
        sa.select(gap.c.ticker, gap.c.session).where(
            gap.c.source == source,
            gap.c.timeframe == timeframe,
            gap.c.session.between(first, last),
            gap.c.last_error.is_not(None),
            database.among(connection, gap.c.ticker, names),
        )
    )
    holes = {(ticker, session) for ticker, session in failed}
    rest = [
        call if holes.intersection(call.cells) else _left(call, [one for one in these if one.done_at])
        for call, these in zip(calls, found, strict=True)
    ]
    return [call for call in rest if call]


def _covers(one: sa.Row[Any], call: Call) -> bool:
    """Whether a claim is on cells of a call."""
    first, last = _span(call)
    if one.first_session > last or one.last_session < first:
        return False
    if isinstance(call, MarketDay):
        return one.ticker is None and not set(call.tickers).isdisjoint(one.tickers)
    return bool(one.ticker == call.ticker)


def _free(connection: sa.Connection, run_id: UUID, source: str, timeframe: str, call: Call, mark: str) -> Claim:
    """What of a call may be claimed; it is not yet."""
    others = _others(connection, run_id, source, timeframe, call, mark)
    if _in_flight(connection, {other.run_id for other in others if other.done_at is None}):
        return Claim(call, busy=True)
    return Claim(_left(call, [other for other in others if other.done_at is not None]))


def _row(run_id: UUID, source: str, timeframe: str, call: Call) -> dict[str, Any]:
    first, last = _span(call)
    return {
        "run_id": run_id,
        "source": source,
        "timeframe": timeframe,
        "first_session": first,
        "last_session": last,
        "ticker": None if isinstance(call, MarketDay) else call.ticker,
        "tickers": list(tickers(call)),
    }


def _is_alone(
    connection: sa.Connection, run_id: UUID, source: str, timeframe: str, calls: Sequence[Call], mark: str
) -> bool:
    """Whether no other run has claims anywhere between the first and the last session of some calls."""
    spans = [_span(call) for call in calls]
    first, last = min(first for first, _ in spans), max(last for _, last in spans)
    values = _asked(run_id, source, timeframe, first, last, mark)
    return connection.execute(_OTHERS.limit(1), values).first() is None


def _asked(run_id: UUID, source: str, timeframe: str, first: date, last: date, mark: str) -> dict[str, Any]:
    """What :data:`_OTHERS` wants to know."""
    newest, opened = _read(mark)
    values = {"me": run_id, "of_source": source, "of_timeframe": timeframe, "first": first, "last": last}
    return {**values, "since": min(opened, default=newest + 1)}


def _read(mark: str) -> tuple[int, frozenset[int]]:
    """The last claim of a mark, and those that were open."""
    newest, _, opened = mark.partition(":")
    return int(newest), frozenset(int(one) for one in opened.split(",") if one)


def _others(
    connection: sa.Connection, run_id: UUID, source: str, timeframe: str, call: Call, mark: str
) -> list[sa.Row[Any]]:
    """The claims of other runs that share a cell with a call: those in flight, and those closed since a mark."""
    newest, opened = _read(mark)
    values = _asked(run_id, source, timeframe, *_span(call), mark)
    found: Iterable[sa.Row[Any]]
    if isinstance(call, MarketDay):
        wanted = frozenset(call.tickers)
        found = connection.execute(_OTHERS.add_columns(claim.c.tickers), values)
        found = (other for other in found if not wanted.isdisjoint(other.tickers))
    else:
        of_day = sa.and_(claim.c.ticker.is_(None), database_of(connection).lists(claim.c.tickers, call.ticker))
        found = connection.execute(_OTHERS.where(sa.or_(claim.c.ticker == call.ticker, of_day)), values)
    return [o for o in found if o.done_at is None or o.claim_id > newest or o.claim_id in opened]


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
