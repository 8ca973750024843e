"""The night, start to end: what every ingesting flow does once it knows what it is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Completed

from closingbell import identity, looks, report
from closingbell import universe as universes
from closingbell.errors import ClosingbellError, RunEndingError
from closingbell.night import with_former, work_out
from closingbell.request import Request, build
from closingbell.settings import Settings
from closingbell.sources.offers import priced
from closingbell.store.records import SWEEP, as_run_id
from tasks import night as steps
from tasks.batch import Work, lanes, leave_untried
from tasks.derive import derive_all
from tasks.endurance import enduring, retrying
from tasks.facts import look_up_all
from tasks.interrupts import heard
from tasks.memory import give_back, keep_modules
from tasks.resources import Resources, opened
from tasks.runners import fetching
from tasks.splits import look_at_splits
from tasks.sweep import market_span, sweep_up

#: What ends a run because somebody wants it to, in words.
_ASKED_TO: Final = {KeyboardInterrupt: "Ctrl-C", TerminationSignal: "a cancellation, or a shutdown (SIGTERM)"}


@dataclass(frozen=True, slots=True)
class Run:
    """One flow run, as its steps see it.

    Attributes:
        run_id: its id, Prefect's and ours.
        flow: the flow's name, for the run's row.
        resources: what it works with.
        request: what it is asked for.
        batch_size: calls in one task.
        dry_run: stop after the plan.
        begun: when it began, by the monotonic clock.
        now: the instant that it takes for the present.
    """

    run_id: UUID
    flow: str
    resources: Resources
    request: Request
    batch_size: int
    dry_run: bool
    begun: float
    now: datetime


def asking(
    universe: str,
    universe_on: date | None,
    tickers: Sequence[str] | None,
    start: date | None,
    end: date | None,
    *,
    extended_hours: bool | None,
    source: str | None,
    former_tickers: bool,
    **how: Any,
) -> Callable[[Resources], Request]:
    """What makes the request of the cells that a form asks for; its parameters are the form's.

    Args:
        universe: whose bars, when no tickers are given.
        universe_on: its members on this date; None: today's.
        tickers: these instead.
        start: see :func:`closingbell.request.build`, as for ``end`` and ``how``.
        end: the last date.
        extended_hours: None: as set.
        source: the vendor; None: as set.
        former_tickers: also what the companies were called before.
        **how: what else is asked.
    """

    def ask(resources: Resources) -> Request:
        settings = resources.settings
        asked = build(
            universes.resolve(f"{universe}@{universe_on}" if universe_on else universe, tickers),
            start,
            end,
            resources.clock.now(),
            extended_hours=settings.extended_hours if extended_hours is None else extended_hours,
            source=settings.source_of(source),
            **how,
        )
        return with_former(resources.store, asked) if former_tickers else asked

    return ask


def run(
    flow: str,
    ask: Callable[[Resources], Request],
    batch_size: int | None = None,
    *,
    dry_run: bool = False,
    job: Callable[[Run], State[Any]] | None = None,
    calls: bool = True,
    hands: Callable[[Settings], Settings] | None = None,
) -> State[Any]:
    """Do what is asked, and say truly how it went.

    Args:
        flow: the flow's name, for the run's row.
        ask: makes the request, given the resources.
        batch_size: calls in one task; None: as set.
        dry_run: stop after the plan.
        job: what to do; None: bring bars up to date.
        calls: whether any are made; else no vendor is needed.
        hands: who makes the calls, where a person chose for this run alone; None: as set.
    """
    begun, run_id = time.monotonic(), as_run_id(flow_run.id)
    request, resources, called_off = None, None, threading.Event()
    with ExitStack() as stack:
        try:
            stack.enter_context(enduring())
            resources = stack.enter_context(opened())
            stack.enter_context(heard(partial(_call_off, resources, called_off)))
            resources.settings = hands(resources.settings) if hands else resources.settings
            request, size = ask(resources), batch_size or resources.settings.batch_size
            request = resources.choose(request) if calls else request
            now = resources.clock.now()
            return (job or _night)(Run(run_id, flow, resources, request, size, dry_run, begun, now))
        except ClosingbellError as error:
            # Python swallows a signal's exception where nobody can catch it: it was heard all the same.
            state = "Cancelled" if called_off.is_set() else "Failed"
            told = report.stopped(run_id, flow, str(error), request, time.monotonic() - begun, state)
            return steps.give_up(told, resources, None if called_off.is_set() else error)
        except BaseException as error:
            # A bug, Ctrl-C or a cancellation: Prefect handles it, but the run's row shall not say "Running" for ever.
            by = _ASKED_TO.get(type(error))
            if by and resources:
                _call_off(resources, called_off)
            message = f"the run was stopped by {by}" if by else f"the run was broken off by {type(error).__name__}"
            spent = time.monotonic() - begun
            told = report.stopped(run_id, flow, message, request, spent, "Cancelled" if by else "Failed")
            with retrying(0) if by else nullcontext():
                steps.give_up(told, resources)
            raise


def _call_off(resources: Resources, called_off: threading.Event) -> None:
    called_off.set()
    resources.abandon(RunEndingError("the run was stopped"))


def _night(run: Run) -> State[Any]:
    resources, request = run.resources, run.request
    settings, store, gate = resources.settings, resources.store, resources.gate
    mark = store.writer.mark()
    night = work_out(store, request, gate.in_force, settings.market_day_rows, run.now)
    night = replace(night, plan=priced(night.plan, resources.source, settings.databento_max_usd))
    resources.night = night
    told = steps.announce(report.night_lines(night, str(gate.in_force)), gate)
    if run.dry_run:
        return Completed(message=f"dry run: {'; '.join(told)}")

    judges = {(part.timeframe, name): judge for part in night.parts for name, judge in part.judges.items()}
    work = Work(run.run_id, request.source, run.now, judges, mark)
    with store.records.alive(run.run_id):
        span = market_span(night)
        announced = {**night.plan.summary(), "told": told}
        announced |= {SWEEP: [day.isoformat() for day in span]} if span else {}
        store.records.start_run(run.run_id, run.flow, request.as_dict(), announced, run.now)
        for part in night.parts:
            if part.damage:
                store.records.mend(run.run_id, part.source, part.timeframe, part.damage, run.now)
        store.facts.store_tenures(run.run_id, request.source, identity.shipped(), "shipped")
        by_class = lanes(night, run.batch_size, settings.fetch_threads)
        batches = [batch for of_class in by_class.values() for batch in of_class]
        gate.expect({name: sum(len(batch.todo) for batch in of_class) for name, of_class in by_class.items()})
        try:
            splits = look_at_splits(work, night.splits, resources)
            resources.look_around(night)
            with fetching(work, by_class, resources) as hands:
                tally = steps.gather(hands.hand_out, batches, resources)
        except BaseException:
            planned = (call for part in night.parts for each in part.plans.values() for call in each.calls)
            leave_untried(planned, [batch for batch in batches if not batch.ended], work, resources)
            raise
        tally.add(hands.written())
        tally.add(splits)
        tally.add(sweep_up(work, night, resources))
        tally.add(look_up_all(looks.at_minutes(night.minutes), work, run.batch_size, resources))
        gate.leave()
        night, made = derive_all(run.run_id, night, resources)
        tally.add(made)
        return steps.final_state(steps.close(resources, night, work, run.flow, tally, run.begun))


give_back()  # before Prefect's threads begin
keep_modules()
