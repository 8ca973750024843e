"""From opening to closing: pauses, failing calls, a server that is away, processes that fork or are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from closingbell.errors import FatalError, RunEndingError
from tasks.limiter import PrefectGate
from tests.limiter.book import Book
from tests.limiter.callers import kill_a_holder
from tests.proxy import Proxy

pytestmark = pytest.mark.prefect

Books = Callable[..., Book]
Eventually = Callable[..., None]


def call(gate: PrefectGate) -> float:
    with gate.call():
        return time.monotonic()


def test_closing_gives_every_slot_back(book: Books) -> None:
    limited = book("5/0.4s")
    with limited.gate() as gate:
        for _ in range(4):
            call(gate)
        assert 1 <= limited.active() <= 4
    assert limited.active() == 0
    assert limited.lease_seconds() == []


def test_slots_without_work_go_back_while_the_run_goes_on(book: Books, eventually: Eventually) -> None:
    limited = book("5/0.4s")
    with limited.gate() as gate:
        call(gate)
        eventually(lambda: limited.active() == 0, 3)


def test_on_closing_the_slots_of_a_long_window_are_left_to_a_lease_that_ends_with_it(book: Books) -> None:
    limited = book("5/90s")
    begun = time.monotonic()
    with limited.gate(call_timeout=600) as gate:
        call(gate)
        (lease,) = limited.lease_seconds()
        assert 600 < lease <= 600 + 90 + 20
    assert time.monotonic() - begun < 3
    (lease,) = limited.lease_seconds()
    assert 85 < lease <= 90


def test_a_killed_process_holds_its_slots_no_longer_than_its_call_could_count(book: Books) -> None:
    limited = book("5/90s")
    kill_a_holder("5/90s", limited.asset)
    assert limited.active() == 1
    (lease,) = limited.lease_seconds()
    assert 90 < lease <= 20 + 5 + 90


def test_on_the_same_machine_a_killed_process_is_found_out_at_once(book: Books, tmp_path: Path) -> None:
    limited = book("1/0.5s")
    kill_a_holder("1/0.5s", limited.asset, tmp_path)
    killed = time.monotonic()
    with limited.gate(books=tmp_path) as gate:
        assert 0.5 <= call(gate) - killed < 5  # its last call may have been counted just before it died
    assert limited.active() == 0
    assert limited.lease_seconds() == []
    assert list(tmp_path.rglob("*.leases")) == []


def test_a_call_that_fails_counts_and_frees_its_slot_like_any_other(book: Books) -> None:
    with book("1/0.5s").gate() as gate:
        with suppress(ConnectionResetError), gate.call():
            failed = time.monotonic()
            raise ConnectionResetError
        assert call(gate) - failed >= 0.5


def test_a_slow_call_holds_its_slot_until_its_own_window_ends(book: Books) -> None:
    with book("1/0.5s").gate() as gate, ThreadPoolExecutor(1) as pool:
        with gate.call():
            waiting = pool.submit(call, gate)
            time.sleep(0.6)  # the vendor takes its time
            ended = time.monotonic()
        assert waiting.result(timeout=10) - ended >= 0.5


def test_closing_tells_who_waits(book: Books) -> None:
    limited = book("1/60s")
    gate = limited.gate()
    call(gate)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(call, gate) for _ in range(3)]
        begun = time.monotonic()
        gate.close()
        for each in waiting:
            with pytest.raises(RunEndingError, match="the run is ending"):
                each.result(timeout=5)
        with pytest.raises(RunEndingError, match="the run is ending"):
            call(gate)
    gate.close()
    assert time.monotonic() - begun < 3


def test_a_pause_holds_every_caller_of_this_process(book: Books) -> None:
    with book("50/0.4s").gate() as gate, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: call(gate), range(4)))  # it has slots of its own
        paused = time.monotonic()
        gate.pause(0.7)
        gate.pause(0.1)  # a shorter one does not cut it
        assert min(pool.map(lambda _: call(gate), range(4))) - paused >= 0.7


def test_while_the_server_is_away_calls_wait_and_then_go_on(book: Books, proxy: Proxy, eventually: Eventually) -> None:
    limited = book("2/0.4s")
    with limited.gate() as gate, ThreadPoolExecutor(2) as pool:
        call(gate)
        eventually(lambda: limited.active() == 0)
        proxy.cut()
        waiting = [pool.submit(call, gate) for _ in range(2)]
        time.sleep(1.0)
        assert not any(each.done() for each in waiting)
        proxy.mend()
        mended = time.monotonic()
        assert all(each.result(timeout=10) >= mended for each in waiting)
    assert limited.active() == 0


def test_closing_does_not_wait_for_a_server_that_is_away(book: Books, proxy: Proxy) -> None:
    gate = book("2/0.4s").gate()
    call(gate)
    proxy.cut()
    begun = time.monotonic()
    gate.close()
    assert time.monotonic() - begun < 6


def test_a_lost_answer_costs_slots_for_a_lease_at_most_and_no_call(book: Books, proxy: Proxy) -> None:
    limited = book("3/0.4s")
    with limited.gate() as gate:
        proxy.lose("increment-with-lease")
        call(gate)
        assert proxy.lost.is_set()
        assert limited.active() == 2
    (lease,) = limited.lease_seconds()  # of the grant that nobody heard of
    assert limited.active() == 1
    assert lease <= 60


def test_a_release_whose_answer_is_lost_is_repeated_and_counts_once(
    book: Books, proxy: Proxy, eventually: Eventually
) -> None:
    limited = book("3/0.4s")
    with limited.gate() as gate, limited.gate() as other:
        proxy.lose("decrement-with-lease")
        call(gate)
        eventually(proxy.lost.is_set)
        with other.call():
            eventually(lambda: limited.active() == 1)
            call(gate)  # it goes on
            assert limited.active() == 2
    assert limited.active() == 0


def test_stopping_wakes_who_waits_and_refuses_who_comes(book: Books) -> None:
    limited = book("1/60s")
    with limited.gate() as gate, ThreadPoolExecutor(2) as pool:
        call(gate)
        waiting = [pool.submit(call, gate) for _ in range(2)]
        gate.stop()
        for each in waiting:
            with pytest.raises(RunEndingError, match="the run is ending"):
                each.result(timeout=5)
        with pytest.raises(RunEndingError, match="the run is ending"):
            call(gate)


def test_a_stop_ends_a_pause_for_who_waits(book: Books) -> None:
    with book("5/1s").gate() as gate, ThreadPoolExecutor(1) as pool:
        gate.pause(600)
        waiting = pool.submit(call, gate)
        gate.stop()
        with pytest.raises(RunEndingError):
            waiting.result(timeout=5)


def test_an_interrupted_run_waits_for_no_window_and_leaves_its_slots_to_the_next(book: Books, tmp_path: Path) -> None:
    limited = book("1/3s")
    gate = limited.gate(books=tmp_path)
    ended = call(gate)
    gate.close(wait=False)
    assert limited.active() == 1
    with limited.gate(books=tmp_path) as following:
        assert 3 <= call(following) - ended < 40  # not by its lease, which would take a minute
        following.close(wait=False)


def test_an_interrupted_run_ends_though_the_server_is_away(book: Books, proxy: Proxy) -> None:
    gate = book("5/8s").gate()
    call(gate)
    proxy.cut()
    begun = time.monotonic()
    gate.close(wait=False)
    assert time.monotonic() - begun < 6


def test_a_lease_that_the_server_lost_in_a_restart_is_given_back_without_it(
    book: Books, proxy: Proxy, eventually: Eventually
) -> None:
    limited = book("4/0.4s")
    with limited.gate() as gate:
        with gate.call():
            proxy.cut()
            limited.lose_leases()  # as leases in memory are lost; the slots stay counted
            assert limited.active() == 1
            eventually(lambda: gate.away)
        proxy.mend()
        eventually(lambda: limited.active() == 0)
        call(gate)
    assert limited.active() == 0


def test_a_server_killed_between_counting_slots_free_and_forgetting_their_lease_counts_them_once(
    book: Books, proxy: Proxy, eventually: Eventually
) -> None:
    limited = book("4/0.4s")
    with limited.gate() as gate, limited.gate() as other, other.call():
        with gate.call():
            kept = limited.leases()
            proxy.lose("decrement-with-lease")
        eventually(proxy.lost.is_set)
        limited.restore(kept)
        # What is left of it is counted, or is counted twice: never is the other's slot counted free.
        eventually(lambda: limited.leases().keys() < kept.keys())
        assert limited.active() >= 1


def test_a_fork_is_refused_instead_of_waiting_for_ever(book: Books) -> None:
    with book("2/0.4s").gate() as gate:
        child = os.fork()
        if child == 0:
            try:
                call(gate)
            except FatalError:
                gate.close()
                os._exit(42)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_an_interrupted_wait_leaves_nothing_behind(book: Books, request: pytest.FixtureRequest) -> None:
    # Started in the background of a script, this process was told to ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    limited = book("1/3s")
    with limited.gate() as gate:
        call(gate)
        threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()
        with pytest.raises(KeyboardInterrupt):
            call(gate)
        call(gate)
    assert limited.active() == 0
