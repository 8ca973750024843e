"""What the morning's look needs to know of the Prefect server: what the nightly run asks for, and whether it is on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

NIGHTLY: Final = "ingest/nightly"
RETRY: Final = "retry-failed/retry"

#: Seconds between two looks whether the nightly run is over.
LOOK: Final = 5.0

_UNDER_WAY: Final = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]


@dataclass(frozen=True, slots=True)
class Nightly:
    """The nightly deployment.

    Attributes:
        scheduled: whether it runs by itself.
        parameters: what it is asked for.
    """

    scheduled: bool
    parameters: Mapping[str, Any]


def nightly() -> Nightly:
    """The nightly deployment as it stands on this server; where there is none, it is not scheduled."""
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(NIGHTLY)
        except ObjectNotFound:
            return Nightly(scheduled=False, parameters={})
    on = not found.paused and any(each.active for each in found.schedules)
    return Nightly(on, found.parameters or {})


def wait_for_the_night(minutes: float) -> bool:
    """Wait until no run of the night, or of what it left, is under way or late; whether that came true in time."""
    until = time.monotonic() + 60 * minutes
    while under_way():
        if time.monotonic() + LOOK > until:
            return False
        time.sleep(LOOK)
    return True


def under_way() -> list[UUID]:
    """The runs of the nightly deployment and of the retry that run, or should have begun."""
    with get_client(sync_client=True) as client:
        ids: list[UUID] = []
        for name in (NIGHTLY, RETRY):
            try:
                ids.append(client.read_deployment_by_name(name).id)
            except ObjectNotFound:
                continue
        of = DeploymentFilter.model_validate({"id": {"any_": ids}})
        late = {"state": {"type": {"any_": [StateType.SCHEDULED]}}}
        # A day is as long as anything that is late is worth waiting for.
        now = datetime.now(UTC)
        due = {"expected_start_time": {"before_": now, "after_": now - timedelta(days=1)}}
        wanted = ({"state": {"type": {"any_": _UNDER_WAY}}}, late | due)
        return [
            run.id
            for each in wanted
            for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(each), deployment_filter=of)
        ]
