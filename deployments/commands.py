"""The commands that run flows: in this process, against the Prefect server at hand; and the local stack."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import click

from closingbell.cli import (
    TIMEFRAME,
    Day,
    asking,
    either,
    json_option,
    plan,
    show,
    source_option,
    tickers_of,
    timeframe_option,
)
from closingbell.errors import ConfigurationError
from closingbell.exits import CANCELLED, CANNOT_RUN, CELLS_FAILED, OK
from closingbell.help import HOW, SectionedCommand, SectionedOption

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

    from closingbell.settings import Settings
    from deployments.progress import Watch

#: Seconds that sending the last of a run's log may take, and the state of one that was called off.
_SENDING: Final = 10

#: Seconds between two looks whether such a run is over.
_LOOK: Final = 0.25

batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(1, 10_000),
    metavar="N",
    cls=SectionedOption,
    section=HOW,
    help="Calls in one task.",
)
_HANDS: Final = ("task_runner", "dask_workers", "dask_address")


def hands_options(command: Any) -> Any:
    """The options that say who makes the calls."""
    how: dict[str, Any] = {"cls": SectionedOption, "section": HOW}
    runners = click.Choice(["threads", "dask"])
    for option in (
        click.option("--dask-address", metavar="URL", help="A Dask scheduler, such as tcp://host:8786.", **how),
        click.option("--dask-workers", type=click.IntRange(1, 256), metavar="N", help="Dask processes here.", **how),
        click.option("--task-runner", type=runners, help="Default: as TASK_RUNNER.", **how),
    ):
        command = option(command)
    return command


dry_run_option = click.option("--dry-run", is_flag=True, help="Only show the plan, and make no call.")
# Those of the commands that have no headings of their own for them.
tickers_option = click.option(
    "--tickers", "-t", metavar="LIST", help="AAPL,BRK.B or @file, as the vendor writes. Default: all stored."
)


@click.command(cls=SectionedCommand)
@asking
@batch_size_option
@hands_options
@dry_run_option
@json_option
@click.pass_context
def ingest(ctx: click.Context, /, batch_size: int | None, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Fetch what is missing and store it: daily bars, unless --timeframe says otherwise.

    Exits with 1 when cells failed, with 2 when it cannot run.

    \b
    Examples:
      closingbell ingest
      closingbell ingest --tickers AAPL,MSFT --start 2024-01-02
    """
    asked["timeframes"] = asked["timeframes"] or ("1d",)
    hands = {name: asked.pop(name) for name in _HANDS}
    if dry_run:
        ctx.invoke(plan, **asked, as_json=as_json)
        return
    _run("flows.ingest", "ingest", {**_parameters(asked, batch_size), **hands}, as_json)


