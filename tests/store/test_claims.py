"""Two runs never fetch a cell that is in flight, nor once more what the other fetched since this one was planned."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from closingbell.errors import NotEntitledError, RetryableError
from closingbell.plan import MarketDay, TickerRange
from closingbell.store import Store
from closingbell.store.claims import Claim, mark
from closingbell.store.schema import claim, run
from tests.store.blocks import (
    JUDGE,
    SESSIONS,
    answered,
    bars,
    change,
    count,
    days,
    query,
    range_of,
    ranged,
    rows_of,
    start,
)

Call = MarketDay | TickerRange


class Runs:
    """Runs that live until they are killed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Their rows are there before any of them lives: to see that one lives takes the stand-in for an Oracle seconds.
        self._rows = [start(store) for _ in range(8)]
        self._alive: dict[UUID, ExitStack] = {}
        self.marks: dict[UUID, str] = {}

    def start(self) -> UUID:
        """A run, planned now."""
        run_id = self._rows.pop()
        stack = self._alive[run_id] = ExitStack()
        stack.enter_context(self._store.records.alive(run_id))
        self.marks[run_id] = self._store.writer.mark()
        return run_id

    def kill(self, run_id: UUID) -> None:
        self._alive.pop(run_id).close()

    def claim(self, run_id: UUID, call: Call) -> Claim:
        return self._store.writer.claim(run_id, "polygon", "1d", call, self.marks[run_id])

    def answer(self, run_id: UUID, claim: Claim) -> None:
        """Store what the call of a claim brings, and close it."""
        assert claim.call
        assert claim.claim_id
        call = claim.call
        names = call.tickers if isinstance(call, MarketDay) else (call.ticker,)
        first, last = (call.session,) * 2 if isinstance(call, MarketDay) else (call.sessions[0], call.sessions[-1])
        outcome = answered(call, bars(names, days(_at(first), _at(last))))
        self._store.writer.flush(run_id, "polygon", "1d", [outcome], claims=[claim.claim_id])

    def close(self) -> None:
        for run_id in list(self._alive):
            self.kill(run_id)


def _at(session: date) -> int:
    return SESSIONS.tolist().index(session)


def _ago(interval: str) -> sa.ColumnElement[Any]:
    return sa.func.now() - sa.literal_column(f"INTERVAL '{interval}")


def day(position: int, *tickers: str) -> MarketDay:
    return MarketDay(SESSIONS[position].item(), tickers)


@pytest.fixture
def runs(store: Store) -> Iterator[Runs]:
    made = Runs(store)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("flying", "wanted", "busy"),
    [
        (range_of("AAPL", days(0, 9)), range_of("AAPL", days(9, 12)), True),
        (range_of("AAPL", days(0, 9)), range_of("AAPL", days(10, 12)), False),
        (range_of("AAPL", days(0, 9)), range_of("aapl", days(0, 9)), False),
        (range_of("AAPL", days(0, 9)), day(5, "MSFT", "AAPL"), True),
        (range_of("AAPL", days(0, 9)), day(5, "MSFT"), False),
        (day(5, "MSFT", "AAPL"), range_of("AAPL", days(0, 9)), True),
        (day(5, "MSFT", "AAPL"), day(5, "AAPL", "ORCL"), True),
        (day(5, "MSFT", "AAPL"), day(6, "MSFT", "AAPL"), False),
    ],
)
def test_a_call_waits_for_those_in_flight_that_share_a_cell(runs: Runs, flying: Call, wanted: Call, busy: bool) -> None:
    assert runs.claim(runs.start(), flying).call == flying
    assert runs.claim(runs.start(), wanted).busy is busy


def test_what_another_run_fetched_meanwhile_is_not_fetched_again(runs: Runs, store: Store) -> None:
    one, other = runs.start(), runs.start()
    runs.answer(one, runs.claim(one, range_of("AAPL", days(0, 9))))
    runs.answer(one, runs.claim(one, day(12, "AAPL", "MSFT")))

    assert runs.claim(other, range_of("AAPL", days(2, 9))) == Claim(None)
    left = runs.claim(other, range_of("AAPL", days(5, 14))).call
    assert isinstance(left, TickerRange)
    assert left.sessions == tuple(days(10, 11).tolist() + days(13, 14).tolist())
    assert runs.claim(other, day(12, "AAPL", "MSFT", "ORCL")).call == day(12, "ORCL")
    # Cells that it need not fetch are done, as far as the run's progress goes.
    assert rows_of(store, run, "done_cells", where=run.c.run_id == other) == [(8 + 6 + 2,)]


