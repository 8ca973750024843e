"""A run, worked out before its first call: what is missing, what it costs, who judges the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np

from closingbell import cells, plan
from closingbell import request as requests
from closingbell.calendar import NEW_YORK, AssetClass, by_asset_class, calendar_for
from closingbell.cells import Cells, Ledger
from closingbell.healing import AGAIN, Cell, Damage, due
from closingbell.identity import Tenure, shipped
from closingbell.outcome import Judge
from closingbell.plan import CallCost, Plan
from closingbell.quota import Rates
from closingbell.request import Request
from closingbell.store import Store

#: Splits appear late and are corrected: each look goes back at least this far behind the last one.
SPLITS_MARGIN: Final = timedelta(days=90)

#: And as far as it finds so many known splits: with the new ones of a night still one page of 1,000.
SPLITS_PAGE: Final = 900

#: Nights without a recheck that are made up for.
REACH: Final = 20

Days = tuple[date, date]


@dataclass(frozen=True, slots=True)
class Night:
    """What a run is going to do.

    Attributes:
        request: what was asked for.
        grids: every cell of it, and those before it that are to be healed.
        plan: the calls for those that are missing.
        judges: the rules of each asset class in it.
        splits: the days whose splits to look at, or None when that was done today.
        now: the instant that the run takes for the present.
        damage: where bars and ledger contradict each other: to be mended before the first call.
        minutes: cells whose bar is to be held against its own minutes.
    """

    request: Request
    grids: tuple[Cells, ...]
    plan: Plan
    judges: Mapping[AssetClass, Judge]
    splits: Days | None
    now: datetime
    damage: Damage = field(default_factory=Damage)
    minutes: tuple[Cell, ...] = ()


def with_former(store: Store, request: Request) -> Request:
    """The request, with what its instruments were called before, as far as the store or the shipped list knows."""
    told = store.facts.tenures(request.source, request.tickers)
    known = [Tenure(row.ticker, row.instrument_id, row.name, row.first, row.end) for row in told]
    return requests.with_former(request, [*known, *shipped()])


def work_out(store: Store, request: Request, rates: Rates, market_day_rows: int, now: datetime) -> Night:
    """Missing cells by the calendar, the ledger and the bars, and the cheapest calls for them.

    Nothing is written: what is found wrong counts as mended already, and :attr:`Night.damage` says what to mend.

    Args:
        store: knows what is there.
        request: what is asked for.
        rates: how fast calls may be made.
        market_day_rows: rows that a market day of stocks brings.
        now: the present instant.
    """
    request = _reaching_back(store, request)
    damage = store.records.damage(request.source, request.timeframe, request.tickers)
    ledger = damage.mended(
        store.records.ledger(
            request.source, request.timeframe, request.tickers, None if request.heal else request.start, request.end
        )
    )
    again = _again(ledger, request, now)
    before = [cell for cell in _holes(ledger, again) if cell[1] < request.start] if request.heal else []
    grids, plans, judges = [], [], {}
    for name, grid in request.grids(now, min((session for _, session in before), default=None)):
        if request.gaps_only:
            grid = grid.only(cells.accounted(grid, ledger, again=()))
        grid = replace(grid, mask=grid.mask | cells.mask_of(grid, before))
        grids.append(grid)
        rows = market_day_rows if name == "stocks" and request.timeframe == "1d" else None
        wanted = cells.missing(grid, ledger, again=again)
        if wanted.count or not request.skip_non_sessions or _new_session(name, now):
            wanted = cells.missing(grid, ledger, request.recheck_sessions, again)
        cost = CallCost(rates.of(name).interval, market_day_rows=rows)
        if request.sample:
            plans.append(plan.sample(grid, cost, request.sample, request.seed, name))
        else:
            wanted = grid if request.compare else wanted
            plans.append(plan.cheapest(wanted, cost, name, cells.to_ask_by_name(wanted, ledger)))
        calendar = calendar_for(name)
        closed_by, due_by = (np.datetime64(day) for day in (calendar.last_closed(now), calendar.last_due(now)))
        judges[name] = Judge(name, grid.sessions, closed_by, due_by)
    idle = not request.tickers or (request.skip_non_sessions and not any(part.calls for part in plans))
    splits = None if idle else _splits(store, request, now.astimezone(NEW_YORK).date())
    minutes = _daily_bars(grids, ledger, request.minutes, request.seed)
    whole = plan.join(zip(judges, plans, strict=True), rates, int(splits is not None), len(minutes))
    return Night(request, tuple(grids), whole, judges, splits, now, damage, minutes)


def _reaching_back(store: Store, request: Request) -> Request:
    """The request, asking again for what earlier rechecks failed to ask for.

    A session is asked for again on a few nights only; where one of them comes to nothing, the next makes up for it.
    """
    count = request.recheck_sessions
    if not count:
        return request
    known = set(store.records.tickers(request.source, request.timeframe)) & set(request.tickers)
    last = store.records.rechecked(request.source, request.timeframe, known)
    if last is None or last >= request.end:
        return request
    sessions = calendar_for(next(iter(by_asset_class(request.tickers)))).sessions(last, request.end)
    since = int(np.count_nonzero(sessions > np.datetime64(last)))
    return replace(request, recheck_sessions=count + min(max(since - 1, 0), REACH))


def _daily_bars(grids: Sequence[Cells], ledger: Ledger, count: int, seed: int) -> tuple[Cell, ...]:
    """A sample of the cells that have a bar."""
    chance = np.random.default_rng(seed)
    gaps = [(gap.ticker, gap.session) for gap in ledger.gaps]
    stored: list[Cell] = []
    for grid in grids if count else ():
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
