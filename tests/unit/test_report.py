"""The report: true, readable, and with the next command."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from closingbell import report
from closingbell.healing import Damage
from closingbell.night import Night
from closingbell.plan import MarketDay, Plan, TickerRange
from closingbell.report import Failure, Tally
from closingbell.request import Request
from closingbell.store.audit import Reconciliation

RUN = UUID("11111111-2222-3333-4444-555555555555")
DAY = date(2024, 6, 11)
TICKERS = tuple(f"T{i}" for i in range(523))
REQUEST = Request(TICKERS, DAY, DAY, 2, notes=("2024-06-20 is not over: asking up to 2024-06-11",))
PLAN = Plan((MarketDay(DAY, TICKERS), TickerRange("NEW", (DAY,), 2, 70_000)), 524, 36.04, 1)
NOW = datetime(2024, 6, 12, 6, tzinfo=UTC)
NIGHT = Night(REQUEST, (), PLAN, None, NOW)
WHOLE = Reconciliation(523, 520, {"empty": 2, "quarantined": 1})


def failure(ticker: str = "AAPL", cause: str = "the vendor's server failed", reason: str = "failed") -> Failure:
    return Failure(f"range {ticker}", cause, reason, 5, (ticker,), f"{cause}: HTTP 500 for {ticker}")


def built(tally: Tally | None = None, reconciliation: Reconciliation = WHOLE) -> dict[str, Any]:
    tally = tally or Tally(calls_done=3)
    return report.build(
        RUN, "ingest", NIGHT, tally, reconciliation,
        actual_calls=5, quarantined={"ohlc_order": 1}, revisions=[], seconds=12.34567,
    )  # fmt: skip


def test_a_report_is_json_with_everything_in_it() -> None:
    tally = Tally(3, rows=11_000, inserted=500, rewritten=3, warned={"zero_volume": 4}, seconds={"api": 1.23456})
    told = built(tally)
    assert json.loads(json.dumps(told)) == told
    numbers = {name: told[name] for name in ("planned_calls", "actual_calls", "expected_cells", "stored_bars")}
    assert numbers == {"planned_calls": 4, "actual_calls": 5, "expected_cells": 523, "stored_bars": 520}
    assert told["run_id"] == str(RUN)
    assert told["expected_cells"] == told["stored_bars"] + sum(told["gaps"].values())
    assert (told["inserted"], told["rewritten"], told["warned"]) == (500, 3, {"zero_volume": 4})
    assert told["seconds"] == {"api": 1.235, "total": 12.346}
    assert told["asked"]["tickers"] == 523
    assert (told["state"], told["failed"], told["next_command"]) == ("Completed", {}, None)


@pytest.mark.parametrize(
    ("calls", "reasons", "state"),
    [
        (3, [], "Completed"),
        (0, [], "Completed"),
        (3, ["failed"], "PartiallyCompleted"),
        (3, ["failed", "unentitled"], "PartiallyCompleted"),
        (3, ["failed", "failed", "unentitled"], "Failed"),
        (3, ["unpublished", "empty"], "Completed"),
        (1, ["unpublished"], "Completed"),
    ],
)
def test_the_final_state(calls: int, reasons: list[str], state: str) -> None:
    told = built(Tally(calls, failures=[failure(reason=reason) for reason in reasons]))
    assert told["state"] == state
    assert told["next_command"] == (None if state == "Completed" else f"closingbell retry {RUN}")


def test_unexplained_cells_fail_a_run_whatever_else_it_did() -> None:
    told = built(
        reconciliation=Reconciliation(523, 500, {}, Damage(tuple(("AAPL", date(2026, 3, day)) for day in range(2, 25))))
    )
    assert (told["state"], told["next_command"]) == ("Failed", "closingbell doctor")
    assert any("UNEXPLAINED in AAPL" in line for line in report.lines(told))


def test_failures_are_grouped_by_cause_the_worst_first() -> None:
    failures = [failure("A", "slow"), failure("B", "dead"), failure("C", "dead"), failure("B", "dead")]
    groups = report.group_failures(failures)
    assert list(groups) == ["dead", "slow"]
    assert groups["dead"] == {
        "calls": 3,
        "cells": 15,
        "tickers": ["B", "C"],
        "reason": "failed",
        "example": "dead: HTTP 500 for B",
    }


def test_each_failure_is_told_where_it_belongs() -> None:
    kinds = {"failed": "server", "unentitled": "plan", "unpublished": "today", "empty": "typo"}
    told = built(Tally(9, failures=[failure(cause=cause, reason=reason) for reason, cause in kinds.items()]))
    assert list(told["failed"]) == ["server", "plan"]
    assert list(told["unpublished"]) == ["today"]
    assert list(told["unknown"]) == ["typo"]


def test_the_report_in_words() -> None:
    failures = [failure(f"T{i}") for i in range(10)]
    tally = Tally(99, inserted=12_345, warned={"zero_volume": 4}, failures=failures, seconds={"api": 3.0})
    assert report.lines(built(tally)) == [
        "PartiallyCompleted in 12.3 s",
        "calls   5 made, 4 planned",
        "cells   523 expected = 520 stored + 2 empty + 1 quarantined",
        "bars    12,345 inserted, 0 rewritten",
        "kept apart  1 ohlc_order: the high is not the highest or the low not the lowest price",
        "warned  4 zero_volume: nothing was traded",
        "failed  the vendor's server failed: 50 cells of T0, T1, T2, T3, T4, T5, T6, T7 and 2 more",
        "        the vendor's server failed: HTTP 500 for T0",
        "time    3.0 s api",
        f"next    closingbell retry {RUN}",
    ]


def test_the_plan_in_words() -> None:
    assert report.night_lines(NIGHT, "5 calls a minute") == [
        "523 tickers, 2024-06-11 to 2024-06-11, the last 2 sessions again",
        "2024-06-20 is not over: asking up to 2024-06-11",
        "4 calls: 1 market day, 1 ticker range, 1 look at splits",
        "524 cells in 81,000 rows, about 36.0 s at 5 calls a minute",
    ]
    nothing = Night(Request(("A",), DAY, DAY), (), Plan((), 0, 0.0), None, NOW)
    assert report.night_lines(nothing, "")[-1] == "nothing is missing: no call"


def test_a_run_that_had_to_stop_says_why() -> None:
    told = report.stopped(RUN, "ingest", "the vendor refuses the key", REQUEST, 0.5)
    assert json.loads(json.dumps(told)) == told
    assert told["state"] == "Failed"
    assert report.lines(told) == ["Failed: the vendor refuses the key"]
    assert report.stopped(RUN, "ingest", "no setting", None, 0.1)["asked"] == {}
    assert set(told) >= {
        "run_id", "state", "planned_calls", "actual_calls", "expected_cells", "stored_bars", "inserted", "rewritten",
        "gaps", "quarantined", "failed", "seconds",
    }  # fmt: skip


def test_a_run_that_had_to_stop_says_what_there_is_and_how_to_go_on() -> None:
    told = report.stopped(RUN, "ingest", "the run was stopped by Ctrl-C", REQUEST, 1.5, "Cancelled")
    there = {"planned_calls": 4, "actual_calls": 2, "expected_cells": 523, "stored_cells": 500}
    gaps = {"pending": 20, "empty": 3}
    assert report.lines({**told, **there, "gaps": gaps, "next_command": f"closingbell retry {RUN}"}) == [
        "Cancelled: the run was stopped by Ctrl-C",
        "calls   2 made, 4 planned",
        "cells   523 expected = 500 stored + 3 empty + 20 pending",
        f"next    closingbell retry {RUN}",
    ]


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    path = report.write(built(), tmp_path)
    assert path == tmp_path / "runs" / f"{RUN}.json"
    assert json.loads(path.read_text()) == built()
    report.write({**built(), "state": "Failed"}, tmp_path)
    assert json.loads(path.read_text())["state"] == "Failed"
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing half-written is left behind"


def test_tallies_add_up() -> None:
    tally = Tally(1, 2, 3, 4, 5, 6, 7, {"a": 1}, [failure("A")], {"api": 1.0})
    other = Tally(10, 20, 30, 40, 50, 60, 70, {"a": 1, "b": 2}, [failure("B")], {"api": 0.5, "checks": 2.0})
    tally.add(other)
    numbers = (tally.calls_done, tally.rows, tally.inserted, tally.rewritten, tally.gaps, tally.quarantined)
    assert (*numbers, tally.splits) == (11, 22, 33, 44, 55, 66, 77)
    assert tally.warned == {"a": 2, "b": 2}
    assert tally.seconds == {"api": 1.5, "checks": 2.0}
    assert [one.tickers for one in tally.failures] == [("A",), ("B",)]
    assert other.failures == [failure("B")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (89.9, "89.9 s"), (90, "1.5 min"), (5399, "90.0 min"), (5400, "1.5 h"), (376_560, "104.6 h")],
)
def test_durations_in_the_unit_a_person_would_use(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text
