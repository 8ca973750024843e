"""Overruns and utilisation of the quota's gate, with Prefect's plain ``rate_limit`` beside it in the same run.

    python -m benchmarks.limiter [--seconds 30] [--full]

A real Prefect server on the embedded PostgreSQL, a stand-in market that enforces a rolling window, and processes
full of threads that call as fast as they may. The market's log of calls is the judge:

- an *overrun* is a call that arrived when the window before it already held the whole quota;
- *utilisation* is the time that a perfect caller would have needed for as many calls, over the time they took.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import click
import urllib3

from closingbell.quota import Quota
from infra.market.process import MarketProcess

Allow = Callable[[], AbstractContextManager[None]]

_PATH: Final = "/v1/marketstatus/now"
_SHORT: Final = (("5/6s", 8, 1), ("5/6s", 8, 2), ("100/s", 8, 1), ("100/s", 8, 2))
_FULL: Final = tuple(
    (quota, threads, processes) for quota in ("5/6s", "100/s") for threads in (1, 8, 25) for processes in (1, 2)
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the market saw.

    Attributes:
        calls: that arrived.
        overruns: that arrived too early.
        utilisation: 1.0 is perfect.
        shares: of the calls, by process.
    """

    calls: int
    overruns: int
    utilisation: float
    shares: tuple[float, ...]


def judge(times: Sequence[float], quota: Quota, made: Sequence[int]) -> Measured:
    """Measure the calls by when they arrived (ascending seconds)."""
    overruns = sum(
        i + 1 - bisect_right(times, at - quota.seconds, hi=i + 1) > quota.calls for i, at in enumerate(times)
    )
    took = times[-1] - times[0]
    needed = (len(times) - 1) // quota.calls * quota.seconds
    return Measured(len(times), overruns, needed / took if took else 1.0, tuple(n / sum(made) for n in made))


def work(method: str, rate: str, url: str, threads: int, ready: Barrier, made: Any, seconds: float, index: int) -> None:
    """One process: as many calls as the method lets through, from all threads, until the time is over."""
    quota = Quota.parse(rate)
    with _permission(method, quota) as allow, urllib3.PoolManager(maxsize=threads) as pool:
        ready.wait()
        until = time.monotonic() + seconds
        done = [0] * threads

        def keep_calling(thread: int) -> None:
            while time.monotonic() < until:
                with allow():
                    pool.request("GET", url + _PATH, headers={"Authorization": "Bearer benchmark"}, retries=False)
                done[thread] += 1

        callers = [threading.Thread(target=keep_calling, args=(number,)) for number in range(threads)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    made[index] = sum(done)


@contextlib.contextmanager
def _permission(method: str, quota: Quota) -> Iterator[Allow]:
    if method == "gate":
        from tasks.limiter import PrefectGate

        with PrefectGate(quota, call_timeout=30) as gate:
            yield gate.call
    else:
        from prefect.concurrency.sync import rate_limit

        @contextlib.contextmanager
        def allow() -> Iterator[None]:
            rate_limit(plain_name(quota), strict=True)
            yield

        yield allow


def plain_name(quota: Quota) -> str:
    """The name of the decaying limit for the plain ``rate_limit``."""
    return f"plain-{quota.calls}-in-{quota.seconds:g}s"


def create_limits(quota: Quota) -> None:
    """Make sure that both kinds of limit for a quota are there."""
    from prefect.client.orchestration import get_client

    from tasks.limiter import limit_name

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit_name(quota), quota.calls, 0)
        client.upsert_global_concurrency_limit_by_name(plain_name(quota), quota.calls, quota.calls / quota.seconds)


def measure(method: str, rate: str, threads: int, processes: int, seconds: float) -> Measured:
    """Run one case against a market of its own, on the Prefect server that is configured."""
    quota = Quota.parse(rate)
    create_limits(quota)
    spawn = multiprocessing.get_context("spawn")
    ready, made = spawn.Barrier(processes), spawn.Array("i", processes)
    # The market only watches: a refusal would change what is measured.
    with MarketProcess(size=10, quota="1000000/s") as market:
        workers = [
            spawn.Process(target=work, args=(method, rate, market.url, threads, ready, made, seconds, index))
            for index in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        times = [call["time"] for call in market.calls()]
    return judge(times, quota, made[:])


@contextlib.contextmanager
def prefect_server() -> Iterator[str]:
    """A Prefect server of our own, on an embedded PostgreSQL, configured for this process and its children."""
    from deployments.prefect_server import PrefectServer, client_environment, prefect_environment
    from infra.postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as postgres:
        postgres.ensure_database("prefect")
        server = PrefectServer(Path(folder), postgres.url("prefect", driver="postgresql+asyncpg"))
        try:
            server.start()
            server.wait_ready()
            with prefect_environment(client_environment(Path(folder), server.api_url)):
                yield server.api_url
        finally:
            server.stop()


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="How long each case runs.")
@click.option("--full", is_flag=True, help="1, 8 and 25 threads.")
@click.option("--method", type=click.Choice(["gate", "rate_limit"]), multiple=True, default=["gate", "rate_limit"])
def main(seconds: float, full: bool, method: Sequence[str]) -> None:
    """Print the table."""
    print("| quota | threads | processes | method | calls | overruns | utilisation | by process |")
    print("|---|---|---|---|---|---|---|---|")
    with prefect_server():
        for rate, threads, processes in _FULL if full else _SHORT:
            for name in method:
                seen = measure(name, rate, threads, processes, seconds)
                shares = " ".join(f"{share:.0%}" for share in seen.shares)
                print(
                    f"| {rate} | {threads} | {processes} | {name} | {seen.calls} | {seen.overruns} "
                    f"| {seen.utilisation:.1%} | {shares} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
