"""A run's report: what was planned, called, stored, failed, and the next command to type."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from closingbell.derive import NO_MINUTES
from closingbell.intraday import is_intraday
from closingbell.night import Night
from closingbell.plan import Plan
from closingbell.quality import EXAMPLES, REFUSED, RULES
from closingbell.request import Request
from closingbell.store.audit import Reconciliation
from closingbell.twins import Sight

_EXPLAINS: Final = {rule.name: rule.explains for rule in RULES} | {
    REFUSED: "the database does not take it",
    NO_MINUTES: "the minutes that it was made of are gone",
}

#: The one call that brings no bars, in a failure's words.
SPLITS: Final = "look at splits"

#: How many tickers a line names before it only counts them.
_NAMED = 8

#: How many single bars a report lists of a kind; the tables have them all.
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that did not bring its bars.

    Attributes:
        call: the call, in words.
        cause: what failed, the same sentence for equal causes.
        reason: the gap reason its cells got.
        cells: how many cells have no bar because of it: none if it was a recheck of stored bars.
        tickers: whose.
        detail: the whole message.
        asked: how many cells it was made for; where more than ``cells``, it was the recheck of some.
    """

    call: str
    cause: str
    reason: str
    cells: int
    tickers: tuple[str, ...]
    detail: str
    asked: int = 0


@dataclass(slots=True)
class Tally:
    """What a run's tasks add up to.

    ``calls_done`` are those of the plan, without the look at splits; ``sights`` are of ranges that came elsewhere.
    """

    calls_done: int = 0
    rows: int = 0
    inserted: int = 0
    rewritten: int = 0
    gaps: int = 0
    quarantined: int = 0
    splits: int = 0
    warned: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    minutes: list[str] = field(default_factory=list)
    valid: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    commits: int = 0
    retries: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)
    dividends: int = 0
    names: int = 0
    spared: int = 0
    flat: int = 0
    sights: list[Sight] = field(default_factory=list)

    def spend(self, stage: str, seconds: float) -> None:
        """Note seconds spent in a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add(self, other: Tally) -> None:
        """Take in another tally."""
        for name in (
            "calls_done",
            "rows",
            "inserted",
            "rewritten",
            "gaps",
            "quarantined",
            "splits",
            "dividends",
            "names",
            "spared",
            "flat",
            "valid",
            "commits",
            "retries",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for rule, count in other.warned.items():
            self.warned[rule] = self.warned.get(rule, 0) + count
        for rule, count in other.skipped.items():
            self.skipped[rule] = self.skipped.get(rule, 0) + count
        for stage, seconds in other.seconds.items():
            self.spend(stage, seconds)
        self.absent += other.absent
        self.sights += other.sights
        self.minutes += other.minutes
        for rule, examples in other.examples.items():
            self.examples[rule] = [*self.examples.get(rule, []), *examples][:EXAMPLES]
        self.failures += other.failures


def group_failures(failures: Iterable[Failure]) -> dict[str, dict[str, Any]]:
    """Failures by cause, most cells first: how many calls and cells, and whose, in whatever order answers came."""
    groups: dict[str, dict[str, Any]] = {}
    for failure in sorted(failures, key=lambda failure: failure.call):
        group = groups.setdefault(
            failure.cause, {"calls": 0, "cells": 0, "tickers": {}, "reason": failure.reason, "example": failure.detail}
        )
        group["calls"] += 1
        group["cells"] += failure.cells
        group["tickers"].update(dict.fromkeys(failure.tickers))
    for group in groups.values():
        group["tickers"] = list(group["tickers"])
    return dict(sorted(groups.items(), key=lambda item: -item[1]["cells"]))


def build(
    run_id: UUID,
    flow: str,
    night: Night,
    tally: Tally,
    reconciliation: Reconciliation,
    *,
    actual_calls: int,
    quarantined: Mapping[str, int],
    revisions: Sequence[str],
    seconds: float,
    over_flat_files: int = 0,
    parts: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The report of a run that got to its end, as plain JSON.

    ``stored_cells`` and ``gaps`` are the state of every cell asked for, so that
    ``expected_cells == stored_cells + sum(gaps)``; ``stored_bars`` are the bars of those cells, one each where all are
    daily. ``inserted`` and ``rewritten`` are what this run changed.
    """
    request, plan = night.request, night.plan
    failed = [failure for failure in tally.failures if failure.reason in ("failed", "unentitled", "pending")]
    state = final_state(failed, tally, reconciliation)
    return {
        **_blank(run_id, flow, request),
        "state": state,
        "plan": plan.summary(),
        "planned_calls": plan.planned_calls,
        "actual_calls": actual_calls,
        "spared_calls": tally.spared,
        "unchecked_calls": sum(failure.cells < failure.asked for failure in failed),
        "expected_cells": reconciliation.expected,
        "stored_cells": reconciliation.stored,
        "stored_bars": sum(part["stored_bars"] for part in parts) if parts else reconciliation.stored,
        "inserted": tally.inserted,
        "rewritten": tally.rewritten,
        "from_flat_files": tally.flat,
        "over_flat_files": over_flat_files,
        "revisions": list(revisions),
        "absent": tally.absent[:_LISTED],
        "minutes_differ": tally.minutes[:_LISTED],
        "gaps": dict(reconciliation.gaps),
        "unexplained": dict(reconciliation.unexplained),
        "mended": dict(sum((Counter(damage.counts()) for damage in night.damages.values()), Counter[str]())),
        "parts": [dict(part) for part in parts],
        "barless": list(reconciliation.barless),
        "quarantined": dict(quarantined),
        "loading": {
            "received": tally.rows,
            "valid": tally.valid,
            "skipped": dict(tally.skipped),
            "commits": tally.commits,
            "retries": tally.retries,
        },
        "warned": dict(tally.warned),
        "examples": {rule: list(examples) for rule, examples in tally.examples.items()},
        "splits": tally.splits,
        "failed": group_failures(failed),
        "unpublished": group_failures(f for f in tally.failures if f.reason == "unpublished"),
        "unknown": group_failures(f for f in tally.failures if f.reason == "empty"),
        "seconds": _rounded(tally, seconds),
        "next_command": next_command(run_id, failed, reconciliation),
    }


