"""Events, such as triangles, in bars that are stored; no call is made for them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import StringConstraints

from closingbell import universe as universes
from closingbell.errors import ConfigurationError
from closingbell.request import Request
from flows import night
from flows.form import AGAIN, FIRST, WHAT, WHEN, WHOSE, Day, Ticker, Timeframe, Universe, grouped
from tasks import events as steps
from tasks.night import announce
from tasks.resources import Resources
from tasks.threads import threads

#: Whose bars: the vendor's name, or that of what was made of its minutes.
Source = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9:-]*$", max_length=16)]


@grouped(
    {
        FIRST: ["dry_run"],
        WHOSE: ["tickers", "universe"],
        WHEN: ["start", "end"],
        WHAT: ["detector", "timeframe", "from_timeframe", "source"],
        AGAIN: ["purge"],
    }
)
@flow(name="derive-events", task_runner=threads())
def derive_events(
    tickers: list[Ticker] | None = None,
    universe: Universe | None = None,
    timeframe: Timeframe = "1d",
    from_timeframe: Timeframe | None = None,
    detector: Literal["triangles"] = "triangles",
    start: Day | None = None,
    end: Day | None = None,
    purge: bool = False,
    source: Source | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Find events in stored bars and store them. Only what is new is derived, and what depends on bars that changed.

    Args:
        tickers: Only these, as the vendor writes them (BRK.B, X:BTCUSD).
        universe: Those of a universe that have such bars. Empty, and no tickers: every ticker that has.
        timeframe: The bars that the detector looks at.
        from_timeframe: Make them of stored bars of this finer timeframe (5m of 1m). Empty: they are stored.
        detector: What to look for.
        start: First date. Empty: the first one stored.
        end: Last date. Empty: the last one stored.
        purge: Delete the events of these dates first, and derive them again.
        source: Whose bars: polygon, stand-in, databento, or polygon:1m for those made of minutes. Empty: as set.
        dry_run: Only show what is to do.
    """
    plans: list[steps.Plan] = []
    finer = from_timeframe or timeframe

    def ask(resources: Resources) -> Request:
        whose = source or resources.settings.source
        names = tickers or _stored(resources, whose, finer, universe)
        plans.append(steps.plan(asked(whose), names, resources))
        return Request(tuple(names), plans[0].first, plans[0].last, source=whose, timeframes=(timeframe,))

    def asked(whose: str) -> steps.Asked:
        return steps.Asked(detector, whose, timeframe, finer, start, end, purge)

    def derive(run: night.Run) -> State[Any]:
        return _derive(run, asked(run.request.source), plans[0])

    return night.run("derive-events", ask, dry_run=dry_run, job=derive, calls=False)


def _stored(resources: Resources, source: str, timeframe: str, universe: str | None) -> list[str]:
    """Every ticker, or those of a universe, with such bars.

    Raises:
        ConfigurationError: there is none.
    """
    names = resources.store.records.tickers(source, timeframe)
    if universe:
        members = set(universes.resolve(universe, None))
        names = tuple(name for name in names if name in members)
    if not names:
        raise ConfigurationError(
            "no bars are stored to derive events from",
            value=f"{source} {timeframe}",
            fix="Ingest them first, or say which are: closingbell derive-events --from-timeframe 1m.",
        )
    return list(names)


def _derive(run: night.Run, asked: steps.Asked, plan: steps.Plan) -> State[Any]:
    request, records = run.request, run.resources.store.records
    told = announce(plan.lines(asked, len(request.tickers)))
    if run.dry_run:
        return Completed(message=f"dry run: {'; '.join(told)}")
    with records.alive(run.run_id):
        row = {**request.as_dict(), "events": asked.as_dict()}
        records.start_run(run.run_id, run.flow, row, {**plan.numbers(), "told": told}, run.now)
        done = steps.derive_all(asked, plan, run.run_id, run.resources)
        return steps.close(run.resources, run.run_id, run.flow, request, (asked, plan), done, run.begun)
