"""The steps of a run that are no calls: say what will be done, add up, reconcile, report."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.futures import PrefectConcurrentFuture, PrefectFuture
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from closingbell import markdown, report
from closingbell.errors import ClosingbellError, ConfigurationError, RunEndingError
from closingbell.intraday import is_intraday
from closingbell.night import Night
from closingbell.plan import Plan
from closingbell.report import Tally
from closingbell.request import Request
from closingbell.settings import read
from closingbell.store.audit import Reconciliation, summed
from tasks import links
from tasks.batch import Batch, BatchFailedError, Work
from tasks.endurance import put_artifact
from tasks.gates import Gates
from tasks.memory import sweep
from tasks.pictures import put_coverage
from tasks.progress import shown
from tasks.resources import Resources, current
from tasks.signals import left_cells

#: Seconds for which a run that is stopped waits for its batches to note what they leave.
GRACE: Final = 15.0

#: Seconds between two looks whether they have, and whether a run is stopped.
_TICK: Final = 0.05
_LOOK: Final = 0.25


def announce(lines: Sequence[str], gates: Gates | None = None) -> list[str]:
    """Say what will be done before it is done, in the log and as an artifact; returns it, a line each."""
    notes = [
        f"the limit {gate.name} allows {gate.in_force}, the setting says {gate.quota}"
        for gate in (gates.opened() if gates else ())
        if gate.in_force != gate.quota
    ]
    told = [*lines, *notes]
    for line in told:
        get_run_logger().info(line)
    _show(_plan(told, gates), "plan")
    return told


def _show(text: str, key: str) -> None:
    """Put a text on the run; its title is what the list of artifacts shows."""
    put_artifact(create_markdown_artifact, text, key=key, description=text.partition("\n")[0].lstrip("# "))


def _plan(told: Sequence[str], gates: Gates | None) -> str:
    """The plan as the UI shows it; a dry run has the time to look at what is left out."""
    context, resources = FlowRunContext.get(), current()
    dry_run = bool(context and (context.parameters or {}).get("dry_run"))
    found = _reconciled(resources, resources.night)[0] if dry_run and resources.night else None
    quota = str(gates.in_force) if gates else ""
    link = links.for_real() if dry_run else None
    return markdown.plan(told, resources.night, quota, dry_run=dry_run, link=link, found=found)


def gather(
    hand_out: Callable[[], Sequence[PrefectFuture[Tally]]], batches: Sequence[Batch[Any]], resources: Resources
) -> Tally:
    """What all batches add up to, those that failed for good included.

    Args:
        hand_out: hands the batches to those who work on them.
        batches: all of them; what breaks the handing out or the waiting off, such as Ctrl-C or a cancellation, ends
            those that are worked on: they note what they leave before the run tells its state.
        resources: the run's.

    Raises:
        ClosingbellError: the run had to stop: the first reason, after all that were worked on have ended.
    """
    whole = Tally()
    with shown(resources.store.records):
        results = _out_of_reach(lambda: _awaited(hand_out, batches, resources), resources)
    for result in results:
        if isinstance(result, BatchFailedError):
            result = result.tally
        if isinstance(result, Tally):
            whole.add(result)
        elif isinstance(result, ClosingbellError):
            resources.stop(result)
        else:
            raise result
    if resources.stopped:
        raise resources.stopped
    return whole


def _out_of_reach(work: Callable[[], list[Any]], resources: Resources) -> list[Any]:
    """Do in another thread what must not be broken off just anywhere; a signal breaks off the waiting for it.

    A signal's exception is raised wherever the main thread is just then. Where that is inside the method that takes a
    lock, as those of the log and of queues have it, the lock is held for ever, and whoever wants it waits for ever.
    """
    came: list[list[Any] | BaseException] = []
    at_work = threading.Lock()  # not join(): once that was broken off, it takes the thread for ended
    at_work.acquire()

    def do() -> None:
        try:
            came.append(work())
        except BaseException as error:  # noqa: BLE001  (it is raised where it is waited for)
            came.append(error)
        at_work.release()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(do,), name="gather", daemon=True)
    try:
        thread.start()
        at_work.acquire()
    except BaseException as broken_off:
        resources.abandon(RunEndingError("the run was stopped", value=type(broken_off).__name__))
        if not came:
            at_work.acquire(timeout=GRACE + _LOOK)
        raise
    result = came.pop()
    if isinstance(result, BaseException):
        raise result
    return result


def _awaited(
    hand_out: Callable[[], Sequence[PrefectFuture[Tally]]], batches: Sequence[Batch[Any]], resources: Resources
) -> list[Any]:
    """What became of each batch. Once the run is abandoned, or this fails, no longer than those at work need."""
    try:
        return [_result(future, resources) for future in hand_out()]
    except BaseException as broken_off:
        resources.abandon(RunEndingError("the run was stopped", value=type(broken_off).__name__))
        until = time.monotonic() + GRACE
        while any(batch.at_work for batch in batches) and time.monotonic() < until:
            time.sleep(_TICK)
        raise


def _result(future: PrefectFuture[Tally], resources: Resources) -> Any:
    """What became of a batch; one that does not end is not waited for once the run is abandoned."""
    while True:
        try:
            return future.result(timeout=_LOOK, raise_on_failure=False)
        except TimeoutError:
            if isinstance(future, PrefectConcurrentFuture) and future.wrapped_future.done():
                raise  # its own
            if resources.abandoned.is_set() and resources.stopped:
                raise resources.stopped from None


def close(resources: Resources, night: Night, work: Work, flow: str, tally: Tally, begun: float) -> dict[str, Any]:
    """Reconcile to the cell, build the report, and publish it."""
    records = resources.store.records
    calls = _calls(resources, tally)
    whole, parts = _reconciled(resources, night)
    quarantined = Counter[str]()
    for part in night.parts:
        quarantined.update(records.quarantined(work.run_id, part.source, part.timeframe, list(part.grids.values())))
    told = report.build(
        work.run_id,
        flow,
        night,
        tally,
        whole,
        actual_calls=calls,
        quarantined=quarantined,
        revisions=records.revisions(work.run_id) if tally.rewritten else [],
        over_flat_files=records.over_flat_files(work.run_id) if tally.rewritten else 0,
        seconds=time.monotonic() - begun,
        parts=parts,
    )
    told = ended(resources, work.run_id, told)
    sweep()  # the picture is of all cells: as much as a transaction takes
    put_coverage(resources, night)
    return told


def _reconciled(
    resources: Resources, night: Night, *, stopped: bool = False
) -> tuple[Reconciliation, list[dict[str, Any]]]:
    """Every cell of a run held against what is there: in all, and for each timeframe and asset class."""
    records, found = resources.store.records, list[Reconciliation]()
    parts: list[dict[str, Any]] = []
    for part in night.parts:
        for name, grid in part.grids.items():
            one = records.reconcile(part.source, part.timeframe, [grid], stopped=stopped)
            many = records.count_bars(part.timeframe, [grid]) if is_intraday(part.timeframe) else one.stored
            planned = part.plans.get(name, Plan((), 0, 0.0))
            parts.append(report.part(part.source, part.timeframe, name, planned, one, many))
            found.append(one)
    return summed(found), parts


def publish_looked(
    resources: Resources, work: Work, flow: str, request: Request, plan: Mapping[str, int], tally: Tally, begun: float
) -> dict[str, Any]:
    """Build the report of a run that looked up facts, and publish it."""
    calls, spent = _calls(resources, tally), time.monotonic() - begun
    told = report.looked(work.run_id, flow, request, plan, tally, actual_calls=calls, seconds=spent)
    return ended(resources, work.run_id, told)


def _calls(resources: Resources, tally: Tally) -> int:
    """The calls that were made; the seconds they took go into the tally."""
    for stage, seconds in resources.seconds.items():
        tally.spend(stage, seconds)
    return resources.calls_made


def ended(resources: Resources, run_id: UUID, told: dict[str, Any]) -> dict[str, Any]:
    """End a run: its report to the database, and to whoever looks for it."""
    resources.store.records.end_run(run_id, told["state"], told)
    publish(resources.settings.closingbell_home, told)
    if told["state"] != "Completed" and is_worth_retrying(told):
        left_cells(told)
    return told


def is_worth_retrying(told: Mapping[str, Any]) -> bool:
    """Whether the next thing to do is to ask again for what failed."""
    return str(told["next_command"]).startswith("closingbell retry")


def give_up(told: dict[str, Any], resources: Resources | None, error: BaseException | None = None) -> State[Any]:
    """The end of a run that had to stop: its report says what there is, and goes wherever it still can.

    Args:
        told: the report.
        resources: what it worked with, as far as it came to that.
        error: why; time alone mends neither a setting nor what a person stopped.
    """
    logger = get_run_logger()
    try:
        row = resources.store.records.progress(UUID(told["run_id"])) if resources else None
        if row and row["state"] != "Running":
            logger.error("the run had ended %s, and stays so: %s", row["state"], told["error"])
            return Failed(message=told["error"])
        if resources:
            try:
                _say_what_there_is(told, resources)
            except ClosingbellError as unsaid:
                logger.error("the report does not say what there is: %s", unsaid)
            resources.store.records.end_run(UUID(told["run_id"]), told["state"], told)
            if row and resources.night:
                put_coverage(resources, resources.night)
    except ClosingbellError as unsaid:
        logger.error("the database does not have the report: %s", unsaid)
    try:
        publish((resources.settings if resources else read()).closingbell_home, told)
    except ClosingbellError as unsaid:
        logger.error("the report has no file: %s", unsaid)
    if isinstance(error, ClosingbellError) and not isinstance(error, ConfigurationError) and is_worth_retrying(told):
        left_cells(told)
    return Failed(message=told["error"])


def _say_what_there_is(told: dict[str, Any], resources: Resources) -> None:
    records, night = resources.store.records, resources.night
    told["actual_calls"] = resources.calls_made
    if night is None:
        return
    row = records.progress(UUID(told["run_id"]))
    told["next_command"] = f"closingbell retry {told['run_id']}" if row else None
    found, parts = _reconciled(resources, night, stopped=True)
    told |= {
        "plan": night.plan.summary(),
        "planned_calls": night.plan.planned_calls,
        "expected_cells": found.expected,
        "stored_cells": found.stored,
        "stored_bars": sum(part["stored_bars"] for part in parts),
        "gaps": dict(found.gaps),
        "unexplained": dict(found.unexplained),
        "parts": parts,
        "inserted": row["inserted"] if row else 0,
        "rewritten": row["rewritten"] if row else 0,
    }


def publish(home: Path, told: Mapping[str, Any]) -> None:
    """A report to its file, the log and the run's artifacts. Only the file has to be: Prefect may be away by now."""
    logger, lines = get_run_logger(), report.lines(told)
    try:
        report.write(told, home)
    except OSError as error:
        fix = "Free space there, or set CLOSINGBELL_HOME to a folder that can be written."
        raise ConfigurationError("the report cannot be written", value=error, fix=fix) from None
    finally:
        for line in lines:
            logger.info(line)
    table = [
        {
            "cause": cause,
            "cells": group["cells"],
            "calls": group["calls"],
            "tickers": report.named(group["tickers"]),
            "what to do": markdown.what_to_do(group),
        }
        for cause, group in told["failed"].items()
        if group["tickers"]
    ]
    link = links.to_retry(told["run_id"]) if is_worth_retrying(told) else None
    _show(markdown.report(told, link), "report")
    if table:
        put_artifact(create_table_artifact, table, key="failed", description=f"Next: `{told['next_command']}`")


def final_state(told: Mapping[str, Any]) -> State[Any]:
    """The flow run's state: the truth, in one line."""
    cells_failed = sum(group["cells"] for group in told["failed"].values())
    causes = "; ".join(told["failed"])
    if told["state"] == "Completed" and not told["expected_cells"]:
        return Completed(message=f"{told['dividends']:,} dividends, {told['names']:,} names new or changed")
    if told["state"] == "Completed":
        return Completed(message=f"{told['expected_cells']:,} cells accounted for, {told['inserted']:,} bars inserted")
    calls_failed = sum(group["calls"] for group in told["failed"].values())
    failed = f"{cells_failed:,} cells" if told["expected_cells"] else f"{calls_failed:,} calls"
    message = f"{failed} failed ({causes})"
    if told["unexplained"]:
        message = f"cells of {report.named(list(told['unexplained']))} are not accounted for"
    if told["next_command"]:
        message += f". Next: {told['next_command']}"
    if told["state"] == "PartiallyCompleted":
        return Completed(name="PartiallyCompleted", message=message)
    return Failed(message=message)
