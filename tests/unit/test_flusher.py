"""Answers are committed one by one while the database is idle, together while it is busy, and each learns its fate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from closingbell.errors import ClosingbellError, FatalError, RetryableError, RunEndingError
from closingbell.outcome import FlushResult, Outcome
from closingbell.store.claims import Claim
from closingbell.store.faults import AwayError, RaceError
from tasks.backlog import Saving
from tasks.flush import Flusher
from tests.store.blocks import JUDGE, SESSIONS, days, market_day, range_of, ranged


class Database:
    """Takes outcomes as a store does, when it is let, and keeps what came in each transaction."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.let.set()
        self.groups: list[list[str]] = []
        self.claims: list[list[int | None]] = []
        self.begun = threading.Semaphore(0)
        self.answer: Callable[[Sequence[Outcome]], FlushResult] = lambda outcomes: FlushResult(inserted=len(outcomes))

    def __call__(self, outcomes: Sequence[Outcome], claims: Sequence[int | None]) -> FlushResult:
        self.groups.append([outcome.tickers[0] for outcome in outcomes])
        self.claims.append(list(claims))
        self.begun.release()
        assert self.let.wait(10)
        return self.answer(outcomes)


def saving(ticker: str, rows: int = 10, claim: int | None = None, error: ClosingbellError | None = None) -> Saving:
    """An answer of so many bars, or a call that failed."""
    call = range_of(ticker, days(0, rows - 1))
    outcome = JUDGE.failed(call, error) if error else ranged(ticker, days(0, rows - 1))
    return Saving(Claim(call, claim), outcome, error)


def day(place: int) -> Saving:
    """An answer of one session and three bars, so far on in a plan."""
    outcome = market_day(place, ("A", "B", "C"))
    return Saving(Claim(outcome.call), outcome, None, place)


def occupied(database: Database, flusher: Flusher, writers: int, *, of: int = 0) -> list[Saving]:
    """Let writers, of as many, be busy with an answer each, until the database lets them go on."""
    if max(writers, of) > 1:
        flusher.put(first := saving("FIRST"))  # which goes alone
        flusher.wait(first)
        assert database.begun.acquire(timeout=10)
        database.groups.clear()
        database.claims.clear()
    database.let.clear()
    busy = [saving(f"BUSY{number}") for number in range(writers)]
    for one in busy:
        flusher.put(one)
        assert database.begun.acquire(timeout=10)
    return busy


def test_an_idle_database_commits_each_answer_at_once() -> None:
    database = Database()
    flusher = Flusher(database)
    for name in "ABCDE":
        one = saving(name)
        flusher.put(one)
        flusher.wait(one)
        assert one.saved
    assert database.groups == [["A"], ["B"], ["C"], ["D"], ["E"]]
    flusher.close()
    assert flusher.tally.inserted == 5
    assert flusher.tally.rows == 50


@pytest.mark.parametrize("writers", [1, 2])
def test_what_comes_while_the_writers_are_busy_is_one_transaction(writers: int) -> None:
    database = Database()
    flusher = Flusher(database, writers=writers, hold=0.0)
    busy = occupied(database, flusher, writers)
    more = [saving(name, claim=number) for number, name in enumerate("ABCDE")]
    for one in more:
        flusher.put(one)
    assert not any(one.saved for one in [*busy, *more])
    database.let.set()
    for one in [*busy, *more]:
        flusher.wait(one)
    assert database.groups[writers:] == [list("ABCDE")]
    assert database.claims[writers:] == [[0, 1, 2, 3, 4]]
    flusher.close()


def test_a_second_writer_leaves_to_the_first_what_is_little() -> None:
    database = Database()
    flusher = Flusher(database, writers=2, rows=150, hold=600.0)
    occupied(database, flusher, 1, of=2)
    more = [saving(name) for name in "AB"]
    for one in more:
        flusher.put(one)
    assert not database.begun.acquire(timeout=0.1)
    flusher.put(saving("C"))  # with which it is a fifth of a transaction
    assert database.begun.acquire(timeout=10)
    flusher.put(little := saving("D"))
    database.let.set()
    for one in [*more, little]:
        flusher.wait(one)
    flusher.close()
    assert database.groups[:2] == [["BUSY0"], ["A", "B", "C"]]
    assert database.groups[2:] == [["D"]]


def test_a_second_writer_steps_in_where_the_first_takes_long() -> None:
    database = Database()
    flusher = Flusher(database, writers=2, hold=0.05)
    occupied(database, flusher, 1, of=2)
    flusher.put(saving("A"))
    assert database.begun.acquire(timeout=10)
    assert database.groups == [["BUSY0"], ["A"]]
    database.let.set()
    flusher.close()


