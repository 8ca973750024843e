"""The retrying task that the flows map over: a batch of calls, each fetched, checked and committed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import wraps
from itertools import accumulate, count, groupby
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast
from uuid import UUID

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.states import Failed

from closingbell import plan
from closingbell.bars import Bars
from closingbell.calendar import AssetClass, asset_class
from closingbell.errors import (
    ClosingbellError,
    ConfigurationError,
    FatalError,
    MalformedResponseError,
    RetryableError,
    RunEndingError,
    UnexpectedError,
)
from closingbell.night import Night
from closingbell.outcome import Judge, Outcome, tickers
from closingbell.plan import Call, FlatFile, MarketDay
from closingbell.report import Failure, Tally
from closingbell.settings import Settings
from closingbell.store.claims import Claim
from closingbell.store.faults import AwayError, LockedError, RaceError
from closingbell.turn import TURN
from tasks.backlog import Saving
from tasks.flush import HOLD
from tasks.resources import Resources, current

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

#: After so many failures in a row, over all batches of an asset class, each of them tries but one more call before it
#: waits.
DEAD_LINE: Final = 25

#: Seconds until a batch looks again whether another run is done with its cells; they double, up to the longest.
LOOK_AGAIN: Final = 0.5
LONGEST_LOOK: Final = 10.0

#: So many of its calls it looks at each time.
GLANCES: Final = 4

#: A batch claims so many of its calls at once at most, and no more than it makes in so many seconds.
MOST_CLAIMS: Final = 25
LONGEST_HOLD: Final = 2.0

#: A run that is called off takes so many seconds at most to note what it has not tried: a worker waits for 30 s in all,
#: and then kills.
LONGEST_FAREWELL: Final = 10.0

#: Cells of a transaction that notes what was not tried.
NOTED_AT_ONCE: Final = 100_000

#: Seconds that a retry waits at most, and such a part of them more.
LONGEST_DELAY: Final = 60.0
_JITTER: Final = 0.5


class Batch(Generic[C]):
    """Some calls, and what came of them so far.

    A plain class on purpose: Prefect walks through every list, tuple and dataclass in a task's parameters
    looking for futures, which for a batch of ranges is a hundred thousand dates.

    Args:
        name: the batch, in words.
        calls: its calls, all of one timeframe and one asset class.
        lane: that asset class.

    Attributes:
        todo: calls that are not begun.
        failed: calls that failed, committed as such, and are worth another try.
        tally: what the batch adds up to.
        claimed: calls that are claimed and not answered yet, the next one first.
        saving: answers that are not known to be committed: no call is made twice because the database was away.
        places: of its whole days among all those of the plan, by session.
        tries: times that a thread has taken it up.
        at_work: whether one is at work on it now.
        look_again: seconds to its next look, while other runs have its cells in flight.
    """

    def __init__(self, name: str, calls: Sequence[C], lane: AssetClass = "stocks") -> None:
        self.name = name
        self.lane = lane
        self.todo: list[C] = list(calls)
        self.failed: list[C] = []
        self.tally = Tally(calls_done=len(calls))
        self.claimed: list[Claim] = []
        self.saving: list[Saving] = []
        self.places: Mapping[date, int] = {}
        self.tries = 0
        self.at_work = False
        self.look_again = LOOK_AGAIN

    def __str__(self) -> str:
        return self.name

    @property
    def begun(self) -> bool:
        """Whether a thread has taken it up."""
        return self.tries > 0

    @property
    def ended(self) -> bool:
        """Whether there is nothing left of it that the database does not know."""
        return not (self.todo or self.claimed or self.saving)

    def places_of(self, calls: Iterable[C]) -> list[int]:
        """Where whole days stand among all those of the plan; the order of other calls is nothing to the ledger."""
        days = [call.session for call in calls if isinstance(call, MarketDay)]
        return [self.places[day] for day in days if day in self.places]

    @contextmanager
    def taken_up(self) -> Iterator[None]:
        """For the time of a try; what failed the last time is to do again."""
        self.tries += 1
        self.at_work = True
        again = {str(call) for call in self.failed}
        self.tally.failures = [failure for failure in self.tally.failures if failure.call not in again]
        self.todo, self.failed = self.failed + self.todo, []
        try:
            yield
        finally:
            self.at_work = False


def batched(
    calls: Sequence[C], size: int, lane: AssetClass = "stocks", of: str = "", at_once: int = 1
) -> list[Batch[C]]:
    """As :func:`closingbell.plan.batches` divides the calls; ``of`` says which they are, where there are others."""
    parts = plan.batches(calls, size, at_once)
    return [Batch(f"{of} {number} of {len(parts)}".strip(), part, lane) for number, part in enumerate(parts, 1)]


def lanes(night: Night, size: int, at_once: int) -> dict[AssetClass, list[Batch[Call]]]:
    """The calls of a run in batches of one timeframe and asset class, by asset class.

    What becomes of one class's calls, and how long its retries wait, is nothing to the others.

    Args:
        night: the run.
        size: of a batch, in calls.
        at_once: so many of them are worked on at once.
    """
    found: dict[AssetClass, list[Batch[Call]]] = {}
    number = count()
    several = sum(bool(each.calls) for part in night.parts for each in part.plans.values()) > 1
    for part in night.parts:
        for name, each in part.plans.items():
            batches = batched(each.calls, size, name, f"{part.timeframe} {name}" if several else "", at_once)
            places = {call.session: next(number) for call in each.calls if isinstance(call, MarketDay)}
            for batch in batches:
                batch.places = {
                    call.session: places[call.session] for call in batch.todo if isinstance(call, MarketDay)
                }
            if batches:
                found.setdefault(name, []).extend(batches)
    return found


@dataclass(frozen=True, slots=True)
class Work:
    """What every batch of a run shares.

    Attributes:
        run_id: the run.
        source: the vendor's name.
        now: the instant that the run takes for the present.
        judges: the rules of each timeframe and asset class in the run.
        mark: the moment the run was planned at, as :meth:`closingbell.store.Writer.mark` says it.
    """

    run_id: UUID
    source: str
    now: datetime
    judges: Mapping[tuple[str, AssetClass], Judge] = field(repr=False)
    mark: str = ""

    def judge(self, call: Call) -> Judge:
        """Who judges the bars of a call."""
        return self.judges[call.timeframe, asset_class(tickers(call)[0])]


class BatchFailedError(RetryableError):
    """Some calls of a batch failed; the others are committed."""

    def __init__(self, tally: Tally) -> None:
        causes = sorted({failure.cause for failure in tally.failures})
        count = len(tally.failures)
        super().__init__(f"{count} call{'s' if count != 1 else ''} failed", value="; ".join(causes))
        self.tally = tally

    def __reduce__(self) -> tuple[type[BatchFailedError], tuple[Tally]]:
        return type(self), (self.tally,)


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether to run a failed batch again: not when a person has to mend something first."""
    return may_pass(state.result(raise_on_failure=False))


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
def ingest_batch(batch: Batch[Call], work: Work) -> Tally:
    """Fetch, check and commit the calls of a batch, one by one; on a retry only those that failed.

    A call that fails leaves its cells in the ledger as gaps with the reason, at once: whatever happens to
    this process, the state is true. A failure that only time can mend makes the task retry. Cells that another run
    has in flight are waited for, and those that it fetched are not fetched again.

    Raises:
        BatchFailedError: some calls failed and may succeed later.
        ConfigurationError: nothing will succeed until a person changes a setting.
        FatalError: the database refused a statement.
        RunEndingError: another batch knows why the run has to stop, or somebody stops it.
    """
    return fetch_batch(batch, work, current())


