"""The batches of a run on a Dask cluster: one of this machine, for the time of the run, or one that is there.

The workers share the run's quota, its database and ledger with everybody else: nothing of a bar passes through Dask,
whose messages hold calls on the way there and numbers on the way back, and no key or password.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

from dask import config
from dask.base import annotate
from distributed import KilledWorker, Security
from distributed.client import Client, FutureCancelledError
from prefect import Flow, Task, unmapped
from prefect.context import FlowRunContext, SettingsContext, get_settings_context
from prefect.futures import PrefectFuture
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError
from closingbell.outcome import tickers
from closingbell.plan import Call
from closingbell.report import Failure, Tally
from closingbell.settings import Settings
from tasks.batch import Batch, BatchFailedError, Work, retries_in_threads
from tasks.logs import in_run_log
from tasks.outpost import Errands, errand, ingest_batch_here, stop_here
from tasks.resources import Resources
from tasks.runners import Fetching, Lanes

log = logging.getLogger("closingbell.cluster")

#: Seconds that a scheduler is asked to answer in, and its first worker to come.
_PATIENCE: Final = 60

#: Where a cluster of our own listens, without the pages that Dask would serve there to everybody on the machine.
_HOST: Final = "127.0.0.1"
_NO_PAGES: Final = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.dashboard.link": "",
}


@contextmanager
def in_cluster(work: Work, lanes: Lanes, resources: Resources) -> Iterator[Fetching]:
    """Dask workers who fetch the batches, for the time of the block.

    Raises:
        ConfigurationError: the scheduler does not answer, has no workers, or they do not know closingbell.
    """
    batches = [batch for of_class in lanes.values() for batch in of_class]
    there = Arrived(work, batches, resources)
    with ExitStack() as stack:
        stack.enter_context(in_run_log("distributed", logging.WARNING))
        runner = stack.enter_context(_runner(resources.settings, lanes))
        client = _connected(runner, resources.settings)
        stack.callback(there.settle)
        name = f"closingbell {work.run_id}"
        stack.callback(_withdraw, client, name)
        _send(client, Errands(errand(work, resources, alone=not resources.settings.dask_address)), name)

        def tell(error: ClosingbellError, at_once: bool) -> None:
            with suppress(OSError, RuntimeError, TimeoutError):  # whoever is not reached finds the run gone
                client.run(stop_here, work.run_id, error, at_once, on_error="ignore")

        futures: list[Arrival] = []

        def hand_out() -> list[PrefectFuture[Tally]]:
            with _nothing_secret():
                for lane, of_class in lanes.items():
                    step: Task[..., Any] = ingest_batch_here.with_options(
                        **retries_in_threads(resources.settings, lane)
                    )
                    with annotate(**_room(lane, lanes, resources.settings)):
                        sent = runner.map(step, {"batch": list(of_class), "run_id": unmapped(work.run_id)})
                    futures.extend(Arrival(future, batch, there) for future, batch in zip(sent, of_class, strict=True))
            return list(futures)

        resources.tell = tell
        try:
            yield Fetching(hand_out, there.written)
        except BaseException:
            client.cancel([future.wrapped_future for future in futures], force=True)
            raise
        finally:
            resources.tell = None


class Arrived:
    """What has come back from the workers of a run.

    Args:
        work: the run.
        batches: all of it.
        resources: those of the run's own process.
    """

    def __init__(self, work: Work, batches: Sequence[Batch[Call]], resources: Resources) -> None:
        self._work = work
        self._batches = batches
        self._resources = resources
        self._told = Tally()
        self._written = Tally()
        self._lock = threading.Lock()

    def take(self, batch: Batch[Call], result: object) -> None:
        """Take note of what became of a batch; where the run has to stop, all workers learn of it."""
        if isinstance(result, ClosingbellError) and not isinstance(result, BatchFailedError):
            self._resources.stop(result)
            return
        tally = result.tally if isinstance(result, BatchFailedError) else result
        if isinstance(tally, Tally):
            with self._lock:
                self._told.add(Tally(inserted=tally.inserted, rewritten=tally.rewritten))
                for context in self._resources.contexts:
                    context.meet(seen for seen in tally.sights if seen.timeframe == context.timeframe)
            batch.todo = []

    def give_up(self, batch: Batch[Call]) -> BatchFailedError:
        """Leave the rest of a batch, over which one worker after another died, to the next run."""
        work, writer, tally = self._work, self._resources.store.writer, Tally(calls_done=len(batch.todo))
        error = RetryableError(
            "the Dask workers that made these calls died",
            value=batch,
            fix="Look at their logs: mostly they had too little memory.",
        )
        for timeframe, calls in _by_timeframe(batch.todo).items():
            left = writer.unanswered(work.run_id, work.source, timeframe, calls)
            outcomes = [work.judge(call).failed(call, error) for call in left]
            holes = writer.flush(work.run_id, work.source, timeframe, outcomes, 0, work.now).holes
            tally.failures += [
                Failure(str(call), error.what, "failed", holes.get(str(call), 0), tickers(call), str(error), call.count)
                for call in left
            ]
        return BatchFailedError(tally)

    def settle(self) -> None:
        """Add up when all is over: what moved with the data counts, not what was told of it.

        A worker that died tells nothing of what it had committed. What is left of batches that did not end is found.
        """
        work, store = self._work, self._resources.store
        with suppress(ClosingbellError):  # the run's end says so
            for batch in self._batches:
                todo = _by_timeframe(batch.todo)
                left = [store.writer.unanswered(work.run_id, work.source, name, todo[name]) for name in todo]
                batch.todo = [call for calls in left for call in calls]
            row = store.records.progress(work.run_id)
            if row:
                self._resources.calls_elsewhere = row["actual_calls"] - self._resources.calls_counted
                for name in ("inserted", "rewritten"):
                    setattr(self._written, name, row[name] - getattr(self._told, name))

    def written(self) -> Tally:
        """What was written beside what the batches tell."""
        return self._written


class Arrival(PrefectDaskFuture[Tally]):
    """A batch on its way: what came of it is taken as soon as it is there, before its worker may die with it."""

    def __init__(self, future: PrefectDaskFuture[Tally], batch: Batch[Call], arrived: Arrived) -> None:
        super().__init__(future.task_run_id, future.wrapped_future)
        self._batch = batch
        self._arrived = arrived
        self._result: Any = None
        self._here = threading.Event()
        self.wrapped_future.add_done_callback(self._take)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is there."""
        self._here.wait(timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """The batch's tally, or the error that it ended with; errors of ours only.

        Raises:
            TimeoutError: it is not there in time.
        """
        if not self._here.wait(timeout):
            raise TimeoutError(f"{self._batch} did not come within {timeout} s")
        if raise_on_failure and isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def _take(self, _: object) -> None:
        """Fetch what came of it; in a thread of Dask's, one batch after the other."""
        try:
            self._result = self._fetched()
            self._arrived.take(self._batch, self._result)
        except BaseException as error:  # noqa: BLE001  (whoever waits has to learn of it)
            self._result = error
        finally:
            self._here.set()
            self.wrapped_future.release()  # else it is fetched once more when its worker dies

    def _fetched(self) -> Any:
        try:
            return super().result(raise_on_failure=False)
        except KilledWorker:
            return self._arrived.give_up(self._batch)
        except FutureCancelledError as error:
            return FatalError("the Dask scheduler is gone", value=error.reason, fix="The next run goes on from here.")
        except ClosingbellError as error:
            return error
        except Exception as error:  # noqa: BLE001  (whatever keeps a worker from running a batch)
            said = f"{type(error).__name__}: {error}"
            fix = "Let the workers have the same versions of closingbell, Prefect and Python as the run."
            return FatalError("a Dask worker cannot work on a batch", value=said, fix=fix)


def _by_timeframe(calls: Sequence[Call]) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in calls:
        found.setdefault(call.timeframe, []).append(call)
    return found


def _runner(settings: Settings, lanes: Lanes) -> DaskTaskRunner:
    if settings.dask_address:
        return DaskTaskRunner(address=settings.dask_address, client_kwargs={"timeout": _PATIENCE})
    workers, threads = _size(settings, lanes)
    config.set(_NO_PAGES)
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": workers,
            "threads_per_worker": threads,
            "processes": True,
            "host": _HOST,
            "scheduler_kwargs": {"dashboard": False, "dashboard_address": f"{_HOST}:0"},
            "security": Security.temporary(),  # on loopback, too, whoever reaches a scheduler runs what they like
            "resources": {lane: max(1, threads // len(lanes)) for lane in lanes},
            "silence_logs": logging.ERROR,
        }
    )


def _size(settings: Settings, lanes: Lanes) -> tuple[int, int]:
    """Workers of a cluster of our own, and the threads of each: as many batches at once as are set, in all."""
    workers = min(settings.dask_workers, sum(map(len, lanes.values())))
    return workers, max(len(lanes), math.ceil(settings.fetch_threads / workers))


def _room(lane: str, lanes: Lanes, settings: Settings) -> dict[str, Any]:
    """What keeps the asset classes from waiting for each other's retries: a share of each worker of our own cluster."""
    return {} if settings.dask_address or len(lanes) == 1 else {"resources": {lane: 1}}


def _connected(runner: DaskTaskRunner, settings: Settings) -> Client:
    """The client of a cluster with at least one worker.

    Raises:
        ConfigurationError: there is none.
    """
    fix = "Start it (dask scheduler, dask worker), correct DASK_ADDRESS, or unset it for a cluster on this machine."
    try:
        client = runner.client
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        what = "the Dask scheduler does not answer" if settings.dask_address else "no Dask cluster can be started"
        said = settings.dask_address.rpartition("@")[2] or f"{type(error).__name__}: {error}"
        raise ConfigurationError(what, value=said, fix=fix if settings.dask_address else "") from None
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError:
        raise ConfigurationError("the Dask cluster has no workers", value=settings.dask_address, fix=fix) from None
    return client


def _send(client: Client, errands: Errands, name: str) -> None:
    """Bring the run to all workers.

    Raises:
        ConfigurationError: they do not know what it is.
    """
    try:
        client.register_plugin(errands, name=name)
    except Exception as error:  # noqa: BLE001  (whatever a worker says)
        said = f"{type(error).__name__}: {error}"
        fix = "Install the same version of closingbell[dask] there."
        raise ConfigurationError("the Dask workers cannot work for closingbell", value=said, fix=fix) from None


def _withdraw(client: Client, name: str) -> None:
    """Let all workers close what they have opened for the run, and wait until they have."""
    try:
        client.unregister_worker_plugin(name)
    except Exception as error:  # noqa: BLE001  (workers find out by themselves that the run is gone)
        log.warning("the Dask workers were not told that the run is over (%s)", type(error).__name__)


class _Untold(SettingsContext):
    """Prefect's settings, as they hold in this process: each worker has its own, and its own key for the server."""

    def serialize(self, include_secrets: bool = True) -> dict[str, Any]:
        """Nothing is handed on."""
        return {}


def _elsewhere() -> None:
    """A flow that runs in another process."""


@contextmanager
def _nothing_secret() -> Iterator[None]:
    """Leave out of what Prefect hands to workers what is secret, or long, or of this process alone.

    That is the flow itself: whoever runs it may have hung something on it that cannot travel. They need its name.
    """
    there, run = get_settings_context(), FlowRunContext.get()
    with ExitStack() as stack:
        stack.enter_context(_Untold(profile=there.profile, settings=there.settings))
        if run is not None and run.flow_run is not None:
            of_run = run.flow_run.model_copy(update={"parameters": {}})
            named = Flow(_elsewhere, name=run.flow.name if run.flow else None)
            stack.enter_context(run.model_copy(update={"parameters": {}, "flow_run": of_run, "flow": named}))
        yield
