"""What came market day by market day, looked at once more when all of it is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Final

import numpy as np

from closingbell.bars import Bars
from closingbell.calendar import asset_class
from closingbell.night import Night
from closingbell.outcome import tickers
from closingbell.plan import MarketDay, batches
from closingbell.quality import EXAMPLES, PROFILES
from closingbell.report import Tally
from closingbell.scale import sweep
from closingbell.sources.base import Split
from closingbell.store.records import Unswept
from tasks.batch import Work
from tasks.context import NEAR, known_splits
from tasks.resources import Resources

log = logging.getLogger("closingbell.sweep")

#: Tickers looked at together: as many bars as a page or two has, however many a run is about.
_TOGETHER: Final = 250

#: A bar this long before the first session of the run may only now have the neighbours that tell on it.
_EARLIER: Final = timedelta(days=7)


def sweep_up(work: Work, night: Night, resources: Resources) -> Tally:
    """Take out the bars that prove to be on another scale, or another ticker's, now that their neighbours are there.

    The bars of a market day are judged by what was stored before them; which of two bars is the odd one is often
    only seen from the bars after them. What runs left behind that were killed, or had to stop, is looked at too.
    """
    begun, records = time.perf_counter(), resources.store.records
    tally = Tally()
    for part in night.parts:
        if part.judges:
            context = resources.context_of(part.timeframe)
            found = [records.copied(work.run_id, work.source, part.timeframe, sorted(context.copied))]
            found += [records.shared(work.run_id, part.timeframe, pair) for pair in sorted(context.shared)]
            for bars in found:
                _take_out(bars, ("same_series",) * len(bars), work, resources, tally)
    if any(part.timeframe == "1d" for part in night.parts):
        if span := market_span(night):
            whose = tuple(dict.fromkeys(ticker for call in _market_days(night) for ticker in tickers(call)))
            _sweep(Unswept(work.run_id, *span, whose), work, night, resources, tally)
        _sweep_after_others(work, night, resources, tally)
    tally.spend("checks", time.perf_counter() - begun)
    return tally


def market_span(night: Night) -> tuple[date, date] | None:
    """The first and the last of a run's market days; None: it has none of daily bars."""
    days = [call.session for call in _market_days(night)]
    return (min(days), max(days)) if days else None


def _market_days(night: Night) -> list[MarketDay]:
    return [call for call in night.plan.calls if isinstance(call, MarketDay) and call.timeframe == "1d"]


def _sweep_after_others(work: Work, night: Night, resources: Resources, tally: Tally) -> None:
    """Look at what runs left that were killed, or had to stop, before they came to it."""
    records = resources.store.records
    earlier = records.unswept(work.source, work.run_id)
    for left in earlier:
        before = tally.quarantined
        _sweep(left, work, night, resources, tally)
        count = tally.quarantined - before
        log.info("swept up after run %s, %s to %s: %d bars taken out", left.run_id, left.first, left.last, count)
    if others := [left.run_id for left in earlier if left.run_id != work.run_id]:
        records.swept(others)


def _sweep(left: Unswept, work: Work, night: Night, resources: Resources, tally: Tally) -> None:
    stocks = [ticker for ticker in left.tickers if asset_class(ticker) == "stocks"]
    splits = resources.context_of("1d").splits
    if not set(stocks) <= set(night.request.tickers):
        splits = known_splits(resources.store, work.source, stocks)
    for together in batches(stocks, _TOGETHER):
        series = resources.store.records.series(work.source, "1d", together, left.first - NEAR, left.last + NEAR)
        odd, rules = _odd(series, splits, left.first - _EARLIER, left.last)
        _take_out(odd, rules, work, resources, tally)


def _odd(bars: Bars, splits: Mapping[str, Sequence[Split]], first: date, last: date) -> tuple[Bars, tuple[str, ...]]:
    """The bars from ``first`` to ``last`` that break a rule across sessions, and which."""
    if not len(bars):
        return bars, ()
    known = [split for ticker in bars.tickers for split in splits.get(ticker, ())]
    odd, rules = sweep(bars, known, PROFILES[asset_class(bars.tickers[0])])
    sessions = bars.rows["session"][odd]
    judged = (sessions >= np.datetime64(first)) & (sessions <= np.datetime64(last))
    found = bars.where(odd)
    return found.where(judged), tuple(rule for rule, here in zip(rules, judged, strict=True) if here)


def _take_out(bars: Bars, rules: Sequence[str], work: Work, resources: Resources, tally: Tally) -> None:
    writer = resources.store.writer
    gone = writer.take_out(work.run_id, work.source, bars.timeframe, bars, rules, work.now)
    tally.quarantined += len(gone)
    for ticker, session, rule in gone:
        examples = tally.examples.setdefault(rule, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{ticker} {session}")
