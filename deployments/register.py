"""Make a server ready for runs: pool, limit, deployments. One process, so that Prefect is loaded once.

    python -m deployments.register [--local once|nightly]

With ``--local`` the server belongs to the local stack, which starts its worker when it reads :data:`TIDY` here.
Until then no worker lives: what the server still calls running was killed with an earlier stack.
"""

from __future__ import annotations

import contextlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import click

from closingbell.errors import ClosingbellError, FatalError
from deployments.bootstrap import CHECKOUT, POOL, bootstrap, settings_of_runs
from deployments.dead_runs import bury_all
from deployments.prefect_server import wait_until_healthy

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

#: What this says when the server is as a worker should find it.
TIDY: Final = "ready for a worker"

KILLED: Final = "Its worker was killed with the local stack."

_DEPLOY: Final = ["--no-prompt", "deploy", "--all"]


def drop_overdue_runs(client: SyncPrefectClient, *, keep_latest: bool) -> int:
    """Drop scheduled runs whose time went by while the stack was down; returns how many.

    One run makes up for all the nights that were missed: the latest, or the one that is about to be asked for.
    """
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    overdue = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(
            {
                "state": {"type": {"any_": [StateType.SCHEDULED]}},
                "expected_start_time": {"before_": datetime.now(UTC)},
            }
        ),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
    )
    seen: set[UUID | None] = set()
    dropped = 0
    for run in overdue:
        latest = run.deployment_id not in seen
        seen.add(run.deployment_id)
        if run.auto_scheduled and not (latest and keep_latest):
            client.delete_flow_run(run.id)
            dropped += 1
    return dropped


@click.command()
@click.option("--local", type=click.Choice(["once", "nightly"]), help="The server is the local stack's own.")
def main(local: str | None) -> None:
    """Create the work pool, the quota's limit and every deployment on the active Prefect server."""
    os.chdir(CHECKOUT)
    from prefect.cli import app
    from prefect.client.orchestration import get_client

    with contextlib.suppress(ImportError):  # loading them takes as long as a server takes to start
        import flows.backfill
        import flows.derive_events
        import flows.facts
        import flows.ingest
        import flows.morning
        import flows.reconcile
        import flows.retry_failed  # noqa: F401
    try:
        api_url, home = os.environ["PREFECT_API_URL"], Path(os.environ["PREFECT_HOME"]).parent if local else None
        if not wait_until_healthy(api_url, home=home) and home:
            # Another home's server may have taken the port first: its runs live, and are not ours to end.
            raise FatalError(
                "the Prefect server of this home does not answer",
                value=f"{api_url}, {home}",
                fix="Start the stack again.",
            )
        for line in bootstrap(settings_of_runs()):
            click.echo(line)
        if local:
            with get_client(sync_client=True) as client:
                click.echo(f"runs that a killed stack left: {bury_all(client, KILLED)}")
                click.echo(f"overdue runs: {drop_overdue_runs(client, keep_latest=local == 'nightly')}")
        click.echo(TIDY)
        sys.stdout.flush()
    except ClosingbellError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    sys.argv = ["prefect", *_DEPLOY]  # the stock command, in this process
    app()


if __name__ == "__main__":
    main()
