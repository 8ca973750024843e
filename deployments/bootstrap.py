"""What a Prefect server needs before closingbell runs on it: the work pool, a limit for each quota, a type of block.

    python -m deployments.bootstrap

Run it as often as you like. It creates what is missing, and lets a limit follow the setting until someone changes
it in the Prefect UI: then it stays as they set it, and what differs from the settings is said.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from closingbell.errors import ClosingbellError, ConfigurationError
from closingbell.quota import Quota, Quotas
from closingbell.settings import DATABENTO, Settings, load
from deployments import automations

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL: Final = "closingbell"
CHECKOUT: Final = Path(__file__).resolve().parent.parent

#: Whether something of this command waits for a deployment.
_waits = True


def bootstrap(settings: Settings) -> list[str]:
    """Create the work pool, the limits and the database's type of block on the active Prefect server, where missing.

    Returns:
        What was done, and what is not as the settings say, a line each.

    Raises:
        ConfigurationError: no server is configured, it does not answer, or it refuses us.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import get_current_settings

    from tasks.limits import limit_name

    url = get_current_settings().api.url
    if not url:
        raise ConfigurationError(
            "no Prefect server is configured",
            fix="Set PREFECT_API_URL, for instance http://127.0.0.1:4200/api, or start everything with make up.",
        )
    try:
        with get_client(sync_client=True) as client:
            said = [_pool(client)]
            for key, quotas in quotas_by_key(settings).items():
                for asset_class, quota in quotas.all().items():
                    said += _limit(client, limit_name(quota, asset_class, key), quota)
            return [*said, _connector(client), *automations.ensure_all(client, settings.notify_block)]
    except httpx.TransportError as error:
        raise ConfigurationError(
            f"the Prefect server does not answer ({type(error).__name__})",
            value=without_credentials(url),
            fix="Start it (prefect server start), or correct PREFECT_API_URL.",
        ) from None
    except PrefectHTTPStatusError as error:
        raise ConfigurationError(
            f"the Prefect server refused the set-up (HTTP {error.response.status_code})",
            value=without_credentials(url),
            fix="Check PREFECT_API_URL (it ends in /api), PREFECT_API_KEY or PREFECT_API_AUTH_STRING.",
        ) from None


def settings_of_runs() -> Settings:
    """The settings as a run on the active Prefect server has them: with the secrets that its blocks hold.

    Raises:
        ClosingbellError: they cannot be read.
    """
    from tasks.secrets import complete

    return load(complete)


def step() -> dict[str, str]:
    """The build step of prefect.yaml, which is taken before each deployment; its output is where the code is.

    It bootstraps once a command; what needs a deployment to be there, it does as soon as that is.

    Raises:
        SystemExit: it cannot; with the reason, for Prefect shows any other exception as a page of its own code.
    """
    try:
        _once()
        _afterwards()
    except ClosingbellError as error:
        raise SystemExit(f"error: {error}") from None
    return {"checkout": str(CHECKOUT)}


@functools.cache
def _once() -> None:
    for line in bootstrap(settings_of_runs()):
        click.echo(line)


def _afterwards() -> None:
    """Create what waits for a deployment, if it is there by now and this was not done yet."""
    global _waits
    from prefect.client.orchestration import get_client

    if _waits:
        with get_client(sync_client=True) as client:
            done = automations.ensure_retries(client)
        if done:
            click.echo(done)
            _waits = False


def quotas_by_key(settings: Settings) -> dict[str, Quotas]:
    """The quotas of each vendor that there is a key for, by the name of the key."""
    found = {settings.polygon_key_name: settings.quotas}
    if settings.databento_api_key:
        found[DATABENTO] = settings.quotas_of(DATABENTO)
    return found


def _pool(client: SyncPrefectClient) -> str:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        except ObjectAlreadyExists:  # someone else did, just now
            return f"work pool {POOL}: there already"
        return f"work pool {POOL}: created"
    return f"work pool {POOL}: there already"


def _limit(client: SyncPrefectClient, name: str, quota: Quota) -> list[str]:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    from tasks.limits import remember, variable_name

    setting = variable_name(name, "setting")
    try:
        found = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        # No decay: each call holds its slot until the quota's window after it is over, then gives it back.
        wanted = GlobalConcurrencyLimitCreate(name=name, limit=quota.calls, active=True, slot_decay_per_second=0)
        try:
            client.create_global_concurrency_limit(wanted)
        except ObjectAlreadyExists:
            found = client.read_global_concurrency_limit_by_name(name)
        else:
            remember(client, setting, quota.calls)
            return [f"global concurrency limit {name}: created, {quota}"]
    said = [f"global concurrency limit {name}: there already, limit {found.limit}"]
    if found.limit != quota.calls and found.limit == _remembered(client, setting):
        # Nobody touched it since it was set from the setting: so it follows the setting.
        client.upsert_global_concurrency_limit_by_name(name, quota.calls, 0)
        remember(client, setting, quota.calls)
        said = [f"global concurrency limit {name}: {found.limit} changed to {quota.calls}, as the setting says"]
    elif found.limit != quota.calls:
        said.append(
            f"warning: someone set its limit to {found.limit}, the setting says {quota.calls}; kept. To change it:"
            f" prefect gcl update {name} --limit {quota.calls}"
        )
    if not found.active:
        said.append(f"warning: it is inactive, and runs stop until it is active: prefect gcl update {name} --enable")
    if found.slot_decay_per_second:
        said.append(
            f"warning: its slots decay, which exceeds the quota: prefect gcl update {name} --slot-decay-per-second 0"
        )
    return said


def _connector(client: SyncPrefectClient) -> str:
    """Let the database be put into a block in the UI, which offers the types that its server knows.

    That of the keys is one of Prefect's own.
    """
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect_sqlalchemy import SqlAlchemyConnector

    slug, known = SqlAlchemyConnector.get_block_type_slug(), "there already"
    try:
        client.read_block_type_by_slug(slug)
    except ObjectNotFound:
        known = "created"
    try:
        SqlAlchemyConnector.register_type_and_schema(_sync=True)  # and the newest version of its form
    except ObjectAlreadyExists:  # someone else did, just now
        known = "there already"
    return f"block type {slug}: {known}"


def _remembered(client: SyncPrefectClient, setting: str) -> int | None:
    """What a limit was last set to from the setting; anything else in it is a person's own choice."""
    variable = client.read_variable_by_name(setting)
    return variable.value if variable and isinstance(variable.value, int) else None


def without_credentials(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@click.command()
def main() -> None:
    """Create the work pool, the quotas' limits and the database's type of block on the active Prefect server."""
    try:
        for line in bootstrap(settings_of_runs()):
            click.echo(line)
    except ClosingbellError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