@click.command(cls=SectionedCommand)
@asking
@batch_size_option
@hands_options
@dry_run_option
@json_option
@click.pass_context
def backfill(ctx: click.Context, /, batch_size: int | None, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Fetch a long history of several timeframes and asset classes as one plan.

    Minutes, unless --timeframe says otherwise. Started again, it goes on where it
    stopped. Exits as ingest does.

    \b
    Example:
      closingbell backfill -t AAPL,X:BTCUSD --timeframe 1m --start 2024-01-02
    """
    asked["timeframes"] = asked["timeframes"] or ("1m",)
    hands = {name: asked.pop(name) for name in _HANDS}
    if dry_run:
        ctx.invoke(plan, **asked, as_json=as_json)
        return
    _run("flows.backfill", "backfill", {**_parameters(asked, batch_size), **hands}, as_json)


def _parameters(asked: Mapping[str, Any], batch_size: int | None) -> dict[str, Any]:
    """The parameters of a flow for what the options of :func:`asking` say."""
    from closingbell import universe as universes

    universe, tickers = asked["universe"], tickers_of(asked)
    names = list(universes.resolve(universe, tickers)) if universe or tickers is not None else None
    others = {name: value for name, value in asked.items() if name not in ("universe", "names")}
    return {**others, "tickers": names, "timeframes": list(asked["timeframes"]), "batch_size": batch_size}


@click.command()
@click.argument("run_id", default="last", metavar="[last|all|RUN_ID]")
@timeframe_option
@source_option
@batch_size_option
@dry_run_option
@json_option
def retry(
    run_id: str,
    timeframes: tuple[str, ...],
    source: str | None,
    batch_size: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make calls for exactly the cells that failed.

    Those of the last run (the default), of a given run, or of all. The report of a
    run with failures ends with the command to type. Exits as ingest does.

    \b
    Examples:
      closingbell retry
      closingbell retry all --dry-run
    """
    from closingbell.store.records import as_run_id

    if run_id not in ("last", "all"):
        run_id = str(as_run_id(run_id))
    parameters = {
        "run_id": run_id,
        "timeframes": list(timeframes) or None,
        "source": source,
        "batch_size": batch_size,
        "dry_run": dry_run,
    }
    _run("flows.retry_failed", "retry_failed", parameters, as_json)


@click.command()
@tickers_option
@click.option("--start", type=Day(), help="First date. Default: the first one stored.")
@click.option("--end", type=Day(), help="Last date. Default: the last one stored.")
@click.option(
    "--sample",
    type=click.IntRange(1, 1_000),
    metavar="N",
    default=5,
    help="Fetch N tickers and N sessions whole. Default: 5.",
)
@click.option("--all", "everything", is_flag=True, help="Fetch everything, by the cheapest calls.")
@click.option(
    "--minutes",
    type=click.IntRange(0, 100),
    metavar="N",
    default=0,
    help="Hold N daily bars against their own minutes too.",
)
@batch_size_option
@dry_run_option
@json_option
def reconcile(
    tickers: str | None,
    start: date | None,
    end: date | None,
    sample: int,
    everything: bool,
    minutes: int,
    batch_size: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Hold stored bars against what the vendor says now.

    A sample, or everything. What differs is rewritten, and the old values are kept
    as revisions. Exits as ingest does.

    \b
    Examples:
      closingbell reconcile
      closingbell reconcile --all --start 2024-01-02
    """
    from closingbell import universe as universes

    parameters = {
        "tickers": list(universes.parse_tickers(tickers)) if tickers is not None else None,
        "start": start,
        "end": end,
        "sample": 0 if everything else sample,
        "minutes": minutes,
        "batch_size": batch_size,
        "dry_run": dry_run,
    }
    _run("flows.reconcile", "reconcile", parameters, as_json)


@click.command()
@click.option("--tickers", "-t", metavar="LIST", help="AAPL,BRK.B or @file, as the vendor writes.")
@click.option("--universe", "-u", metavar="NAME", help="sp500+etfs (the default), sp500 or etfs.")
@click.option("--start", type=Day(), help="First day of the facts. Default: two years back.")
@click.option("--dividends/--no-dividends", default=True, help="Dividends too, or not. Default: too.")
@click.option("--names/--no-names", default=True, help="Former tickers too, a call for each, or not.")
@batch_size_option
@dry_run_option
@json_option
def facts(
    universe: str | None,
    tickers: str | None,
    start: date | None,
    dividends: bool,
    names: bool,
    batch_size: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Look up what the nightly run does not ask for each night.

    All splits once more, dividends, and what companies were called before. Exits as
    ingest does.

    \b
    Example:
      closingbell facts --tickers META --start 2012-01-03
    """
    from closingbell import universe as universes

    either(universe, tickers is not None)
    parameters = {
        "tickers": list(universes.resolve(universe, tickers)) if universe or tickers is not None else None,
        "start": start,
        "dividends": dividends,
        "names": names,
        "batch_size": batch_size,
        "dry_run": dry_run,
    }
    _run("flows.facts", "facts", parameters, as_json)


@click.command("derive-events")
@tickers_option
@click.option("--universe", "-u", metavar="NAME", help="Those of sp500+etfs, sp500 or etfs that are stored.")
@click.option("--detector", default="triangles", metavar="NAME", help="What to look for. Default: triangles.")
@click.option("--timeframe", type=TIMEFRAME, metavar="TIMEFRAME", default="1d", help="To look at. Default: 1d.")
@click.option("--from-timeframe", type=TIMEFRAME, metavar="TIMEFRAME", help="Make them of these stored bars.")
@click.option("--start", type=Day(), help="First date. Default: the first one stored.")
@click.option("--end", type=Day(), help="Last date. Default: the last one stored.")
@click.option("--purge", is_flag=True, help="Delete the events of these dates and derive them again.")
@click.option("--source", metavar="SOURCE", help="polygon, databento, or polygon:1m, made of minutes.")
@click.option("--dry-run", is_flag=True, help="Only show what is to do.")
@json_option
def derive_events(tickers: str | None, as_json: bool, **asked: Any) -> None:
    """Find events, such as triangles, in stored bars, and store them. No call is made.

    Only what is new is derived, and what depends on bars that changed. Started
    again, it goes on where it stopped.

    \b
    Example:
      closingbell derive-events -t X:BTCUSD --timeframe 5m --from-timeframe 1m
    """
    from closingbell import universe as universes
    from closingbell.events import detector

    either(asked["universe"], tickers is not None)
    detector(asked["detector"])
    parameters = {"tickers": list(universes.parse_tickers(tickers)) if tickers is not None else None, **asked}
    _run("flows.derive_events", "derive_events", parameters, as_json)


@click.command()
@click.option("--once", is_flag=True, help="Run the nightly deployment once, then stop all.")
@json_option
def up(once: bool, as_json: bool) -> None:
    """Serve the whole stack: UI, nightly schedule, worker. Ctrl-C stops it.

    Whatever the settings do not name is started on loopback: PostgreSQL, the
    Prefect server, the stand-in market. With --json, one object says where they
    are, as soon as they answer; with --once as well, it is the run's report.

    \b
    Examples:
      closingbell up
      closingbell up --once
    """
    from closingbell import report
    from closingbell.settings import load
    from deployments.local import run_once, serve

    settings = load()
    if not once:
        sys.exit(serve(settings, (lambda where: show(where, [], as_json)) if as_json else None))
    told, code = run_once(settings, following(settings, quiet=as_json))
    reported = "run_id" in told
    show(told, report.lines(told) if reported else [], as_json)
    sys.exit(exit_code(told) if reported else code)


def _run(module: str, name: str, parameters: dict[str, Any], as_json: bool) -> None:
    """Run a flow in this process, show it while it runs, print its report, exit with its code."""
    from importlib import import_module

    from closingbell import report
    from closingbell.settings import load, read
    from deployments.bootstrap import settings_of_runs
    from deployments.local import ended_by_signals, joined_or_started

    settings = read()
    if settings.prefect_api_url is None:
        settings = load()  # a server that is yet to be started holds no key, so this has to do
    # Prefect reads this when it is imported: the terminal belongs to the progress bar, the UI has the full log.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with ExitStack() as stack:
        ended = stack.enter_context(ended_by_signals())
        _require(stack.enter_context(joined_or_started(settings))["PREFECT_API_URL"])
        import httpx
        from prefect.exceptions import TerminationSignal

        if settings.database_url is None:
            settings = settings_of_runs()
        watch = stack.enter_context(_watching(settings, quiet=as_json))
        flow: Flow[..., Any] = getattr(import_module(module), name)
        begun: list[UUID] = []

        def on_running(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
            begun.append(flow_run.id)
            if watch:
                watch.run_id = flow_run.id

        away = threading.Event()
        stack.callback(lambda: _send_what_waits(1 if away.is_set() else _SENDING))
        try:
            with _not_kept_by_prefect(lambda: ended.is_set() and _report(settings, begun) is not None):
                state: Any = flow.with_options(on_running=[on_running])(**parameters, return_state=True)
        except httpx.HTTPError as error:
            away.set()
            told = _report(settings, begun)
            if told is None:
                raise
            show(told, report.lines(told), as_json)
            click.echo(f"the Prefect server was not told how the run ended: {type(error).__name__}", err=True)
            sys.exit(exit_code(told))
        except (KeyboardInterrupt, TerminationSignal):
            if told := _report(settings, begun):
                show(told, report.lines(told), as_json)
                sys.exit(CANCELLED)
            raise KeyboardInterrupt from None
    told = _report(settings, begun)
    if told is None:
        show({"state": state.name, "message": state.message}, [f"{state.name}: {state.message}"], as_json)
        sys.exit(OK if state.is_completed() else CANNOT_RUN)
    show(told, report.lines(told), as_json)
    sys.exit(exit_code(told))


@contextmanager
def _not_kept_by_prefect(over: Callable[[], bool]) -> Iterator[None]:
    """Break the block off when all is ``over`` and only Prefect goes on: it asks a server that is away for minutes."""
    ended, main = threading.Event(), threading.main_thread().ident

    def look() -> None:
        while not over():
            if ended.wait(_LOOK):
                return
        if not ended.wait(_SENDING) and main is not None:
            signal.pthread_kill(main, signal.SIGINT)

    looking = threading.Thread(target=look, name="not kept by Prefect", daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


def _require(api_url: str) -> None:
    """Make sure that the Prefect server answers, before a flow fails over it with a page of its own.

    Raises:
        ConfigurationError: it does not.
    """
    from prefect.client.orchestration import get_client

    from deployments.bootstrap import without_credentials

    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error:
        raise ConfigurationError(
            "the Prefect server does not answer",
            value=f"{without_credentials(api_url)} ({type(error).__name__})",
            fix="Start it, correct PREFECT_API_URL, or unset it to use a local one.",
        )


def _send_what_waits(seconds: float) -> None:
    """Send the log and the events while their server is there: else Prefect tries for a minute after it has gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=seconds)
    EventsWorker.drain_all(timeout=seconds)


def exit_code(told: Mapping[str, Any]) -> int:
    """0 when every cell is accounted for and none failed, 2 when the run could not go on, else 1."""
    if told["state"] == "Cancelled":
        return CANCELLED
    if "error" in told:
        return CANNOT_RUN
    return OK if told["state"] == "Completed" else CELLS_FAILED


def following(settings: Settings, *, quiet: bool = False) -> Callable[[UUID, Callable[[], None]], State[Any]]:
    """Show a deployment's run until it is over; see :data:`deployments.local.Follow`."""
    from deployments.local import wait_for_run

    def follow(run_id: UUID, check: Callable[[], None]) -> State[Any]:
        with _watching(settings, quiet=quiet) as watch:
            if watch:
                watch.run_id = run_id
            return wait_for_run(run_id, check)

    return follow


@contextmanager
def _watching(settings: Settings, *, quiet: bool) -> Iterator[Watch | None]:
    """A watch on the database that the runs write to; None when nothing is to be shown."""
    if quiet:
        yield None
        return
    from closingbell.store import open_store
    from deployments.progress import Watch
    from infra import embedded

    with ExitStack() as stack:
        if settings.database_url:
            url = settings.database_url.get_secret_value()
        else:
            url = stack.enter_context(embedded.database(settings, []))
        store = open_store(url, connections=1, retries=0, patience=0)
        stack.callback(store.close)
        yield stack.enter_context(Watch(store.records).showing())


def _report(settings: Settings, begun: list[UUID]) -> dict[str, Any] | None:
    """The report that the run wrote; None if it wrote none, as a dry run does."""
    path = settings.closingbell_home / "runs" / f"{begun[0]}.json" if begun else None
    if path is None or not path.exists():
        return None
    told: dict[str, Any] = json.loads(path.read_text())
    return told
