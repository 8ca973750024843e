"""Events that a run sends to the Prefect server, for automations to act on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from prefect.context import FlowRunContext
from prefect.events import emit_event

log = logging.getLogger("closingbell.signals")

#: A run ended and left cells that another try may bring; ``run_id`` is in its payload.
LEFT: Final = "closingbell.run.left-cells"


def left_cells(told: Mapping[str, Any]) -> None:
    """Say that a retry of this run is worth its calls; its report is ``told``.

    State events say how a run ended, not whether another try could change that: a key that a person has to set is a
    failure too. A run goes on without it where the server is away.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return
    try:
        emit_event(
            LEFT,
            resource={"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name},
            payload={
                "run_id": told["run_id"],
                "state": told["state"],
                "cells": sum(group["cells"] for group in told["failed"].values()),
                "causes": len(told["failed"]),
            },
        )
    except Exception as error:  # noqa: BLE001  (an event is not worth the night)
        log.warning("nobody is told that a retry is worth its calls: %s", type(error).__name__)