def final_state(failed: list[Failure], tally: Tally, reconciliation: Reconciliation | None = None) -> str:
    """``Completed``; ``PartiallyCompleted``: some calls failed; ``Failed``: all for bars, or cells are unexplained."""
    if reconciliation is not None and not reconciliation.balanced:
        return "Failed"
    if not failed:
        return "Completed"
    return "PartiallyCompleted" if tally.calls_done > sum(f.call != SPLITS for f in failed) else "Failed"


def next_command(run_id: UUID, failed: list[Failure], reconciliation: Reconciliation) -> str | None:
    """What to type next; None when there is nothing that a command could do."""
    if not reconciliation.balanced:
        return "closingbell doctor"
    # A failed recheck leaves stored bars as they are: there is nothing to retry, the next recheck is tomorrow's.
    worth = any(f.reason in ("failed", "pending") and (f.cells or f.call == SPLITS) for f in failed)
    return f"closingbell retry {run_id}" if worth else None


def stopped(
    run_id: UUID, flow: str, message: str, request: Request | None, seconds: float, state: str = "Failed"
) -> dict[str, Any]:
    """The report of a run that had to stop: what its flushes committed stands, the next run goes on from there."""
    failed = {message: {"calls": 0, "cells": 0, "tickers": []}}
    return {
        **_blank(run_id, flow, request),
        "state": state,
        "error": message,
        "failed": failed,
        "seconds": {"total": round(seconds, 3)},
    }


def looked(
    run_id: UUID,
    flow: str,
    request: Request,
    plan: Mapping[str, int],
    tally: Tally,
    *,
    actual_calls: int,
    seconds: float,
) -> dict[str, Any]:
    """The report of a run that looked up facts and stored no bar."""
    failed = tally.failures
    return {
        **_blank(run_id, flow, request),
        "state": final_state(failed, tally),
        "plan": dict(plan),
        "planned_calls": plan["planned_calls"],
        "actual_calls": actual_calls,
        "splits": tally.splits,
        "dividends": tally.dividends,
        "names": tally.names,
        "failed": group_failures(failed),
        "seconds": _rounded(tally, seconds),
    }


def _blank(run_id: UUID, flow: str, request: Request | None) -> dict[str, Any]:
    """Every key of a report, as it is for a run that did nothing."""
    asked = {**request.as_dict(), "tickers": len(request.tickers)} if request else {}
    calls = ("planned_calls", "actual_calls", "spared_calls", "unchecked_calls")
    counts = (*calls, "expected_cells", "stored_cells", "stored_bars", "inserted", "rewritten")
    groups = ("gaps", "unexplained", "mended", "quarantined", "warned", "examples", "failed", "unpublished", "unknown")
    return {
        "run_id": str(run_id),
        "state": "Failed",
        "flow": flow,
        "asked": asked,
        "notes": list(request.notes) if request else [],
        "plan": {},
        **dict.fromkeys(counts, 0),
        **{name: [] for name in ("revisions", "absent", "minutes_differ", "barless", "parts")},
        **{name: {} for name in (*groups, "loading")},
        **dict.fromkeys(("splits", "dividends", "names"), 0),
        "seconds": {},
        "next_command": None,
    }


