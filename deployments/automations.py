"""What ends a run that nobody can report dead: an automation of the Prefect server, on heartbeats that stop.

A worker reports the death of its runs. When both died, on whatever machine, the run would be ``Running`` for ever.
Every run sends heartbeats, by default each three minutes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

NAME: Final = "closingbell: end runs that died unseen"

#: Only runs with this tag are ended; prefect.yaml gives it to every deployment.
TAG: Final = "closingbell"

#: A run is dead when nothing was heard of it for so long: five of Prefect's heartbeats, and longer than a Prefect
#: server may be away, during which a living run is not heard either.
SILENCE: Final = timedelta(minutes=15)


def ensure(client: SyncPrefectClient) -> str:
    """Create the automation if there is none of its name, whatever a person made of that; returns what was done."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    if client.read_automations_by_name(NAME):
        return f"automation {NAME}: there already"
    minutes = SILENCE // timedelta(minutes=1)
    client.create_automation(
        AutomationCore(
            name=NAME,
            description=f"Crashed is what a run is of which nothing was heard for {minutes} minutes.",
            trigger=EventTrigger.model_validate(
                {
                    # Taken by a worker, or alive; what comes next, whatever it is, shows that somebody cares for it.
                    "after": {f"prefect.flow-run.{event}" for event in ("Pending", "Submitting", "heartbeat")},
                    "expect": {"prefect.flow-run.*"},
                    "match": {"prefect.resource.id": "prefect.flow-run.*"},
                    "match_related": {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
                    "for_each": {"prefect.resource.id"},
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
    )
    return f"automation {NAME}: created"