def test_a_run_planned_later_fetches_what_it_planned(runs: Runs) -> None:
    """It knew what was stored: what it asks for nevertheless, it wants again."""
    one = runs.start()
    runs.answer(one, runs.claim(one, range_of("AAPL", days(0, 9))))
    later = runs.start()
    assert runs.claim(later, range_of("AAPL", days(0, 9))).call == range_of("AAPL", days(0, 9))


def test_what_was_in_flight_while_a_run_was_planned_counts_as_fetched_since(runs: Runs) -> None:
    one = runs.start()
    claim = runs.claim(one, range_of("AAPL", days(0, 9)))
    planned = runs.start()
    runs.answer(one, claim)
    assert runs.claim(planned, range_of("AAPL", days(0, 9))) == Claim(None)


def test_an_answer_on_its_way_while_a_run_was_planned_counts_as_fetched_since(runs: Runs, store: Store) -> None:
    """Its claim is closed by then, but in a transaction that nobody sees yet."""
    one, call = runs.start(), range_of("AAPL", days(0, 9))
    made = runs.claim(one, call)
    assert made.claim_id
    planning, planned = [], []

    def plan(connection: sa.Connection) -> None:
        if not planning:  # nor in the transactions of the run that is planned
            planning.append(True)
            planned.append(runs.start())

    sa.event.listen(store.engine, "commit", plan)
    store.writer.flush(one, "polygon", "1d", [ranged("AAPL", days(0, 9))], claims=[made.claim_id])
    sa.event.remove(store.engine, "commit", plan)
    assert runs.claim(planned[0], call) == Claim(None)


def test_ids_of_claims_become_visible_in_their_order(runs: Runs, store: Store) -> None:
    """What is closed after a mark has a higher id than all that the mark saw, of whatever timeframe it is."""
    one, other = runs.start(), runs.start()
    seen: list[str] = []
    threads: list[threading.Thread] = []

    def overtake(connection: sa.Connection) -> None:
        if not threads:
            call = range_of("MSFT", days(0, 9))
            threads.append(
                threading.Thread(target=lambda: store.writer.claim(other, "polygon", "1h", call, runs.marks[other]))
            )
            threads[0].start()
            threads[0].join(0.5)  # it waits for the first one
            with store.engine.connect() as third:
                seen.append(mark(third))

    sa.event.listen(store.engine, "commit", overtake)
    first = runs.claim(one, range_of("AAPL", days(0, 9)))
    sa.event.remove(store.engine, "commit", overtake)
    threads[0].join()
    assert first.claim_id
    assert int(seen[0].partition(":")[0]) < first.claim_id


@pytest.mark.parametrize(
    ("error", "again"), [(RetryableError("HTTP 500"), True), (NotEntitledError("not yours"), False)]
)
def test_a_call_that_failed_is_made_by_whoever_comes_next(
    runs: Runs, store: Store, error: RetryableError | NotEntitledError, again: bool
) -> None:
    one, other, call = runs.start(), runs.start(), range_of("AAPL", days(0, 9))
    claim = runs.claim(one, call)
    assert claim.claim_id
    store.writer.flush(one, "polygon", "1d", [JUDGE.failed(call, error)], claims=[claim.claim_id])
    assert (runs.claim(other, call).call is not None) is again


def test_a_killed_run_holds_nothing(runs: Runs, store: Store) -> None:
    dead, call = runs.start(), range_of("AAPL", days(0, 9))
    runs.claim(dead, call)
    runs.kill(dead)
    assert runs.claim(runs.start(), call).call == call
    assert count(store, claim, claim.c.run_id == dead) == 0


def test_a_run_that_hangs_holds_its_claims_for_an_hour_at_most(runs: Runs, store: Store) -> None:
    hangs, call = runs.start(), range_of("AAPL", days(0, 9))
    runs.claim(hangs, call)
    for minutes, busy in ((59, True), (61, False)):
        change(store, sa.update(claim).values(claimed_at=_ago(f"{minutes}' MINUTE")))
        assert runs.claim(runs.start(), call).busy is busy