def test_a_transaction_has_its_bound_and_who_comes_then_waits_for_room() -> None:
    database = Database()
    flusher = Flusher(database, writers=1, rows=30)
    occupied(database, flusher, 1)
    large = saving("LARGE", rows=40)
    flusher.put(saving("A"))
    flusher.put(saving("B"))
    flusher.put(saving("C"))
    put = threading.Event()

    def put_more() -> None:
        flusher.put(large)
        flusher.put(saving("D"))
        put.set()

    threading.Thread(target=put_more, daemon=True).start()
    assert not put.wait(0.2)
    database.let.set()
    assert put.wait(10)
    flusher.close()
    assert database.groups == [["BUSY0"], ["A", "B", "C"], ["LARGE"], ["D"]]


def test_what_is_being_written_takes_room_too() -> None:
    database = Database()
    flusher = Flusher(database, writers=2, rows=15, hold=0.0)
    occupied(database, flusher, 2)  # twenty rows
    flusher.put(saving("A", rows=5))
    put = threading.Event()

    def put_more() -> None:
        flusher.put(saving("B", rows=10))
        put.set()

    threading.Thread(target=put_more, daemon=True).start()
    assert not put.wait(0.2), "fifteen rows may wait, but no more than thirty are held"
    database.let.set()
    assert put.wait(10)
    flusher.close()
    assert sorted(name for group in database.groups for name in group) == ["A", "B", "BUSY0", "BUSY1"]


def test_the_first_transaction_is_alone() -> None:
    """Two that make the same new tickers' watermarks at once would cost one of them a wait."""
    database = Database()
    flusher = Flusher(database, writers=2)
    database.let.clear()
    more = [saving(name) for name in "ABC"]
    for one in more:
        flusher.put(one)
    assert database.begun.acquire(timeout=10)
    assert not database.begun.acquire(timeout=0.1)
    database.let.set()
    for one in more:
        flusher.wait(one)
    assert len(database.groups) <= 3
    flusher.close()


def test_each_call_learns_what_became_of_it() -> None:
    database = Database()
    flusher = Flusher(database, writers=1)
    occupied(database, flusher, 1)
    failed, well, refused = saving("A", error=RetryableError("no answer")), saving("B"), saving("C", rows=7)
    for one in (failed, well, refused):
        flusher.put(one)
    holes = {str(failed.outcome.call): 6}
    database.answer = lambda _: FlushResult(inserted=3, holes=holes, refused={"C": "it says no"})
    database.let.set()
    for one in (failed, well, refused):
        flusher.wait(one)
    flusher.close()
    assert [one.holes for one in (failed, well, refused)] == [6, 0, 0]
    (failure,) = flusher.tally.failures
    assert (failure.tickers, failure.cells, failure.detail) == (("C",), 7, "it says no")


def test_nobody_waits_once_more_for_a_database_that_is_away() -> None:
    database = Database()
    flusher = Flusher(database, writers=1)
    busy = occupied(database, flusher, 1)
    queued = saving("A")
    flusher.put(queued)

    def away(_: Sequence[Outcome]) -> FlushResult:
        raise AwayError("the database does not answer")

    database.answer = away
    database.let.set()
    for one in [*busy, queued]:
        flusher.wait(one)
        assert isinstance(one.failure, AwayError)
    late = saving("B")
    with pytest.raises(AwayError):
        flusher.put(late)
    flusher.wait(late)  # returns: it failed too
    assert database.groups == [["BUSY0"]]
    flusher.close()


@pytest.mark.parametrize("error", [RaceError("lost"), FatalError("refused"), ValueError("a bug")])
def test_an_error_of_one_transaction_is_that_of_its_answers_only(error: Exception) -> None:
    database = Database()
    flusher = Flusher(database, writers=1)
    busy = occupied(database, flusher, 1)
    queued = saving("A")
    flusher.put(queued)

    def first_fails(outcomes: Sequence[Outcome]) -> FlushResult:
        if len(database.groups) == 1:
            raise error
        return FlushResult(inserted=len(outcomes))

    database.answer = first_fails
    database.let.set()
    flusher.wait(busy[0])
    flusher.wait(queued)
    assert type(busy[0].failure) is type(error)
    assert not busy[0].saved
    assert queued.saved
    flusher.put(busy[0])
    flusher.wait(busy[0])
    assert busy[0].saved
    assert busy[0].failure is None
    flusher.close()


