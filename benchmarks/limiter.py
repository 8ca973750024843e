"""Overruns and utilisation of the quota's gate, with Prefect's plain ``rate_limit`` beside it in the same run.

    python -m benchmarks.limiter [--full] [--quota 100/s] [--seconds 30] [--threads 50] [--latency 0.3]

A real Prefect server on the embedded PostgreSQL, a stand-in market that enforces a rolling window, and processes
full of threads that call as fast as they may. The market's log of calls is the judge:

- an *overrun* is a call that arrived when the window before it already held the whole quota;
- *utilisation* is the time that a perfect caller would have needed for as many calls, over the time they took.

The two methods have a limit and a market each. At a slow quota they run at the same time, at a fast one, where they
would take each other's processor, one after the other.
"""

from __future__ import annotations

import contextlib
import contextvars
import multiprocessing
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

METHODS: Final = ("gate", "rate_limit")

_PATH: Final = "/v1/marketstatus/now"
#: Quota, threads, processes, seconds.
_SHORT: Final = (("5/6s", 8, 1, 20.0), ("5/6s", 8, 2, 20.0), ("100/s", 8, 1, 20.0), ("100/s", 8, 2, 20.0))
_FULL: Final = tuple(
    (quota, threads, processes, seconds)
    for quota, seconds in (("5/6s", 100.0), ("100/s", 20.0))
    for threads in (1, 8, 25)
    for processes in (1, 2)
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


def work(
    method: str, rate: str, url: str, threads: int, ready: Barrier, made: Any, seconds: float, books: Path, index: int
) -> None:
    """One process: as many calls as the method lets through, from all threads, until the time is over."""
    quota = Quota.parse(rate)
    with _permission(method, quota, books) as allow, urllib3.PoolManager(maxsize=threads) as pool:
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
def _permission(method: str, quota: Quota, books: Path) -> Iterator[Allow]:
    if method == "gate":
        from tasks.limiter import PrefectGate

        with PrefectGate(quota, call_timeout=30, books=books) as gate:
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

    from tasks.limits import limit_name

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit_name(quota), quota.calls, 0)
        client.upsert_global_concurrency_limit_by_name(plain_name(quota), quota.calls, quota.calls / quota.seconds)


def measure(method: str, rate: str, threads: int, processes: int, seconds: float, latency: float = 0.0) -> Measured:
    """Run one case against a market of its own, on the Prefect server that is configured."""
    quota = Quota.parse(rate)
    spawn = multiprocessing.get_context("spawn")
    ready, made = spawn.Barrier(processes), spawn.Array("i", processes)
    # The market only watches: a refusal would change what is measured.
    with tempfile.TemporaryDirectory() as books, MarketProcess(size=10, quota="1000000/s") as market:
        if latency:
            market.fault("stall", path=_PATH, when="head", seconds=latency)
        workers = [
            spawn.Process(
                target=work, args=(method, rate, market.url, threads, ready, made, seconds, Path(books), index)
            )
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


def side_by_side(rate: str, threads: int, processes: int, seconds: float, latency: float) -> list[Measured]:
    """One case by each method."""
    quota = Quota.parse(rate)
    create_limits(quota)
    together = quota.interval > 0.1

    def one(method: str) -> Measured:
        return measure(method, rate, threads, processes, seconds, latency)

    with ThreadPoolExecutor(len(METHODS) if together else 1) as pool:
        # Which Prefect server is meant is a context variable, which a new thread does not inherit by itself.
        running = [pool.submit(contextvars.copy_context().run, one, method) for method in METHODS]
        return [each.result() for each in running]


@click.command()
@click.option("--full", is_flag=True, help="1, 8 and 25 threads, ten minutes at the slow quota.")
@click.option("--seconds", type=float, help="How long each case runs.")
@click.option("--quota", type=click.Choice(["5/6s", "100/s"]), help="Only the cases of this one.")
@click.option("--threads", type=int, help="In each process.")
@click.option("--latency", default=0.0, show_default=True, help="Seconds that the market takes for an answer.")
def main(full: bool, quota: str | None, seconds: float | None, threads: int | None, latency: float) -> None:
    """Print the table."""
    print("| quota | threads | processes | method | calls | overruns | utilisation | by process |")
    print("|---|---|---|---|---|---|---|---|")
    with prefect_server():
        for rate, usual_threads, processes, usual_seconds in _FULL if full else _SHORT:
            if quota not in (None, rate):
                continue
            case = rate, threads or usual_threads, processes
            measured = side_by_side(*case, seconds or usual_seconds, latency)
            for name, seen in zip(METHODS, measured, strict=True):
                shares = " ".join(f"{share:.0%}" for share in seen.shares)
                cells = [*case, name, seen.calls, seen.overruns, f"{seen.utilisation:.1%}", shares]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
