"""The quota is exact: no call too many in any window, none refused that fits."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from closingbell.quota import Quota
from infra.market.process import MarketProcess
from infra.market.quota import Limiter

Get = Callable[..., httpx.Response]

PATH = "/v1/marketstatus/now"

gaps = st.lists(st.floats(0, 3, allow_nan=False), max_size=60)


@given(gaps, st.integers(1, 6), st.booleans())
@example([0.0, *[3.0] * 7, 2.183541255180197, 0.0], 1, False)
def test_a_rolling_window_never_holds_more_and_never_refuses_without_reason(
    waits: list[float], calls: int, counted: bool
) -> None:
    limiter = Limiter(Quota(calls, 5.0), count_refused=counted)
    now, let_in, all_counted = 100.0, [], []
    for wait in waits:
        now += wait
        recent = [at for at in (all_counted if counted else let_in) if at > now - 5.0]
        refused = limiter.admit("k", now)
        assert (refused is not None) == (len(recent) >= calls)
        all_counted.append(now)
        if refused is None:
            let_in.append(now)
        else:
            assert refused <= 5.0
    for i, at in enumerate(let_in):
        assert sum(at - 5.0 < other <= at for other in let_in[: i + 1]) <= calls


def test_the_wait_it_names_is_long_enough_and_no_longer() -> None:
    limiter = Limiter(Quota(2, 10.0), count_refused=False)
    assert [limiter.admit("k", at) for at in (0.5, 3.0)] == [None, None]
    assert limiter.admit("k", 4.0) == pytest.approx(6.5)
    assert limiter.admit("k", 10.5) is None
    assert limiter.admit("k", 12.9) == pytest.approx(0.1)


def test_refused_calls_that_count_push_the_wait_out() -> None:
    limiter = Limiter(Quota(2, 10.0))
    for at in (0.0, 1.0, 9.0, 9.5):
        limiter.admit("k", at)
    assert limiter.admit("k", 11.5) == pytest.approx(7.5)


def test_a_fixed_window_starts_anew() -> None:
    limiter = Limiter(Quota(2, 60.0), "fixed")
    assert [limiter.admit("k", at) for at in (58.0, 59.0, 60.0, 61.0)] == [None] * 4
    assert limiter.admit("k", 62.0) == pytest.approx(58.0)


def test_keys_do_not_share() -> None:
    limiter = Limiter(Quota(1, 60.0))
    assert limiter.admit("a", 0.0) is None
    assert limiter.admit("b", 0.0) is None
    assert limiter.admit("a", 1.0) is not None


def test_over_http_the_log_shows_the_quota_kept(getter: Callable[..., Get]) -> None:
    with MarketProcess(size=10, quota="5/1s", count_429=False) as limited:
        ask = getter(limited)
        deadline = time.monotonic() + 2.5
        with ThreadPoolExecutor(4) as pool:

            def keep_asking(_: int) -> None:
                while time.monotonic() < deadline:
                    ask(PATH)

            list(pool.map(keep_asking, range(4)))
        calls = limited.calls()
        good = [call["time"] for call in calls if call["status"] == 200]
        assert {call["status"] for call in calls} == {200, 429}
        assert 11 <= len(good) <= 15
        for at in good:
            assert sum(at - 1.0 < other <= at for other in good) <= 5
        for call in calls:  # and nobody was refused while there was room
            if call["status"] == 429:
                assert sum(call["time"] - 1.0 < other <= call["time"] for other in good) == 5


@pytest.mark.parametrize("told", [True, False])
def test_a_refusal_is_the_vendors(getter: Callable[..., Get], told: bool) -> None:
    with MarketProcess(size=10, quota="1/min", retry_after=told) as limited:
        ask = getter(limited)
        assert ask(PATH).status_code == 200
        refused = ask(PATH)
        assert refused.status_code == 429
        assert refused.json()["error"].startswith("You've exceeded the maximum requests per minute, please wait")
        assert ("retry-after" in refused.headers) == told
        if told:
            assert 55 <= int(refused.headers["retry-after"]) <= 60
        assert getter(limited, "another")(PATH).status_code == 200
        assert httpx.get(limited.url + "/_market/health").json()["calls"] == 3  # asking here costs nothing