def fetch_batch(batch: Batch[Call], work: Work, resources: Resources) -> Tally:
    """The work of :func:`ingest_batch`, in whatever process."""
    wait_to_retry(batch, resources)
    if resources.stopped and not batch.saving:
        raise RunEndingError("the run has to stop", value=resources.stopped.what)  # the run itself notes its calls
    with batch.taken_up(), stopping(resources):
        try:
            with resources.flusher.expecting(_places_under_way(batch, resources)):
                _make_calls(batch, work, resources)
        finally:
            for saving in batch.saving:
                resources.flusher.wait(saving)
            unsaved = _note_saved(batch)
        if unsaved:
            raise unsaved
    if batch.failed:
        raise BatchFailedError(batch.tally)
    return batch.tally


def may_pass(error: object) -> bool:
    """Whether the same call may succeed later: not when the vendor said that the request itself is wrong."""
    if not isinstance(error, RetryableError):
        return False
    return error.status is None or error.status >= 500 or error.status in (403, 408, 425, 429)


def is_unreached(error: object) -> bool:
    """Whether nobody answered at all."""
    unanswered = isinstance(error, RetryableError) and error.status is None
    return unanswered and not isinstance(error, MalformedResponseError | AwayError | LockedError | RaceError)


def end_if_unreached(error: ClosingbellError, resources: Resources) -> None:
    """Stop the run when the vendor, which was not reached before, is not reached at this call either.

    Raises:
        RunEndingError: so it is.
    """
    if resources.unreached and is_unreached(error):
        resources.stop(error)
        raise RunEndingError("the vendor cannot be reached", value=error.what) from None


