"""A run that is called off stops at once, whatever it waits for, and the next one goes on where it stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from prefect.task_runners import ThreadPoolTaskRunner

from closingbell.errors import ClosingbellError, ConfigurationError
from closingbell.store import Store, Writer
from tasks import batch, night
from tasks.resources import Resources
from tests.night.command import ended, start
from tests.night.conftest import QUOTA, Nights
from tests.proxy import Proxy

pytestmark = pytest.mark.prefect

TICKERS = ["AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "AVGO", "TSLA"]
SESSIONS = 24
CELLS = len(TICKERS) * SESSIONS


def _started(nights: Nights, **settings: str) -> subprocess.Popen[str]:
    """A run as a process, which waits for the vendor as long as it takes."""
    environment = nights.environment(POLYGON_READ_TIMEOUT="600", POLYGON_CALL_TIMEOUT="600", **settings)
    return start(environment, "ingest", "-t", ",".join(TICKERS), "--start", "2026-02-02", "--end", "2026-03-06")


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Lets another thread press Ctrl-C, as this process hears of it."""
    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield partial(signal.pthread_kill, main, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "waits_for"), [(signal.SIGINT, "the vendor"), (signal.SIGTERM, "the quota")], ids=["ctrl-c", "sigterm"]
)
def test_a_run_called_off_leaves_a_true_state(
    nights: Nights, store: Store, number: signal.Signals, waits_for: str
) -> None:
    if waits_for == "the vendor":
        nights.market.fault("stall", seconds=600, when="body", path="/range/", after=2)
    else:
        nights.quota("3/600s")
    quota = QUOTA if waits_for == "the vendor" else "3/600s"
    run = _started(nights, POLYGON_CALLS_PER_MINUTE=quota, BATCH_SIZE="2", FETCH_THREADS="2")
    while len(nights.market.calls()) < 3:
        assert run.poll() is None
        threading.Event().wait(0.05)
    run.send_signal(number)
    out, errors = ended(run, 60)

    assert run.returncode == 130, errors
    told = json.loads(out)
    assert told["state"] == "Cancelled"
    assert told["unexplained"] == {}
    assert told["expected_cells"] == CELLS == told["stored_bars"] + told["gaps"]["pending"]
    row = store.records.run(told["run_id"])
    assert row is not None
    assert (row["state"], row["actual_calls"]) == ("Cancelled", len(nights.market.calls()))
    assert store.records.audit()["polygon", "1d"].balanced

    nights.market.clear_faults()
    nights.quota(QUOTA)
    again = nights.retry(run_id=told["run_id"])
    assert (again["state"], again["stored_bars"]) == ("Completed", CELLS)
    assert again["inserted"] == CELLS - told["stored_bars"]


@contextmanager
def _broken_off(nights: Nights) -> Iterator[None]:
    """A run in the block is called off when two of its calls are answered, and two are not."""
    nights.market.fault("stall", seconds=600, when="body", path="/range/", after=2)
    hand_out = ThreadPoolTaskRunner.map

    def broken_off(*arguments: Any, **options: Any) -> None:
        hand_out(*arguments, **options)
        while len(nights.bar_calls()) < 4:
            threading.Event().wait(0.05)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"POLYGON_READ_TIMEOUT": "600", "POLYGON_CALL_TIMEOUT": "600", "BATCH_SIZE": "2"}.items():
            patch.setenv(name, value)
        patch.setattr(ThreadPoolTaskRunner, "map", broken_off)
        yield
    nights.market.clear_faults()


