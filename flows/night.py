"""The night, start to end: what every ingesting flow does once it knows what it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from prefect import unmapped
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from closingbell import report
from closingbell.errors import ClosingbellError
from closingbell.night import work_out
from closingbell.request import Request
from closingbell.store.records import as_run_id
from tasks import night as steps
from tasks.batch import Work, retrying
from tasks.minutes import look_at_minutes
from tasks.resources import Resources, opened
from tasks.splits import look_at_splits


def run(
    flow: str, ask: Callable[[Resources], Request], batch_size: int | None = None, *, dry_run: bool = False
) -> State[Any]:
    """Do what is asked, and say truly how it went.

    Args:
        flow: the flow's name, for the run's row.
        ask: makes the request, given the resources.
        batch_size: calls in one task; None: as set.
        dry_run: stop after the plan.
    """
    begun, run_id = time.monotonic(), as_run_id(flow_run.id)
    request, resources = None, None
    with ExitStack() as stack:
        try:
            resources = stack.enter_context(opened())
            request, size = ask(resources), batch_size or resources.settings.batch_size
            return _night(flow, resources, request, size, dry_run=dry_run, begun=begun)
        except ClosingbellError as error:
            told = report.stopped(run_id, flow, str(error), request, time.monotonic() - begun)
            return steps.give_up(told, resources)
        except BaseException as error:
            # A bug, Ctrl-C or a cancellation: Prefect handles it, but the run's row shall not say "Running" for ever.
            message = f"the run was broken off by {type(error).__name__}"
            told = report.stopped(run_id, flow, message, request, time.monotonic() - begun)
            steps.give_up(told, resources)
            raise


def _night(
    flow: str, resources: Resources, request: Request, batch_size: int, *, dry_run: bool, begun: float
) -> State[Any]:
    settings, records, gate = resources.settings, resources.store.records, resources.gate
    now = resources.clock.now()
    night = resources.night = work_out(resources.store, request, gate.in_force, settings.market_day_rows, now)
    told = steps.announce(night, gate)
    if dry_run:
        return Completed(message=f"dry run: {'; '.join(told)}")

    work = Work(as_run_id(flow_run.id), request.source, request.timeframe, night.now, night.judges)
    with records.alive(work.run_id):
        records.start_run(work.run_id, flow, request.as_dict(), {**night.plan.summary(), "told": told}, now)
        if night.damage:
            records.mend(work.run_id, request.source, request.timeframe, night.damage, now)
        splits = look_at_splits(work, night.splits, settings)
        batches = retrying(settings).map(steps.batches(night, batch_size), work=unmapped(work))
        tally = steps.gather(batches, resources)
        tally.add(splits)
        tally.add(look_at_minutes(work, night.minutes, settings))
        return steps.final_state(steps.close(resources, night, work, flow, tally, begun))
