"""What ``closingbell status`` tells, in lines: of the whole database, or of one ticker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from closingbell.store.records import described


def ticker_lines(known: Mapping[str, Any]) -> Iterator[str]:
    """What is known of a ticker, as :meth:`closingbell.store.records.Records.of_ticker` has it."""
    yield known["ticker"]
    if not known["watermarks"]:
        yield "  nothing is known of it"
    for mark in known["watermarks"]:
        bars = next((row["bars"] for row in known["bars"] if row["timeframe"] == mark["timeframe"]), 0)
        yield (
            f"  {mark['source']} {mark['timeframe']}  {mark['first_session']} to {mark['last_session']}"
            f" accounted for, {bars:,} bars"
        )
    for found in known["events"]:
        of = f" made of {found['from_timeframe']}" if found["from_timeframe"] != found["timeframe"] else ""
        what = f"{found['events']:,} {found['detector']} ({found['version']})"
        span = f"{found['first_session']} to {found['last_session']}"
        yield f"  {what} on {found['source']} {found['timeframe']}{of}  {span}"
    for held in known["held_by"]:
        until = f"until {held['end_day']}" if held["end_day"] else "on"
        yield f"  held by     {held['name'] or held['instrument_id']} from {held['first_day']} {until}"
    told: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
        "gaps": ("gap", lambda row: f"{row['session']}  {row['reason']}  {row['last_error'] or ''}".rstrip()),
        "quarantine": ("quarantine", lambda row: f"{row['session']}  {row['rule']}  {row['message'] or ''}".rstrip()),
        "revisions": ("revision", lambda row: f"{described(row).partition(' ')[2]}  seen {row['seen_at']:%Y-%m-%d}"),
        "splits": ("split", lambda row: f"{row['execution_date']}  {row['split_to']:g}-for-{row['split_from']:g}"),
        "split_revisions": ("split was", _split_was),
        "dividends": ("dividend", lambda row: f"{row['ex_date']}  {row['cash_amount']:g} {row['currency']}"),
    }
    for row in known["rolls"]:
        before = f"from {row['from_id']} to" if row["from_id"] else "begins with"
        yield f"  roll        {row['session']}  {before} contract {row['instrument_id']}"
    for name, (word, line) in told.items():
        yield from (f"  {word:<10}  {line(row)}" for row in known[name])
        if more := known["counts"][name] - len(known[name]):
            yield f"  {word:<10}  and {more:,} before"


def _split_was(row: Mapping[str, Any]) -> str:
    """What was known of a split, and since when no longer."""
    new = f"{row['new_split_to']:g}-for-{row['new_split_from']:g}" if row["new_split_to"] else "taken back"
    old = f"{row['old_split_to']:g}-for-{row['old_split_from']:g}"
    return f"{row['execution_date']}  {old} until {row['seen_at']:%Y-%m-%d}, then {new}"


def overview_lines(whole: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is stored, and the last runs."""
    span = f", {whole['first_session']} to {whole['last_session']}" if whole["bars"] else ""
    yield f"{whole['bars']:,} bars of {whole['tickers']:,} tickers{span}"
    gaps = ", ".join(f"{count:,} {reason}" for reason, count in sorted(whole["gaps"].items())) or "none"
    yield f"gaps {gaps}; quarantined {whole['quarantined']:,}; revisions {whole['revisions']:,}"
    for run in runs:
        yield (
            f"  {run['started_at']:%Y-%m-%d %H:%M}  {run['run_id']}  {run['flow']:<12}  {run['state']:<18}"
            f"  {run['actual_calls']:,} of {run['planned_calls']:,} calls, {run['inserted']:,} bars"
        )
