"""The limit on the server rules: what is wrong with it is said, what someone changes is honoured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from closingbell.errors import ClosingbellError, ConfigurationError, RetryableError, RunEndingError
from closingbell.quota import Quota
from tasks.limiter import PrefectGate
from tests.limiter.book import Book

pytestmark = pytest.mark.prefect

Books = Callable[..., Book]


def call(gate: PrefectGate) -> float:
    with gate.call():
        return time.monotonic()


def test_a_missing_limit(prefect_api: str) -> None:
    with pytest.raises(ConfigurationError, match=r"missing.*polygon-nobody-calls-per-minute.*deployments\.bootstrap"):
        PrefectGate(Quota(5, 60.0), "nobody")


def test_an_inactive_limit(book: Books) -> None:
    switched_off = book("5/min")
    switched_off.change(active=False)
    with pytest.raises(ConfigurationError, match=rf"inactive.*prefect gcl update {switched_off.name} --enable"):
        switched_off.gate()


def test_a_decaying_limit(book: Books) -> None:
    decaying = book("5/min", decay=0.1)
    with pytest.raises(ConfigurationError, match=r"slot decay.*--slot-decay-per-second 0"):
        decaying.gate()


def test_a_limit_of_nothing(book: Books) -> None:
    empty = book("5/min")
    empty.change(limit=0)
    with pytest.raises(ConfigurationError, match=r"allows no call.*--limit"):
        empty.gate()


def test_no_server_is_configured(prefect_api: str) -> None:
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ConfigurationError, match=r"no Prefect server.*PREFECT_API_URL"),
    ):
        PrefectGate(Quota(5, 60.0))


def test_a_server_that_is_not_there(prefect_api: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(RetryableError, match=r"does not answer: ConnectError.*prefect server start"),
    ):
        PrefectGate(Quota(5, 60.0))


@pytest.mark.parametrize("deed", ["switch off", "delete"])
def test_who_waits_is_told_when_the_limit_goes(book: Books, deed: str) -> None:
    limited = book("1/30s")
    told: list[ClosingbellError] = []
    with limited.gate() as gate, limited.gate() as other:
        call(gate)  # the only slot is taken for half a minute

        def wait(waiting: PrefectGate) -> None:
            with pytest.raises(ConfigurationError) as caught:
                call(waiting)
            told.append(caught.value)

        callers = [threading.Thread(target=wait, args=(one,)) for one in (gate, gate, other)]
        for caller in callers:
            caller.start()
        if deed == "delete":
            limited.delete()
        else:
            limited.change(active=False)
        for caller in callers:
            caller.join(10)
    assert len({id(error) for error in told}) == 3  # each its own, for an exception carries a traceback
    expected = "missing" if deed == "delete" else "inactive"
    assert all(expected in str(error) and limited.name in str(error) for error in told)


def test_nothing_is_lent_on_a_limit_that_was_switched_off(book: Books) -> None:
    limited = book("5/min")
    with limited.gate() as gate:
        limited.change(active=False)  # from now on the server grants everything and counts nothing
        with pytest.raises(ConfigurationError, match="inactive"):
            call(gate)


def test_a_raised_limit_lets_the_waiting_in(book: Books) -> None:
    limited = book("1/30s")
    with limited.gate() as gate, ThreadPoolExecutor(3) as pool:
        call(gate)
        waiting = [pool.submit(call, gate) for _ in range(2)]
        limited.change(limit=3)
        for each in waiting:
            each.result(timeout=10)


def test_a_limit_switched_off_and_on_has_counted_all_along(book: Books, tmp_path: Path) -> None:
    limited = book("2/1s")
    with limited.gate(books=tmp_path) as gate:
        ended = call(gate)
        limited.change(active=False)
        with pytest.raises(ConfigurationError, match="inactive"), ThreadPoolExecutor(3) as pool:
            list(pool.map(call, [gate] * 3))
    assert limited.active() == 1, "given back while it is off, the slot would stay counted"
    limited.change(active=True)
    with limited.gate(books=tmp_path) as gate, ThreadPoolExecutor(3) as pool:
        times = sorted(pool.map(call, [gate] * 3))
        assert times[1] - ended >= 1.0
    assert limited.active() == 0


@pytest.mark.parametrize("deed", ["sets its count back", "deletes it and makes it anew"])
def test_what_the_limit_has_forgotten_to_count_is_called_no_second_time(book: Books, deed: str) -> None:
    limited, entries, more = book("2/0.4s"), list[float](), threading.Event()
    with limited.gate() as gate, ThreadPoolExecutor(6) as pool:

        def keep_calling() -> None:
            while not more.is_set():
                entries.append(call(gate))

        callers = [pool.submit(keep_calling) for _ in range(6)]
        while len(entries) < 3:
            time.sleep(0.01)
        if deed == "sets its count back":
            limited.change(active_slots=0)
        else:
            limited.delete()
            limited.client.upsert_global_concurrency_limit_by_name(limited.name, 2, 0)
        until = len(entries) + 4
        while len(entries) < until:
            time.sleep(0.01)
        more.set()
        for each in callers:
            each.result(timeout=10)
    times = sorted(entries)
    assert all(later - earlier >= 0.4 for earlier, later in zip(times, times[2:], strict=False))
    assert limited.active() == 0


def test_a_lowered_limit_is_kept(book: Books, eventually: Callable[..., None]) -> None:
    limited = book("4/0.5s")
    entries: list[float] = []
    until = time.monotonic() + 60
    with ExitStack() as stack:
        gates = [stack.enter_context(limited.gate()) for _ in range(2)]

        def keep_calling(gate: PrefectGate) -> None:
            while time.monotonic() < until:
                try:
                    entries.append(call(gate))
                except RunEndingError:
                    return

        callers = [threading.Thread(target=keep_calling, args=(gate,)) for gate in gates for _ in range(3)]
        for caller in callers:
            caller.start()
        eventually(lambda: len(entries) >= 8)
        limited.change(limit=1)
        eventually(lambda: limited.active() <= 1)  # what was held is given back, though everyone waits
        lowered = time.monotonic()
        eventually(lambda: sum(at > lowered for at in entries) >= 3)
        until = 0.0
    after = sorted(at for at in entries if at > lowered)[:3]
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(after))
