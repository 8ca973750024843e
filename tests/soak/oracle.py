"""What has to hold after a night, whatever went wrong in it; each law says in a line what it found broken.

The laws look at the tables themselves and at what is true in the market. They share no code with the audit that they
hold to account, and no law is relaxed because of a fault: a fault only says which reasons a missing cell may have.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, Final

from closingbell.calendar import calendar_for
from closingbell.cells import ABSENT
from closingbell.store import Store
from tests.soak.contents import Contents
from tests.soak.runs import Ran
from tests.soak.world import Cell, Values, World

#: A row of the market's log.
Call = Mapping[str, Any]

#: How many cells a line names.
_NAMED: Final = 4


def lasting(contents: Contents, world: World) -> Iterator[str]:
    """What holds at every moment, also right after a kill.

    No cell has two bars; inside a watermark each session has a bar or a gap, never both, and outside there is neither;
    every bar is one that the market has been true with; what is in quarantine by the ledger is there.
    """
    yield from _told("have two bars, or one of another instant", contents.doubles)
    inside = {
        (ticker, day)
        for ticker, (first, last) in contents.marks.items()
        for day in calendar_for("stocks").sessions(first, last).tolist()
    }
    bars, gaps = contents.bars.keys(), contents.gaps.keys()
    yield from _told("have neither a bar nor a gap", inside - bars - gaps)
    yield from _told("have both a bar and a gap", bars & gaps)
    yield from _told("lie outside of their watermark", (bars | gaps) - inside)
    false = [cell for cell, values in contents.bars.items() if values not in world.ever_true(cell)]
    yield from _told("have a bar that was never true", false, contents.bars)
    unproven = {cell for cell, (reason, _) in contents.gaps.items() if reason == "quarantined"}
    yield from _told("are in quarantine without their bar", unproven - contents.quarantined.keys())


def audited(contents: Contents, store: Store) -> Iterator[str]:
    """The system's own audit finds the same sums, and nothing wrong."""
    found = store.records.audit().get(("polygon", "1d"))
    if found is None:
        if contents.marks:
            yield "the audit knows of no ledger"
        return
    if not found.balanced:
        yield f"the audit says {found.damage}: {found.damage.per_ticker}"
    reasons = Counter(reason for reason, _ in contents.gaps.values())
    ours = (len(contents.bars) + len(contents.gaps), len(contents.bars), dict(reasons))
    theirs = (found.expected, found.stored, dict(found.gaps))
    if ours != theirs:
        yield f"the audit counts {theirs}, there are {ours}"


def revised(before: Contents, after: Contents) -> Iterator[str]:
    """Each change of a stored bar has left its revisions, from the old values to the new ones, and nothing else has."""
    if after.revisions[: len(before.revisions)] != before.revisions:
        yield "old revisions have changed"
    paths: dict[Cell, list[Values | None]] = {}
    for one in after.revisions[len(before.revisions) :]:
        path = paths.setdefault(one.cell, [one.old])
        if path[-1] != one.old:
            yield f"{_name(one.cell)}: a revision from {one.old}, but the bar was {path[-1]}"
        if one.old == one.new:
            yield f"{_name(one.cell)}: a revision that changes nothing"
        path.append(one.new)
    for cell in before.bars.keys() | paths.keys():
        old, new = before.bars.get(cell), after.bars.get(cell)
        path = paths.get(cell, [old])
        # A bar that came in this night may have been revised in it as well, or have been taken out and come back.
        if (old is not None and path[0] != old) or (path[-1] is not None and path[-1] != new):
            yield f"{_name(cell)}: it was {old} and is {new}, its revisions say {path}"
        if path[-1] is None and cell in paths and new is None and after.gaps.get(cell, ("",))[0] != "quarantined":
            yield f"{_name(cell)}: taken out, and not in quarantine"