def test_a_rolled_back_answer_leaves_its_claim_in_flight(runs: Runs, store: Store) -> None:
    one, call = runs.start(), range_of("AAPL", days(0, 0))
    claim = runs.claim(one, call)
    assert claim.claim_id
    wrong = answered(call, bars("MSFT", days(0, 0)))
    with pytest.raises(KeyError):
        store.writer.flush(one, "polygon", "1d", [wrong], claims=[claim.claim_id])
    assert runs.claim(runs.start(), call).busy


def test_of_many_takers_at_once_one_gets_the_claim(runs: Runs, backend: str) -> None:
    runners = [runs.start() for _ in range(8 if backend == "postgresql" else 2)]  # each that comes too late: seconds
    gate, won = threading.Barrier(len(runners)), []

    def run(run_id: UUID) -> None:
        gate.wait()
        won.append(not runs.claim(run_id, range_of("AAPL", days(0, 9))).busy)

    threads = [threading.Thread(target=run, args=(run_id,)) for run_id in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 1


def test_claims_are_forgotten_after_a_week(runs: Runs, store: Store) -> None:
    one = runs.start()
    runs.answer(one, runs.claim(one, range_of("AAPL", days(0, 9))))
    change(store, sa.update(claim).values(done_at=_ago("8' DAY")))
    runs.kill(one)
    start(store)
    assert count(store, claim) == 0


@pytest.mark.postgres_only("ends the server's sessions")
def test_the_lock_of_a_run_comes_back_after_its_connection_was_cut(runs: Runs, store: Store) -> None:
    one, call = runs.start(), range_of("AAPL", days(0, 9))
    runs.claim(one, call)
    query(
        store,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()",
    )
    for _ in range(600):
        if store.records.is_alive(one):
            break
        threading.Event().wait(0.05)
    assert runs.claim(runs.start(), call).busy


def test_several_calls_are_claimed_at_once_but_for_those_that_are_busy(store: Store, runs: Runs) -> None:
    one, other = runs.start(), runs.start()
    runs.claim(one, range_of("MSFT", days(0, 9)))
    runs.answer(one, runs.claim(one, range_of("ORCL", days(0, 9))))
    calls = [range_of(ticker, days(0, 9)) for ticker in ("AAPL", "MSFT", "NVDA", "ORCL", "TSLA")]
    found = store.writer.claim_all(other, "polygon", "1d", calls, runs.marks[other])
    assert [(claim.call, claim.busy) for claim in found] == [
        (calls[0], False),
        (calls[1], True),
        (calls[2], False),
        (None, False),
        (calls[4], False),
    ]
    held = rows_of(store, claim, "claim_id", "ticker", where=claim.c.run_id == other)
    assert held == [(found[i].claim_id, calls[i].ticker) for i in (0, 2, 4)]
    later = runs.start()
    assert runs.claim(later, calls[0]).busy
    runs.answer(other, found[0])
    assert not runs.claim(one, calls[0]).busy
    assert runs.claim(one, calls[2]).busy


def test_who_takes_a_dead_process_s_place_asks_for_the_rest(runs: Runs, store: Store) -> None:
    """One of the run's own processes died over these calls; the run itself lives."""
    mine, other = runs.start(), runs.start()
    calls = [
        range_of("AAPL", days(0, 9)),
        range_of("MSFT", days(0, 9)),
        range_of("ORCL", days(0, 9)),
        range_of("PEBpE", days(0, 9)),
        day(3, "KO", "PEP"),
        day(4, "KO", "PEP"),
    ]
    answered_one, in_flight, refused, *_ = [runs.claim(mine, call) for call in calls[:3]]
    runs.answer(mine, answered_one)
    runs.answer(mine, runs.claim(mine, calls[4]))
    assert refused.claim_id
    outcome = JUDGE.failed(calls[2], NotEntitledError("the plan has not that"))
    store.writer.flush(mine, "polygon", "1d", [outcome], claims=[refused.claim_id])
    elsewhere = runs.claim(other, range_of("KO", days(8, 9)))

    left = store.writer.unanswered(mine, "polygon", "1d", calls)

    assert left == [calls[1], calls[2], calls[3], calls[5]], "what was refused too: nobody lives who could tell of it"
    claims = {row[0] for row in rows_of(store, claim, "claim_id", where=claim.c.done_at.is_(None))}
    assert claims == {elsewhere.claim_id}, f"nobody waits for {in_flight.claim_id} any more"
    assert store.writer.unanswered(other, "polygon", "1d", [range_of("V", days(0, 3))]) == [range_of("V", days(0, 3))]
    assert store.writer.unanswered(mine, "polygon", "1d", []) == []
