"""What a run needs to outlive its surroundings: the worker that started it, and a Prefect server that is away."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, SettingsContext, get_settings_context
from prefect.logging.handlers import PrefectConsoleHandler

log = logging.getLogger("closingbell.endurance")

#: How long a run keeps the slot of its deployment when the Prefect server is away, or when it is dead itself.
SLOT_SECONDS: Final = 600.0
_RENEW_EVERY: Final = 30.0

#: How often an artifact is tried again at most: 14 seconds in all.
_ARTIFACT_RETRIES: Final = 3


@contextmanager
def retrying(times: int) -> Iterator[None]:
    """Let Prefect's clients try again so often, for the time of the block.

    Prefect's own ``temporary_settings`` reads the environment and all files of settings anew for it, 20 ms of work.
    """
    there = get_settings_context()
    client = there.settings.client.model_copy(update={"max_retries": times})
    with SettingsContext(profile=there.profile, settings=there.settings.model_copy(update={"client": client})):
        yield


@contextmanager
def enduring() -> Iterator[None]:
    """Let the present flow run outlive its worker and a long restart of the server, for the time of the block."""
    for handler in logging.getLogger("prefect").handlers:
        if isinstance(handler, PrefectConsoleHandler):
            _outlive_readers(handler)
    run = FlowRunContext.get()
    state = run.flow_run.state if run and run.flow_run else None
    lease = state.state_details.deployment_concurrency_lease_id if state else None
    if lease is None:
        yield
        return
    over = threading.Event()

    def renew() -> None:
        # Prefect renews it for 300 seconds, every 225, and stops the run when that comes too late.
        with retrying(0), get_client(sync_client=True) as client:
            while True:
                with suppress(httpx.HTTPError):
                    client.renew_concurrency_lease(lease, SLOT_SECONDS)
                if over.wait(_RENEW_EVERY):
                    return

    keep = contextvars.copy_context().run
    thread = threading.Thread(target=keep, args=(renew,), name="deployment's slot", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def put_artifact(create: Callable[..., Any], content: object, **more: Any) -> Any:
    """Put an artifact on the run. What is done and stored goes on without it, when the server is away.

    Returns:
        What ``create`` says, such as its id; None where it failed.
    """
    try:
        with retrying(min(_ARTIFACT_RETRIES, get_settings_context().settings.client.max_retries)):
            return create(content, **more)
    except Exception as error:  # noqa: BLE001  (a picture of the night is not worth the night)
        log.warning("the run has no artifact %s: %s", more.get("key"), type(error).__name__)
        return None


def _outlive_readers(handler: PrefectConsoleHandler) -> None:
    """Say nothing more once nobody reads it: a killed worker, a closed terminal. By default that ends the process."""

    def be_quiet() -> None:
        handler.console.quiet = True

    handler.console.on_broken_pipe = be_quiet  # type: ignore[method-assign]  # made to be overridden
