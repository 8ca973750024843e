"""Bars of a universe or of some tickers, complete and correct, with the fewest calls."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from flows import night
from flows.form import (
    AGAIN,
    FIRST,
    HOW,
    WHAT,
    WHEN,
    WHOSE,
    BatchSize,
    DaskAddress,
    DaskWorkers,
    Day,
    TaskRunner,
    Ticker,
    Timeframe,
    Universe,
    Vendor,
    grouped,
)
from tasks.runners import chosen
from tasks.threads import threads


@grouped(
    {
        FIRST: ["dry_run"],
        WHOSE: ["universe", "tickers", "universe_on", "former_tickers"],
        WHEN: ["start", "end"],
        WHAT: ["timeframes", "extended_hours", "derive", "source", "uncertain"],
        AGAIN: ["recheck_sessions", "ask_again", "skip_non_sessions"],
        HOW: ["batch_size", "task_runner", "dask_workers", "dask_address"],
    }
)
@flow(name="ingest", task_runner=threads())
def ingest(
    universe: Universe = "sp500+etfs",
    universe_on: Day | None = None,
    tickers: list[Ticker] | None = None,
    start: Day | None = None,
    end: Day | None = None,
    timeframes: Annotated[list[Timeframe], Field(min_length=1)] = ["1d"],  # noqa: B006  (Prefect copies it)
    extended_hours: bool | None = None,
    derive: bool = False,
    recheck_sessions: Annotated[int, Field(ge=0, le=250)] = 0,
    skip_non_sessions: bool = False,
    ask_again: bool = False,
    former_tickers: bool = False,
    source: Vendor | None = None,
    uncertain: bool = False,
    batch_size: BatchSize | None = None,
    task_runner: TaskRunner | None = None,
    dask_workers: DaskWorkers | None = None,
    dask_address: DaskAddress | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Fetch what is missing of the cells asked for, and store it with the state that makes every run resumable.

    Args:
        universe: Whose bars, when no tickers are given.
        universe_on: The index's members on this past date, instead of today's.
        tickers: These instead of the universe, as the vendor writes them (BRK.B, not BRK-B).
        start: First date. Empty: two years back, as far as the free plan's history goes.
        end: Last date. Empty: the last session that should be published by now.
        timeframes: Of the bars: 1d, 1h, 30m, 15m, 5m, 1m; several are one plan.
        extended_hours: Stocks' intraday bars from before the open and after the close too. Empty: the setting.
        derive: Make coarser bars of stored 1m bars instead of fetching them; ask for 1m as well to have those fetched.
        recheck_sessions: Fetch this many of the last sessions again, because vendors correct bars for days.
        skip_non_sessions: Do nothing when nothing is missing and no session became due in the last day.
        ask_again: Ask again also for cells that the vendor said are empty or not ours, and for bars in quarantine.
        former_tickers: Also what the companies were called before, as far as that is known, for as long as they were.
        source: Whose bars: polygon, databento. Empty: polygon, or the stand-in market where no key is set.
        uncertain: Futures of uncertain origin: look for discontinuities too, and keep apart what is inside of them.
        batch_size: Calls in one task. Empty: the setting BATCH_SIZE.
        task_runner: Who makes the calls: threads of the run itself, or the workers of a Dask cluster. Empty: as set.
        dask_workers: Processes of a Dask cluster on the run's machine, for this run. Empty: the setting DASK_WORKERS.
        dask_address: A Dask scheduler instead, tcp://host:8786. Empty: the setting DASK_ADDRESS.
        dry_run: Only show the plan, and make no call.
    """

    ask = night.asking(
        universe,
        universe_on,
        tickers,
        start,
        end,
        extended_hours=extended_hours,
        source=source,
        former_tickers=former_tickers,
        timeframes=timeframes,
        derive=derive,
        recheck_sessions=recheck_sessions,
        skip_non_sessions=skip_non_sessions,
        ask_again=ask_again,
        uncertain=uncertain,
    )
    return night.run("ingest", ask, batch_size, dry_run=dry_run, hands=chosen(task_runner, dask_address, dask_workers))
