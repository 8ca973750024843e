"""Run the night on this machine: once, or every night, or beside whatever stack stands here already."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import click

from closingbell.errors import ConfigurationError, FatalError
from closingbell.exits import CANNOT_RUN, CELLS_FAILED, OK
from closingbell.settings import Settings
from deployments.bootstrap import without_credentials
from deployments.prefect_server import client_environment, is_of, prefect_environment
from deployments.stack import Stack
from infra import standing

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

NIGHTLY: Final = "ingest/nightly"

#: How often a run that dies is started, the first time included.
_TRIES: Final = 3

#: Seconds that the Prefect server may be away while a run is waited for: as long as the run itself waits.
_PATIENCE: Final = 600.0

#: Follows a run to its end: gets the run's id and a check that raises when the stack has broken down meanwhile.
Follow = Callable[[UUID, Callable[[], None]], "State[Any]"]


@contextmanager
def joined_or_started(settings: Settings) -> Iterator[Mapping[str, str]]:
    """A Prefect server to run flows against in this process, for the time of the block.

    It is the one that ``PREFECT_API_URL`` names; else that of the stack that stands at this home; else one that
    is started here, with its limit, and ended as soon as nobody else has joined it.

    Yields:
        The environment variables that name it; they are set in this process too, so import Prefect inside.

    Raises:
        ConfigurationError: it cannot be reached or set up.
        FatalError: it does not start.
    """
    home = settings.closingbell_home
    with standing.guest(home):
        environment = {"PREFECT_API_URL": settings.prefect_api_url} if settings.prefect_api_url else None
        if environment is None and (there := standing.read(home)) and is_of(there.prefect_api_url, home):
            environment = client_environment(home, there.prefect_api_url)
        if environment:
            with prefect_environment(environment):
                yield environment
            return
    with Stack(settings, serves=False) as stack:
        yield stack.environment
        standing.wait_for_guests(home)


def run_once(
    settings: Settings, follow: Follow | None = None, parameters: dict[str, Any] | None = None
) -> tuple[dict[str, Any], int]:
    """Run the nightly deployment once, on a stack of its own or on the one that serves here already.

    Args:
        follow: shows the run while it goes on; None: waits in silence.
        parameters: what differs from the deployment's own.

    Returns:
        The run's report (its state alone if it wrote none) and the exit code: 0 if every cell is accounted for.
    """
    there = None if settings.prefect_api_url else standing.read(settings.closingbell_home)
    with ended_by_signals():
        if there and there.serves and is_of(there.prefect_api_url, settings.closingbell_home):
            environment = client_environment(settings.closingbell_home, there.prefect_api_url)
            with prefect_environment(environment):
                ui_url = without_credentials(there.prefect_api_url.removesuffix("/api"))
                click.echo(f"joined the stack that serves at {ui_url}", err=True)
                return _run(settings, follow or wait_for_run, parameters or {}, lambda: None)
        with Stack(settings) as stack:
            _say_where(stack)
            return _run(settings, follow or wait_for_run, parameters or {}, stack.check)


def serve(settings: Settings, tell: Callable[[dict[str, Any]], None] | None = None) -> int:
    """Keep the stack up until Ctrl-C or SIGTERM; returns the exit code.

    Args:
        settings: what to start.
        tell: told where the parts are, once they answer; None: nobody but who reads standard error.
    """
    with ended_by_signals() as ended, suppress(KeyboardInterrupt), Stack(settings, nightly=True) as stack:
        _say_where(stack)
        if tell:
            tell(_where(stack))
        click.echo("The nightly schedule is on. Ctrl-C stops everything.", err=True)
        while not ended.wait(0.5):
            stack.check()
    click.echo("stopped", err=True)
    return 0


def _run(
    settings: Settings, follow: Follow, parameters: dict[str, Any], check: Callable[[], None]
) -> tuple[dict[str, Any], int]:
    for tries_left in reversed(range(_TRIES)):
        run_id, state = _followed(follow, parameters, check)
        report = settings.closingbell_home / "runs" / f"{run_id}.json"
        if not state.is_crashed() or report.exists() or not tries_left:
            break
        click.echo("the run died; another one goes on where it stopped", err=True)
    clean = state.is_completed() and state.name == "Completed"
    try:
        return json.loads(report.read_text()), OK if clean else CELLS_FAILED
    except (OSError, ValueError):
        click.echo(f"the run wrote no report; its state is {state.name}: {state.message}", err=True)
        return {"state": state.name, "message": state.message}, OK if clean else CANNOT_RUN


def _followed(follow: Follow, parameters: dict[str, Any], check: Callable[[], None]) -> tuple[UUID, State[Any]]:
    """Start a run of the nightly deployment and wait for its end; its id and final state."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(NIGHTLY)
        except ObjectNotFound:
            raise ConfigurationError(
                "the deployment is not on this Prefect server", value=NIGHTLY, fix="Run: prefect deploy --all"
            ) from None
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    try:
        return run.id, follow(run.id, check)
    except BaseException:
        _cancel(run.id)
        raise


def _cancel(run_id: UUID) -> None:
    """Call a run off that nobody waits for any more, so that the next start does not begin with it."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled, Cancelling

    with suppress(httpx.HTTPError, ObjectNotFound), get_client(sync_client=True) as client:
        state = client.read_flow_run(run_id).state
        if state and not state.is_final():
            client.set_flow_run_state(run_id, Cancelling() if state.is_running() else Cancelled())


def wait_for_run(run_id: UUID, check: Callable[[], None]) -> State[Any]:
    """Wait until the run is over, however long that takes, also while the server is started again.

    Raises:
        FatalError: the server does not come back, or somebody has deleted the run.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    heard = time.monotonic()
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        while True:
            with suppress(httpx.HTTPError):
                try:
                    state = client.read_flow_run(run_id).state
                except ObjectNotFound:
                    raise FatalError(
                        "somebody has deleted the run in Prefect",
                        value=run_id,
                        fix="Start another one: what is stored stays, and it goes on where this one was.",
                    ) from None
                heard = time.monotonic()
                if state and state.is_final():
                    return state
            check()
            if time.monotonic() - heard > _PATIENCE:
                raise FatalError(
                    "the Prefect server does not answer",
                    value=f"for {_PATIENCE:.0f} s",
                    fix="Start it again; what is stored stays, and the next run goes on where this one stopped.",
                )
            time.sleep(0.5)


def _where(stack: Stack) -> dict[str, Any]:
    """Where the parts are, without any password."""
    return {
        "prefect_ui": without_credentials(stack.ui_url),
        "prefect_api_url": without_credentials(stack.api_url),
        "database": stack.database_shown,
        "market": stack.market_url,
    }


def _say_where(stack: Stack) -> None:
    where = _where(stack)
    click.echo(f"Prefect UI   {where['prefect_ui']}", err=True)
    click.echo(f"database     {where['database']}", err=True)
    if stack.market_url:
        click.echo(f"market       {stack.market_url} (a stand-in; set POLYGON_API_KEY for the real one)", err=True)


@contextmanager
def ended_by_signals() -> Iterator[threading.Event]:
    """Let SIGTERM end the block as Ctrl-C does, so that everything is stopped in order.

    Yields:
        An event that is set as well, for an exception that is raised inside a destructor is swallowed by Python.
    """
    ended = threading.Event()

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        ended.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
