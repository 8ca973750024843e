"""What each table, view and column means, in words: docs/schema.md is made of it, and a test misses none.

A column's own ``comment`` in ``schema.py`` comes before what is said here of all columns of its name.
"""

from __future__ import annotations

from typing import Any, Final

#: Every table, in the order in which a reader meets them.
TABLES: Final = {
    "bar": "One bar: one ticker, timeframe and instant, prices as traded.",
    "gap": "A cell inside a watermark that has no bar, and why. What each reason means and when it is asked for again: "
    "[operations](operations.md#reasons-of-a-gap).",
    "watermark": "How far a ticker is accounted for: each session from the first to the last has its bar or its gap.",
    "quarantine": "A bar that broke a rule, as it came. It never reaches `bar`; its cell has a gap `quarantined`. The "
    "rules: [operations](operations.md#rules).",
    "revision": "Old and new values of a stored bar that the vendor changed, with the run that saw it. A bar that was "
    "taken out again has no new ones.",
    "split": "A split as the vendor lists it now.",
    "split_revision": "What the vendor had said of a split before it changed its mind.",
    "dividend": "A dividend as the vendor lists it now.",
    "ticker_history": "Who held a ticker, and when. The tenures of a ticker never overlap.",
    "roll": "Which contract a continuous future stood for, from which bar on. Two rows one after the other that name "
    "the same one are the seam of two ranges, not a roll.",
    "event": "What a detector found in stored bars. Nothing in it was computed from a bar after `ts`.",
    "event_mark": "How far events have been derived of which bars, and what is to be derived again.",
    "late_cell": "A cell that got another bar after it had some: a minute that came late.",
    "run": "One run: what it was asked, planned, called and stored, and its report.",
    "claim": "The cells of a call that a run has in flight, or had: no other run fetches them meanwhile.",
    "facts_watermark": "How far the splits or the dividends of the whole market have been looked at.",
}

#: Every view; docs/reading.md shows their use.
VIEWS: Final = {
    "bar_adjusted": "Every bar, adjusted by the splits that are known now. Without a split, prices are those of `bar`.",
    "bar_total_return": "Daily closes with splits adjusted and dividends reinvested.",
    "bar_history": "Raw bars of a company over its changes of ticker, under its last one, and of nobody else who held "
    "one of them.",
    "split_factor": "The spans between splits, each with the factor that brings its prices to today's scale.",
}

#: By name, in whichever table.
_COLUMNS: Final = {
    "ticker": "the vendor's symbol, as the vendor writes it, case-sensitive",
    "timeframe": "`1d`, `1h`, `30m`, `15m`, `5m` or `1m`",
    "session": "the date of the session, of the ticker's own calendar",
    "ts": "UTC instant at which the bar opens",
    "open": "first price",
    "high": "highest price",
    "low": "lowest price",
    "close": "last price",
    "volume": "shares, coins or contracts traded; may be fractional",
    "vwap": "price weighted by volume, where the vendor sends it",
    "trades": "how many trades, where the vendor sends it",
    "source": "whose it is: `polygon`, `databento`, `stand-in`; with `:1m` made of stored minutes, and of a bar with "
    "`-flat` by flat file",
    "run_id": "the run that wrote the row",
    "seen_at": "when it was seen",
    "updated_at": "when the row was last written",
    "first_session": "the first session accounted for",
    "last_session": "the last session accounted for",
    "first_day": "the first day",
    "last_day": "the last day that was looked at",
    "execution_date": "the first session on the new scale",
    "split_from": "so many shares became ...",
    "split_to": "... so many",
    "old_split_from": "so many shares became ...",
    "old_split_to": "... so many, as it was said before",
    "new_split_to": "as it is said now; NULL with the other",
    "vendor_id": "the vendor's own id of it",
    "ex_date": "the first session without the dividend",
    "currency": "of the amount, such as `USD`",
    "pay_date": "when it is paid",
    "instrument_id": "the company's or fund's id, over all its tickers",
    "name": "its name, empty where no source tells",
    "kind": "what kind of it",
    "detector": "such as `triangles`",
    "version": "the detector's revision and parameters",
    "from_timeframe": "the stored bars that the detector's were made of",
    "claim_id": "counts the claims",
    "revision_id": "counts the revisions; a later one has a greater number",
    "late_id": "counts the late cells",
    "factor": "what the raw prices are multiplied by, and the volume divided by",
    "before_session": "the first session after the span, on which the split took effect",
} | {
    f"{age}_{name}": f"the {word} {name}"
    for age, word in (("old", "replaced"), ("new", "new"))
    for name in ("open", "high", "low", "close", "volume", "vwap", "trades")
}