@contextmanager
def stopping(resources: Resources) -> Iterator[None]:
    """Let what no other call would escape stop the whole run, which then notes what was not tried."""
    try:
        yield
    except (ConfigurationError, FatalError, RunEndingError) as error:
        resources.stop(error)
        raise
    except (AwayError, LockedError) as error:
        resources.abandon(error)  # it was waited for as long as the settings say: nobody waits once more
        raise RunEndingError("the run has to stop", value=error.what) from None


def retries(settings: Settings) -> dict[str, Any]:
    """Options of a task of the main thread: as many retries as are set, each after twice the wait of the last, and up
    to half as much more."""
    delays = [_delay(settings, tries) for tries in range(1, settings.max_retries + 1)]
    return {"retries": settings.max_retries, "retry_delay_seconds": delays or 0, "retry_jitter_factor": _JITTER}


def retries_in_threads(settings: Settings, lane: AssetClass = "stocks") -> dict[str, Any]:
    """Options of a task over batches: as many retries as are set for an asset class, after :func:`wait_to_retry`.

    Nothing wakes a thread that Prefect lets sleep until its next try: a run that is stopped would wait for it.
    """
    return {"retries": settings.retries_of(lane), "retry_delay_seconds": 0}


def wait_to_retry(batch: Batch[Any], resources: Resources) -> None:
    """Wait before another try, as :func:`retries` says, or until the run has to stop."""
    if seconds := _delay(resources.settings, batch.tries):
        seconds *= random.uniform(1.0, 1.0 + _JITTER)  # noqa: S311  (so that not all come at once)
        get_run_logger().info("batch %s tries again in %.1f s", batch, seconds)
        resources.wait(seconds)


def _delay(settings: Settings, tries: int) -> float:
    """Seconds to wait after so many tries."""
    return min(settings.retry_delay * 2 ** (tries - 1), LONGEST_DELAY) if tries else 0.0


def _places_under_way(batch: Batch[Call], resources: Resources) -> list[int]:
    """The places of a batch's days that later ones may wait for: not where each takes longer than they would."""
    if not batch.places or resources.gate.in_force.of(batch.lane).interval > HOLD:
        return []
    return batch.places_of([*(claim.call for claim in batch.claimed if claim.call), *batch.todo])


