"""Whole days are written in the order of the plan, however their answers come; what is not a day goes as it comes."""

from __future__ import annotations

import pytest

from tasks.backlog import Backlog, Saving
from tests.unit.test_flusher import day, saving


class Clock:
    """A backlog of days of three bars and other answers of ten, and its present moment."""

    def __init__(self, most: int = 30, hold: float = 0.5) -> None:
        self.backlog = Backlog(most, hold)
        self.now = 100.0

    def add(self, *these: Saving) -> None:
        for each in these:
            each.since = self.now
            self.backlog.add(each)

    def wait(self, *, alone: bool = True) -> float | None:
        return self.backlog.wait(self.now, alone=alone)

    def take(self, *, alone: bool = True) -> list[int | str | None]:
        """The places of the days that are taken; of other answers, their tickers."""
        taken = self.backlog.take(self.now, alone=alone)
        assert all(each.taken for each in taken)
        return [each.outcome.tickers[0] if each.place is None else each.place for each in taken]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_day_waits_for_earlier_ones_that_are_under_way(clock: Clock) -> None:
    clock.backlog.expect(range(5))
    clock.add(day(2))
    assert clock.wait() == 0.5
    clock.add(day(1), day(4))
    assert clock.wait() == 0.5
    clock.add(day(0))
    assert clock.wait() == 0
    assert clock.take() == [0, 1, 2]
    clock.backlog.release_days()
    assert clock.wait() == 0.5
    clock.add(day(3))
    assert clock.wait() == 0
    assert clock.take() == [3, 4]
    assert not clock.backlog
    assert clock.wait() is None


def test_a_day_waits_so_long_and_no_longer_and_what_was_gone_past_is_not_waited_for_again(clock: Clock) -> None:
    clock.backlog.expect(range(6))
    clock.add(day(2))
    assert clock.wait() == 0.5
    clock.now += 0.3
    clock.add(day(4))
    assert clock.wait() == pytest.approx(0.2)
    clock.now += 0.3
    assert clock.wait() == 0
    assert clock.take() == [2, 4], "one wait for all that was late"
    clock.backlog.release_days()
    clock.add(day(5), day(1))
    clock.backlog.expect([3])  # once more, as after a failure
    assert clock.wait() == 0
    assert clock.take() == [1, 5]


def test_the_time_that_days_wait_for_others_to_be_written_is_not_held_against_an_earlier_one(clock: Clock) -> None:
    clock.backlog.expect(range(4))
    clock.add(day(0))
    assert clock.take() == [0]
    clock.add(day(2))
    clock.now += 60.0
    assert clock.wait() is None, "a day is being written"
    clock.backlog.release_days()
    assert clock.wait() == 0.5
    clock.add(day(1))
    assert clock.take() == [1, 2]


def test_what_is_no_longer_expected_is_not_waited_for(clock: Clock) -> None:
    clock.backlog.expect(range(3))
    clock.add(day(1))
    assert clock.wait() == 0.5
    clock.backlog.forget([0, 2])
    assert clock.wait() == 0


def test_days_are_one_transaction_at_a_time_and_other_answers_are_none_of_theirs(clock: Clock) -> None:
    clock.add(day(0), saving("X"), saving("Y"))
    assert clock.take() == [0]
    clock.add(day(1))
    assert clock.take() == ["X", "Y"]
    assert clock.wait() is None
    clock.backlog.release_days()
    assert clock.take() == [1]


def test_days_of_a_transaction_are_within_its_rows() -> None:
    clock = Clock(most=7)
    clock.add(*map(day, (3, 1, 0, 2)))
    assert clock.backlog.rows == 12
    assert clock.take() == [0, 1]
    clock.backlog.release_days()
    assert clock.take() == [2, 3]
    assert clock.backlog.rows == 0


def test_few_days_are_left_to_a_writer_that_is_at_work(clock: Clock) -> None:
    clock.add(day(0))
    assert clock.wait(alone=False) == 0.5
    clock.add(day(1))  # with which it is a fifth of a transaction
    assert clock.wait(alone=False) == 0


def test_what_is_cleared_waits_no_longer(clock: Clock) -> None:
    clock.add(day(1), saving("X"), day(0))
    assert [each.place for each in clock.backlog.clear()] == [None, 0, 1]
    assert (clock.backlog.rows, bool(clock.backlog), clock.take()) == (0, False, [])
