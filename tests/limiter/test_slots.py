"""The law of the slots: whatever is asked and whenever, no window holds more calls than there are slots."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from tasks.slots import Lease, Slots

WINDOW = 5.0


def lease(slots: int, old: float = 1e9, expires: float = 1e9) -> Lease:
    return Lease(uuid.uuid4(), slots, old, expires)


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.lists(st.tuples(st.floats(0, 4), st.floats(0, 3)), max_size=60),
)
def test_no_window_holds_more_calls_than_slots(sizes: list[int], calls: list[tuple[float, float]]) -> None:
    slots, now = Slots(WINDOW), 0.0
    for size in sizes:
        slots.add(lease(size), now)
    arrived: list[float] = []
    in_flight: list[tuple[float, Lease]] = []
    for wait, takes in calls:
        now += wait
        for ended, of in [each for each in in_flight if each[0] <= now]:
            slots.finish(of, ended)
            in_flight.remove((ended, of))
        if lent := slots.lend(now):
            arrived.append(now)
            in_flight.append((now + takes, lent))
    for at in arrived:
        assert sum(at - WINDOW < other <= at for other in arrived) <= sum(sizes)


def test_an_old_lease_lends_no_more_and_is_spent_when_its_last_window_ends() -> None:
    slots, held = Slots(WINDOW), lease(2, old=10.0)
    slots.add(held, 0.0)
    for begun in (8.0, 9.0):
        assert slots.lend(begun) is held
        slots.finish(held, begun)
    assert slots.cooled_at(held) == 14.0
    assert slots.lend(13.5) is None
    assert slots.spent(13.5, 1.0) == []
    assert slots.spent(14.0, 1.0) == [held]


def test_an_unused_lease_is_spent_after_a_while_and_lends_no_more() -> None:
    slots, held = Slots(WINDOW), lease(1)
    slots.add(held, 0.0)
    assert slots.spent(0.5, 1.0) == []
    assert slots.ready(0.9) == 1
    assert slots.spent(1.0, 1.0) == [held]
    assert slots.lend(1.0) is None


def test_a_lease_that_ran_out_is_counted_no_more_though_its_call_never_ended() -> None:
    slots, held = Slots(WINDOW), lease(1, expires=60.0)
    slots.add(held, 0.0)
    assert slots.lend(0.0) is held
    assert slots.cooled_at(held) is None
    slots.forget_expired(60.0)
    assert slots.held == 0
    slots.finish(held, 61.0)
    assert slots.lend(100.0) is None


def test_what_is_inherited_is_lent_to_nobody_and_spent_after_a_window() -> None:
    slots, orphan = Slots(WINDOW), uuid.uuid4()
    slots.inherit(orphan, 1.0)
    assert slots.lend(1.0) is None
    assert slots.spent(5.9, 1.0) == []
    assert [each.id for each in slots.spent(6.0, 1.0)] == [orphan]


def test_what_was_lent_lately() -> None:
    slots = Slots(WINDOW)
    slots.add(lease(3), 0.0)
    for now in (0.0, 1.0, 1.05):
        slots.lend(now)
    assert slots.lent_lately(1.1, 0.1) == 2


def test_nothing_is_lent_once_retired() -> None:
    slots = Slots(WINDOW)
    slots.add(lease(3), 0.0)
    slots.retire(1.0)
    assert slots.lend(1.0) is None
    assert slots.held == 3
