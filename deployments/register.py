"""Make a server ready for runs: pool, limit, deployments. One process, so that Prefect is loaded once.

    python -m deployments.register [--local]

With ``--local`` the server belongs to the local stack, and no worker lives when this runs: what it still calls
running was killed with an earlier stack.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from closingbell.errors import ClosingbellError
from closingbell.settings import load
from deployments.bootstrap import CHECKOUT, POOL, bootstrap
from deployments.prefect_server import START_SECONDS, healthy

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_DEPLOY: Final = ["--no-prompt", "deploy", "--all"]


def bury_dead_runs(client: SyncPrefectClient) -> int:
    """Call crashed what cannot be running any more, which gives back its deployment's one slot; returns how many.

    Nothing else would: a worker and a run that were killed together leave the run ``Running`` for ever.
    """
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    live = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": live}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
    )
    for run in runs:
        client.set_flow_run_state(run.id, Crashed(message="Its worker was killed with the local stack."), force=True)
    return len(runs)


@click.command()
@click.option("--local", is_flag=True, help="The server is the local stack's own.")
def main(local: bool) -> None:
    """Create the work pool, the quota's limit and every deployment on the active Prefect server."""
    os.chdir(CHECKOUT)
    from prefect.cli import app
    from prefect.client.orchestration import get_client

    with contextlib.suppress(ImportError):  # loading them takes as long as a server takes to start
        import flows.ingest
        import flows.retry_failed  # noqa: F401
    try:
        deadline = time.monotonic() + START_SECONDS
        while not healthy(os.environ["PREFECT_API_URL"]) and time.monotonic() < deadline:
            time.sleep(0.05)
        for line in bootstrap(load()):
            click.echo(line)
        if local:
            with get_client(sync_client=True) as client:
                click.echo(f"runs that a killed stack left: {bury_dead_runs(client)}")
    except ClosingbellError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    sys.argv = ["prefect", *_DEPLOY]  # the stock command, in this process
    app()


if __name__ == "__main__":
    main()
