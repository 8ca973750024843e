"""Flow runs whose process is gone, on a Prefect server whose workers are all on this machine.

Prefect learns of a run's death from its worker. Where the worker died too, nobody tells: the run stays ``Running``,
and keeps the slot of its deployment, until its heartbeats are missed (:mod:`deployments.automations`). On one
machine the processes themselves can be looked for.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deployments.bootstrap import POOL

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

#: What Prefect gives every process of a flow run in its environment.
_MARK: Final = b"PREFECT__FLOW_RUN_ID="


def bury_all(client: SyncPrefectClient, message: str) -> int:
    """End every run of the pool that is under way by its state, for nothing runs; returns how many."""
    return sum(_end(client, run, message) for run in _live(client))


def bury_gone(client: SyncPrefectClient) -> int:
    """End the pool's runs that had begun here and whose process is gone; returns how many."""
    begun = [run for run in _live(client) if run.state and not run.state.is_pending()]
    there = processes()  # after the runs were read, for a run has a process before it has the state
    return sum(_end(client, run, "Its process was killed.") for run in begun if gone(run, there))


def put_back(client: SyncPrefectClient, after: timedelta) -> int:
    """Schedule the pool's runs again that a worker took so long ago and that have no process; returns how many.

    A worker that dies with a run in its hands leaves it so, and its last words may reach the server after its death.
    A living one makes the process within moments.
    """
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Scheduled

    taken = [run for run in _live(client) if run.state and run.state.is_pending()]
    there, before = processes(), datetime.now(UTC) - after
    lost = [run for run in taken if run.state and run.state.timestamp <= before and gone(run, there)]
    for run in lost:
        with contextlib.suppress(ObjectNotFound):  # somebody deleted it
            client.set_flow_run_state(run.id, Scheduled(), force=True)
    return len(lost)


def processes() -> frozenset[str] | None:
    """The ids of the flow runs that have a process here; None where that cannot be seen."""
    found = set[str]()
    if not Path("/proc/self/environ").exists():
        return None
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone, or another user's
                for variable in (entry / "environ").read_bytes().split(b"\0"):
                    if variable.startswith(_MARK):
                        found.add(variable.removeprefix(_MARK).decode(errors="replace"))
    return frozenset(found)


def gone(run: FlowRun, there: frozenset[str] | None) -> bool:
    """Whether the run has no process, as far as can be known: a doubt is a no.

    Args:
        run: as the server tells it.
        there: what :func:`processes` found after the run was read.
    """
    pid = run.infrastructure_pid
    if there is not None and str(run.id) in there:
        return False
    if pid is None:
        return there is not None
    if not pid.isdigit():
        return False  # of another kind of worker, somewhere else
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _end(client: SyncPrefectClient, run: FlowRun, message: str) -> bool:
    """End a dead run, unless its process did that itself just before it was gone."""
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled, Crashed

    try:
        state = client.read_flow_run(run.id).state
    except ObjectNotFound:  # somebody deleted it
        return False
    if state is None or state.is_final() or state.is_scheduled():
        return False
    end: State[Any] = Cancelled() if state.is_cancelling() else Crashed(message=message)
    client.set_flow_run_state(run.id, end, force=True)
    return True


def _live(client: SyncPrefectClient) -> list[FlowRun]:
    """The pool's runs that are under way by their state."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.client.schemas.objects import StateType

    live = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": live}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
    )
