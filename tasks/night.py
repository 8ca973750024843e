"""The steps of a run that are no calls: say what will be done, add up, reconcile, report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from closingbell import plan, report
from closingbell.errors import ClosingbellError
from closingbell.night import Night
from closingbell.report import Tally
from closingbell.settings import load
from closingbell.store.records import Records
from tasks.batch import Batch, BatchFailedError, Work
from tasks.resources import Resources


def batches(night: Night, size: int) -> list[Batch]:
    """The plan's calls, ``size`` to a batch."""
    parts = plan.batches(night.plan.calls, size)
    return [Batch(number, len(parts), calls) for number, calls in enumerate(parts, 1)]


def announce(night: Night, quota: str) -> list[str]:
    """Say what will be done before it is done, in the log and as an artifact; returns it, a line each."""
    told = report.night_lines(night, quota)
    for line in told:
        get_run_logger().info(line)
    create_markdown_artifact("## Plan\n\n" + "\n".join(f"- {line}" for line in told), key="plan")
    return told


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


def close(resources: Resources, night: Night, work: Work, flow: str, tally: Tally, begun: float) -> dict[str, Any]:
    """Reconcile to the cell, build the report, write it to the run's row, to its file and as artifacts."""
    records, run_id, request = resources.store.records, work.run_id, night.request
    records.count_calls(run_id, resources.uncounted_calls())
    for stage, seconds in resources.source.seconds.items():
        tally.spend(stage, seconds)
    made = records.progress(run_id)
    told = report.build(
        run_id,
        flow,
        request,
        night.plan,
        tally,
        records.reconcile(request.source, request.timeframe, night.grids),
        actual_calls=made["actual_calls"] if made else 0,
        quarantined=records.quarantined(request.source, request.timeframe, night.grids),
        seconds=time.monotonic() - begun,
    )
    publish(resources.settings.closingbell_home, told, records)
    return told


def give_up(told: dict[str, Any], resources: Resources | None) -> State[Any]:
    """The end of a run that had to stop: its report goes wherever it still can."""
    if resources:
        told["actual_calls"] = sum(resources.source.calls.values())
    try:
        home = (resources.settings if resources else load()).closingbell_home
        publish(home, told, resources.store.records if resources else None)
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
    message = f"{cells_failed:,} cells failed ({causes})"
    if told["unexplained"]:
        message = f"cells of {report.named(list(told['unexplained']))} are not accounted for"
    if told["next_command"]:
        message += f". Next: {told['next_command']}"
    if told["state"] == "PartiallyCompleted":
        return Completed(name="PartiallyCompleted", message=message)
    return Failed(message=message)