def test_ctrl_c_while_batches_are_handed_out_ends_those_at_work(nights: Nights, store: Store) -> None:
    """The first are at the vendor before the last is handed out; nobody waits there for the vendor's silence."""
    with _broken_off(nights), pytest.raises(KeyboardInterrupt):
        nights.ingest(tickers=TICKERS, start="2026-02-02", end="2026-03-06")

    (row,) = store.records.runs()
    assert row["state"] == "Cancelled"
    assert store.records.audit()["polygon", "1d"].balanced


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_what_was_not_tried_is_noted_some_at_a_time_and_only_for_so_long(
    seconds: float, nights: Nights, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker kills 30 s after it called a run off, and 3,000 tickers have millions of cells in a few years."""
    monkeypatch.setattr(batch, "LONGEST_FAREWELL", seconds)
    monkeypatch.setattr(batch, "NOTED_AT_ONCE", 2 * SESSIONS)
    noted: list[int] = []
    flush = Writer.flush

    def counting(writer: Writer, run: Any, source: str, timeframe: str, outcomes: Any, *others: Any) -> Any:
        noted.extend([len(outcomes)] if all(outcome.reason == "pending" for outcome in outcomes) else [])
        return flush(writer, run, source, timeframe, outcomes, *others)

    monkeypatch.setattr(Writer, "flush", counting)
    with _broken_off(nights), pytest.raises(KeyboardInterrupt):
        nights.ingest(tickers=TICKERS, start="2026-02-02", end="2026-03-06")

    assert max(noted, default=0) <= 2
    assert sum(noted) == (len(TICKERS) - 2 if seconds else 0)
    (report,) = (nights.home / "runs").glob("*.json")
    told = json.loads(report.read_text())
    assert (told["state"], told["unexplained"]) == ("Cancelled", {})
    assert told["expected_cells"] == CELLS == told["stored_bars"] + sum(told["gaps"].values())
    assert store.records.audit()["polygon", "1d"].balanced

    again = nights.retry(run_id=told["run_id"])
    assert (again["state"], again["stored_bars"]) == ("Completed", CELLS)


def test_what_was_begun_is_waited_for_when_a_signal_comes(ctrl_c: Callable[[], None]) -> None:
    abandoned = threading.Event()
    done: list[str] = []

    class Abandoned:
        def abandon(self, error: ClosingbellError) -> None:
            abandoned.set()

    def work() -> list[Any]:
        ctrl_c()
        abandoned.wait()
        threading.Event().wait(0.5)  # whoever does not wait is gone by then
        done.append("all")
        return []

    with pytest.raises(KeyboardInterrupt):
        night._out_of_reach(work, cast(Resources, Abandoned()))
    assert done == ["all"]


def test_a_signal_breaks_nothing_off_but_the_waiting(
    nights: Nights, store: Store, monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[], None]
) -> None:
    """Its exception is raised wherever the main thread is: with a lock in hand, other threads would wait for ever."""
    nights.market.fault("stall", seconds=600, when="body", path="/range/", after=2)
    for name, value in {"READ_TIMEOUT": "600", "CALL_TIMEOUT": "600"}.items():
        nights.setenv(f"POLYGON_{name}", value)
    nights.setenv("BATCH_SIZE", "2")
    hand_out, handed_out = ThreadPoolTaskRunner.map, list[int]()

    def while_a_signal_comes(*arguments: Any, **options: Any) -> Any:
        futures = hand_out(*arguments, **options)
        while len(nights.bar_calls()) < 4:  # two are answered, two are not
            threading.Event().wait(0.05)
        ctrl_c()
        while not all(future.wrapped_future.done() for future in futures):
            threading.Event().wait(0.05)
        handed_out.append(len(futures))
        return futures

    monkeypatch.setattr(ThreadPoolTaskRunner, "map", while_a_signal_comes)
    with pytest.raises(KeyboardInterrupt):
        nights.ingest(tickers=TICKERS, start="2026-02-02", end="2026-03-06")
    monkeypatch.undo()

    assert handed_out == [len(TICKERS) // 2]
    (row,) = store.records.runs()
    assert row["state"] == "Cancelled"
    assert store.records.audit()["polygon", "1d"].balanced


@pytest.mark.parametrize("why", ["ctrl-c", "a wrong key"])
def test_a_batch_that_waits_for_its_next_try_is_not_waited_for(
    why: str, nights: Nights, store: Store, monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[], None]
) -> None:
    monkeypatch.setattr(batch, "LONGEST_DELAY", 3600.0)
    nights.setenv("RETRY_DELAY", "3600")
    nights.setenv("BATCH_SIZE", "1")
    nights.market.fault("status", status=503, path="/AAPL/range/")
    wait = Resources.wait

    def then_it_ends(resources: Resources, seconds: float) -> None:
        if why == "ctrl-c":
            ctrl_c()
        else:
            resources.stop(ConfigurationError("the vendor rejects the key"))
        wait(resources, seconds)

    monkeypatch.setattr(Resources, "wait", then_it_ends)
    with pytest.raises(KeyboardInterrupt) if why == "ctrl-c" else nullcontext():
        nights.ingest(tickers=["AAPL", "MSFT"], start="2026-02-02", end="2026-03-06")

    (row,) = store.records.runs()
    assert row["state"] == ("Cancelled" if why == "ctrl-c" else "Failed")
    assert len([path for path in nights.bar_calls() if "/AAPL/" in path]) == 1
    assert store.records.audit()["polygon", "1d"].balanced


@pytest.mark.postgres_only("its locks on tables")
@pytest.mark.parametrize("lock", ["LOCK TABLE bar IN ACCESS EXCLUSIVE MODE", "LOCK TABLE bar IN SHARE MODE"])
def test_what_somebody_has_locked_is_not_waited_for(
    lock: str, nights: Nights, store: Store, monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[], None]
) -> None:
    """The plan waits for the one, in the main thread, and what is fetched for the other, in the writer's."""
    for module in ("interrupt", "patience"):
        monkeypatch.setattr(f"closingbell.store.{module}.HURRIED", 1.0)
    nights.setenv("DATABASE_LOCK_TIMEOUT", "3600")
    waits = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = current_database()"
    )

    def call_off() -> None:
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not connection.execute(waits).scalar_one():
                threading.Event().wait(0.05)
        ctrl_c()

    caller = threading.Thread(target=call_off, daemon=True)
    with store.engine.connect() as stranger:
        stranger.exec_driver_sql(lock)
        caller.start()
        with pytest.raises(KeyboardInterrupt):
            nights.ingest(tickers=TICKERS, start="2026-02-02", end="2026-03-06")
    caller.join()
    (report,) = (nights.home / "runs").glob("*.json")
    assert json.loads(report.read_text())["state"] == "Cancelled"
    assert [row["state"] for row in store.records.runs()] == ([] if "ACCESS" in lock else ["Cancelled"])

    again = nights.ingest(tickers=TICKERS, start="2026-02-02", end="2026-03-06")
    assert (again["state"], again["stored_bars"]) == ("Completed", CELLS)


def test_a_prefect_server_that_went_away_keeps_nobody_from_calling_a_run_off(
    nights: Nights, store: Store, prefect_api: str
) -> None:
    nights.market.fault("stall", seconds=600, when="body", path="/range/", after=2)
    server = urlsplit(prefect_api)
    assert server.port is not None
    with Proxy(server.port) as proxy:
        away = server._replace(netloc=f"{server.hostname}:{proxy.port}").geturl()
        run = _started(nights, PREFECT_API_URL=away, PREFECT_CLIENT_MAX_RETRIES="0")
        while len(nights.bar_calls()) < 3:
            assert run.poll() is None
            threading.Event().wait(0.05)
        proxy.cut()
        run.send_signal(signal.SIGINT)
        out, errors = ended(run)

    assert run.returncode == 130, errors
    told = json.loads(out)
    assert (told["state"], told["unexplained"]) == ("Cancelled", {})
    assert "the Prefect server was not told how the run ended: " in errors
    assert "Traceback" not in errors
    (row,) = store.records.runs()
    assert row["state"] == "Cancelled"
