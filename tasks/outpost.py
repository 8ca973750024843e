"""A run's part in another process, which makes the calls of the batches that it is handed.

A Dask worker learns of a run by :class:`Errands`, which brings all that the batches share, once, and nothing secret:
keys and the database's URL come from the worker's own environment, or from Prefect's blocks. With the first batch it
opens what a run works with; with the run's end, or when the run's own process is gone, it closes it.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from distributed import Worker, WorkerPlugin
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

from closingbell.errors import ClosingbellError, RunEndingError
from closingbell.plan import Call, TickerRange
from closingbell.report import Tally
from closingbell.settings import SECRETS, Settings, load
from tasks.batch import Batch, BatchFailedError, Work, fetch_batch, told, worth_retrying
from tasks.context import Context
from tasks.resources import Resources, as_current, connected
from tasks.secrets import complete

log = logging.getLogger("closingbell.outpost")

#: Seconds between two looks whether the run's own process lives, and how many in a row have to find it gone.
_LOOK: Final = 1.0
_MISSED: Final = 3

#: Seconds that closing waits for batches which are being broken off to note what they leave.
GRACE: Final = 15.0

#: Seconds that sending the last of the log may take.
_SENDING: Final = 10

#: What is each machine's own, besides secrets.
_OWN: Final = ("closingbell_home", "prefect_api_url", "market_replay", "fetch_threads")


@dataclass(frozen=True, slots=True)
class Errand:
    """What the batches of a run share.

    Attributes:
        work: the run.
        settings: those that are the same in all its processes, by name.
        market: the address of the stand-in market, where that is the vendor.
        contexts: of each timeframe, the first arguments of its context.
        unreached: whether the vendor could not be reached so far.
        alone: whether the worker is there for this run only.
    """

    work: Work
    settings: Mapping[str, Any] = field(repr=False)
    market: str | None
    contexts: tuple[Mapping[str, Any], ...] = field(repr=False)
    unreached: bool = False
    alone: bool = False


def errand(work: Work, resources: Resources, *, alone: bool) -> Errand:
    """What the batches of a run share, as its own process has it."""
    return Errand(
        work,
        shared_settings(resources.settings),
        resources.vendor.market if resources.vendor else None,
        tuple(context.told() for context in resources.contexts),
        resources.unreached,
        alone,
    )


def shared_settings(settings: Settings) -> dict[str, Any]:
    """The settings that all processes of a run have to agree on; an address with a password in it is a secret too."""
    values = {name: getattr(settings, name) for name in Settings.model_fields if name not in (*SECRETS, *_OWN)}
    return {name: value for name, value in values.items() if not (isinstance(value, str) and "@" in value)}


class Outpost:
    """One process's part in a run.

    Args:
        errand: the run.
        threads: batches that this process works on at once.
    """

    def __init__(self, errand: Errand, threads: int) -> None:
        self.work = errand.work
        self._errand = errand
        self._threads = threads
        self._stack = ExitStack()
        self._opening = threading.Lock()
        self._resources: Resources | None = None
        self._over: tuple[ClosingbellError, bool] | None = None
        self._closed = threading.Event()
        self._busy = 0
        self._change = threading.Condition()
        self._spent = Counter[str]()

    @contextmanager
    def at_work(self) -> Iterator[Resources]:
        """What a batch works with, for the time of the block; opened with the first one.

        Raises:
            ClosingbellError: the run is over; or something is not fit for it here.
        """
        with self._change:
            self._busy += 1
        try:
            with self._opening:
                if self._closed.is_set():
                    raise RunEndingError("the run is ending")
                if self._resources is None:
                    self._open()
            assert self._resources is not None  # noqa: S101 - just opened
            with as_current(self._resources):
                yield self._resources
        finally:
            with self._change:
                self._busy -= 1
                self._change.notify_all()

    def stop(self, error: ClosingbellError, *, at_once: bool) -> None:
        """Let no batch begin another call; ``at_once``: break off those that are on their way."""
        self._over = (error, at_once)
        if self._resources:
            (self._resources.abandon if at_once else self._resources.stop)(error)

    def resume(self, batch: Batch[Call]) -> None:
        """Leave out of a batch what is answered: a worker that died may have made a part of it."""
        resources, todo = self._resources, list[Call]()
        assert resources is not None  # noqa: S101 - the batch is being worked on
        for timeframe in dict.fromkeys(call.timeframe for call in batch.todo):
            calls = [call for call in batch.todo if call.timeframe == timeframe]
            left = resources.store.writer.unanswered(self.work.run_id, self.work.source, timeframe, calls)
            for call in set(calls).difference(left):
                self._see_again(call, resources)
            todo += left
        batch.todo = todo

    def account(self, batch: Batch[Call]) -> None:
        """Let a batch tell what this process has written and spent since one last did."""
        resources = self._resources
        assert resources is not None  # noqa: S101 - as above
        with self._change:
            batch.tally.add(resources.flusher.take())
            now = Counter(resources.seconds)
            for stage, seconds in (now - self._spent).items():
                batch.tally.spend(stage, seconds)
            self._spent = now
            for context in resources.contexts:
                sights, context.sights = context.sights, []
                batch.tally.sights += sights or ()

    def count_calls(self, batch: Batch[Call], timeframe: str) -> None:
        """Add to the run's counter the calls that brought nothing to be written, as they were broken off."""
        resources = self._resources
        if resources is not None and (made := resources.uncounted_calls()):
            with suppress(ClosingbellError):
                resources.store.writer.flush(self.work.run_id, self.work.source, timeframe, [], made, self.work.now)

    def close(self) -> None:
        """Wait for the batches at work, which end within moments if the run is over, and close everything."""
        with self._change:
            self._change.wait_for(lambda: not self._busy, GRACE)
        self._closed.set()
        error = self._over[0] if self._over else None
        with self._opening, suppress(ClosingbellError):
            # Gates leave the slots of a run that is broken off to others, and wait for no window.
            self._stack.__exit__(type(error) if error else None, error, None)
        APILogWorker.drain_all(timeout=_SENDING)
        EventsWorker.drain_all(timeout=_SENDING)

    def _open(self) -> None:
        errand = self._errand
        settings = load(complete, **errand.settings, fetch_threads=self._threads)
        with ExitStack() as stack:
            resources = stack.enter_context(connected(settings, errand.market))
            resources.vendor = resources.open_vendor(errand.work.source)
            resources.unreached = errand.unreached
            resources.surround(Context(resources.store, **told, sights=[]) for told in errand.contexts)
            stack.enter_context(resources.flushing(errand.work.run_id, errand.work.source, errand.work.now))
            self._stack = stack.pop_all()
        self._resources = resources
        if self._over:
            self.stop(self._over[0], at_once=self._over[1])
        threading.Thread(target=self._watch, args=(resources,), name="run's life", daemon=True).start()

    def _watch(self, resources: Resources) -> None:
        """Stop when the run's own process is gone: nobody is left who could tell, nor anyone to tell."""
        missed = 0
        while not self._closed.wait(_LOOK) and missed < _MISSED:
            with suppress(ClosingbellError):
                missed = 0 if resources.store.records.is_alive(self.work.run_id) else missed + 1
        if missed:
            log.warning("the run's own process is gone; its batches are broken off here")
            self.stop(RunEndingError("the run's own process is gone"), at_once=True)

    def _see_again(self, call: Call, resources: Resources) -> None:
        """Take note of bars that a dead process stored: nobody else can tell that they are another ticker's too."""
        if isinstance(call, TickerRange):
            first, last = call.sessions[0], call.sessions[-1]
            bars = resources.store.records.series(self.work.source, call.timeframe, (call.ticker,), first, last)
            resources.context_of(call.timeframe).twin(call, bars)