def _make_calls(batch: Batch[Call], work: Work, resources: Resources) -> None:
    """Fetch and check the calls of a batch, and hand each answer over to be written."""
    for saving in batch.saving:  # what an earlier try could not get written
        resources.flusher.put(saving)
    tried = False
    while batch.todo or batch.claimed:
        if resources.stopped:
            raise RunEndingError("the run has to stop", value=resources.stopped.what)
        if unsaved := _note_saved(batch):
            raise unsaved
        if not batch.claimed:
            _claim(batch, work, resources)
            continue
        begun, claim = time.monotonic(), batch.claimed[0]
        skip = tried and resources.failing[batch.lane] >= DEAD_LINE
        call = cast(Call, claim.call)
        saving = Saving(claim, *_fetch(call, work, resources, batch, skip=skip), *batch.places_of([call]))
        tried = True
        batch.saving.append(saving)
        del batch.claimed[0]
        resources.flusher.put(saving)
        resources.pace = time.monotonic() - begun


def _note_saved(batch: Batch[Call]) -> BaseException | None:
    """Take note of the answers that are committed by now; the first reason why one cannot be, if there is any."""
    for saving in [saving for saving in batch.saving if saving.saved]:
        batch.saving.remove(saving)
        call, outcome, error = saving.outcome.call, saving.outcome, saving.error
        if error is None:
            continue
        batch.tally.failures.append(
            Failure(str(call), error.what, outcome.reason, saving.holes, outcome.tickers, str(error), len(call.cells))
        )
        get_run_logger().warning("%s: %s", call, error)
        if may_pass(error):
            batch.failed.append(call)
    return next((saving.failure for saving in batch.saving if saving.failure), None)


