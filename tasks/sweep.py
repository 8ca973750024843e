"""What came market day by market day, looked at once more when all of it is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    for left in _left(work, night, resources):
        splits = resources.context_of("1d").splits
        if not set(left.tickers) <= set(night.request.tickers):
            splits = known_splits(resources.store, work.source, left.tickers)
        for together in batches(left.tickers, _TOGETHER):
            series = records.series(work.source, "1d", together, left.first - NEAR, left.last + NEAR)
            odd, rules = _odd(series, splits, left.first - _EARLIER, left.last)
            _take_out(odd, rules, work, resources, tally)
    tally.spend("checks", time.perf_counter() - begun)
    return tally


def _left(work: Work, night: Night, resources: Resources) -> list[Unswept]:
    """What is to be swept: this run's market days, and those of earlier runs that did not come to it."""
    if not any(part.timeframe == "1d" for part in night.parts):
        return []
    days = [call for call in night.plan.calls if isinstance(call, MarketDay) and call.timeframe == "1d"]
    left = []
    if days:
        whose = tuple(dict.fromkeys(ticker for call in days for ticker in tickers(call)))
        left = [Unswept(min(call.session for call in days), max(call.session for call in days), whose)]
    for earlier in resources.store.records.unswept(work.source, work.run_id):
        stocks = tuple(ticker for ticker in earlier.tickers if asset_class(ticker) == "stocks")
        log.info("sweeping up after a run that did not: %s to %s, %d tickers", earlier.first, earlier.last, len(stocks))
        left.append(replace(earlier, tickers=stocks))
    return left


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
