"""What a run works with, opened once in its process: settings, store, source, quota."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from prefect.logging import get_run_logger

from closingbell.clock import Clock
from closingbell.errors import ClosingbellError, FatalError
from closingbell.night import Night
from closingbell.outcome import FlushResult, Outcome
from closingbell.settings import Settings, load
from closingbell.sources.base import Split
from closingbell.sources.polygon import PolygonSource
from closingbell.store import Store, open_store
from infra import embedded, migrations
from tasks.context import Context
from tasks.flush import Flusher
from tasks.gates import Gates
from tasks.logs import in_run_log
from tasks.secrets import complete


@dataclass(slots=True)
class Resources:
    """The parts of a run; safe to share between its task threads.

    Attributes:
        settings: as read from the environment.
        clock: the time.
        store: the database, at the newest migration.
        source: the vendor, every call of which passes ``gate``.
        gate: the quotas of all asset classes.
        abandoned: set when the run shall end within moments, whatever it waits for.
        night: the run, once it is worked out.
        stopped: why the run has to stop, as soon as any of its batches knows.
        halted: set with it.
        unreached: the vendor could not be reached, and has not been since.
        failing: how many calls in a row, of whatever batch, got no answer that could be used.
        pace: seconds that the last call took, waiting for the quota and for room among what is written included.
    """

    settings: Settings
    clock: Clock
    store: Store
    source: PolygonSource
    gate: Gates
    abandoned: threading.Event = field(default_factory=threading.Event)
    night: Night | None = None
    _context: Context | None = None
    _flusher: Flusher | None = None
    stopped: ClosingbellError | None = None
    halted: threading.Event = field(default_factory=threading.Event)
    unreached: bool = False
    failing: int = 0
    pace: float = math.inf
    _counted: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def context(self) -> Context:
        """The neighbourhood of the run's bars; before :meth:`look_around` there is none."""
        if self._context is None:
            raise FatalError("bars came before the run knew what to judge them by")
        return self._context

    @property
    def flusher(self) -> Flusher:
        """What writes the answers; there is one inside of :meth:`flushing` only."""
        if self._flusher is None:
            raise FatalError("an answer came before the run could write it")
        return self._flusher

    @contextmanager
    def flushing(self, run_id: UUID, source: str, timeframe: str, now: datetime) -> Iterator[Flusher]:
        """Let answers be written for the time of the block, by a run, at an instant; all are when it ends."""

        def write(outcomes: Sequence[Outcome], claims: Sequence[int | None]) -> FlushResult:
            calls = self.uncounted_calls()
            return self.store.writer.flush(run_id, source, timeframe, outcomes, calls, now, claims)

        self._flusher = flusher = Flusher(write)
        try:
            yield flusher
        finally:
            flusher.close()

    def look_around(self, night: Night) -> None:
        """Learn which tickers have bars, and the known splits, of a run that is about to make its calls."""
        request, splits = night.request, dict[str, list[Split]]()
        for split in self.store.facts.splits(request.source, request.tickers):
            splits.setdefault(split.ticker, []).append(split)
        known = self.store.records.tickers(request.source, request.timeframe)
        self._context = Context(
            self.store, request.source, request.timeframe, frozenset(known), splits, night.plan.market_days
        )

    def uncounted_calls(self) -> int:
        """HTTP attempts since this was last asked, so that each is added to the run's counter once."""
        with self._counting:
            made = sum(self.source.calls.values())
            new, self._counted = made - self._counted, made
        return new

    def stop(self, error: ClosingbellError) -> None:
        """Let no batch begin another call: the first reason counts."""
        with self._counting:
            self.stopped = self.stopped or error
        self.halted.set()

    def abandon(self, error: ClosingbellError) -> None:
        """Stop within moments: calls on their way are cut off, and whoever waits for the quota is sent home."""
        self.stop(error)
        self.abandoned.set()
        self.gate.stop()
        self.source.abort()

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until the run has to stop."""
        self.halted.wait(seconds)

    def note_answer(self, *, usable: bool) -> None:
        """Count calls that fail in a row, over all batches."""
        with self._counting:
            self.failing = 0 if usable else self.failing + 1
            self.unreached = self.unreached and not usable


_current: ContextVar[Resources] = ContextVar("resources")


def current() -> Resources:
    """The resources of the run that this task belongs to."""
    try:
        return _current.get()
    except LookupError:
        raise FatalError("a task was started outside of a run", fix="Start it through its flow.") from None


@contextmanager
def opened(settings: Settings | None = None) -> Iterator[Resources]:
    """Open everything a run needs, starting the embedded part for what no setting names.

    Raises:
        ConfigurationError: a setting, the database or the quota's limit is not fit for a run.
    """
    settings = settings or load(complete)
    for warning in settings.warnings:
        get_run_logger().warning(warning)
    with ExitStack() as stack:
        stack.enter_context(in_run_log())
        provided = stack.enter_context(embedded.provide(settings))
        abandoned = threading.Event()
        store = open_store(
            provided.database_url.get_secret_value(),
            connections=settings.fetch_threads,
            retries=settings.max_retries,
            patience=settings.database_patience,
            lock_timeout=settings.database_lock_timeout,
            stopped=abandoned.is_set,
        )
        stack.callback(store.close)
        migrations.upgrade(store.engine)
        books = settings.closingbell_home / "leases"
        gate = stack.enter_context(
            Gates(
                settings.quotas,
                key=settings.polygon_key_name,
                call_timeout=settings.polygon_call_timeout,
                books=books,
            )
        )
        source = PolygonSource(
            provided.polygon_api_key.get_secret_value(),
            provided.polygon_base_url,
            gate,
            connect_timeout=settings.polygon_connect_timeout,
            read_timeout=settings.polygon_read_timeout,
            call_timeout=settings.polygon_call_timeout,
            pool_size=settings.fetch_threads,
        )
        stack.callback(source.close)
        resources = Resources(settings, Clock(settings.closingbell_now), store, source, gate, abandoned)
        token = _current.set(resources)
        stack.callback(_current.reset, token)
        yield resources
