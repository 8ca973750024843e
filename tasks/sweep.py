"""What came market day by market day, looked at once more when all of it is there."""

from __future__ import annotations

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
from tasks.batch import Work
from tasks.context import NEAR
from tasks.resources import Resources

#: Tickers looked at together: as many bars as a page or two has, however many a run is about.
_TOGETHER: Final = 250

#: A bar this long before the first session of the run may only now have the neighbours that tell on it.
_EARLIER: Final = timedelta(days=7)


def sweep_up(work: Work, night: Night, resources: Resources) -> Tally:
    """Take out the bars that prove to be on another scale, or another ticker's, now that their neighbours are there.

    The bars of a market day are judged by what was stored before them; which of two bars is the odd one is often
    only seen from the bars after them.
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
    days = [call for call in night.plan.calls if isinstance(call, MarketDay) and call.timeframe == "1d"]
    if days:
        splits = resources.context_of("1d").splits
        first, last = min(call.session for call in days), max(call.session for call in days)
        whose = list(dict.fromkeys(ticker for call in days for ticker in tickers(call)))
        for together in batches(whose, _TOGETHER):
            series = records.series(work.source, "1d", together, first - NEAR, last + NEAR)
            odd, rules = _odd(series, splits, first - _EARLIER, last)
            _take_out(odd, rules, work, resources, tally)
    tally.spend("checks", time.perf_counter() - begun)
    return tally


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
