"""What failed, once more, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from closingbell import request
from closingbell.cells import RETRYABLE, Gap
from closingbell.errors import ConfigurationError
from closingbell.store.records import as_run_id
from flows import night
from tasks.resources import Resources
from tasks.threads import threads


@flow(name="retry-failed", task_runner=threads())
def retry_failed(
    run_id: Annotated[str, Field(pattern=r"^(last|all|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$")] = "last",
    batch_size: Annotated[int, Field(ge=1, le=10_000)] | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Make calls for exactly the cells that a run was asked for and did not get.

    Args:
        run_id: A run's id; last: the last ingest; all: every cell that failed, was not published, or lost its bar.
        batch_size: Calls in one task. Empty: the setting BATCH_SIZE.
        dry_run: Only show the plan, and make no call.
    """

    def ask(resources: Resources) -> request.Request:
        records, source = resources.store.records, resources.settings.source
        if run_id == "all":
            ledger = records.audit().get((source, "1d"))
            lost = ledger.damage.lost if ledger else ()
            gaps = [*records.gaps(source, "1d", RETRYABLE), *(Gap(*cell, "pending") for cell in lost)]
            return request.of_gaps(gaps, resources.clock.now(), source)
        row = records.last_run() if run_id == "last" else records.run(as_run_id(run_id))
        if row is None:
            what = "there is no run to retry" if run_id == "last" else "there is no such run"
            raise ConfigurationError(what, value=run_id, fix="closingbell status lists the last runs with their ids.")
        if records.is_alive(row["run_id"]):
            fix = "Wait for its end, or cancel it."
            raise ConfigurationError("this run is still going on", value=row["run_id"], fix=fix)
        return request.Request.from_dict(row["asked"])

    return night.run("retry-failed", ask, batch_size, dry_run=dry_run)
