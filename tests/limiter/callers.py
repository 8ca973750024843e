"""Processes and threads that call the stand-in market through the gate, with the real source."""

from __future__ import annotations

import multiprocessing
import threading
import time
from contextlib import suppress
from datetime import date
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

from closingbell.errors import RetryableError
from closingbell.quota import Quota
from closingbell.sources.polygon import PolygonSource
from tasks.limiter import PrefectGate

_SPAWN = multiprocessing.get_context("spawn")


def call_for(
    seconds: float,
    url: str,
    rate: str,
    asset: str,
    threads: int,
    books: Path | None = None,
    ready: Barrier | None = None,
) -> None:
    """Make as many calls as the gate lets through, from all threads, in so many seconds; refusals are passed over."""
    with PrefectGate(Quota.parse(rate), asset, call_timeout=5, books=books) as gate:
        source = PolygonSource("a-key", url, gate, pool_size=threads)
        if ready:
            ready.wait(60)
        until = time.monotonic() + seconds

        def keep_calling() -> None:
            while time.monotonic() < until:
                with suppress(RetryableError):
                    source.splits(date(2026, 1, 5), date(2026, 1, 9))

        callers = [threading.Thread(target=keep_calling) for _ in range(threads)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        source.close()


def in_processes(
    count: int, seconds: float, url: str, rate: str, asset: str, threads: int, books: Path | None = None
) -> None:
    """:func:`call_for` in several processes at once."""
    ready = _SPAWN.Barrier(count)
    workers = [
        _SPAWN.Process(target=call_for, args=(seconds, url, rate, asset, threads, books, ready)) for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def hold(rate: str, asset: str, books: Path | None, holding: Event) -> None:
    """Begin a call and never end it."""
    gate = PrefectGate(Quota.parse(rate), asset, call_timeout=5, books=books)
    with gate.call():
        holding.set()
        time.sleep(600)


def kill_a_holder(rate: str, asset: str, books: Path | None = None) -> None:
    """Kill a process in the middle of a call."""
    holding = _SPAWN.Event()
    process = _SPAWN.Process(target=hold, args=(rate, asset, books, holding))
    process.start()
    assert holding.wait(60)
    process.kill()
    process.join()
