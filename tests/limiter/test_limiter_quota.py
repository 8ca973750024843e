"""The market's own log of calls is the judge: never a call too many, and hardly any quota wasted."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.limiter import Measured, judge
from infra.market.process import MarketProcess
from tests.limiter.book import Book
from tests.limiter.callers import call_for, in_processes

pytestmark = pytest.mark.prefect

Books = Callable[..., Book]


def audited(market: MarketProcess, book: Book) -> Measured:
    calls = market.calls()
    assert {call["status"] for call in calls} == {200}
    return judge([call["time"] for call in calls], book.quota, [len(calls)])


def test_two_processes_use_the_whole_quota_and_no_call_more(book: Books) -> None:
    limited = book("5/1s")
    with MarketProcess(size=10, quota="5/1s") as market:
        in_processes(2, 3.2, market.url, "5/1s", limited.asset, threads=8)
        seen = audited(market, limited)
    assert seen.overruns == 0
    assert seen.calls >= 15
    assert seen.utilisation > 0.8  # 0.97 on a quiet machine


def test_a_hundred_calls_a_second(book: Books) -> None:
    limited = book("100/s")
    with MarketProcess(size=10, quota="100/s") as market:
        call_for(1.6, market.url, "100/s", limited.asset, threads=8)
        seen = audited(market, limited)
    assert seen.overruns == 0
    assert seen.calls >= 120  # 200 on a quiet machine


def test_a_few_calls_wait_for_nothing(book: Books) -> None:
    begun = time.monotonic()
    with book("5/min").gate() as gate, ThreadPoolExecutor(3) as pool:

        def call(_: int) -> None:
            with gate.call():
                pass

        list(pool.map(call, range(3)))
    assert time.monotonic() - begun < 3