def _rounded(tally: Tally, total: float) -> dict[str, float]:
    return {**{name: round(value, 3) for name, value in sorted(tally.seconds.items())}, "total": round(total, 3)}


def write(report: Mapping[str, Any], home: Path) -> Path:
    """Write a report to ``runs/<run_id>.json`` below ``CLOSINGBELL_HOME``; a reader never sees half of one."""
    path = home / "runs" / f"{report['run_id']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(report, indent=2, default=str) + "\n")
    partial.replace(path)
    return path


def named(tickers: list[str]) -> str:
    """A few tickers by name, the others by number."""
    shown = ", ".join(tickers[:_NAMED])
    return shown if len(tickers) <= _NAMED else f"{shown} and {len(tickers) - _NAMED:,} more"


def night_lines(night: Night, quota: str) -> list[str]:
    """What a run will do, in words: what is asked, calls by kind, cells, duration at the configured quota."""
    request, plan = night.request, night.plan
    plural = "s" if len(request.tickers) != 1 else ""
    asked = f"{len(request.tickers):,} ticker{plural}, {request.start} to {request.end}{_of_bars(request)}"
    if request.recheck_sessions:
        asked += f", the last {request.recheck_sessions} sessions again"
    told = [asked, *request.notes]
    for timeframe, damage in night.damages.items():
        of = f" of {timeframe}" if timeframe != "1d" else ""
        told.append(f"the ledger{of} is mended: {damage}")
    if not plan.planned_calls:
        return [*told, "nothing is missing: no call"]
    kinds = [
        (plan.market_days, "market day"),
        (plan.flat_files, "flat file"),
        (plan.ranges, "ticker range"),
        (plan.minutes, "day of minutes"),
    ]
    words = ", ".join(f"{n:,} {_plural(word, n)}" for n, word in [*kinds, (plan.splits, SPLITS)] if n)
    calls = f"{plan.planned_calls:,} call{'s' if plan.planned_calls != 1 else ''}: {words}"
    time = f"about {duration(plan.seconds)}" if plan.seconds >= 1 else "under a second"
    rows = f"{plan.rows:,} rows"
    if any(map(is_intraday, request.timeframes)):  # and not every minute is traded in
        pages = sum(call.pages for call in plan.calls)
        rows = f"at most {rows} on {pages:,} page{'s' if pages != 1 else ''}"
    cost = f"{plan.cells:,} cells in {rows}, {time} at {quota}"
    usd = [] if plan.usd is None else [f"{plan.usd:,.2f} US dollars by {request.source}, before anything is bought"]
    return [*told, calls, *_of_parts(night), cost, *usd]


def _of_parts(night: Night) -> list[str]:
    """What each timeframe and asset class has of the calls, where there are several."""
    told = [
        f"{part.timeframe} {name}: {each.planned_calls:,} call{'s' if each.planned_calls != 1 else ''},"
        f" {each.cells:,} cells"
        for part in night.parts
        for name, each in part.plans.items()
        if each.calls
    ]
    return told if len(told) > 1 else []


def _of_bars(request: Request) -> str:
    """Which bars are asked for, where they are not daily ones."""
    if not any(map(is_intraday, request.timeframes)):
        return ""
    hours = "" if request.extended_hours else ", regular hours only"
    return f", {' and '.join(request.timeframes)}{hours}"


def part(source: str, timeframe: str, asset_class: str, plan: Plan, found: Reconciliation, bars: int) -> dict[str, Any]:
    """What a run planned for the bars of one timeframe and asset class, and what there is of them now."""
    return {
        "source": source,
        "timeframe": timeframe,
        "asset_class": asset_class,
        "planned_calls": plan.planned_calls,
        "planned_cells": plan.cells,
        "expected_cells": found.expected,
        "stored_cells": found.stored,
        "stored_bars": bars,
        "gaps": dict(found.gaps),
    }


def _part(part: Mapping[str, Any]) -> str:
    """Such a part in words: how much of what was asked for is there."""
    share = part["stored_cells"] / part["expected_cells"] if part["expected_cells"] else 1.0
    gaps = "".join(f" + {n:,} {reason}" for reason, n in sorted(part["gaps"].items()))
    sums = f"{part['expected_cells']:,} expected = {part['stored_cells']:,} stored{gaps}"
    made = f" from {part['source']}" if ":" in part["source"] else ""
    return f"        {part['timeframe']} {part['asset_class']}{made}: {sums}, {share:.1%}"