def _claim(batch: Batch[Call], work: Work, resources: Resources) -> None:
    """Claim the next calls that no other run has in flight; wait a while where there are none just now.

    It is more than one only where calls are so quick that no other run is kept from their cells for long.
    """
    pace = max(resources.pace, resources.gate.in_force.of(batch.lane).interval)  # the first calls need not wait for it
    many = max(1, int(min(MOST_CLAIMS, LONGEST_HOLD / max(pace, 0.001))))
    busy: list[Call] = []
    for _ in range(-(-min(len(batch.todo), GLANCES) // many)):
        calls = batch.todo[:many]
        claims = resources.store.writer.claim_all(work.run_id, work.source, calls[0].timeframe, calls, work.mark)
        busy = [call for call, claim in zip(calls, claims, strict=True) if claim.busy]
        batch.claimed = [claim for claim in claims if claim.call and not claim.busy]
        batch.todo = batch.todo[len(calls) :] + busy
        spared = [call for call, claim in zip(calls, claims, strict=True) if claim.call is None]
        resources.flusher.forget(batch.places_of([*busy, *spared]))
        batch.tally.spared += len(spared)
        if len(busy) < len(calls):
            batch.look_again = LOOK_AGAIN
        if batch.claimed:
            return
    if batch.todo and busy:
        if batch.look_again == LOOK_AGAIN:
            get_run_logger().info("batch %s waits: another run is fetching %s", batch, busy[-1])
        resources.wait(batch.look_again)
        batch.look_again = min(2 * batch.look_again, LONGEST_LOOK)


def _fetch(
    call: Call, work: Work, resources: Resources, batch: Batch[Call], *, skip: bool
) -> tuple[Outcome, ClosingbellError | None]:
    """A call's outcome, and the error if it failed."""
    judge = work.judge(call)
    if skip:
        what = "not tried, as so many calls before it failed"
        return judge.not_tried(call), RetryableError(what, value=call)
    try:
        bars, rows = _bars(call, resources)
        begun = time.perf_counter()
        context = resources.context_of(call.timeframe)
        around, twin = context.around(call, bars), context.twin(call, bars)
        looked = time.perf_counter() - begun
        with TURN:
            begun = time.perf_counter() - looked
            outcome = judge.answered(call, bars, rows, around, context.splits_of(call), twin)
            batch.tally.spend("checks", time.perf_counter() - begun)
    except (ConfigurationError, FatalError, RunEndingError, AwayError, LockedError, RaceError):
        raise
    except ClosingbellError as error:
        end_if_unreached(error, resources)
        resources.note_answer(batch.lane, usable=not isinstance(error, RetryableError))
        return judge.failed(call, error), error
    except Exception as bug:  # noqa: BLE001  (one call's bug must not cost the others their bars)
        get_run_logger().exception("%s: a bug", call)
        unexpected = UnexpectedError("a bug in closingbell", value=f"{type(bug).__name__} at {call}", fix="Report it.")
        return judge.failed(call, unexpected), unexpected
    resources.note_answer(batch.lane, usable=True)
    return outcome, None


def _bars(call: Call, resources: Resources) -> tuple[Bars, int]:
    if isinstance(call, FlatFile):
        page = resources.flat.day(call.session, call.timeframe, call.tickers)
        return page.bars, page.rows
    if isinstance(call, MarketDay):
        page = resources.source.market_day(call.session, call.asset_class, call.tickers)
        return page.bars, page.rows
    bars = resources.source.fetch_range(call.ticker, call.sessions[0], call.sessions[-1], call.timeframe)
    return bars, len(bars)


def leave_untried(calls: Iterable[Call], batches: Sequence[Batch[Call]], work: Work, resources: Resources) -> None:
    """Leave to the next run what this one does not get to: every cell of the plan has a reason, always.

    It may be millions of cells: they are noted some at a time, in the order in which the calls would have been made, so
    that watermarks grow from what is stored. A run that is called off notes them for :data:`LONGEST_FAREWELL` seconds;
    what is left then is missing as after a kill, and planned again.

    Args:
        calls: of the plan, in its order.
        batches: that have not ended.
        work: what they share.
        resources: of the run.
    """
    begun = time.monotonic()
    place = {call: i for i, call in enumerate(calls)}
    in_hand = [claim for batch in batches for claim in (*batch.claimed, *(saving.claim for saving in batch.saving))]
    left = [(claim.call, claim.claim_id) for claim in in_hand if claim.call]
    left += [(call, None) for batch in batches for call in batch.todo]
    left.sort(key=lambda each: place.get(each[0], -1))  # a call of which only a part was claimed was among the next
    noted, cells = 0, sum(call.count for call, _ in left)
    try:
        for timeframe in dict.fromkeys(call.timeframe for call, _ in left):
            for part in _parts([each for each in left if each[0].timeframe == timeframe]):
                if resources.abandoned.is_set() and time.monotonic() - begun > LONGEST_FAREWELL:
                    what = "%s of %s cells that were not tried are not noted: the next run finds them missing"
                    get_run_logger().warning(what, f"{cells - noted:,}", f"{cells:,}")
                    return
                outcomes = [work.judge(call).not_tried(call) for call, _ in part]
                made, claims = resources.uncounted_calls(), [claim_id for _, claim_id in part]
                resources.store.writer.flush(work.run_id, work.source, timeframe, outcomes, made, work.now, claims)
                noted += sum(call.count for call, _ in part)
    except ClosingbellError as error:
        get_run_logger().error("calls that were not tried are not noted: %s", error)
        return
    for batch in batches:
        batch.todo, batch.claimed, batch.saving = [], [], []


def _parts(calls: Sequence[tuple[Call, int | None]]) -> Iterator[list[tuple[Call, int | None]]]:
    """Calls, and the claims on them, in parts of about :data:`NOTED_AT_ONCE` cells."""
    ends = accumulate(call.count for call, _ in calls)
    for _, part in groupby(zip(calls, ends, strict=True), lambda each: each[1] // NOTED_AT_ONCE):
        yield [call for call, _ in part]
