"""The night's look at splits: one call for everything since the last look."""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError
from closingbell.report import SPLITS, Failure, Tally
from tasks.batch import Work, is_unreached, retries, told, worth_retrying
from tasks.resources import Resources, current


@task(name="splits", cache_policy=NO_CACHE, retry_condition_fn=worth_retrying)
@told
def fetch_splits(work: Work, first: date, last: date) -> int:
    """Fetch and store the splits from ``first`` to ``last``; returns how many were new or changed."""
    resources = current()
    splits = resources.source.splits(first, last)
    return resources.store.facts.store_splits(work.run_id, work.source, splits, first, last)


def look_at_splits(work: Work, span: tuple[date, date] | None, resources: Resources) -> Tally:
    """Run :func:`fetch_splits`, if there is a span to look at.

    A vendor that refuses or fails to answer costs the run its splits, not its bars. One that was not even reached
    may be so at every other call too: the first of them tells.

    Raises:
        ConfigurationError: the key or a setting is wrong, so no other call would do better.
    """
    if span is None:
        return Tally()
    task = fetch_splits.with_options(**retries(resources.settings))
    state = task(work, *span, return_state=True)
    result: Any = state.result(raise_on_failure=False)
    if isinstance(result, int):
        return Tally(splits=result)
    if isinstance(result, ConfigurationError | FatalError) or not isinstance(result, ClosingbellError):
        raise result
    resources.unreached = is_unreached(result)
    failure = Failure(SPLITS, result.what, result.reason or "failed", 0, (), str(result))
    return Tally(failures=[failure])
