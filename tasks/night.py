"""The steps of a run that are no calls: what is missing, what it costs, whether it adds up."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from closingbell import cells, plan, report
from closingbell.calendar import AssetClass, calendar_for
from closingbell.cells import Cells
from closingbell.errors import ClosingbellError
from closingbell.outcome import Judge
from closingbell.plan import CallCost, Plan
from closingbell.report import Tally
from closingbell.request import Request
from closingbell.settings import load
from closingbell.store.records import Records
from tasks.batch import Batch, BatchFailedError, Work
from tasks.resources import Resources


@dataclass(frozen=True, slots=True)
class Night:
    """A run, worked out before its first call.

    Attributes:
        request: what was asked for.
        grids: every cell of it, by asset class.
        plan: the calls.
        work: what the batches share.
    """

    request: Request
    grids: list[tuple[AssetClass, Cells]]
    plan: Plan
    work: Work

    def batches(self, size: int) -> list[Batch]:
        """The plan's calls, ``size`` to a batch."""
        parts = plan.batches(self.plan.calls, size)
        return [Batch(number, len(parts), calls) for number, calls in enumerate(parts, 1)]


def work_out(resources: Resources, request: Request, run_id: UUID, *, splits: bool) -> Night:
    """Missing cells by the calendar and the ledger, and the cheapest calls for them."""
    records, quota = resources.store.records, resources.gate.quota
    grids, plans, judges = [], [], {}
    for name, grid in request.grids():
        ledger = records.ledger(request.source, request.timeframe, grid.tickers, request.start, request.end)
        if request.gaps_only:
            grid = grid.only(cells.accounted(grid, ledger, again=()))
        grids.append((name, grid))
        rows = resources.market_day_rows if name == "stocks" and request.timeframe == "1d" else None
        wanted = cells.missing(grid, ledger, request.recheck_sessions)
        plans.append(plan.cheapest(wanted, CallCost(quota.interval, market_day_rows=rows), name))
        closed_by = np.datetime64(calendar_for(name).last_closed(resources.clock.now()))
        judges[name] = Judge(name, grid.sessions, closed_by)
    whole = plan.join(plans, int(splits), quota)
    return Night(request, grids, whole, Work(run_id, request.source, request.timeframe, judges))


def announce(night: Night, quota: str) -> str:
    """Say what will be done before it is done, in the log and as an artifact; returns it as one line."""
    told = [*night.request.notes, *report.plan_lines(night.plan, quota)]
    for line in told:
        get_run_logger().info(line)
    asked = f"{len(night.request.tickers):,} tickers, {night.request.start} to {night.request.end}"
    create_markdown_artifact(f"## Plan\n\n{asked}\n\n" + "\n".join(f"- {line}" for line in told), key="plan")
    return "; ".join(told)


def gather(futures: Sequence[PrefectFuture[Tally]]) -> Tally:
    """What all batches add up to, those that failed for good included.

    Raises:
        ClosingbellError: a batch had to stop: the first such error, after all batches have ended.
    """
    whole = Tally()
    stopped: ClosingbellError | None = None
    for future in futures:
        result = future.result(raise_on_failure=False)
        if isinstance(result, BatchFailedError):
            result = result.tally
        if isinstance(result, Tally):
            whole.add(result)
        elif isinstance(result, ClosingbellError):
            stopped = stopped or result
        else:
            raise result
    if stopped:
        raise stopped
    return whole


def close(resources: Resources, night: Night, flow: str, tally: Tally, begun: float) -> dict[str, Any]:
    """Reconcile to the cell, build the report, write it to the run's row, to its file and as artifacts."""
    records, run_id, request = resources.store.records, night.work.run_id, night.request
    records.count_calls(run_id, resources.uncounted_calls())
    grids = [grid for _, grid in night.grids]
    for stage, seconds in resources.source.seconds.items():
        tally.spend(stage, seconds)
    made = records.progress(run_id)
    told = report.build(
        run_id,
        flow,
        request,
        night.plan,
        tally,
        records.reconcile(request.source, request.timeframe, grids),
        actual_calls=made["actual_calls"] if made else 0,
        quarantined=records.quarantined(request.source, request.timeframe, grids),
        seconds=time.monotonic() - begun,
    )
    publish(resources.settings.closingbell_home, told, records)
    return told


def give_up(home: Path | None, told: Mapping[str, Any], records: Records | None) -> State[Any]:
    """The end of a run that had to stop: its report goes wherever it still can."""
    try:
        publish(home or load().closingbell_home, told, records)
    except ClosingbellError as error:
        get_run_logger().error("the report is not complete: %s", error)
    return Failed(message=told["error"])


def publish(home: Path, told: Mapping[str, Any], records: Records | None) -> None:
    """A report to its file, the run's artifacts and the run's row."""
    report.write(told, home)
    for line in report.lines(told):
        get_run_logger().info(line)
    body = "\n".join(f"    {line}" for line in report.lines(told))
    shown = {key: value for key, value in told.items() if key not in ("failed", "unpublished", "unknown")}
    details = json.dumps(shown, indent=2, default=str)
    create_markdown_artifact(f"## {told['state']}\n\n{body}\n\n```json\n{details}\n```\n", key="report")
    table = [
        {"cause": cause, "cells": group["cells"], "calls": group["calls"], "tickers": report.named(group["tickers"])}
        for cause, group in told["failed"].items()
        if group["cells"]
    ]
    if table:
        create_table_artifact(table, key="failed", description=f"Next: `{told['next_command']}`")
    if records:
        records.end_run(UUID(told["run_id"]), told["state"], told)


def final_state(told: Mapping[str, Any]) -> State[Any]:
    """The flow run's state: the truth, in one line."""
    cells_failed = sum(group["cells"] for group in told["failed"].values())
    causes = "; ".join(told["failed"])
    if told["state"] == "Completed":
        return Completed(message=f"{told['expected_cells']:,} cells accounted for, {told['inserted']:,} bars inserted")
    message = f"{cells_failed:,} cells failed ({causes}). Next: {told['next_command']}"
    if told["state"] == "PartiallyCompleted":
        return Completed(name="PartiallyCompleted", message=message)
    return Failed(message=message)
