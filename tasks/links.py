"""Links into the Prefect UI that a run's artifacts show: to a deployment's form, filled in.

They are relative. An artifact is read at ``…/artifacts/artifact/<id>``, ``…/artifacts/key/<key>`` or, on its run,
``…/runs/flow-run/<id>``: two steps below where the UI is served, whatever its host, its prefix, its version, and
whatever ``PREFECT_UI_URL`` or ``PREFECT_API_URL`` say, which name another address behind a proxy. Both of Prefect's UIs
take ``parameters``, a JSON object, and fill in the form with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from tasks.endurance import retrying

#: What asks again for what failed.
RETRY: Final = "retry-failed/retry"

#: Longer addresses than this are refused by some proxies.
_LONGEST: Final = 7_000


def to_retry(run_id: str) -> str | None:
    """The form that retries a run; None where the server has no such deployment, or does not answer."""
    try:
        with retrying(0), get_client(sync_client=True) as client:
            return to_form(client.read_deployment_by_name(RETRY).id, {"run_id": run_id})
    except Exception:  # noqa: BLE001  (a link is not worth the report)
        return None


def for_real() -> str | None:
    """The form of the deployment of the present run, a dry one, to start the same for real; None where it has none."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None:
        return None
    given = {name: value for name, value in run.parameters.items() if name != "dry_run" and value is not None}
    return to_form(run.deployment_id, given)


def to_form(deployment_id: UUID, parameters: Mapping[str, Any]) -> str | None:
    """The form of a deployment, filled in; None where that is too long for an address."""
    filled = quote(json.dumps(parameters, separators=(",", ":"), default=str), safe="")
    link = f"../../deployments/deployment/{deployment_id}/run?parameters={filled}"
    return link if len(link) <= _LONGEST else None
