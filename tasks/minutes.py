"""Daily bars held against their own minutes."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from closingbell.bars import Bars
from closingbell.errors import ClosingbellError, ConfigurationError, FatalError
from closingbell.healing import Cell
from closingbell.report import Failure, Tally
from closingbell.rollup import differences, roll_up
from closingbell.settings import Settings
from tasks.batch import Work, retries, told, worth_retrying
from tasks.resources import current


@task(name="minutes", cache_policy=NO_CACHE, retry_condition_fn=worth_retrying)
@told
def compare_minutes(cell: Cell) -> list[str]:
    """Fetch one session's minutes of one ticker, roll them up, and say where the stored daily bar differs."""
    resources, (ticker, session) = current(), cell
    minutes = resources.source.fetch_range(ticker, session, session, "1m")
    daily: Bars = resources.store.records.series(resources.settings.source, "1d", (ticker,), session, session)
    return [str(found) for found in differences(daily, roll_up(minutes))]


def look_at_minutes(work: Work, cells: tuple[Cell, ...], settings: Settings) -> Tally:
    """Run :func:`compare_minutes` for each of these cells; one that fails costs the run that comparison only.

    Raises:
        ConfigurationError: a person has to mend something first.
        FatalError: the database refused a statement.
    """
    tally = Tally()
    task = compare_minutes.with_options(**retries(settings))
    for cell in cells:
        result: Any = task(cell, return_state=True).result(raise_on_failure=False)
        if isinstance(result, list):
            tally.add(Tally(calls_done=1, minutes=result))
        elif isinstance(result, ConfigurationError | FatalError) or not isinstance(result, ClosingbellError):
            raise result
        else:
            call = f"minutes of {cell[0]} {cell[1]}"
            get_run_logger().warning("%s: %s", call, result)
            tally.add(Tally(calls_done=1, failures=[Failure(call, result.what, "failed", 0, (cell[0],), str(result))]))
    return tally
