"""What a run works with, opened once in its process: settings, store, source, quota."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from prefect.logging import get_run_logger
from pydantic import SecretStr

from closingbell.calendar import AssetClass
from closingbell.clock import Clock
from closingbell.errors import ClosingbellError, FatalError
from closingbell.night import Night
from closingbell.outcome import FlushResult, Outcome
from closingbell.parts import in_batches
from closingbell.plan import TickerRange
from closingbell.request import Request
from closingbell.settings import Settings, load
from closingbell.sources.flatfiles import FlatFiles
from closingbell.sources.offers import Batched, reaching
from closingbell.store import Store, open_store
from closingbell.store.faults import AwayError
from infra import embedded, migrations
from tasks import vendors
from tasks.context import Context, known_splits
from tasks.flush import Flusher
from tasks.gates import Gates
from tasks.logs import in_run_log
from tasks.memory import give_back, settled, sweep
from tasks.secrets import complete
from tasks.vendors import Abortable, Vendor

#: Seconds that a run waits until those who work for it elsewhere know that it is stopped.
_TELLING: Final = 5.0

#: Bars of a transaction after which memory is swept.
_LARGE: Final = 10_000


@dataclass(slots=True)
class Resources:
    """The parts of a run; safe to share between its task threads.

    Attributes:
        settings: as read from the environment.
        clock: the time.
        store: the database, at the newest migration.
        vendor: the source of the run and its gates, once :meth:`choose` has opened them.
        abandoned: set when the run shall end within moments, whatever it waits for.
        night: the run, once it is worked out.
        stopped: why the run has to stop, as soon as any of its batches knows.
        halted: set with it.
        unreached: the vendor could not be reached, and has not been since.
        failing: how many calls of an asset class in a row, of whatever batch, got no answer that could be used.
        pace: seconds that the last call took, waiting for the quota and for room among what is written included.
        calls_elsewhere: HTTP attempts that other processes made for this run.
        tell: told of the reason why the run has to stop, and whether within moments, where other processes work for it.
    """

    settings: Settings
    clock: Clock
    store: Store
    open_vendor: Callable[[str], Vendor]
    abandoned: threading.Event = field(default_factory=threading.Event)
    vendor: Vendor | None = None
    night: Night | None = None
    _contexts: dict[str, Context] = field(default_factory=dict)
    _flusher: Flusher | None = None
    stopped: ClosingbellError | None = None
    halted: threading.Event = field(default_factory=threading.Event)
    unreached: bool = False
    failing: Counter[str] = field(default_factory=Counter)
    pace: float = math.inf
    calls_elsewhere: int = 0
    tell: Callable[[ClosingbellError, bool], None] | None = None
    _told: threading.Event = field(default_factory=threading.Event)
    _counted: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def context_of(self, timeframe: str) -> Context:
        """The neighbourhood of the run's bars of a timeframe; before :meth:`look_around` there is none."""
        if timeframe not in self._contexts:
            raise FatalError("bars came before the run knew what to judge them by")
        return self._contexts[timeframe]

    @property
    def contexts(self) -> list[Context]:
        """Those of all the run's timeframes."""
        return list(self._contexts.values())

    def surround(self, contexts: Iterable[Context]) -> None:
        """Judge the run's bars by these: another process has looked around."""
        self._contexts = {context.timeframe: context for context in contexts}

    @property
    def flusher(self) -> Flusher:
        """What writes the answers; there is one inside of :meth:`flushing` only."""
        if self._flusher is None:
            raise FatalError("an answer came before the run could write it")
        return self._flusher

    @contextmanager
    def flushing(self, run_id: UUID, source: str, now: datetime) -> Iterator[Flusher]:
        """Let answers be written for the time of the block, by a run, at an instant; all are when it ends."""

        def write(outcomes: Sequence[Outcome], claims: Sequence[int | None]) -> FlushResult:
            calls, timeframe = self.uncounted_calls(), outcomes[0].call.timeframe
            result = self.store.writer.flush(run_id, source, timeframe, outcomes, calls, now, claims)
            if result.stored >= _LARGE:
                sweep()
            return result

        def cut(outcome: Outcome) -> list[Outcome]:
            call = outcome.call
            if not isinstance(call, TickerRange) or not isinstance(self.source, Batched):
                return [outcome]
            rolls = self.source.take_rolls(call.ticker, call.sessions[0], call.sessions[-1], call.timeframe)
            return in_batches(outcome, self.settings.databento_batch_bars, rolls)

        # One writer where answers are cut, so that their batches come in the order of time.
        flusher = Flusher(write, writers=1, cut=cut) if isinstance(self.source, Batched) else Flusher(write)
        self._flusher = flusher
        try:
            yield flusher
        finally:
            flusher.close()

    def look_around(self, night: Night) -> None:
        """Learn which tickers have bars, and the known splits, of a run that is about to make its calls."""
        request, contexts = night.request, list[Context]()
        splits = known_splits(self.store, request.source, request.tickers)
        for part in night.parts:
            known = self.store.records.tickers(part.source, part.timeframe)
            days = sum(each.market_days for each in part.plans.values())
            contexts.append(Context(self.store, part.source, part.timeframe, frozenset(known), splits, days))
        self.surround(contexts)

    def choose(self, request: Request) -> Request:
        """Open the vendor that a request is for.

        Returns:
            The request, as far as that vendor reaches by now.

        Raises:
            ConfigurationError: a setting is not fit for that vendor, or it has no such bars.
        """
        self.vendor = self.open_vendor(request.source)
        return reaching(request, self.vendor.source)

    @property
    def source(self) -> Abortable:
        """The vendor, every call of which passes :attr:`gate`."""
        return self._chosen.source

    @property
    def flat(self) -> FlatFiles:
        """The same vendor's flat files, which a plan has only where there are keys for them."""
        if self._chosen.flat is None:
            raise FatalError("a run planned flat files without their keys")
        return self._chosen.flat

    @property
    def gate(self) -> Gates:
        """The quotas of all asset classes."""
        return self._chosen.gate

    @property
    def _chosen(self) -> Vendor:
        if self.vendor is None:
            raise FatalError("a run began without a vendor")
        return self.vendor

    @property
    def calls_made(self) -> int:
        """HTTP attempts so far that a quota counts."""
        return (self.vendor.calls if self.vendor else 0) + self.calls_elsewhere

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far by stage, summed over threads."""
        return self._chosen.seconds

    def uncounted_calls(self) -> int:
        """HTTP attempts since this was last asked, so that each is added to the run's counter once."""
        with self._counting:
            made = self.vendor.calls if self.vendor else 0
            new, self._counted = made - self._counted, made
        return new

    @property
    def calls_counted(self) -> int:
        """HTTP attempts of this process that are in the run's counter."""
        return self._counted

    def stop(self, error: ClosingbellError) -> None:
        """Let no batch begin another call: the first reason counts."""
        self._stop(error, at_once=False)

    def _stop(self, error: ClosingbellError, *, at_once: bool) -> None:
        with self._counting:
            first = at_once and not self.abandoned.is_set()
            news = self.stopped is None or first
            self.stopped = self.stopped or error
            if at_once:
                self.abandoned.set()
        self.halted.set()
        tell = self.tell
        try:
            if at_once and self.vendor:
                self.vendor.abort()
            if first and not isinstance(error, AwayError):
                self.store.interrupt()
            if news and tell:
                tell(error, at_once)
        finally:
            if first:
                self._told.set()
        if at_once:
            self._told.wait(_TELLING)  # whoever comes second, too, goes on when all who work for the run know

    def abandon(self, error: ClosingbellError) -> None:
        """Stop within moments: calls on their way are cut off, whoever waits for the quota is sent home, and what the
        database is asked for or keeps waiting is broken off."""
        self._stop(error, at_once=True)

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until the run has to stop."""
        self.halted.wait(seconds)

    def note_answer(self, lane: AssetClass, *, usable: bool) -> None:
        """Count an asset class's calls that fail in a row, over all batches."""
        with self._counting:
            self.failing[lane] = 0 if usable else self.failing[lane] + 1
            self.unreached = self.unreached and not usable


