"""The retrying task for calls that store no bars: a batch of looks, each fetched and dealt with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from prefect import Task, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from closingbell import identity
from closingbell.errors import ClosingbellError, ConfigurationError, FatalError, RunEndingError
from closingbell.identity import NEAR, Tenure
from closingbell.looks import Look
from closingbell.report import Failure, Tally
from closingbell.rollup import differences, roll_up
from closingbell.store.faults import AwayError, LockedError
from tasks.batch import (
    Batch,
    BatchFailedError,
    Work,
    batched,
    end_if_unreached,
    may_pass,
    retries_in_threads,
    stopping,
    told,
    wait_to_retry,
    worth_retrying,
)
from tasks.night import gather
from tasks.resources import Resources, current


@task(name="look up", task_run_name="look up {batch}", cache_policy=NO_CACHE, retry_condition_fn=worth_retrying)
@told
def look_up(batch: Batch[Look], work: Work) -> Tally:
    """Make the looks of a batch, one by one; on a retry only those that failed.

    Raises:
        BatchFailedError: some looks failed and may succeed later.
        ConfigurationError: nothing will succeed until a person changes a setting.
        FatalError: the database refused a statement.
        RunEndingError: another batch knows why the run has to stop, or somebody stops it.
    """
    resources = current()
    wait_to_retry(batch, resources)
    if resources.stopped:
        raise RunEndingError("the run has to stop", value=resources.stopped.what)
    with batch.taken_up(), stopping(resources):
        while batch.todo:
            if resources.stopped:
                raise RunEndingError("the run has to stop", value=resources.stopped.what)
            look = batch.todo.pop(0)
            try:
                _store(look, work, resources, batch.tally)
                resources.note_answer(batch.lane, usable=True)
            except (ConfigurationError, FatalError, RunEndingError, AwayError, LockedError):
                raise
            except ClosingbellError as error:
                end_if_unreached(error, resources)
                get_run_logger().warning("%s: %s", look, error)
                whose = (look.ticker,) if look.ticker else ()
                batch.tally.failures.append(
                    Failure(str(look), error.what, error.reason or "failed", 0, whose, str(error))
                )
                batch.failed += [look] if may_pass(error) else []
    if batch.failed:
        raise BatchFailedError(batch.tally)
    return batch.tally


def look_up_all(looks: Sequence[Look], work: Work, batch_size: int, resources: Resources) -> Tally:
    """Run :func:`look_up` over some looks; what fails costs the run that look only.

    Raises:
        ClosingbellError: the run had to stop.
    """
    batches = batched(looks, batch_size, at_once=resources.settings.fetch_threads)
    looking: Task[..., Any] = look_up.with_options(**retries_in_threads(resources.settings))
    return gather(lambda: looking.map(batches, work=unmapped(work)), batches, resources)


def _store(look: Look, work: Work, resources: Resources, tally: Tally) -> None:
    source, facts = resources.source, resources.store.facts
    if look.kind == "minutes" and look.ticker:
        minutes = source.fetch_range(look.ticker, look.first, look.last, "1m")
        daily = resources.store.records.series(work.source, "1d", (look.ticker,), look.first, look.last)
        tally.minutes += map(str, differences(daily, roll_up(minutes)))
    elif look.kind == "dividends":
        dividends = source.dividends(look.first, look.last, look.ticker)
        tally.dividends += facts.store_dividends(
            work.run_id, work.source, dividends, look.first, look.last, look.ticker
        )
    elif look.ticker:
        tenures = identity.tenures(source.identity(look.ticker))
        traded = {tenure.ticker: _traded(tenure, resources) for tenure in tenures}
        tenures = identity.snapped(tenures, traded, identity.shipped())
        tally.names += facts.store_tenures(work.run_id, work.source, tenures, "vendor")


def _traded(tenure: Tenure, resources: Resources) -> list[date]:
    """The sessions with a stored bar around the first and the last day of a tenure."""
    found: list[date] = []
    for day in (tenure.first, tenure.end):
        if day:
            near = resources.store.records.series(
                resources.settings.source, "1d", (tenure.ticker,), day - 2 * NEAR, day + NEAR
            )
            found += near.rows["session"].tolist()
    return sorted(set(found))
