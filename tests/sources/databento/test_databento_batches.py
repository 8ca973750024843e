"""Answers cut into batches: together they say the same, and no session counts before its last bar."""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closingbell.bars import BAR, NO_TRADES, Bars, Roll
from closingbell.calendar import asset_class, calendar_for
from closingbell.cells import PARTIAL, Gap
from closingbell.errors import RetryableError
from closingbell.outcome import Judge, Outcome
from closingbell.parts import in_batches
from closingbell.plan import TickerRange
from closingbell.store.ledger import Settlement, spans
from tests.databento.minutes import of_sessions, spoiled, walk

FIRST, LAST = date(2024, 1, 2), date(2024, 1, 5)
CALENDAR = calendar_for("futures")
SESSIONS = CALENDAR.sessions(FIRST, LAST)
NOW = datetime(2024, 2, 1, tzinfo=UTC)


@cache
def outcome(missing: date | None = None) -> Outcome:
    ts = of_sessions(FIRST, LAST)
    rows = np.zeros(len(ts), BAR)
    rows["ts"], rows["session"] = ts, CALENDAR.session_of(ts)
    prices, _ = spoiled(walk(ts))
    for name, column in zip(("open", "high", "low", "close"), prices.T, strict=True):
        rows[name] = column
    rows["volume"], rows["vwap"], rows["trades"] = 5, np.nan, NO_TRADES
    if missing:
        rows = rows[rows["session"] != missing]
    call = TickerRange("NQ.v.0", tuple(SESSIONS.tolist()), 1, len(rows), "1m")
    judge = Judge("futures", SESSIONS, SESSIONS[-1], SESSIONS[-1])
    return judge.answered(call, Bars(("NQ.v.0",), rows, "1m"), len(rows))


def between(ticker: str, after: date, before: date) -> np.ndarray:  # type: ignore[type-arg]
    days = calendar_for(asset_class(ticker)).sessions(after, before)
    return days[(days > np.datetime64(after)) & (days < np.datetime64(before))]


@settings(max_examples=20, deadline=None)
@given(st.integers(40, 2_000), st.sampled_from([None, date(2024, 1, 3), FIRST, LAST]))
def test_batches_say_what_the_whole_says(size: int, missing: date | None) -> None:
    whole = outcome(missing)
    rolls = [Roll("NQ.v.0", FIRST, whole.verdict.accepted.rows["ts"][i], i) for i in (0, 1_500)]
    parts = in_batches(whole, size, rolls)
    accepted = np.concatenate([part.verdict.accepted.rows for part in parts])
    assert accepted.tobytes() == whole.verdict.accepted.rows.tobytes()
    assert all(len(part.verdict.accepted) <= size for part in parts)
    assert sorted(rule for part in parts for rule in part.verdict.rules) == sorted(whole.verdict.rules)
    assert all(len(part.verdict.rules) == len(part.verdict.quarantined) for part in parts)
    told = [part.sessions[:-1] if part.partial else part.sessions for part in parts]
    assert np.concatenate(told).tolist() == whole.sessions.tolist()
    assert sum(part.done for part in parts) == whole.done
    assert sum(part.rows for part in parts) == whole.rows
    assert [roll for part in parts for roll in part.rolls] == rolls
    assert not parts[-1].partial
    assert (parts[0].verdict.warned, parts[0].verdict.examples) == (whole.verdict.warned, whole.verdict.examples)


@pytest.mark.parametrize("size", [100, 500, 1_379, 1_380, 5_000])
def test_no_session_counts_before_its_last_bar(size: int) -> None:
    """After each batch: a session that the watermark spans without a gap has all of its bars."""
    whole = outcome()
    all_bars = {day: int(np.count_nonzero(whole.verdict.accepted.rows["session"] == day)) for day in SESSIONS}
    stored: dict[np.datetime64, int] = dict.fromkeys(SESSIONS, 0)
    marks, gaps = {}, dict[tuple[str, date], Gap]()
    for part in in_batches(whole, size):
        settlement = Settlement(dict(marks), dict(gaps), between, NOW)
        fresh = settlement.settle(part)
        assert fresh.all()
        marks, gaps = settlement.marks, settlement.gaps
        for day, count in zip(*np.unique(part.verdict.accepted.rows["session"], return_counts=True), strict=True):
            stored[day] += int(count)
        mark = marks["NQ.v.0"]
        assert spans([part])["NQ.v.0"].last == mark.last
        for day in SESSIONS:
            accounted = mark.first <= day.item() <= mark.last and ("NQ.v.0", day.item()) not in gaps
            assert accounted == (stored[day] == all_bars[day])
        assert len(gaps) == part.partial
        assert all(gap.reason == "pending" and gap.last_error == PARTIAL for gap in gaps.values())
    assert gaps == {}


def test_what_is_stored_in_part_stays_so_whatever_comes_of_asking_again() -> None:
    whole = outcome()
    first = in_batches(whole, 100)[0]
    settlement = Settlement({}, {}, between, NOW)
    settlement.settle(first)
    again = Settlement(settlement.marks, settlement.gaps, between, NOW)
    judge = Judge("futures", SESSIONS, SESSIONS[-1], SESSIONS[-1])
    again.settle(judge.failed(whole.call, RetryableError("no answer")))
    gap = again.gaps["NQ.v.0", FIRST]
    assert (gap.reason, gap.last_error) == ("failed", f"{PARTIAL}; no answer")
    last = Settlement(again.marks, again.gaps, between, NOW)
    last.settle(whole)
    assert last.gaps == {}
