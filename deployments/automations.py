"""What the Prefect server does by itself for closingbell: automations, created once, then as a person leaves them.

- A run that died unseen is ended. A worker reports the death of its runs; when both died, on whatever machine, the run
  would be ``Running`` for ever. Every run sends heartbeats, by default each three minutes.
- What a nightly run left is asked for again, after half an hour and after three.
- Someone is told of failures, through any of Prefect's notification blocks.

An automation that a person edited or turned off stays so; one that nobody touched follows this file and the settings.
One that was deleted is created again: turn it off instead.
"""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

NAME: Final = "closingbell: end runs that died unseen"
RETRIES: Final = "closingbell: retry what a night left"
FAILURES: Final = "closingbell: tell of failures"
NOT_BEGUN: Final = "closingbell: tell of runs that do not begin"

#: Only runs with this tag are looked at; prefect.yaml gives it to every deployment.
TAG: Final = "closingbell"

#: A run is dead when nothing was heard of it for so long: five of Prefect's heartbeats, and longer than a Prefect
#: server may be away, during which a living run is not heard either.
SILENCE: Final = timedelta(minutes=15)

#: When what a nightly run left is asked for again, counted from its end. Not within minutes, for a vendor that is down
#: is down for longer; and both are over by the morning. So many there are and no more: a retry is not retried.
AFTER: Final = (timedelta(minutes=30), timedelta(hours=3))

#: What is retried by itself: the deployment of this name. Whoever starts another run by hand sees what it left.
NIGHTLY: Final = "nightly"
RETRY: Final = "retry-failed/retry"

#: So late may a run begin before somebody is told.
LATE: Final = timedelta(minutes=30)

_OF_OURS: Final = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
_EACH_RUN: Final[dict[str, Any]] = {
    "match": {"prefect.resource.id": "prefect.flow-run.*"},
    "match_related": _OF_OURS,
    "for_each": {"prefect.resource.id"},
}

_SUBJECT: Final = "closingbell: {{ flow.name }}/{{ deployment.name }} is {{ flow_run.state.name }}"
_BODY: Final = """\
The run {{ flow_run.name }} of {{ flow.name }}/{{ deployment.name }} is {{ flow_run.state.name }}.

Cause: {{ flow_run.state.message or "none is known" }}

{{ flow_run|ui_url }}"""


def ensure(client: SyncPrefectClient) -> str:
    """Create the automation that ends dead runs, unless there is one of its name; returns what was done."""
    return _ensure(client, _dead_runs())


def ensure_all(client: SyncPrefectClient, notify: str = "") -> list[str]:
    """Create the automations that are missing, and change those that nobody touched to what they are now.

    Args:
        client: of the server.
        notify: the notification block to tell, ``type/name``; empty: nobody is told.

    Returns:
        What was done, a line each.
    """
    waits = f"automation {RETRIES}: waits for the deployment {RETRY}"
    said, block = [ensure(client), ensure_retries(client) or waits], _block(client, notify) if notify else None
    if block:
        said += [_ensure(client, _failures(block)), _ensure(client, _not_begun(block))]
    elif notify:
        said.append(
            f"warning: there is no notification block {notify}, so nobody is told of failures. Create it in the UI"
            " (Blocks, +), then run the deployment bootstrap."
        )
    elif client.read_automations_by_name(FAILURES):
        said.append(f"automation {FAILURES}: there already, though NOTIFY_BLOCK is not set; turn it off in the UI")
    return said


def ensure_retries(client: SyncPrefectClient) -> str | None:
    """Create the automation that retries what a night left; None where what it runs is not deployed yet."""
    from prefect.exceptions import ObjectNotFound

    try:
        return _ensure(client, _retries(client.read_deployment_by_name(RETRY).id))
    except ObjectNotFound:
        return None


def _dead_runs() -> AutomationCore:
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    minutes = SILENCE // timedelta(minutes=1)
    return AutomationCore(
        name=NAME,
        description=f"Crashed is what a run is of which nothing was heard for {minutes} minutes.",
        trigger=EventTrigger.model_validate(
            {
                # Taken by a worker, or alive; what comes next, whatever it is, shows that somebody cares for it.
                "after": {f"prefect.flow-run.{event}" for event in ("Pending", "Submitting", "heartbeat")},
                "expect": {"prefect.flow-run.*"},
                **_EACH_RUN,
                "posture": Posture.Proactive,
                "threshold": 1,
                "within": SILENCE,
            }
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"Nothing was heard of it for {minutes} minutes: its process and its worker are gone.",
            )
        ],
    )