def explained(contents: Contents, world: World, ran: Sequence[Ran], reasons: frozenset[str]) -> Iterator[str]:
    """What a run that came to its end was asked for is accounted for, and what is missing has a reason that fits.

    Args:
        contents: after the night.
        world: knows what is true.
        ran: the night's runs.
        reasons: those that the night's faults can give to a cell that has a true bar.
    """
    for run in ran:
        if run.ended:
            cells = [cell for cell in run.cells() if cell not in contents.bars and cell not in contents.gaps]
            yield from _told("were asked for, and nobody knows of them", cells)
    for cell, (reason, error) in contents.gaps.items():
        true = world.true(cell[0]).get(cell)
        fitting = reasons if true is not None else reasons | {"empty"}
        if reason == "unpublished" and _absent(cell, world):
            continue
        if reason not in fitting:
            why = "is missing, though true" if true is not None else "is no bar"
            yield f"{_name(cell)} {why}, because it is {reason} ({error})"
        if reason == "failed" and not error:
            yield f"{_name(cell)} failed, and nothing says how"


def told(ran: Sequence[Ran], before: Contents, after: Contents) -> Iterator[str]:
    """Each run's row, report, exit code and state in Prefect say the same, and it is so."""
    for run in ran:
        yield from (f"{run}: {line}" for line in _told_by(run, after))
    new = {run_id for run_id in after.runs if run_id not in before.runs}
    if any(run.report is None for run in ran):
        return
    if strangers := new - {run.run_id for run in ran}:
        yield f"nobody started the runs {strangers}"
    grown = len(after.bars.keys() - before.bars.keys())
    taken = sum(one.new is None for one in after.revisions[len(before.revisions) :])
    inserted = sum(run.report["inserted"] for run in ran if run.report)
    if inserted - taken > grown or (not taken and inserted != grown):
        yield f"the reports say {inserted} bars were inserted, there are {grown} more ({taken} taken out)"
    changed = [one for one in after.revisions[len(before.revisions) :] if one.new is not None]
    for run in ran:
        said, found = run.report and run.report["rewritten"], sum(one.run_id == run.run_id for one in changed)
        if said is not None and said != found:
            yield f"{run}: the report says {said} rewritten, there are {found} revisions"


def _told_by(run: Ran, after: Contents) -> Iterator[str]:
    if run.hung:
        yield "it did not end"
        return
    row = after.runs.get(run.run_id) if run.run_id else None
    if run.killed:
        if run.ask.kill and run.ask.kill.by is signal.SIGINT and row is not None and row["state"] == "Running":
            yield "it was broken off, and its row says that it is running"
        return
    report = run.report
    if report is None:
        if not run.may_stop:
            yield f"it left no report: {run.words}"
        return
    stopped = "error" in report
    if stopped and not run.may_stop:
        yield f"it stopped: {report['error']}"
    if row is not None and row["report"] is not None:
        differing = {name for name in report if row["report"].get(name) != report[name]}
        if differing - {"seconds"} or row["state"] != report["state"]:
            yield f"its row says {row['state']}, its report {report['state']}; they differ in {sorted(differing)}"
    elif not (stopped and run.may_stop):
        yield f"its row has no report: {row and row['state']}"
    if not stopped and report["expected_cells"] != report["stored_bars"] + sum(report["gaps"].values()):
        yield f"its sums are off: {report['expected_cells']} = {report['stored_bars']} + {report['gaps']}"
    if report["unexplained"] and not stopped:
        yield f"cells are unexplained: {report['unexplained']}"
    code = 2 if stopped else 0 if report["state"] == "Completed" else 1
    if run.exit_code is not None and run.exit_code != code:
        yield f"it ended with {run.exit_code}, its report means {code}"
    prefect = ("FAILED",) if report["state"] == "Failed" else ("COMPLETED",)
    if run.state is not None and run.state not in prefect:
        yield f"Prefect says {run.state}, the report {report['state']}"
    missing = sum(report["gaps"].get(reason, 0) for reason in ("failed", "pending"))
    if report["state"] == "Completed" and missing:
        yield f"Completed, with {missing} cells that nobody got"


