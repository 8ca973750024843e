"""What ``closingbell doctor`` looks at outside the database: the Prefect server, and whether the vendor takes the key.

A server is looked at where one is named by ``PREFECT_API_URL`` or belongs to the stack that stands at this home. None
is started for it, except for ``--call``: no call is made outside the quota's limit, which is on a Prefect server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import yaml

from closingbell.doctors import Finding, failed
from closingbell.errors import ClosingbellError, NotEntitledError, NotYetPublishedError, RetryableError
from closingbell.settings import Settings
from deployments.bootstrap import CHECKOUT, POOL, quotas_by_key, without_credentials
from deployments.prefect_server import client_environment, prefect_environment
from infra import standing

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

#: Puts right whatever is missing on a server.
_DEPLOY: Final = "Run: prefect deploy --all"
_NIGHTLY: Final = "ingest/nightly"


def checks(settings: Settings, *, call: bool = False) -> Iterator[Finding]:
    """Everything outside the database.

    Args:
        settings: as a run has them.
        call: whether to make one call to the vendor as well.
    """
    yield from _prefect(settings)
    if call:
        yield _call(settings)


def _prefect(settings: Settings) -> Iterator[Finding]:
    """The server, and what of ours is on it."""
    home, environment = settings.closingbell_home, None
    if settings.prefect_api_url:
        environment = {"PREFECT_API_URL": settings.prefect_api_url}
    elif there := standing.read(home):
        environment = client_environment(home, there.prefect_api_url)
    if environment is None:
        yield Finding("prefect", "no server is named or runs here; a run starts its own, closingbell up keeps one")
        return
    with prefect_environment(environment):
        yield from _on_server(settings, without_credentials(environment["PREFECT_API_URL"]))


def _on_server(settings: Settings, url: str) -> Iterator[Finding]:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    from tasks.endurance import retrying

    try:
        with retrying(0), get_client(sync_client=True) as client:
            if error := client.api_healthcheck():
                fix = "Start it, correct PREFECT_API_URL, or unset it to use a local one."
                yield Finding("prefect", f"the Prefect server does not answer: {url} ({_kind(error)})", "error", fix)
                return
            yield Finding("prefect", f"{url}, Prefect {client.api_version()}")
            yield from _limits(client, settings)
            yield from _pool(client)
            yield from _deployments(client)
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        fix = (
            "Look at the server's log; PREFECT_API_URL ends in /api; check PREFECT_API_KEY or PREFECT_API_AUTH_STRING."
        )
        yield Finding("prefect", f"the Prefect server does not say: {url} ({_kind(error)})", "error", fix)


def _kind(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return type(error).__name__ if status is None else f"HTTP {status}"


def _limits(client: SyncPrefectClient, settings: Settings) -> Iterator[Finding]:
    """The quotas' concurrency limits, without which no call is made."""
    from tasks.limits import limit_name, require_limit

    for key, quotas in quotas_by_key(settings).items():
        for asset_class, quota in quotas.all().items():
            name = limit_name(quota, asset_class, key)
            try:
                limit = require_limit(client, name)
            except ClosingbellError as error:
                yield failed("limit", error)
                continue
            if limit.limit == quota.calls:
                yield Finding("limit", f"{name}, {limit.active_slots} of {limit.limit} in use")
            else:
                fix = f"If nobody meant it: prefect gcl update {name} --limit {quota.calls}"
                told = f"{name} allows {limit.limit} calls, the setting says {quota}"
                yield Finding("limit", told, "warning", fix)


def _pool(client: SyncPrefectClient) -> Iterator[Finding]:
    """The work pool, and whether a worker takes runs from it."""
    from prefect.exceptions import ObjectNotFound

    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        yield Finding("pool", f"the work pool {POOL} is missing: nothing scheduled can run", "warning", _DEPLOY)
        return
    if pool.is_paused:
        fix = f"Run: prefect work-pool resume {POOL}"
        yield Finding("pool", f"the work pool {POOL} is paused: nothing scheduled runs", "warning", fix)
        return
    online = [worker for worker in client.read_workers_for_work_pool(POOL) if _is_online(worker)]
    if not online:
        fix = f"Run: prefect worker start --pool {POOL}"
        yield Finding("pool", f"no worker is online in the work pool {POOL}", "warning", fix)
        return
    yield Finding("pool", f"{POOL}, {len(online)} worker{'s' if len(online) != 1 else ''} online")


def _is_online(worker: Any) -> bool:
    return str(getattr(worker.status, "value", worker.status)).upper() == "ONLINE"


def _deployments(client: SyncPrefectClient) -> Iterator[Finding]:
    """Whether each deployment of prefect.yaml is there, and the nightly one is on."""
    from prefect.client.schemas.filters import WorkPoolFilter

    there = {
        each.name: each
        for each in client.read_deployments(work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}))
    }
    if missing := [name for name in _wanted() if name not in there]:
        yield Finding("deploy", f"deployments are missing: {', '.join(missing)}", "warning", _DEPLOY)
        return
    nightly = there["nightly"]
    if nightly.paused or not any(schedule.active for schedule in nightly.schedules):
        fix = f"Run: prefect deployment schedule resume {_NIGHTLY} --all, or switch it on in the UI."
        yield Finding("deploy", f"the schedule of {_NIGHTLY} is off: no night runs by itself", "warning", fix)
        return
    yield Finding("deploy", f"{len(there)} deployments, the nightly schedule is on")


def _wanted() -> list[str]:
    described: Mapping[str, Any] = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())
    return [each["name"] for each in described["deployments"]]


def _call(settings: Settings) -> Finding:
    """One call to the vendor, of the kind that every night begins with: the splits of the last two days."""
    from deployments.local import joined_or_started

    if settings.polygon_api_key is None:
        return Finding("call", "none made: no key is set, and the stand-in market takes any")
    try:
        with joined_or_started(settings):
            from tasks.vendors import opened

            with opened(settings.source, settings) as vendor:
                vendor.source.splits(datetime.now(UTC).date() - timedelta(days=2))
                return Finding("call", f"the vendor takes the key: {vendor.calls} call to {settings.polygon_base_url}")
    except NotYetPublishedError:
        return Finding("call", "the vendor takes the key")
    except (RetryableError, NotEntitledError) as error:
        return Finding("call", f"{error.what}: {error.value}", "warning", error.fix)
    except ClosingbellError as error:
        return failed("call", error)