def _retries(retry: UUID) -> AutomationCore:
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    from tasks.signals import LEFT

    run_id = {"__prefect_kind": "jinja", "template": "{{ event.payload.run_id }}"}
    return AutomationCore(
        name=RETRIES,
        description="Half an hour and three hours after a nightly run that did not get all it asked for, it asks for"
        " exactly that again. A retry that finds nothing left makes no call, and is not retried itself.",
        trigger=EventTrigger.model_validate(
            {
                "expect": {LEFT},
                "match": {"prefect.resource.id": "prefect.flow-run.*"},
                "match_related": {"prefect.resource.name": NIGHTLY, "prefect.resource.role": "deployment"},
                "for_each": {"prefect.resource.id"},
                "threshold": 1,
            }
        ),
        actions=[
            RunDeployment(deployment_id=retry, parameters={"run_id": run_id}, schedule_after=after) for after in AFTER
        ],
    )


def _failures(block: UUID) -> AutomationCore:
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    return AutomationCore(
        name=FAILURES,
        description="Sends a message when a run fails, crashes or takes too long; the morning's look, which fails where"
        " the night did not bring what it should, included.",
        trigger=EventTrigger.model_validate(
            {
                "expect": {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")},
                **_EACH_RUN,
                "threshold": 1,
            }
        ),
        actions=[SendNotification(block_document_id=block, subject=_SUBJECT, body=_BODY)],
    )


def _not_begun(block: UUID) -> AutomationCore:
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    minutes = LATE // timedelta(minutes=1)
    return AutomationCore(
        name=NOT_BEGUN,
        description=f"Sends a message when a run is late by {minutes} minutes: most likely no worker is there.",
        trigger=EventTrigger.model_validate(
            {
                "after": {"prefect.flow-run.Late"},
                "expect": {"prefect.flow-run.*"},
                **_EACH_RUN,
                "posture": Posture.Proactive,
                "threshold": 1,
                "within": LATE,
            }
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="closingbell: {{ flow.name }}/{{ deployment.name }} does not begin",
                body="The run {{ flow_run.name }} of {{ flow.name }}/{{ deployment.name }} should have begun"
                f" {minutes} minutes ago. Look whether a worker is there: prefect worker start --pool closingbell\n\n"
                "{{ flow_run|ui_url }}",
            )
        ],
    )


def _ensure(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    from tasks.limits import remember

    variable, new = _variable(wanted.name), _print_of(wanted)
    there, done = client.read_automations_by_name(wanted.name), "created"
    if there:
        found, known = there[0], client.read_variable_by_name(variable)
        made, _, of = str(known.value if known else "").partition(" ")
        # What is not as it was made is a person's, or an older version's.
        if _print_of(found) != made or of == new:
            return f"automation {wanted.name}: there already"
        # Prefect's client leaves out what was not set by name, its server misses that, and takes no owner.
        said = wanted.model_dump(exclude={"owner_resource"})
        whole = type(wanted).model_validate({**said, "enabled": found.enabled})
        client.update_automation(found.id, whole)
        done = "changed"
    else:
        client.create_automation(wanted)
    (made_now, *_) = client.read_automations_by_name(wanted.name)
    remember(client, variable, f"{_print_of(made_now)} {new}")
    return f"automation {wanted.name}: {done}"


def _said(automation: AutomationCore) -> dict[str, Any]:
    """What an automation does, whoever gave it ids: to be compared."""
    told = automation.model_dump(mode="json", include={"name", "description", "trigger", "actions"})

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(one) for key, one in sorted(value.items()) if key != "id"}
        if isinstance(value, list):
            items = [bare(one) for one in value]
            # A set has no order.
            return sorted(items) if all(isinstance(one, str) for one in items) else items
        return value

    found: dict[str, Any] = bare(told)
    return found


def _print_of(automation: AutomationCore) -> str:
    """A fingerprint of an automation: what it was when this made it."""
    return hashlib.sha256(json.dumps(_said(automation)).encode()).hexdigest()[:32]


def _variable(name: str) -> str:
    """Where that is remembered: a Prefect variable."""
    from tasks.limits import variable_name

    return variable_name(name.replace(": ", "-").replace(" ", "_"), "made")


def _block(client: SyncPrefectClient, notify: str) -> UUID | None:
    """The id of a block by ``type/name``; None where there is none."""
    from prefect.exceptions import ObjectNotFound

    kind, _, name = notify.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        return None