def _loading(loading: Mapping[str, Any]) -> str:
    """The closing tally: what came, what of it could be stored, in how many transactions."""
    skipped = ", ".join(f"{count:,} {rule}" for rule, count in sorted(loading["skipped"].items()))
    sums = f"{loading['received']:,} received, {loading['valid']:,} valid"
    left_out = f"{sum(loading['skipped'].values()):,} skipped" + (f" ({skipped})" if skipped else "")
    retries = f"{loading['retries']:,} {'retry' if loading['retries'] == 1 else 'retries'}"
    return f"{sums}, {left_out}; {loading['commits']:,} {_plural('commit', loading['commits'])}, {retries}"


def _rule(rule: str, count: int, report: Mapping[str, Any]) -> str:
    """How many bars broke a rule, what it says, and the first ones of this run."""
    examples = report["examples"].get(rule, ())
    such_as = f" ({', '.join(examples)})" if examples else ""
    return f"{count:,} {rule}: {_EXPLAINS.get(rule, '')}{such_as}"


def _plural(words: str, count: int) -> str:
    """``market days``, ``days of minutes``; what is said of one only stays."""
    first, of, rest = words.partition(" of ")
    return words if count == 1 else f"{first}s{of}{rest}"


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report in words, a line each."""
    cells = " + ".join(
        [f"{report['stored_cells']:,} stored", *(f"{n:,} {reason}" for reason, n in sorted(report["gaps"].items()))]
    )
    spared = f", {report['spared_calls']:,} left to another run that made them" if report["spared_calls"] else ""
    calls = f"calls   {report['actual_calls']:,} made, {report['planned_calls']:,} planned{spared}"
    if "error" in report:
        told = [f"{report['state']}: {report['error']}"]
        if report["expected_cells"]:
            told += [calls, f"cells   {report['expected_cells']:,} expected = {cells}"]
        return [*told, f"next    {report['next_command']}"] if report["next_command"] else told
    told = [f"{report['state']} in {duration(report['seconds']['total'])}", calls]
    if report["expected_cells"]:
        told.append(f"cells   {report['expected_cells']:,} expected = {cells}")
        told += [_part(part) for part in report["parts"] if len(report["parts"]) > 1]
        many = f"{report['stored_bars']:,} stored, " if report["stored_bars"] != report["stored_cells"] else ""
        told.append(f"bars    {many}{report['inserted']:,} inserted, {report['rewritten']:,} rewritten")
    if report.get("from_flat_files"):
        told.append(f"bars    {report['from_flat_files']:,} of these cells' came by flat file, without vwap")
    if report.get("over_flat_files"):
        told.append(f"bars    {report['over_flat_files']:,} had come by flat file, and have their vwap now")
    if report["plan"].get("usd") is not None or report["loading"].get("retries"):
        told.append(f"loaded  {_loading(report['loading'])}")
    if report["asked"].get("compare"):
        differ, absent = report["rewritten"], len(report["absent"])
        told.append(f"compared  {report['plan']['cells']:,} cells: {differ:,} bars differed, {absent:,} were not there")
    facts = [
        f"{count:,} {name if count != 1 else name[:-1]}"
        for name in ("splits", "dividends", "names")
        if (count := report[name])
    ]
    if facts:
        told.append(f"facts   {', '.join(facts)} new or changed")
    told += report.get("told", ())  # of a run that is about something else
    if report["barless"]:
        told.append(f"no bar  at all: {named(report['barless'])}")
    if report["unexplained"]:
        told.append(f"cells   UNEXPLAINED in {named(list(report['unexplained']))}")
    for what, title in (
        ("revisions", "changed"),
        ("absent", "not in the vendor's answer, though stored"),
        ("minutes_differ", "not what its minutes make"),
    ):
        told += [f"{title}  {one}" for one in report[what][:_NAMED]]
        if len(report[what]) > _NAMED:
            told.append(f"{title}  and more: closingbell status TICKER shows all of a ticker")
    if report["quarantined"]:
        told += [f"kept apart  {_rule(rule, n, report)}" for rule, n in report["quarantined"].items()]
    told += [f"warned  {_rule(rule, n, report)}" for rule, n in report["warned"].items()]
    for word in ("failed", "unpublished", "unknown"):
        for cause, group in report[word].items():
            of = f": {group['cells']:,} cells of {named(group['tickers'])}" if group["cells"] else ""
            if not of and group["tickers"]:
                stands = f": recheck of {named(group['tickers'])}, stored bars stand"
                of = stands if report["expected_cells"] else f": {named(group['tickers'])}"
            told += [f"{word}  {cause}{of}", f"        {group['example']}"]
    spent = ", ".join(f"{value:,.1f} s {name}" for name, value in report["seconds"].items() if name != "total")
    told.append(f"time    {spent}")
    if report["next_command"]:
        told.append(f"next    {report['next_command']}")
    return told


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