def test_what_is_handed_over_is_written_before_it_closes_and_nothing_after() -> None:
    database = Database()
    flusher = Flusher(database, writers=1)
    busy = occupied(database, flusher, 1)
    queued = saving("A")
    flusher.put(queued)
    threading.Timer(0.1, database.let.set).start()
    flusher.close()
    assert queued.saved
    assert busy[0].saved
    with pytest.raises(RunEndingError):
        flusher.put(saving("B"))


def test_an_answer_that_cannot_be_written_costs_no_other_of_its_transaction() -> None:
    database = Database()
    flusher = Flusher(database, writers=1)
    occupied(database, flusher, 1)
    queued = [saving(name) for name in ("A", "BAD", "C")]
    for one in queued:
        flusher.put(one)

    def refuse(outcomes: Sequence[Outcome]) -> FlushResult:
        if "BAD" in [outcome.tickers[0] for outcome in outcomes]:
            raise FatalError("refused")
        return FlushResult(inserted=len(outcomes))

    database.answer = refuse
    database.let.set()
    for one in queued:
        flusher.wait(one)
    assert [one.saved for one in queued] == [True, False, True]
    assert isinstance(queued[1].failure, FatalError)
    assert database.groups[1:] == [["A", "BAD", "C"], ["A"], ["BAD"], ["C"]]
    flusher.close()


def test_a_bug_in_taking_note_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Flusher, "_add", broken)
    flusher = Flusher(Database(), writers=1)
    for name in ("A", "B"):  # the writer lives on
        flusher.put(one := saving(name))
        flusher.wait(one)
        assert isinstance(one.failure, ValueError)
    flusher.close()


class Days(Database):
    """Keeps the places of the days in each transaction."""

    def __call__(self, outcomes: Sequence[Outcome], claims: Sequence[int | None]) -> FlushResult:
        self.places.append([SESSIONS.tolist().index(outcome.sessions[0].item()) for outcome in outcomes])
        return super().__call__(outcomes, claims)

    def __init__(self) -> None:
        super().__init__()
        self.places: list[list[int]] = []


def test_days_that_come_out_of_order_are_written_in_it_however_full_it_is() -> None:
    database = Days()
    flusher = Flusher(database, rows=6, hold=600.0)
    through = threading.Semaphore(0)

    def put(place: int) -> None:
        flusher.put(answers[place])
        through.release()

    answers = [day(place) for place in range(6)]
    with flusher.expecting(range(6)):
        for place in (5, 4, 3, 2, 1):
            threading.Thread(target=put, args=(place,), daemon=True).start()
        assert through.acquire(timeout=10)
        assert through.acquire(timeout=10)
        assert not through.acquire(timeout=0.1), "six bars may wait"
        assert database.places == []
        put(0)  # which all the others wait for
        for each in answers:
            flusher.wait(each)
    flusher.close()
    assert [place for each in database.places for place in each] == [0, 1, 2, 3, 4, 5]
    assert max(map(len, database.places)) <= 2


def test_a_day_that_does_not_come_is_not_waited_for() -> None:
    database = Days()
    flusher = Flusher(database, hold=600.0)
    with flusher.expecting([0, 1]):
        flusher.put(second := day(1))
        assert not database.begun.acquire(timeout=0.1)
    flusher.wait(second)  # whoever was to bring the first one has failed
    assert database.places == [[1]]
    flusher.close()


def test_days_that_wait_for_another_are_written_before_it_closes() -> None:
    database = Days()
    flusher = Flusher(database, hold=600.0)
    with flusher.expecting([0]):
        for one in (answers := [day(2), day(1)]):
            flusher.put(one)
        flusher.close()
    assert database.places == [[1, 2]]
    assert all(one.saved for one in answers)


def test_two_writers_never_have_days_in_hand_at_once() -> None:
    """They are about the same tickers: one would wait for the other in the database."""
    database = Days()
    flusher = Flusher(database, rows=10, hold=0.0)
    flusher.put(first := saving("FIRST"))
    flusher.wait(first)
    assert database.begun.acquire(timeout=10)
    database.let.clear()
    flusher.put(one := day(0))
    assert database.begun.acquire(timeout=10)
    flusher.put(two := day(1))
    assert not database.begun.acquire(timeout=0.1)
    flusher.put(other := saving("OTHER", rows=1))
    assert database.begun.acquire(timeout=10), "the other writer is free for what is no day"
    assert database.groups[1:] == [["A"], ["OTHER"]]
    database.let.set()
    for each in (one, two, other):
        flusher.wait(each)
    flusher.close()
