"""Which cells are in flight: what one run is fetching or has just fetched, no other run fetches as well.

A run takes a claim on a call's cells before it makes the call, and closes it in the transaction that writes the
answer. A claim lives as long as its run does (:meth:`closingbell.store.records.Records.alive`), so that a killed
run holds nothing. Nobody holds a claim while waiting for another: claims cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from closingbell.outcome import Outcome, tickers
from closingbell.plan import Call, MarketDay
from closingbell.store.schema import claim
from closingbell.store.statements import COUNT, GONE

#: Answers that say nothing of the vendor's data: another run asks for itself.
_NO_ANSWER: Final = ("failed", "pending")

#: No call is on its way for longer, whatever it waits for: a claim older than this is that of a process that hangs.
LONGEST: Final = timedelta(hours=1)

#: What is visible to whoever asks now, and when: an answer written by a transaction that is not, came later. The
#: instant keeps out the transactions of another cluster, from which the database was moved here.
MARK: Final = sa.text("SELECT CAST(pg_current_snapshot() AS text) || '@' || CAST(now() AS text)")

# One taker at a time, for as long as it takes to look and to write one row. A claim need not outlive the server, so
# that nobody waits for the disk.
_ALONE: Final = sa.text("""
    SELECT set_config('synchronous_commit', 'off', true),
        pg_advisory_xact_lock(hashtext('closingbell.claim'), hashtext(:source || :timeframe))
""")

_OTHERS: Final = sa.text("""
    SELECT run_id, first_session, last_session, tickers, done_at IS NOT NULL AS done FROM claim
    WHERE source = :source AND timeframe = :timeframe AND run_id <> :run_id
      AND last_session >= :first AND first_session <= :last AND tickers && CAST(:tickers AS varchar[])
      AND (done_at IS NULL AND claimed_at > now() - :longest
           OR done_at > CAST(:since AS timestamptz) - :longest
              AND NOT pg_visible_in_snapshot(CAST(CAST(done_in AS text) AS xid8), CAST(:mark AS pg_snapshot)))
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

_DONE: Final = sa.text("""
    UPDATE claim SET done_at = now(), done_in = CAST(CAST(pg_current_xact_id() AS text) AS bigint)
    WHERE claim_id = ANY(:claims)
""")

_FORGET: Final = sa.text("DELETE FROM claim WHERE claim_id = ANY(:claims)")

_DROP_DEAD: Final = sa.delete(claim).where(claim.c.run_id == sa.bindparam("dead"), claim.c.done_at.is_(None))

#: No run was planned so long ago that it still wants to know what others fetched since.
DROP_OLD: Final = sa.text("DELETE FROM claim WHERE COALESCE(done_at, claimed_at) < now() - interval '7 days'")


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


def take(connection: sa.Connection, run_id: UUID, source: str, timeframe: str, call: Call, mark: str) -> Claim:
    """Claim the cells of a call; in a transaction of its own.

    Args:
        connection: in a transaction.
        run_id: the run that is going to make the call; it is alive.
        source: the vendor.
        timeframe: of the bars.
        call: the call.
        mark: :data:`MARK` as of the moment the run was planned.
    """
    first, last = _span(call)
    key = {"source": source, "timeframe": timeframe}
    connection.execute(_ALONE, key)
    values = {**key, "run_id": run_id, "first": first, "last": last, "tickers": list(tickers(call))}
    snapshot, _, since = mark.partition("@")
    values |= {"mark": snapshot, "since": since, "longest": LONGEST}
    others = connection.execute(_OTHERS, values).all()
    if _in_flight(connection, {other.run_id for other in others if not other.done}):
        return Claim(call, busy=True)
    left = _left(call, [(o.first_session, o.last_session, o.tickers) for o in others if o.done])
    done = len(call.cells) - (len(left.cells) if left else 0)
    if done:
        connection.execute(
            COUNT, {"run_id": run_id, "calls": 0, "cells": done, "stored": 0, "inserted": 0, "rewritten": 0}
        )
    if left is None:
        return Claim(None)
    first, last = _span(left)
    row = {"first_session": first, "last_session": last, "tickers": list(tickers(left))}
    made = connection.execute(sa.insert(claim).values(run_id=run_id, **key, **row).returning(claim.c.claim_id))
    return Claim(left, made.scalar_one())


def close(connection: sa.Connection, outcomes: Sequence[Outcome], claims: Sequence[int]) -> None:
    """Close claims with the outcomes of their calls, in the transaction that writes these."""
    answered = all(outcome.reason not in _NO_ANSWER for outcome in outcomes)
    connection.execute(_DONE if answered else _FORGET, {"claims": list(claims)})


def _in_flight(connection: sa.Connection, runs: Iterable[UUID]) -> bool:
    """Whether any of these runs lives; the claims of those that do not are dropped."""
    alive = False
    for run_id in runs:
        if connection.execute(GONE, {"run_id": run_id}).scalar_one():
            connection.execute(_DROP_DEAD, {"dead": run_id})
        else:
            alive = True
    return alive


def _span(call: Call) -> tuple[date, date]:
    if isinstance(call, MarketDay):
        return call.session, call.session
    return call.sessions[0], call.sessions[-1]


def _left(call: Call, done: Sequence[tuple[date, date, Sequence[str]]]) -> Call | None:
    """What is left of a call, given the first session, last session and tickers of answers that overlap it."""
    if not done:
        return call
    if isinstance(call, MarketDay):
        fetched = {ticker for _, _, names in done for ticker in names}
        names = tuple(ticker for ticker in call.tickers if ticker not in fetched)
        return replace(call, tickers=names) if names else None
    days = tuple(day for day in call.sessions if not any(first <= day <= last for first, last, _ in done))
    return replace(call, sessions=days) if days else None
