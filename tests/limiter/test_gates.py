"""Each asset class and each key has its own quota, and a run opens the gates of those that it has calls for."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import date

import pytest
from prefect.client.orchestration import SyncPrefectClient

from closingbell.errors import ConfigurationError, RetryableError, RunEndingError
from closingbell.quota import Quota, Quotas
from closingbell.sources.polygon import PolygonSource
from infra.market.process import MarketProcess
from tasks.gates import Gates
from tasks.limits import limit_name
from tests.proxy import Proxy

pytestmark = pytest.mark.prefect

FAST, SLOW = Quota(50, 0.2), Quota(5, 0.3)
DAY = date(2026, 3, 4)


@pytest.fixture
def key(client: SyncPrefectClient) -> Iterator[str]:
    """The name of a key whose limit for stocks exists."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    client.upsert_global_concurrency_limit_by_name(limit_name(FAST, "stocks", name), FAST.calls, 0)
    yield name
    for limit in client.read_global_concurrency_limits(limit=200, offset=0):
        if name in limit.name:
            client.delete_global_concurrency_limit_by_name(limit.name)


def taken(client: SyncPrefectClient, asset_class: str, quota: Quota, key: str) -> int:
    name = limit_name(quota, asset_class, key)
    return client.read_global_concurrency_limit_by_name(name).active_slots


def test_each_call_passes_the_gate_of_its_class(client: SyncPrefectClient, key: str, market: MarketProcess) -> None:
    client.upsert_global_concurrency_limit_by_name(limit_name(SLOW, "crypto", key), SLOW.calls, 0)
    with Gates(Quotas(FAST, {"crypto": SLOW}), key=key) as gates:
        source = PolygonSource("a-key", market.url, gates)
        source.fetch_range("AAPL", DAY, DAY)
        source.market_day(DAY)
        source.splits(DAY, DAY)
        assert gates.looked_at() == ["stocks"]
        with gates.of("crypto").call():
            assert taken(client, "crypto", SLOW, key) == 1
        source.fetch_range("X:BTCUSD", DAY, DAY)
        source.market_day(DAY, "crypto")
        source.fetch_range("C:EURUSD", DAY, DAY)
        assert gates.looked_at() == ["stocks", "crypto"], "foreign exchange has none of its own"
        source.close()


def test_a_class_whose_limit_is_missing_holds_up_no_other(key: str, market: MarketProcess) -> None:
    with Gates(Quotas(FAST, {"crypto": SLOW}), key=key) as gates:
        source = PolygonSource("a-key", market.url, gates)
        with pytest.raises(ConfigurationError, match=f"missing.*polygon-{key}-crypto-calls-per-0.3s.*bootstrap"):
            source.fetch_range("X:BTCUSD", DAY, DAY)
        source.fetch_range("AAPL", DAY, DAY)
        source.close()


def test_the_quota_in_force_is_the_limits(client: SyncPrefectClient, key: str) -> None:
    with Gates(Quotas(FAST, {"crypto": SLOW}), key=key) as gates:
        client.upsert_global_concurrency_limit_by_name(limit_name(FAST, "stocks", key), 7, 0)
        assert gates.in_force.of("fx") == Quota(7, 0.2)
        assert str(gates.in_force) == "7 calls in 0.2 s"


def test_once_stopped_no_gate_opens(key: str) -> None:
    with Gates(Quotas(FAST, {}), key=key) as gates:
        gates.stop()
        with pytest.raises(RunEndingError):
            gates.of("stocks")


def test_a_run_that_was_interrupted_does_not_wait(client: SyncPrefectClient, key: str) -> None:
    slow = Quota(1, 9.0)
    client.upsert_global_concurrency_limit_by_name(limit_name(slow, "crypto", key), 1, 0)
    gates = Gates(Quotas(FAST, {"crypto": slow}), key=key)
    with suppress(KeyboardInterrupt), gates, gates.of("crypto").call():
        raise KeyboardInterrupt
    assert taken(client, "crypto", slow, key) == 1


def test_the_same_names_as_ever() -> None:
    assert limit_name(Quota(5, 60.0)) == "polygon-stocks-calls-per-minute"
    assert limit_name(Quota(1, 1.0), "crypto", "second") == "polygon-second-crypto-calls-per-second"


def test_an_interrupt_ends_the_wait_for_a_window(
    client: SyncPrefectClient, key: str, request: pytest.FixtureRequest
) -> None:
    # Started in the background of a script, this process was told to ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    slow = Quota(1, 9.0)
    client.upsert_global_concurrency_limit_by_name(limit_name(slow, "crypto", key), 1, 0)
    gates = Gates(Quotas(FAST, {"crypto": slow}), key=key)
    with gates.of("crypto").call():
        pass
    threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        gates.close()
    assert taken(client, "crypto", slow, key) == 1, "its window was waited for"


def test_a_server_that_is_away_when_a_gate_is_opened_is_waited_for(key: str, proxy: Proxy) -> None:
    proxy.cut()
    with Gates(Quotas(FAST, {}), key=key) as gates, ThreadPoolExecutor(1) as pool:
        opening = pool.submit(copy_context().run, gates.of, "stocks")
        with suppress(TimeoutError):
            opening.result(timeout=0.5)
            pytest.fail("it opened without a server")
        proxy.mend()
        assert opening.result(timeout=30).in_force == FAST


def test_a_server_that_stays_away_is_an_error_and_a_run_that_is_stopped_waits_no_longer(key: str, proxy: Proxy) -> None:
    proxy.cut()
    with Gates(Quotas(FAST, {}), key=key, patience=0) as gates, pytest.raises(RetryableError, match="does not answer"):
        gates.of("stocks")
    with Gates(Quotas(FAST, {}), key=key) as gates, ThreadPoolExecutor(1) as pool:
        opening = pool.submit(copy_context().run, gates.of, "stocks")
        gates.stop()
        with pytest.raises(RunEndingError):
            opening.result(timeout=30)
