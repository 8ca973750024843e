"""A run whose calls Dask workers make is the same run: one quota, one ledger, one report, whoever dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import cloudpickle
import distributed
import pytest
import sqlalchemy as sa
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, temporary_settings

from closingbell.store import Store
from closingbell.universe import resolve
from infra.market.process import MarketProcess
from tests.databases import copied
from tests.night.command import contents, ended, finish, start
from tests.night.conftest import NOW, Nights

pytestmark = pytest.mark.prefect

#: 24 tickers, a page each.
TICKERS = list(resolve("sp500", None))[:24]
ASKED: dict[str, Any] = {
    "tickers": TICKERS,
    "timeframes": ["5m"],
    "start": date(2026, 2, 23),
    "end": date(2026, 3, 6),
    "batch_size": 3,
}
SESSIONS = 10

#: Of the whole run, which therefore takes two seconds at least.
QUOTA = "6/0.5s"

#: Each in one place of what a run hands on.
SECRETS = ("canary-3fe1", "canary-prefect-key", "canary-prefect-auth")


@pytest.fixture
def fresh_database(postgres: sa.URL, _template: str) -> Iterator[Callable[[], str]]:
    """Makes empty databases, and removes them all at the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(copied(postgres, _template)).render_as_string(hide_password=False)


@pytest.fixture
def strict(nights: Nights) -> Iterator[MarketProcess]:
    """A market that counts the calls of any window itself, and refuses those beyond the quota."""
    with MarketProcess(size=600, quota=QUOTA, retry_after=False) as market:
        market.set_now(datetime.fromisoformat(NOW))
        nights.market = market
        nights.setenv("POLYGON_BASE_URL", market.url)
        nights.setenv("FETCH_THREADS", "4")
        nights.setenv("MAX_RETRIES", "0")
        nights.quota(QUOTA)
        yield market


def backfill(nights: Nights, **parameters: Any) -> dict[str, Any]:
    from flows.backfill import backfill as flow

    return nights._run(flow, {**ASKED, **parameters})


def workers() -> list[int]:
    """The processes of this process's Dask workers."""
    return [child.pid for child in multiprocessing.active_children() if "Dask" in child.name and child.pid]


@contextmanager
def killing_one(market: MarketProcess, after: int) -> Iterator[list[int]]:
    """Kill one worker as soon as the market has seen so many calls; yields whom."""
    over, killed = threading.Event(), list[int]()

    def kill() -> None:
        while not over.wait(0.05):
            if len(market.calls()) >= after and (alive := workers()):
                killed.append(alive[0])
                os.kill(alive[0], signal.SIGKILL)
                return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@contextmanager