_current: ContextVar[Resources] = ContextVar("resources")


def current() -> Resources:
    """The resources of the run that this task belongs to."""
    try:
        return _current.get()
    except LookupError:
        raise FatalError("a task was started outside of a run", fix="Start it through its flow.") from None


@contextmanager
def as_current(resources: Resources) -> Iterator[None]:
    """Let :func:`current` say these, for the time of the block."""
    token = _current.set(resources)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def opened(settings: Settings | None = None) -> Iterator[Resources]:
    """Open everything a run needs, starting the embedded part for what no setting names.

    Raises:
        ConfigurationError: a setting, the database or the quota's limit is not fit for a run.
    """
    settings = settings or load(complete)
    for warning in settings.warnings:
        get_run_logger().warning(warning)
    with connected(settings) as resources, as_current(resources):
        migrations.upgrade(resources.store.engine)
        yield resources


@contextmanager
def connected(settings: Settings, market: str | None = None) -> Iterator[Resources]:
    """The same for a part of a run, whose database is at the newest migration.

    Args:
        settings: as they are, with the secrets.
        market: the address of the stand-in market that the run has begun with, where that is its vendor.
    """
    give_back()
    with ExitStack() as stack:
        stack.enter_context(in_run_log())
        stack.enter_context(settled())
        url = settings.database_url or SecretStr(stack.enter_context(embedded.database(settings, [])))
        abandoned = threading.Event()
        store = open_store(
            url.get_secret_value(),
            connections=settings.fetch_threads,
            retries=settings.max_retries,
            patience=settings.database_patience,
            lock_timeout=settings.database_lock_timeout,
            stopped=abandoned.is_set,
        )
        stack.callback(store.close)

        def open_vendor(name: str) -> Vendor:
            return stack.enter_context(vendors.opened(name, settings, market))

        yield Resources(settings, Clock(settings.closingbell_now), store, open_vendor, abandoned)
