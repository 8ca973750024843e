"""What failed, once more, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from closingbell import request
from closingbell.bars import TIMEFRAMES
from closingbell.cells import RETRYABLE, Gap
from closingbell.errors import ConfigurationError
from closingbell.store.records import Records, as_run_id
from flows import night
from flows.form import FIRST, HOW, WHAT, BatchSize, Timeframe, Vendor, grouped
from tasks.resources import Resources
from tasks.threads import threads


@grouped({"Which run": ["run_id"], FIRST: ["dry_run"], WHAT: ["timeframes", "source"], HOW: ["batch_size"]})
@flow(name="retry-failed", task_runner=threads())
def retry_failed(
    run_id: Annotated[str, Field(pattern=r"^(last|all|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$")] = "last",
    timeframes: list[Timeframe] | None = None,
    source: Vendor | None = None,
    batch_size: BatchSize | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Make calls for exactly the cells that a run was asked for and did not get.

    Args:
        run_id: A run's id; last: the last ingest or backfill; all: every cell that failed, was not published, or lost
            its bar.
        timeframes: Only the bars of these. Empty: of all that the run was asked for.
        source: With all: whose cells, polygon or databento. Empty: polygon, or the stand-in market. A run has its own.
        batch_size: Calls in one task. Empty: the setting BATCH_SIZE.
        dry_run: Only show the plan, and make no call.
    """

    def ask(resources: Resources) -> request.Request:
        records = resources.store.records
        if run_id == "all":
            return _of_all(records, resources.settings.source_of(source), timeframes, resources.clock.now())
        row = records.last_run() if run_id == "last" else records.run(as_run_id(run_id))
        if row is None:
            what = "there is no run to retry" if run_id == "last" else "there is no such run"
            raise ConfigurationError(what, value=run_id, fix="closingbell status lists the last runs with their ids.")
        if "events" in row["asked"]:
            fix = "closingbell derive-events goes on where it was."
            raise ConfigurationError("this run derived events, and made no call", value=row["run_id"], fix=fix)
        if records.is_alive(row["run_id"]):
            fix = "Wait for its end, or cancel it."
            raise ConfigurationError("this run is still going on", value=row["run_id"], fix=fix)
        return _only(request.Request.from_dict(row["asked"]), timeframes)

    return night.run("retry-failed", ask, batch_size, dry_run=dry_run)


def _of_all(records: Records, source: str, timeframes: Sequence[str] | None, now: datetime) -> request.Request:
    """Every cell of a vendor that has no bar and might get one, or lost it."""
    gaps: dict[str, list[Gap]] = {}
    for (of, timeframe), ledger in records.audit().items():
        if of == source and timeframe in (timeframes or TIMEFRAMES):
            lost = (Gap(*cell, "pending") for cell in ledger.damage.lost)
            gaps[timeframe] = [*records.gaps(source, timeframe, RETRYABLE), *lost]
    found = tuple(timeframe for timeframe, some in gaps.items() if some)
    every = [gap for some in gaps.values() for gap in some]
    return request.of_gaps(every, now, source, found or tuple(timeframes or ("1d",)))


def _only(asked: request.Request, timeframes: Sequence[str] | None) -> request.Request:
    """What a run was asked for, of some timeframes.

    Raises:
        ConfigurationError: it was not asked for any of them.
    """
    if timeframes is None:
        return asked
    kept = tuple(timeframe for timeframe in asked.timeframes if timeframe in timeframes)
    if not kept:
        fix = f"It was asked for {', '.join(asked.timeframes)}."
        raise ConfigurationError("the run was not asked for these bars", value=", ".join(timeframes), fix=fix)
    return replace(asked, timeframes=kept)