def overhearing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """All that Dask's client is handed in the block, as it goes over the wire."""
    sent: list[bytes] = []
    submit, register = distributed.Client.submit, distributed.Client.register_plugin

    def submitted(client: distributed.Client, function: Any, *args: Any, **kwargs: Any) -> Any:
        given = {name: value for name, value in kwargs.items() if name in ("context", "parameters", "task")}
        sent.append(cloudpickle.dumps((function, args, given)))
        return submit(client, function, *args, **kwargs)

    def registered(client: distributed.Client, plugin: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(cloudpickle.dumps(plugin))
        return register(client, plugin, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(distributed.Client, "submit", submitted)
        patched.setattr(distributed.Client, "register_plugin", registered)
        yield sent


@pytest.mark.soak
def test_workers_do_what_threads_do_even_if_one_is_killed(
    nights: Nights,
    strict: MarketProcess,
    fresh_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_threads = backfill(nights)
    assert by_threads["state"] == "Completed"
    expected, asked_for = contents(nights.database_url), sorted(nights.paths())
    assert len(expected[0]) == by_threads["stored_bars"] == 24 * SESSIONS * 78

    strict.clear_calls()
    nights.setenv("DATABASE_URL", url := fresh_database())
    with (
        overhearing(monkeypatch) as sent,
        temporary_settings({PREFECT_API_KEY: SECRETS[1], PREFECT_API_AUTH_STRING: SECRETS[2]}),
    ):
        told = backfill(nights, task_runner="dask")

    assert contents(url) == expected
    assert sorted(nights.paths()) == asked_for, "each call was made once"
    assert {call["status"] for call in strict.calls()} == {200}, "and none was refused"
    same = ("state", "planned_calls", "actual_calls", "expected_cells", "stored_bars", "inserted", "gaps")
    assert [told[name] for name in same] == [by_threads[name] for name in same]
    counts = ("received", "valid", "skipped")
    assert [told["loading"][name] for name in counts] == [by_threads["loading"][name] for name in counts]
    assert {"api", "checks", "database", "decoding"} <= told["seconds"].keys()
    password = str(sa.make_url(url).password)
    assert len(sent) == 8 + 1, "the batches, and what they share"
    assert not [secret for secret in (password, *SECRETS) if any(secret.encode() in each for each in sent)]
    assert max(map(len, sent)) < 20_000, "no bars, and no list of tickers"

    strict.clear_calls()
    nights.setenv("DATABASE_URL", url := fresh_database())
    with killing_one(strict, after=8) as killed:
        told = backfill(nights, dask_workers=2)

    assert len(killed) == 1
    assert contents(url) == expected
    assert {call["status"] for call in strict.calls()} == {200}, "what the dead worker held was not lent at once"
    assert (told["state"], told["gaps"], told["unexplained"]) == ("Completed", {}, {})
    assert told["inserted"] == told["stored_bars"] == 24 * SESSIONS * 78
    repeated = sum(count - 1 for count in Counter(nights.paths()).values())
    assert repeated <= 4, "at most the calls and answers that were on their way in the two threads of one worker"
    assert told["actual_calls"] >= len(strict.calls()) - repeated
    assert not workers()


@pytest.mark.soak
def test_what_no_call_would_escape_stops_a_cluster_s_workers(nights: Nights, strict: MarketProcess) -> None:
    strict.fault("status", path="/range/", status=401, after=6)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, host="127.0.0.1", dashboard_address=":0"
    ) as cluster:
        there = set(workers())
        told = backfill(nights, dask_address=cluster.scheduler_address)

        assert (told["state"], told["unexplained"]) == ("Failed", {})
        assert "401" in told["error"]
        calls = len(strict.calls())
        assert calls <= 7 + 2 * 4, "those on their way, and no more"
        assert told["actual_calls"] == calls
        assert told["stored_cells"] == 6 * SESSIONS, "all that was answered"
        assert told["expected_cells"] == told["stored_cells"] + sum(told["gaps"].values())

        strict.clear_faults()
        nights.setenv("TASK_RUNNER", "dask")
        nights.setenv("DASK_ADDRESS", cluster.scheduler_address)
        again = nights.retry(run_id=told["run_id"])
        assert (again["state"], again["stored_bars"]) == ("Completed", 24 * SESSIONS * 78)
        assert again["inserted"] == (24 - 6) * SESSIONS * 78
        assert set(workers()) == there, "who came before the run stays after it"


@pytest.mark.soak
def test_a_run_on_workers_can_be_called_off(nights: Nights, store: Store) -> None:
    nights.market.fault("stall", seconds=600, when="body", path="/range/", after=2)
    environment = nights.environment(POLYGON_READ_TIMEOUT="600", POLYGON_CALL_TIMEOUT="600", FETCH_THREADS="2")
    asked = ("-t", ",".join(TICKERS[:8]), "--timeframe", "1h", "--start", "2026-02-23", "--batch-size", "2")
    run = start(environment, "backfill", *asked, "--task-runner", "dask")
    while len(nights.market.calls()) < 5:  # the look at splits, two that are answered, two that are not
        assert run.poll() is None
        threading.Event().wait(0.05)
    run.send_signal(signal.SIGINT)
    out, errors = ended(run, 60)

    assert run.returncode == 130, errors
    told = json.loads(out)
    assert (told["state"], told["unexplained"]) == ("Cancelled", {})
    assert told["expected_cells"] == 8 * SESSIONS == told["stored_cells"] + told["gaps"]["pending"]
    assert told["stored_cells"] == 2 * SESSIONS
    row = store.records.run(told["run_id"])
    assert row is not None
    assert (row["state"], row["actual_calls"]) == ("Cancelled", len(nights.market.calls()))
    assert "canary" not in errors


@pytest.mark.soak
def test_five_hundred_tickers_of_minutes(
    nights: Nights, fresh_database: Callable[[], str], say: Callable[[str], None]
) -> None:
    quota, tickers = "50/s", list(resolve("sp500", None))[:500]
    asked = {"tickers": tickers, "timeframes": ["1m"], "start": date(2026, 2, 23), "batch_size": 10}
    nights.setenv("FETCH_THREADS", "8")
    nights.quota(quota)
    found: dict[str, Any] = {}
    with MarketProcess(size=600, quota=quota, retry_after=False) as market:
        market.set_now(datetime.fromisoformat(NOW))
        nights.market = market
        nights.setenv("POLYGON_BASE_URL", market.url)
        for how in ("threads", "dask", "dask, one worker killed"):
            market.clear_calls()
            nights.setenv("DATABASE_URL", url := fresh_database())
            with killing_one(market, after=150 if "killed" in how else 10**9) as killed:
                told = backfill(nights, **asked, task_runner=how.partition(",")[0])
            calls = market.calls()
            repeated = sum(count - 1 for count in Counter(nights.paths()).values())
            say(
                f"{how}: {told['state']} in {told['seconds']['total']:.1f} s, {told['planned_calls']} calls planned,"
                f" {told['actual_calls']} counted, {len(calls)} at the market, {repeated} twice,"
                f" {sum(call['status'] != 200 for call in calls)} refused; {told['inserted']:,} bars inserted of"
                f" {told['stored_bars']:,}; seconds {told['seconds']}"
            )
            found[how] = digest(url)
            assert {call["status"] for call in calls} == {200}
            assert (told["state"], told["unexplained"]) == ("Completed", {})
            assert told["inserted"] == told["stored_bars"] > 1_900_000
            assert told["planned_calls"] == 500 + 1 == len(calls) - repeated
            assert len(killed) == ("killed" in how)
            assert repeated <= 2 * 4 * len(killed)
            assert told["actual_calls"] >= len(calls) - repeated
    assert len(set(found.values())) == 1, "the same bars, gaps and watermarks, to the last digit"


def digest(url: str) -> tuple[Any, ...]:
    """Of all that a run leaves behind, for more rows than are to be read."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    columns = {
        "bar": "ticker, timeframe, session, ts, open, high, low, close, volume, vwap, trades, source",
        "gap": "ticker, timeframe, session, reason",
        "watermark": "ticker, timeframe, first_session, last_session",
        "quarantine": "ticker, timeframe, ts, rule, close",
    }
    with engine.connect() as connection:
        return tuple(
            connection.execute(
                sa.text(f"SELECT count(*), sum(hashtextextended(concat_ws('|', {of}), 0)) FROM {table}")  # noqa: S608
            ).one()
            for table, of in columns.items()
        )


@pytest.mark.soak
def test_workers_end_with_their_run_and_the_next_one_goes_on(
    nights: Nights, strict: MarketProcess, store: Store
) -> None:
    environment = {
        "DATABASE_URL": nights.database_url,
        "POLYGON_BASE_URL": strict.url,
        "POLYGON_API_KEY": "any",
        "POLYGON_CALLS_PER_MINUTE": QUOTA,
        "CLOSINGBELL_HOME": str(nights.home),
        "CLOSINGBELL_NOW": NOW,
        "FETCH_THREADS": "4",
    }
    asked = ("-t", ",".join(TICKERS), "--timeframe", "5m", "--start", "2026-02-23", "--batch-size", "3")
    run = start(environment, "backfill", *asked, "--task-runner", "dask")
    while len(strict.calls()) < 10:
        assert run.poll() is None
        threading.Event().wait(0.05)
    theirs = children(run.pid)
    assert len(theirs) >= 2
    run.kill()
    run.communicate()
    for _ in range(600):
        if not any(alive(pid) for pid in theirs):
            break
        threading.Event().wait(0.05)
    assert not [pid for pid in theirs if alive(pid)]

    made, committed = len(nights.bar_calls()), len({row[0] for row in contents(nights.database_url)[0]})

    told = finish(start(environment, "backfill", *asked, "--task-runner", "dask"))
    assert (told["state"], told["stored_bars"], told["gaps"]) == ("Completed", 24 * SESSIONS * 78, {})
    assert {call["status"] for call in strict.calls()} == {200}
    repeated = sum(count - 1 for count in Counter(nights.bar_calls()).values())
    assert repeated <= made - committed, "nothing that was committed"
    assert store.records.audit()["polygon", "5m"].balanced


def children(pid: int) -> list[int]:
    """All processes below one."""
    found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    threads = Path(f"/proc/{pid}/task").iterdir()
    found += [int(each) for thread in threads for each in (thread / "children").read_text().split()]
    return sorted(set(found).union(*(children(each) for each in set(found))))


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has asked after since it ended does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
