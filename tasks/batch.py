"""The retrying task that the flows map over: a batch of calls, each fetched, checked and committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.states import Failed
from prefect.tasks import exponential_backoff

from closingbell.bars import Bars
from closingbell.calendar import AssetClass, asset_class
from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RetryableError
from closingbell.outcome import Judge, Outcome, tickers
from closingbell.plan import Call, MarketDay
from closingbell.report import Failure, Tally
from closingbell.settings import Settings
from tasks.resources import Resources, current

P = ParamSpec("P")
T = TypeVar("T")

#: After so many calls in a row that got no answer at all, the rest of the batch waits for the next try.
_DEAD_LINE: Final = 5


class Batch:
    """Some calls of a plan, and what came of them so far.

    A plain class on purpose: Prefect walks through every list, tuple and dataclass in a task's parameters
    looking for futures, which for a batch of ranges is a hundred thousand dates.

    Attributes:
        todo: calls whose outcome is not committed.
        failed: calls that failed, committed as such, and are worth another try.
        tally: what the batch adds up to.
    """

    def __init__(self, number: int, of: int, calls: Sequence[Call]) -> None:
        self.name = f"{number} of {of}"
        self.todo: list[Call] = list(calls)
        self.failed: list[Call] = []
        self.tally = Tally(calls_done=len(calls))

    def __str__(self) -> str:
        return self.name

    def take_up(self) -> None:
        """Make ready for a try: what failed the last time is to do again."""
        self.todo, self.failed = self.failed + self.todo, []
        self.tally.failures = [failure for failure in self.tally.failures if failure.reason != "failed"]


@dataclass(frozen=True, slots=True)
class Work:
    """What every batch of a run shares.

    Attributes:
        run_id: the run.
        source: the vendor's name.
        timeframe: of the bars.
        judges: the rules of each asset class in the run.
    """

    run_id: UUID
    source: str
    timeframe: str
    judges: Mapping[AssetClass, Judge] = field(repr=False)

    def judge(self, call: Call) -> Judge:
        """Who judges the bars of a call."""
        return self.judges[asset_class(tickers(call)[0])]


class BatchFailedError(RetryableError):
    """Some calls of a batch failed; the others are committed."""

    def __init__(self, tally: Tally) -> None:
        causes = sorted({failure.cause for failure in tally.failures})
        super().__init__(f"{len(tally.failures)} calls failed", value="; ".join(causes))
        self.tally = tally

    def __reduce__(self) -> tuple[type[BatchFailedError], tuple[Tally]]:
        return type(self), (self.tally,)


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether to run a failed batch again: not when a person has to mend something first."""
    return isinstance(state.result(raise_on_failure=False), RetryableError)


def told(step: Callable[P, T]) -> Callable[P, T | State[Any]]:
    """Let a step's errors of ours end its task as a failed state, with the message and without a stack trace.

    The trace says nothing that the message does not; an error that is not ours keeps it.
    """

    @wraps(step)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T | State[Any]:
        try:
            return step(*args, **kwargs)
        except ClosingbellError as error:
            return Failed(message=str(error), data=error)

    return wrapped


@task(name="batch", task_run_name="batch {batch}", cache_policy=NO_CACHE, retry_condition_fn=worth_retrying)
@told
def ingest_batch(batch: Batch, work: Work) -> Tally:
    """Fetch, check and commit the calls of a batch, one by one; on a retry only those that failed.

    A call that fails leaves its cells in the ledger as gaps with the reason, at once: whatever happens to
    this process, the state is true. A failure that only time can mend makes the task retry.

    Raises:
        BatchFailedError: some calls failed and may succeed later.
        ConfigurationError: nothing will succeed until a person changes a setting.
        FatalError: the database refused a statement.
    """
    resources, logger = current(), get_run_logger()
    batch.take_up()
    silent = 0
    while batch.todo:
        call = batch.todo[0]
        try:
            outcome, error = _fetch(call, work, resources, batch.tally, skip=silent >= _DEAD_LINE)
        except (ConfigurationError, FatalError):
            for untried in batch.todo:
                _commit(work.judge(untried).not_tried(untried), work, resources, batch.tally)
            raise
        _commit(outcome, work, resources, batch.tally)
        batch.todo.pop(0)
        silent = silent + 1 if isinstance(error, RetryableError) and error.status is None else 0
        if error is None:
            continue
        batch.tally.failures.append(_failure(call, outcome, error))
        logger.warning("%s: %s", call, error)
        if isinstance(error, RetryableError):
            batch.failed.append(call)
    if batch.failed:
        raise BatchFailedError(batch.tally)
    return batch.tally


def retries(settings: Settings) -> dict[str, Any]:
    """Task options: as many retries as are set, each after twice the wait of the last, and up to half as much more."""
    delays = exponential_backoff(settings.retry_delay) if settings.retry_delay else 0
    return {"retries": settings.max_retries, "retry_delay_seconds": delays, "retry_jitter_factor": 0.5}


def retrying(settings: Settings) -> Task[..., Any]:
    """The batch task with its retries."""
    return ingest_batch.with_options(**retries(settings))


def _fetch(
    call: Call, work: Work, resources: Resources, tally: Tally, *, skip: bool
) -> tuple[Outcome, ClosingbellError | None]:
    """A call's outcome, and the error if it failed."""
    judge = work.judge(call)
    try:
        if skip:
            raise RetryableError("not tried, as the vendor did not answer the calls before", value=call)
        bars, rows = _bars(call, work, resources)
        begun = time.perf_counter()
        outcome = judge.answered(call, bars, rows)
        tally.spend("checks", time.perf_counter() - begun)
    except (ConfigurationError, FatalError):
        raise
    except ClosingbellError as error:
        return judge.failed(call, error), error
    return outcome, None


def _bars(call: Call, work: Work, resources: Resources) -> tuple[Bars, int]:
    if isinstance(call, MarketDay):
        page = resources.source.market_day(call.session, call.asset_class, call.tickers)
        return page.bars, page.rows
    bars = resources.source.fetch_range(call.ticker, call.sessions[0], call.sessions[-1], work.timeframe)
    return bars, len(bars)


def _commit(outcome: Outcome, work: Work, resources: Resources, tally: Tally) -> None:
    begun = time.perf_counter()
    calls = resources.uncounted_calls()
    result = resources.store.writer.flush(work.run_id, work.source, work.timeframe, [outcome], calls)
    tally.spend("database", time.perf_counter() - begun)
    tally.add(
        Tally(
            rows=outcome.rows,
            inserted=result.inserted,
            rewritten=result.rewritten,
            gaps=result.gaps,
            quarantined=result.quarantined,
            warned=dict(outcome.verdict.warned),
        )
    )


def _failure(call: Call, outcome: Outcome, error: ClosingbellError) -> Failure:
    return Failure(str(call), error.what, outcome.reason, len(call.cells), outcome.tickers, str(error))
