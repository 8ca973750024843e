"""Slots that the server counts and nobody can hold, as after a restart that lost the leases of the dead."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from tasks.limiter import PrefectGate
from tests.limiter.book import Book

pytestmark = pytest.mark.prefect

Books = Callable[..., Book]

#: Longer than twice the longest lease on these limits, and the shortest there is.
LONG_AGO = 3 * 60.0 + 30.0


def call(gate: PrefectGate) -> float:
    with gate.call():
        return time.monotonic()


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.limits._WATCHED", 1.5)


@pytest.mark.parametrize("lost", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_what_nobody_can_hold_is_counted_free_once(book: Books, postgres: sa.URL, lost: int) -> None:
    limited = book("2/1s")
    limited.client.increment_concurrency_slots([limited.name], lost, "concurrency")
    limited.age(postgres, LONG_AGO)
    with limited.gate() as gate, limited.gate() as other, ThreadPoolExecutor(6) as pool:
        begun = time.monotonic()
        times = sorted(pool.map(call, [gate, other] * 3))
    assert times[0] - begun >= 1.5, "the server has time to do it by itself"
    assert all(later - earlier >= 1.0 for earlier, later in zip(times, times[2:], strict=False))
    assert limited.active() == 0
    assert not [each for each in limited.client.read_variables() if each.name.startswith(limited.name)]


def test_what_changed_lately_may_be_held(book: Books, postgres: sa.URL) -> None:
    limited = book("2/1s")
    limited.client.increment_concurrency_slots([limited.name], 2, "concurrency")
    limited.age(postgres, 2 * 60.0)
    with limited.gate() as gate, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, gate)
        time.sleep(3.0)
        assert not waiting.done()
        assert limited.active() == 2
        limited.client.release_concurrency_slots([limited.name], 1, 1.0)
        waiting.result(timeout=10)


def test_what_the_server_takes_back_meanwhile_is_not_taken_twice(book: Books, postgres: sa.URL) -> None:
    limited = book("4/1s")
    limited.client.increment_concurrency_slots([limited.name], 2, "concurrency")
    limited.age(postgres, LONG_AGO)
    with limited.gate() as gate, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, gate)
        time.sleep(0.7)
        limited.client.release_concurrency_slots([limited.name], 1, 1.0)
        waiting.result(timeout=10)
        assert limited.active() == 2, "one that is left, which may be held now, and the call's own"