def counted(ran: Sequence[Ran], calls: Sequence[Call], quota: tuple[int, float], *, heard: bool) -> Iterator[str]:
    """The calls that the market saw are those that the reports count, and never more than the quota in any window.

    Args:
        ran: the night's runs.
        calls: the market's log of the night.
        quota: calls, seconds.
        heard: whether every call must have reached the market.
    """
    number, seconds = quota
    times = sorted(call["time"] for call in calls)
    for first, last in zip(times, times[number:], strict=False):
        if last - first < seconds:
            yield f"{number + 1} calls within {last - first:.4f} s, the quota is {number} in {seconds} s"
            break
    if all(run.report for run in ran):
        said = sum(run.report["actual_calls"] for run in ran if run.report)
        if said < len(calls) or (heard and said != len(calls)):
            yield f"the reports say {said} calls, the market saw {len(calls)}"


def apart(calls: Sequence[Call]) -> Iterator[str]:
    """No two calls for the same bars were on their way at once."""
    until: dict[str, float] = {}
    for call in sorted(calls, key=lambda call: float(call["time"])):
        path = str(call["path"])
        if path.startswith("/v2/aggs"):
            if call["time"] < until.get(path, 0.0):
                yield f"asked for again while on its way: {path}"
            until[path] = call["time"] + call["seconds"]


def lacking(contents: Contents, world: World) -> list[Cell]:
    """The cells that differ from what a calm night brings: the bars that are true now, and no others.

    A session of a ticker that no market day carries is none until it has been asked for by name, the next night.
    """
    stored, true = contents.bars, world.expected()
    cells = [cell for cell, values in true.items() if values is not None and stored.get(cell) != values]
    cells = [cell for cell in cells if not _waits_for_its_name(cell, contents, world)]
    return cells + [cell for cell in stored if cell not in true]


def settled(contents: Contents, world: World) -> Iterator[str]:
    """What a calm night leaves: of all that was ever asked for the true bars, and a gap only where there is none."""
    yield from _told("are not as they are true", lacking(contents, world), contents.bars)
    true = world.expected()
    for cell, (reason, error) in contents.gaps.items():
        absent = reason == "unpublished" and error == ABSENT and _absent(cell, world)
        if reason != "empty" and not absent:
            yield f"{_name(cell)} is {reason} ({error})"
        elif true.get(cell) is not None and not _waits_for_its_name(cell, contents, world):
            yield f"{_name(cell)} has a true bar, and is {reason} ({error})"
    for ticker, span in world.asked.items():
        if contents.marks.get(ticker) != span:
            yield f"{ticker} is accounted for {contents.marks.get(ticker)}, and was asked for {span}"
    days = [str(day) for day in (world.sessions(10)[0], world.session)]
    listed = {(s.ticker, s.execution_date): s for s in world.truth.splits(None, world.now)}
    true_splits = {
        (s.ticker, date.fromisoformat(s.execution_date), s.split_from, s.split_to)
        for s in listed.values()
        if days[0] <= s.execution_date <= days[1]
    }
    known = {split for split in contents.splits if days[0] <= str(split[1]) <= days[1]}
    if known != true_splits:
        yield f"splits of the last days: {known ^ true_splits} are known or true, not both"


def _absent(cell: Cell, world: World) -> bool:
    """Whether the market day does not carry the cell: it is asked for by name the next night."""
    return world.true(cell[0]).get(cell) is None or not world.on_market_day(cell[0])


def _waits_for_its_name(cell: Cell, contents: Contents, world: World) -> bool:
    reason, error = contents.gaps.get(cell, ("", None))
    return reason == "unpublished" and error == ABSENT and not world.on_market_day(cell[0])


def _told(what: str, cells: Iterable[Cell], bars: Mapping[Cell, Values] | None = None) -> Iterator[str]:
    found = sorted(cells)
    if found:
        shown = ", ".join(_name(cell) + (f" {bars[cell]}" if bars and cell in bars else "") for cell in found[:_NAMED])
        yield f"{len(found)} cells {what}: {shown}"


def _name(cell: Cell) -> str:
    return f"{cell[0]} {cell[1]}"
