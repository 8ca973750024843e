"""A stock Prefect server, its leases in memory, that is killed and started again under working processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.limiter import judge
from closingbell.quota import Quota
from deployments.prefect_server import healthy
from infra.market.process import MarketProcess
from tasks.limits import limit_name
from tests.limiter.callers import call_for, hold

pytestmark = [pytest.mark.prefect, pytest.mark.soak]


class StockServer:
    """``prefect server start`` as its documentation has it: SQLite, and leases in memory."""

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.api_url = f"http://127.0.0.1:{self.port}/api"
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(self.port)],
            cwd=self._home,
            env={**ours, "PREFECT_HOME": str(self._home), "DO_NOT_TRACK": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while not healthy(self.api_url):
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StockServer]:
    made = StockServer(tmp_path)
    made.start()
    monkeypatch.setenv("PREFECT_API_URL", made.api_url)
    with temporary_settings({PREFECT_API_URL: made.api_url}):
        yield made
    made.kill()


def active(name: str) -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name).active_slots


@pytest.mark.parametrize("rate", ["5/2s", "100/s"])
def test_calls_wait_for_it_and_no_slot_is_lost_or_freed(server: StockServer, tmp_path: Path, rate: str) -> None:
    quota, spawn = Quota.parse(rate), multiprocessing.get_context("spawn")
    name = limit_name(quota, "stock-server")
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, quota.calls, 0)
    with MarketProcess(size=10, quota=rate) as market:
        workers = [
            spawn.Process(target=call_for, args=(75.0, market.url, rate, "stock-server", 8, tmp_path / "books"))
            for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        for _ in range(3):
            time.sleep(9.0)
            server.kill()
            time.sleep(3.0)
            server.start()
        for worker in workers:
            worker.join()
        calls = market.calls()
    assert {worker.exitcode for worker in workers} == {0}
    assert judge([call["time"] for call in calls], quota, [len(calls)]).overruns == 0
    assert {call["status"] for call in calls} == {200}
    left = calls[-1]["time"] - 10.0
    assert sum(call["time"] > left for call in calls) > 0.5 * quota.calls * 10.0 / quota.seconds, "at the end they work"
    assert active(name) <= quota.calls * 0.2, "what a release was interrupted for may be counted for a while yet"


def test_what_the_dead_held_comes_back(server: StockServer, eventually: Callable[..., None]) -> None:
    quota, spawn = Quota.parse("2/1s"), multiprocessing.get_context("spawn")
    name = limit_name(quota, "stock-server")
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, quota.calls, 0)
    holding = spawn.Event()
    holders = [spawn.Process(target=hold, args=("2/1s", "stock-server", None, holding)) for _ in range(2)]
    for holder in holders:
        holder.start()
    eventually(lambda: active(name) == 2, 60)
    server.kill()
    for holder in holders:
        holder.kill()
    server.start()
    assert active(name) == 2
    begun = time.monotonic()
    with MarketProcess(size=10, quota="2/1s") as market:
        call_for(1.0, market.url, "2/1s", "stock-server", 1)
        assert market.calls()
    assert time.monotonic() - begun < 2 * 60 + 60 + 60 + 30
    assert active(name) == 0
