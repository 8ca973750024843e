"""A 429 pauses every caller of its quota, wherever it is, and once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from prefect.client.schemas.actions import VariableCreate

from infra.market.process import MarketProcess
from tasks.limiter import PrefectGate
from tasks.limits import steady, variable_name
from tasks.pauses import Pause
from tests.limiter.book import Book
from tests.limiter.callers import in_processes
from tests.proxy import Proxy

Books = Callable[..., Book]
Eventually = Callable[..., None]


def call(gate: PrefectGate) -> float:
    with gate.call():
        return time.monotonic()


@pytest.mark.prefect
@pytest.mark.soak
@pytest.mark.parametrize("told", ["2", None])
def test_two_processes_at_a_hundred_calls_a_second_pause_once(book: Books, tmp_path: Path, told: str | None) -> None:
    limited = book("100/s")
    with MarketProcess(size=10, quota="1000/s") as market:
        headers = {"Retry-After": told} if told else {}
        market.fault("status", path="/v3/", status=429, headers=headers, body="", after=60, times=1)
        in_processes(2, 2.5 + float(told or 0), market.url, "100/s", limited.asset, threads=4, books=tmp_path)
        calls = market.calls()
    refused = next(index for index, row in enumerate(calls) if row["status"] == 429)
    pause = float(told or 1.0)  # the quota's window where nothing is told
    times = [row["time"] for row in calls]
    gaps = [(index, later - earlier) for index, (earlier, later) in enumerate(pairwise(times)) if index >= refused]
    silences = [(index, gap) for index, gap in gaps if gap > 0.7 * pause]
    # Between the calls of one window and of the next it is silent too, for most of a second.
    assert len(silences) == 1 or not told
    assert silences[0][0] - refused <= 12, "more calls than were on their way"
    assert len(times) - silences[0][0] > 20, "then the work goes on"
    assert times[silences[0][0] + 1] - times[refused] >= pause


@pytest.mark.prefect
def test_other_machines_hear_of_it_before_they_begin(book: Books, eventually: Eventually) -> None:
    limited = book("5/0.4s")
    with limited.gate() as gate, limited.gate() as other:
        gate.pause(1.5)
        paused = time.monotonic()
        name = variable_name(limited.name, "paused-until")
        eventually(lambda: limited.client.read_variable_by_name(name), 1.4)
        assert call(other) - paused >= 1.4


@pytest.mark.prefect
def test_another_machine_that_is_working_hears_of_it(book: Books, eventually: Eventually) -> None:
    limited, entries, done = book("5/0.2s"), list[float](), threading.Event()
    with limited.gate() as gate, limited.gate() as other, ThreadPoolExecutor(1) as pool:

        def keep_calling() -> None:
            while not done.is_set():
                entries.append(call(other))

        working = pool.submit(keep_calling)
        eventually(lambda: len(entries) > 3)
        paused, before = time.monotonic(), len(entries)
        gate.pause(3.0)
        eventually(lambda: entries[-1] >= paused + 2.9)
        done.set()
        working.result(timeout=10)
    assert max(later - earlier for earlier, later in pairwise(entries[before - 1 :])) > 1.0


@pytest.mark.prefect
def test_the_server_is_told_when_it_is_back(book: Books, proxy: Proxy, eventually: Eventually) -> None:
    limited = book("5/0.4s")
    name = variable_name(limited.name, "paused-until")
    with limited.gate() as gate:
        proxy.cut()
        gate.pause(60)
        eventually(lambda: gate.away)
        proxy.mend()
        eventually(lambda: limited.client.read_variable_by_name(name))
        gate.close(wait=False)


@pytest.mark.prefect
@pytest.mark.parametrize("told", ["2150-01-01T00:00:00+00:00", "2001-01-01T00:00:00+00:00", "2030-01-01", "later", 7])
def test_what_cannot_be_a_pause_holds_up_nobody(book: Books, told: object, eventually: Eventually) -> None:
    limited = book("5/0.4s")
    name = variable_name(limited.name, "paused-until")
    limited.client.create_variable(VariableCreate(name=name, value=told))
    with limited.gate() as gate, ThreadPoolExecutor(1) as pool:
        pool.submit(call, gate).result(timeout=10)
        gate.pause(600)  # and it is no obstacle to a real one

        def is_told() -> bool:
            variable = limited.client.read_variable_by_name(name)
            return variable is not None and variable.value != told

        eventually(is_told)
        gate.close(wait=False)


@pytest.mark.prefect
def test_quotas_pause_each_on_its_own(book: Books) -> None:
    stocks, crypto = book("5/1s"), book("5/1s")
    with stocks.gate() as paused, crypto.gate() as other, ThreadPoolExecutor(1) as pool:
        paused.pause(600)
        pool.submit(call, other).result(timeout=10)
        paused.close(wait=False)


def test_the_latest_instant_counts_in_every_process_of_a_machine(tmp_path: Path) -> None:
    one, other = Pause("a-limit", tmp_path), Pause("a-limit", tmp_path)
    for seconds in (5.0, 30.0, 10.0):  # refusals of calls that were on their way together
        one.begin(seconds)
    other.begin(1.0)
    for pause in (one, other, Pause("a-limit", tmp_path)):
        assert pause.until() - steady() == pytest.approx(30.0, abs=2.0)


def test_a_pause_is_no_longer_than_can_be_believed(tmp_path: Path) -> None:
    pause = Pause("a-limit", tmp_path)
    pause.begin(1e9)
    assert pause.until() - steady() == pytest.approx(3600.0, abs=2.0)
    far = time.time() + 1e7
    os.utime(tmp_path / "paused", (far, far))
    other = Pause("a-limit", tmp_path)
    assert other.until() <= steady()
    other.begin(5.0)  # and what is not believed is overwritten
    assert Pause("a-limit", tmp_path).until() - steady() == pytest.approx(5.0, abs=2.0)


def test_the_clock_may_be_set_while_a_pause_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = Pause("a-limit", tmp_path)
    pause.begin(30.0)
    pause.until()
    now = time.time()
    monkeypatch.setattr("tasks.pauses.time.time", lambda: now - 86_400)
    assert pause.until() - steady() == pytest.approx(30.0, abs=2.0)