#: Of one table or view alone.
_OWN: Final = {
    "gap.reason": "`empty`, `unpublished`, `unentitled`, `failed`, `quarantined` or `pending`",
    "gap.attempts": "how often it was asked for",
    "gap.last_error": "what the last attempt met",
    "gap.run_id": "the run that met it",
    "watermark.run_id": "the run that moved it",
    "quarantine.rule": "the name of the rule that the bar broke",
    "quarantine.ts": "UTC instant at which the bar says that it opens",
    "split_factor.first_session": "the first session of the span",
    "ticker_history.first_day": "the first day on which the instrument had the ticker",
    "ticker_history.origin": "`vendor`: it was asked; `shipped`: from the list of index members in the package",
    "facts_watermark.kind": "`split` or `dividend`",
    "facts_watermark.first_day": "the first day that was looked at",
    "run.run_id": "the flow run's id in Prefect",
    "run.flow": "`ingest`, `backfill`, `retry-failed`, `reconcile`, `facts` or `derive-events`",
    "run.timeframe": "of its bars; the finest, where there are several",
    "run.asked": "the request: tickers, dates, timeframes",
    "run.planned_calls": "calls in the plan",
    "run.actual_calls": "calls made, retries included",
    "run.planned_cells": "cells in the plan",
    "run.done_cells": "cells of the plan that have been answered for",
    "run.accepted_bars": "bars that kept all rules",
    "run.inserted": "bars that were not there before",
    "run.rewritten": "bars whose values were replaced",
    "run.started_at": "when it began",
    "run.ended_at": "when it ended; NULL while it runs, or if it died",
    "run.report": "its report, as `CLOSINGBELL_HOME/runs/RUN_ID.json` has it",
    "claim.first_session": "the first session of the call",
    "claim.last_session": "the last session of the call",
    "claim.claimed_at": "when the call was claimed",
    "event.kind": "what was found, in the detector's words",
    "event_mark.first_session": "the first session derived",
    "roll.seen_at": "when the row was written",
    "bar_total_return.close": "the raw close",
    "bar_total_return.adjusted_close": "the close adjusted by splits",
    "bar_total_return.total_return_close": "the close adjusted by splits, with dividends reinvested",
    "bar_total_return.factor": "what splits multiply the close by",
    "bar_total_return.dividend_factor": "what dividends multiply it by besides",
    "bar_history.ticker": "the instrument's last ticker",
    "bar_history.traded_as": "the ticker under which the bar was traded",
    "bar_history.instrument_id": "the company's or fund's id; NULL where nobody identified it",
    "bar_history.factor": "what adjusts the bar by all splits of the instrument's life",
}


def meaning(table: str, column: Any) -> str:
    """What a column means.

    Args:
        table: the table's or view's name.
        column: its column, or the column's name.

    Raises:
        LookupError: nobody has said.
    """
    name = getattr(column, "name", column)
    told = _OWN.get(f"{table}.{name}") or getattr(column, "comment", None) or _COLUMNS.get(name)
    if not told:
        raise LookupError(f"{table}.{name} has no meaning: give the column a comment, or a line in {__name__}")
    return str(told)
