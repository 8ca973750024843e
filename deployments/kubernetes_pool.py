"""The work pool whose runs are Kubernetes jobs, in place of the one whose runs are processes of the worker.

    python -m deployments.kubernetes_pool --image registry.example/closingbell:0.1.0 --namespace closingbell

To be run before :mod:`deployments.bootstrap`, which then finds a work pool of its name. Run it again after a change of
infra/kubernetes/base-job-template.json or of the image: the pool gets what the file says.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from closingbell.errors import ClosingbellError, ConfigurationError
from deployments.bootstrap import CHECKOUT, POOL, without_credentials
from deployments.prefect_server import wait_until_healthy

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

TYPE: Final = "kubernetes"
TEMPLATE: Final = CHECKOUT / "infra" / "kubernetes" / "base-job-template.json"


def template(**defaults: str | None) -> dict[str, Any]:
    """The base job template; what is named here has another default in it than in the file, unless it is None."""
    read: dict[str, Any] = json.loads(TEMPLATE.read_text())
    for name, value in defaults.items():
        if value is not None:
            read["variables"]["properties"][name]["default"] = value
    return read


def ensure(client: SyncPrefectClient, wanted: dict[str, Any], name: str = POOL) -> str:
    """Create the work pool, or let the one that is there have this template; returns what was done.

    Raises:
        ConfigurationError: there is one of another type.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type=TYPE, base_job_template=wanted))
        except ObjectAlreadyExists:  # someone else did, just now
            found = client.read_work_pool(name)
        else:
            return f"work pool {name}: created, of type {TYPE}"
    if found.type != TYPE:
        raise ConfigurationError(
            f"the work pool {name} is there already, and of another type",
            value=found.type,
            fix=f"Let it be as it is, or delete it first, which stops its schedules: prefect work-pool delete {name}",
        )
    if found.base_job_template == wanted:
        return f"work pool {name}: there already"
    client.update_work_pool(name, WorkPoolUpdate(base_job_template=wanted))
    return f"work pool {name}: its template is that of {TEMPLATE.name} now"


@click.command()
@click.option("--image", help="What runs are started from. Default: as the template says.")
@click.option("--namespace", help="Where their jobs are made. Default: as the template says.")
def main(image: str | None, namespace: str | None) -> None:
    """Create or update the work pool for Kubernetes jobs on the active Prefect server, and wait until it answers."""
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    try:
        if not url or not wait_until_healthy(url):
            raise ConfigurationError(
                "no Prefect server answers",
                value=without_credentials(url or ""),
                fix="Start it, or set PREFECT_API_URL to its address.",
            )
        with get_client(sync_client=True) as client:
            click.echo(ensure(client, template(image=image, namespace=namespace)))
    except ClosingbellError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
