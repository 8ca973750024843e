"""What a run shows of itself in the Prefect UI: its plan, its report; Markdown, with tables."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from closingbell.healing import AGAIN
from closingbell.intraday import is_intraday
from closingbell.night import Night
from closingbell.plan import Call, MarketDay, Plan
from closingbell.report import duration, lines, named
from closingbell.store.audit import Reconciliation
from closingbell.text import visible

#: What means something in Markdown, or in what its renderers know besides: tables, formulas, addresses.
_ACTIVE: Final = re.compile(r"[\\`*_{}\[\]<>#|~$&!]|(?<=\w)[:.](?=//|\w+\.)|@")

#: What becomes of a cell without a bar, by the reason of its gap.
_BECOMES: Final = {
    "failed": "asked for again by the next run",
    "pending": "asked for again by the next run",
    "unpublished": "asked for again by the next run",
    **{
        reason: f"asked for again {', '.join(map(str, days))} days after the last answer, or with *ask_again*"
        for reason, days in AGAIN.items()
    },
}

#: What a reason says.
_SAYS: Final = {
    "failed": "the call failed",
    "pending": "not tried, because a run was stopped",
    "unpublished": "the vendor did not have it yet",
    "empty": "the vendor says that there is no bar",
    "unentitled": "the vendor's plan or key does not reach it",
    "quarantined": "the bar broke a rule, and is kept apart",
}

#: What a person does about a failure, by the reason that its cells got.
_DO: Final = {
    "failed": "retry",
    "pending": "retry: it was not tried, because the run stopped",
    "unentitled": "no retry helps with this plan or key: use one that reaches it, or leave these tickers out",
}
_STAND: Final = "nothing: the stored bars stand, and the next recheck looks again"


def text(of: object) -> str:
    """What others wrote, to be read in Markdown as it is: in one line, and nothing in it acts."""
    return _ACTIVE.sub(r"\\\g<0>", visible(" ".join(str(of).split())))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table, a line each; numbers stand to the right."""
    found = [list(row) for row in rows]
    right = [bool(found) and all(isinstance(row[i], int) for row in found) for i in range(len(heads))]
    body = ["| " + " | ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in row) + " |" for row in found]
    return ["| " + " | ".join(heads) + " |", "|" + "|".join("---:" if r else "---" for r in right) + "|", *body]


def plan(
    told: Sequence[str],
    night: Night | None = None,
    quota: str = "",
    *,
    dry_run: bool = False,
    link: str | None = None,
    found: Reconciliation | None = None,
) -> str:
    """A run's plan, before its first call.

    Args:
        told: the plan in words, a line each.
        night: the run; None: one that asks for no bars.
        quota: in words.
        dry_run: whether it ends here.
        link: where the same is started for real.
        found: what there is of the cells asked for, to say what is left out.
    """
    if night is None:
        head = ["## Dry run: no call is made" if dry_run else "## Plan"]
        return "\n".join(
            [*head, "", *_next(dry_run=dry_run, link=link, calls=1), *(f"- {text(line)}" for line in told)]
        )
    whole, request = night.plan, night.request
    takes = _takes(whole)
    calls = f"{whole.planned_calls:,} call{'s' if whole.planned_calls != 1 else ''}"
    said = f"{calls}, {takes}" if whole.planned_calls else "nothing is missing, no call"
    facts: list[tuple[str, object]] = [
        ("tickers", f"{len(request.tickers):,} ({text(named(list(request.tickers)))})"),
        ("dates", f"{request.start} to {request.end}"),
        ("source", text(request.source)),
        ("calls", f"{whole.planned_calls:,}{_kinds(whole)}"),
        ("cells", f"{whole.cells:,} to fill, in {_rows(night)}"),
        ("time", f"{takes} at {quota}" if quota else takes),
    ]
    if whole.usd is not None:
        facts.append(("price", f"{whole.usd:,.2f} US dollars by {text(request.source)}, before anything is bought"))
    body = [
        f"## {'Dry run' if dry_run else 'Plan'}: {said}",
        "",
        *_next(dry_run=dry_run, link=link, calls=whole.planned_calls),
        *table(["", ""], facts),
        "",
    ]
    parts = [
        (part.timeframe, name, each.planned_calls, *_span(each.calls), each.cells, each.rows, _takes(each))
        for part in night.parts
        for name, each in part.plans.items()
        if each.calls
    ]
    if parts:
        heads = ["bars", "of", "calls", "first session", "last session", "cells", "rows at most", "time"]
        body += ["### By kind of bars", "", *table(heads, parts), ""]
    if found is not None:
        body += ["### What is there, and left out", "", *table(["cells", "", ""], _left(night, found)), ""]
    return "\n".join([*body, "### In words", "", *(f"- {text(line)}" for line in told), ""])


def _next(*, dry_run: bool, link: str | None, calls: int) -> list[str]:
    """What to do after a dry run."""
    if not dry_run:
        return []
    if not calls:
        return ["Nothing was asked for, and nothing would be.", ""]
    same = f"**[Start it for real]({link})**: the form, filled in with the same parameters." if link else ""
    return [f"No call was made. {same or 'To start it for real, run the same without *dry_run*.'}", ""]


def _takes(plan: Plan) -> str:
    return f"about {duration(plan.seconds)}" if plan.seconds >= 1 else "under a second"


def _kinds(plan: Plan) -> str:
    counts = [
        (plan.market_days, "market days"),
        (plan.flat_files, "flat files"),
        (plan.ranges, "ticker ranges"),
        (plan.minutes, "days of minutes"),
        (plan.splits, "for splits"),
    ]
    some = ", ".join(f"{n:,} {word}" for n, word in counts if n)
    pages = sum(call.pages for call in plan.calls)
    more = f"; {pages:,} pages" if pages > len(plan.calls) else ""
    return f" ({some}{more})" if some else ""


def _rows(night: Night) -> str:
    """How many rows are expected; of minutes, not every one is traded in."""
    most = "at most " if any(map(is_intraday, night.request.timeframes)) else ""
    return f"{most}{night.plan.rows:,} rows"


def _span(calls: Sequence[Call]) -> tuple[str, str]:
    """The first and the last session that some calls ask for."""
    days = [
        day
        for call in calls
        for day in ((call.session,) if isinstance(call, MarketDay) else (call.sessions[0], call.sessions[-1]))
    ]
    return str(min(days)), str(max(days))


def _left(night: Night, found: Reconciliation) -> list[tuple[int, str, str]]:
    """What there is of the cells asked for: stored, or a gap; and what the plan does about it."""
    again = night.request.recheck_sessions
    known = found.stored + sum(found.gaps.values())
    stored = f"left out, but for the last {again} sessions" if again else "left out"
    rows = [(found.expected - known, "never asked for, or lost", "asked for")]
    rows.append((found.stored, "stored", stored))
    return [row for row in [*rows, *_reasons(found.gaps)] if row[0]]


def _reasons(gaps: Mapping[str, int]) -> list[tuple[int, str, str]]:
    """Cells without a bar by reason: what it says, and what becomes of them."""
    return [(n, f"{reason}: {_SAYS.get(reason, '')}", _BECOMES.get(reason, "")) for reason, n in gaps.items()]


def report(told: Mapping[str, Any], link: str | None = None) -> str:
    """A run's report: how it ended, what failed by cause, what to do next; then all of it.

    Args:
        told: the report, as :func:`closingbell.report.build` makes it.
        link: where what failed is asked for again.
    """
    spent = told["seconds"].get("total", 0.0)
    body = [f"## {told['state']} in {duration(spent)}{_short(told)}", "", *_after(told, link)]
    if "error" not in told:
        body += [*table(["", ""], _numbers(told)), ""]
        if told["failed"]:
            body += ["### What failed, by cause", "", *table(*_failures(told["failed"])), ""]
        if told["gaps"]:
            gaps = [
                (n, f"{reason}: {_SAYS.get(reason, '')}", _BECOMES.get(reason, ""))
                for reason, n in told["gaps"].items()
            ]
            body += ["### Cells without a bar", "", *table(["cells", "why", "what becomes of them"], gaps), ""]
        if len(told["parts"]) > 1:
            heads = ["bars", "of", "calls planned", "cells", "stored", "bars stored"]
            parts = [
                [
                    part["timeframe"],
                    part["asset_class"],
                    *(part[name] for name in ("planned_calls", "expected_cells", "stored_cells", "stored_bars")),
                ]
                for part in told["parts"]
            ]
            body += ["### By kind of bars", "", *table(heads, parts), ""]
    shown = {key: value for key, value in told.items() if key not in ("failed", "unpublished", "unknown")}
    details = json.dumps(shown, indent=2, default=str)
    said = "\n".join(f"    {line}" for line in lines(told))
    return "\n".join([*body, "### In words", "", said, "", "### In full", "", f"```json\n{details}\n```", ""])


def _short(told: Mapping[str, Any]) -> str:
    """How much failed, for the title."""
    cells = sum(group["cells"] for group in told["failed"].values())
    calls = sum(group["calls"] for group in told["failed"].values())
    if cells:
        return f": {cells:,} of {told['expected_cells']:,} cells failed"
    return f": {calls:,} call{'s' if calls != 1 else ''} failed" if calls else ""


def _after(told: Mapping[str, Any], link: str | None) -> list[str]:
    """What came of it, and what to do next."""
    said = []
    if "error" in told:
        said.append(f"It had to stop: {text(told['error'])}")
    command = told["next_command"]
    if command:
        typed = f"`{command}`" if "`" not in command else text(command)
        said.append(f"**[Ask again for what failed]({link})**, or type {typed}." if link else f"Next, type {typed}.")
    elif told["state"] == "Completed":
        said.append("Every cell is accounted for. There is nothing to do.")
    return [line for one in said for line in (one, "")]


def _numbers(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    calls = f"{told['actual_calls']:,} made, {told['planned_calls']:,} planned"
    rows = [("calls", calls)]
    if told["expected_cells"]:
        gaps = sum(told["gaps"].values())
        rows.append(("cells", f"{told['expected_cells']:,} = {told['stored_cells']:,} stored + {gaps:,} without a bar"))
        rows.append(("bars", f"{told['inserted']:,} inserted, {told['rewritten']:,} rewritten"))
    counts = Counter({name: told[name] for name in ("splits", "dividends", "names") if told[name]})
    if counts:
        rows.append(("facts", ", ".join(f"{n:,} {name}" for name, n in counts.items()) + " new or changed"))
    if told["quarantined"]:
        rows.append(("kept apart", ", ".join(f"{n:,} {text(rule)}" for rule, n in told["quarantined"].items())))
    if told["unexplained"]:
        rows.append(("UNEXPLAINED", text(named(list(told["unexplained"])))))
    return rows


def _failures(failed: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    heads = ["cause", "cells", "calls", "tickers", "what to do", "for example"]
    rows: list[list[object]] = [
        [
            text(cause),
            group["cells"],
            group["calls"],
            text(named(group["tickers"])),
            what_to_do(group),
            text(group.get("example", "")),
        ]
        for cause, group in failed.items()
    ]
    return heads, rows


def what_to_do(group: Mapping[str, Any]) -> str:
    """What a person does about calls that failed of one cause; ``group`` is the report's."""
    if not group["cells"] and group["reason"] == "failed" and group["tickers"]:
        return _STAND
    return _DO.get(group["reason"], "retry")
