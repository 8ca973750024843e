"""Facts that are no bars, on request: every split again, dividends, and what companies were called before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from closingbell import looks, request
from closingbell import universe as universes
from closingbell.zones import NEW_YORK
from flows import night
from flows.form import FIRST, HOW, WHEN, WHOSE, BatchSize, Day, Ticker, Universe, grouped
from tasks import night as steps
from tasks.batch import Work
from tasks.facts import look_up_all
from tasks.resources import Resources
from tasks.splits import look_at_splits
from tasks.threads import threads


@grouped(
    {
        FIRST: ["dry_run"],
        WHOSE: ["universe", "tickers"],
        WHEN: ["start"],
        "Which facts": ["dividends", "names"],
        HOW: ["batch_size"],
    }
)
@flow(name="facts", task_runner=threads())
def facts(
    universe: Universe = "sp500+etfs",
    tickers: list[Ticker] | None = None,
    start: Day | None = None,
    dividends: bool = True,
    names: bool = True,
    batch_size: BatchSize | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Look up what the nightly run does not ask for each night: all splits again, dividends, changes of ticker.

    Args:
        universe: Whose facts, when no tickers are given.
        tickers: These instead of the universe, as the vendor writes them (BRK.B, not BRK-B).
        start: First day of splits and dividends. Empty: two years back.
        dividends: Look up dividends: a call for each ticker, or the whole market's where that is fewer.
        names: Look up under which tickers each company traded, and since when: a call for each ticker.
        batch_size: Calls in one task. Empty: the setting BATCH_SIZE.
        dry_run: Only show the plan, and make no call.
    """

    def ask(resources: Resources) -> request.Request:
        chosen = universes.resolve(universe, tickers)
        source = resources.settings.source
        return request.build(chosen, start, None, resources.clock.now(), source=source)

    def look(run: night.Run) -> State[Any]:
        kinds: list[looks.Kind] = ["dividends"] if dividends else []
        return _look(run, [*kinds, "names"] if names else kinds)

    return night.run("facts", ask, batch_size, dry_run=dry_run, job=look)


def _look(run: night.Run, kinds: Sequence[looks.Kind]) -> State[Any]:
    resources, asked = run.resources, run.request
    store, gate = resources.store, resources.gate
    today = run.now.astimezone(NEW_YORK).date()
    wanted = looks.plan(asked.tickers, kinds, asked.start, today, store.facts.dividends_seen(asked.source))
    seen = store.facts.splits_seen(asked.source)
    since = min(asked.start, seen[0]) if seen else asked.start
    calls: dict[str, int] = {kind: sum(one.pages for one in wanted if one.kind == kind) for kind in kinds}
    count = 1 + sum(calls.values())
    numbers: dict[str, int] = {"planned_calls": count, "splits": 1, "cells": 0, **calls}
    parts = ", ".join(["1 look at splits", *(f"{n:,} for {kind}" for kind, n in calls.items())])
    lines = [
        f"{len(asked.tickers):,} ticker{'s' if len(asked.tickers) != 1 else ''}, {asked.start} to {today}",
        f"{count:,} call{'s' if count != 1 else ''}: {parts}",
    ]
    told = steps.announce(lines, gate)
    if run.dry_run:
        return Completed(message=f"dry run: {'; '.join(told)}")
    work = Work(run.run_id, asked.source, run.now, {})
    with store.records.alive(run.run_id):
        store.records.start_run(run.run_id, run.flow, asked.as_dict(), {**numbers, "told": told}, run.now)
        tally = look_at_splits(work, (since, today), resources)
        tally.add(look_up_all(wanted, work, run.batch_size, resources))
        return steps.final_state(steps.publish_looked(resources, work, run.flow, asked, numbers, tally, run.begun))