#: The runs that this process has a part in.
_outposts: Final[dict[UUID, Outpost]] = {}


class Errands(WorkerPlugin):
    """Brings a run to each worker that is there, and to each that comes later."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand

    def setup(self, worker: Worker) -> None:
        """Be known on a worker."""
        if self._errand.alone:
            atexit.register(os._exit, 0)  # all is closed by then, and to take the interpreter apart takes seconds
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to all; the run tells its workers
        _outposts[self._errand.work.run_id] = Outpost(self._errand, worker.state.nthreads)

    async def teardown(self, worker: Worker) -> None:
        """Close what a worker has opened, while it goes on listening."""
        outpost = _outposts.pop(self._errand.work.run_id, None)
        if outpost is not None:
            await asyncio.to_thread(outpost.close)


def stop_here(run_id: UUID, error: ClosingbellError, at_once: bool) -> None:
    """Stop a run's part in this process; as :meth:`Outpost.stop`."""
    if outpost := _outposts.get(run_id):
        outpost.stop(error, at_once=at_once)


@task(name="batch", task_run_name="batch {batch}", cache_policy=NO_CACHE, retry_condition_fn=worth_retrying)
@told
def ingest_batch_here(batch: Batch[Call], run_id: UUID) -> Tally:
    """The same as :func:`tasks.batch.ingest_batch`, for a run of another process.

    Raises:
        ClosingbellError: as there; of several reasons for the run to stop, the first one.
    """
    return _fetch(batch, run_id)  # Dask sends a task's own code, and a copy of each global that is in it


def _fetch(batch: Batch[Call], run_id: UUID) -> Tally:
    outpost = _outposts.get(run_id)
    if outpost is None:
        raise RunEndingError("the run is over")
    with outpost.at_work() as resources:
        timeframe = batch.todo[0].timeframe if batch.todo else "1d"
        try:
            if not batch.begun:
                outpost.resume(batch)
            return fetch_batch(batch, outpost.work, resources)
        except BatchFailedError:
            raise
        except ClosingbellError:
            outpost.count_calls(batch, timeframe)
            if resources.stopped:
                raise copy.copy(resources.stopped) from None
            raise
        finally:
            outpost.account(batch)
