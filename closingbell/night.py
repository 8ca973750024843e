"""A run, worked out before its first call: what is missing, what it costs, who judges the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell import cells, plan
from closingbell import request as requests
from closingbell.calendar import AssetClass, by_asset_class, calendar_for
from closingbell.cells import Cells, Ledger
from closingbell.healing import AGAIN, Cell, Damage, due
from closingbell.identity import Tenure, shipped
from closingbell.intraday import base_bars, last_over, minutes_a_bar
from closingbell.outcome import Judge
from closingbell.plan import FLAT_FILES, CallCost, Plan
from closingbell.quota import Rates
from closingbell.request import Request
from closingbell.settings import DATABENTO
from closingbell.store import Store
from closingbell.zones import NEW_YORK

#: Splits appear late and are corrected: each look goes back at least this far behind the last one.
SPLITS_MARGIN: Final = timedelta(days=90)

#: And as far as it finds so many known splits: with the new ones of a night still one page of 1,000.
SPLITS_PAGE: Final = 900

#: Nights without a recheck that are made up for.
REACH: Final = 20

#: A session's flat file is there by about 11:00 New York of the next day.
FILES_AFTER: Final = timedelta(hours=11)

Days = tuple[date, date]


@dataclass(frozen=True, slots=True)
class Part:
    """What a run is going to do about the bars of one timeframe.

    Attributes:
        source: whose ledger it is.
        timeframe: of the bars.
        grids: every cell that was asked for, and those before it that are to be healed; one for each asset class.
        plans: the calls for those of each asset class that are missing.
        judges: the rules of each asset class.
        damage: where bars and ledger contradict each other: to be mended before the first call.
    """

    source: str
    timeframe: str
    grids: Mapping[AssetClass, Cells]
    plans: Mapping[AssetClass, Plan]
    judges: Mapping[AssetClass, Judge]
    damage: Damage = field(default_factory=Damage)


@dataclass(frozen=True, slots=True)
class Night:
    """What a run is going to do.

    Attributes:
        request: what was asked for.
        parts: what is to be done of each timeframe.
        plan: all calls of it.
        splits: the days whose splits to look at, or None when that was done today.
        now: the instant that the run takes for the present.
        minutes: cells whose bar is to be held against its own minutes.
    """

    request: Request
    parts: tuple[Part, ...]
    plan: Plan
    splits: Days | None
    now: datetime
    minutes: tuple[Cell, ...] = ()

    @property
    def damages(self) -> dict[str, Damage]:
        """What is wrong in the ledger, by timeframe, without those that are right."""
        return {part.timeframe: part.damage for part in self.parts if part.damage}


def with_former(store: Store, request: Request) -> Request:
    """The request, with what its instruments were called before, as far as the store or the shipped list knows."""
    told = store.facts.tenures(request.source, request.tickers)
    known = [Tenure(row.ticker, row.instrument_id, row.name, row.first, row.end) for row in told]
    return requests.with_former(request, [*known, *shipped()])


def work_out(store: Store, request: Request, rates: Rates, market_day_rows: int | None, now: datetime) -> Night:
    """Missing cells by the calendar, the ledger and the bars, and the cheapest calls for them.

    Nothing is written: what is found wrong counts as mended already, and :attr:`Part.damage` says what to mend.

    Args:
        store: knows what is there.
        request: what is asked for.
        rates: how fast calls may be made.
        market_day_rows: rows that a market day of stocks brings; None: the vendor has no such call.
        now: the present instant.
    """
    if request.source == DATABENTO:
        market_day_rows = None  # nor has it splits
    worked = [_part(store, request, timeframe, rates, market_day_rows, now) for timeframe in request.timeframes]
    request = replace(request, recheck_sessions=max((asked for _, _, asked in worked), default=0))
    parts = tuple(part for part, _, _ in worked)
    plans = [(name, each) for part in parts for name, each in part.plans.items()]
    idle = not (request.tickers and request.timeframes)
    idle = idle or (request.skip_non_sessions and not any(each.calls for _, each in plans))
    idle = idle or request.source == DATABENTO
    splits = None if idle else _splits(store, request, now.astimezone(NEW_YORK).date())
    minutes = _daily_bars(worked, request.minutes, request.seed)
    whole = plan.join(plans, rates, int(splits is not None), len(minutes))
    return Night(request, parts, whole, splits, now, minutes)


def _part(
    store: Store, request: Request, timeframe: str, rates: Rates, market_day_rows: int | None, now: datetime
) -> tuple[Part, Ledger, int]:
    """What is to be done of one timeframe, the ledger as it will be then, and how many sessions are asked for again."""
    request = _reaching_back(store, request, timeframe)
    damage = store.records.damage(request.source, timeframe, request.tickers)
    first = None if request.heal else request.start
    due_by_now = None if request.ask_again or request.minutes else now
    known = store.records.ledger(request.source, timeframe, request.tickers, first, request.end, due_by_now)
    ledger = damage.mended(known)
    again = _again(ledger, request, now)
    before = [cell for cell in _holes(ledger, again) if cell[1] < request.start] if request.heal else []
    grids, plans, judges = dict[AssetClass, Cells](), dict[AssetClass, Plan](), dict[AssetClass, Judge]()
    for name, grid in request.grids(now, min((session for _, session in before), default=None), timeframe):
        if request.gaps_only:
            grid = grid.only(cells.accounted(grid, ledger, again=()))
        if before:
            grid = replace(grid, mask=grid.mask | cells.mask_of(grid, before))
        grids[name] = grid
        wanted = cells.missing(grid, ledger, again=again)
        if wanted.count or not request.skip_non_sessions or _new_session(name, now):
            wanted = cells.missing(grid, ledger, request.recheck_sessions, again)
        cost = _cost(name, timeframe, rates, market_day_rows)
        if request.sample:
            plans[name] = plan.sample(grid, cost, request.sample, request.seed, name, timeframe)
        else:
            wanted = grid if request.compare else wanted
            files = None if cost.flat_interval is None else _by_file(grid, ledger, request, now)
            cheapest = plan.cheapest(wanted, cost, name, cells.to_ask_by_name(wanted, ledger), timeframe, files)
            marks = (ledger.watermarks.get(ticker) for ticker in grid.tickers)
            plans[name] = cheapest.outward(mark for mark in marks if mark)
        closed_by = last_over(name, timeframe, now, extended_hours=request.extended_hours)
        due_by = calendar_for(name).last_due(now)
        judges[name] = Judge(
            name,
            grid.sessions,
            np.datetime64(closed_by),
            np.datetime64(due_by),
            extended_hours=request.extended_hours,
            uncertain=request.uncertain,
        )
    return Part(request.source, timeframe, grids, plans, judges, damage), ledger, request.recheck_sessions


def _cost(name: AssetClass, timeframe: str, rates: Rates, market_day_rows: int | None) -> CallCost:
    """What a call of an asset class costs: only daily bars of stocks come by market day."""
    return CallCost(
        rates.of(name).interval,
        market_day_rows=market_day_rows if name == "stocks" and timeframe == "1d" else None,
        rows_per_session=base_bars(name, timeframe),
        rows_per_bar=minutes_a_bar(timeframe),
        flat_interval=rates.of(FLAT_FILES).interval if _has_files(name, timeframe, rates) else None,
    )


def _has_files(name: AssetClass, timeframe: str, rates: Rates) -> bool:
    """Whether such bars may come by flat file: there is a quota for it where there are keys for it."""
    return name == "stocks" and timeframe == "1m" and rates.holder(FLAT_FILES) == FLAT_FILES


def _by_file(grid: Cells, ledger: Ledger, request: Request, now: datetime) -> NDArray[np.bool_] | None:
    """Which cells may come by flat file, shape (n, m): those that nobody had an answer for, once the file is due.

    What is asked for again goes over REST: a bar that has its vwap keeps it, and what the files lack has another way.
    """
    if request.compare:
        return None
    due = (now.astimezone(NEW_YORK).replace(tzinfo=None) - FILES_AFTER).date()
    never = ~cells.accounted(grid, ledger, ("failed", "pending"))
    return np.asarray(never & (grid.sessions < np.datetime64(due)))


def _reaching_back(store: Store, request: Request, timeframe: str) -> Request:
    """The request, asking again for what earlier rechecks failed to ask for.

    A session is asked for again on a few nights only; where one of them comes to nothing, the next makes up for it.
    """
    count = request.recheck_sessions
    if not count:
        return request
    known = set(store.records.tickers(request.source, timeframe)) & set(request.tickers)
    last = store.records.rechecked(request.source, timeframe, known)
    if last is None or last >= request.end:
        return request
    sessions = calendar_for(next(iter(by_asset_class(request.tickers)))).sessions(last, request.end)
    since = int(np.count_nonzero(sessions > np.datetime64(last)))
    return replace(request, recheck_sessions=count + min(max(since - 1, 0), REACH))


def _daily_bars(worked: Sequence[tuple[Part, Ledger, int]], count: int, seed: int) -> tuple[Cell, ...]:
    """A sample of the cells that have a daily bar."""
    chance = np.random.default_rng(seed)
    daily = [(part, ledger) for part, ledger, _ in worked if part.timeframe == "1d" and count]
    gaps = [(gap.ticker, gap.session) for _, ledger in daily for gap in ledger.gaps]
    stored: list[Cell] = []
    for grid in (grid for part, _ in daily for grid in part.grids.values()):
        rows, columns = np.nonzero(grid.mask & ~cells.mask_of(grid, gaps))
        some = chance.choice(len(rows), min(count, len(rows)), replace=False)
        stored += [(grid.tickers[rows[i]], grid.sessions[columns[i]].item()) for i in some]
    return tuple(sorted(stored[i] for i in chance.choice(len(stored), min(count, len(stored)), replace=False)))


def _again(ledger: Ledger, request: Request, now: datetime) -> list[Cell]:
    """The cells whose answer is to be asked for again: where gaps are retried none, else those in time, or all."""
    if request.gaps_only:
        return []
    if request.ask_again:
        return [(gap.ticker, gap.session) for gap in ledger.gaps if gap.reason in AGAIN]
    return due(ledger.gaps, now)


def _holes(ledger: Ledger, again: list[Cell]) -> list[Cell]:
    """Every cell inside a watermark that the next run asks for."""
    return [*((gap.ticker, gap.session) for gap in ledger.gaps if gap.reason in cells.RETRYABLE), *again]


def _new_session(asset_class: AssetClass, now: datetime) -> bool:
    """Whether a session became due in the last day: the night after a holiday has none."""
    calendar = calendar_for(asset_class)
    return calendar.last_due(now) != calendar.last_due(now - timedelta(days=1))


def _splits(store: Store, request: Request, today: date) -> Days | None:
    """The days to look at, so that all of the request's history can be adjusted: one look a night, all on request."""
    seen = store.facts.splits_seen(request.source)
    if seen is None or request.start < seen[0]:
        return request.start, today
    if request.compare or store.facts.splits_lost(request.source):
        return seen[0], today
    if seen[1] >= today:
        return None
    # A page is a call however full it is: it is filled with the past, where corrections may be.
    page = store.facts.splits_back(request.source, SPLITS_PAGE)
    return min(max(page, seen[0]) if page else seen[0], seen[1] - SPLITS_MARGIN), today
