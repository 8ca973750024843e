"""Bars within the day: pages, when a session is over, regular hours, and what is no evidence there."""

from __future__ import annotations

from datetime import date, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from closingbell.bars import BAR, Bars
from closingbell.calendar import calendar_for
from closingbell.cells import Cells
from closingbell.errors import ConfigurationError
from closingbell.intraday import base_bars, last_over, minutes_a_bar, reach
from closingbell.outcome import Judge
from closingbell.plan import PAGE_ROWS, CallCost, TickerRange, cheapest
from closingbell.request import Request, build
from closingbell.twins import Twins

SESSIONS = calendar_for("stocks").sessions(date(2024, 10, 28), date(2024, 12, 2))
STOCKS = CallCost(12.0, market_day_rows=None, rows_per_session=960)
NOW = datetime.fromisoformat("2026-03-06T22:30:00+00:00")  # Friday, 17:30 in New York


def minutes(ticker: str = "AAPL", hours: tuple[int, int] = (4, 20), days: int = 20) -> Bars:
    """A calm walk, a bar a minute, from one hour to another one in New York."""
    sessions = SESSIONS[:days]
    begin = [datetime.fromisoformat(f"{day} {hours[0]:02}:00") for day in sessions.tolist()]
    opens = calendar_for("stocks").opens(sessions)
    offset = (opens - sessions.astype("M8[us]")) - np.timedelta64(570, "m")  # 09:30 New York, less that, in UTC
    first = np.array(begin, "M8[us]") + offset
    ts = (first[:, None] + np.arange((hours[1] - hours[0]) * 60) * np.timedelta64(1, "m")).ravel()
    chance = np.random.default_rng(7)
    rows = np.zeros(len(ts), BAR)
    rows["ts"], rows["session"] = ts, calendar_for("stocks").session_of(ts)
    rows["close"] = np.round(100 * np.exp(np.cumsum(chance.normal(0, 0.0005, len(ts)))), 2)
    rows["open"] = np.append(rows["close"][:1], rows["close"][:-1])
    rows["high"] = np.maximum(rows["open"], rows["close"]) + 0.02
    rows["low"] = np.minimum(rows["open"], rows["close"]) - 0.02
    rows["volume"], rows["vwap"], rows["trades"] = chance.integers(1, 9_000, len(ts)), rows["close"], 3
    return Bars((ticker,), rows, "1m")


def judged(
    bars: Bars, *, extended_hours: bool = True, around: Bars | None = None
) -> tuple[int, set[str], dict[str, int]]:
    """How many are accepted, the rules by which others are not, and what is counted."""
    last = np.datetime64("2030-01-01")
    judge = Judge("stocks", SESSIONS, last, last, extended_hours=extended_hours)
    sessions = tuple(np.unique(bars.rows["session"]).tolist())
    verdict = judge.answered(TickerRange("AAPL", sessions, timeframe="1m"), bars, len(bars), around).verdict
    return len(verdict.accepted), set(verdict.rules), dict(verdict.warned)


@settings(max_examples=100, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 3), st.integers(1, 160))))
def test_no_call_is_more_than_a_page_and_none_is_in_vain(mask: NDArray[np.bool_]) -> None:
    sessions = np.arange("2024-01-01", mask.shape[1], dtype="M8[D]")
    plan = cheapest(Cells(tuple("ABC"[: len(mask)]), sessions, mask), STOCKS, timeframe="1m")
    covered = [cell for call in plan.calls for cell in call.cells]
    assert len(covered) == len(set(covered)) == np.count_nonzero(mask)
    assert all(call.rows <= PAGE_ROWS and call.pages == 1 and call.timeframe == "1m" for call in plan.calls)
    for ticker in "ABC"[: len(mask)]:
        spans = [(call.sessions[0], call.sessions[-1]) for call in plan.calls if call.cells[0][0] == ticker]
        # Each begins at a cell that the one before it could not take along: no cut has fewer.
        assert all((later[0] - earlier[0]).days >= 52 for earlier, later in pairwise(spans))


@pytest.mark.parametrize(
    ("name", "timeframe", "sessions", "rows"),
    [
        ("stocks", "1m", 52, 49_920),
        ("stocks", "5m", 52, 9_984),
        ("stocks", "1h", 52, 832),
        ("crypto", "1m", 34, 48_960),
    ],
)
def test_a_page_is_52_sessions_of_stocks_or_34_days_of_crypto(
    name: str, timeframe: str, sessions: int, rows: int
) -> None:
    cost = CallCost(
        1.0,
        market_day_rows=None,
        rows_per_session=base_bars(name, timeframe),  # type: ignore[arg-type]
        rows_per_bar=minutes_a_bar(timeframe),
    )
    days = np.arange("2024-01-01", 2 * sessions + 1, dtype="M8[D]")
    plan = cheapest(Cells.all(["A"], days), cost, timeframe=timeframe)
    assert [(call.count, call.rows) for call in plan.calls[:2]] == [(sessions, rows)] * 2
    assert plan.planned_calls == 3


def test_523_tickers_of_two_years_of_minutes() -> None:
    sessions = calendar_for("stocks").sessions(date(2024, 11, 25), date(2026, 11, 20))
    plan = cheapest(Cells.all([f"T{i}" for i in range(523)], sessions), STOCKS, timeframe="1m")
    assert (plan.planned_calls, plan.rows) == (523 * 10, 523 * 499 * 960)
    assert plan.seconds == pytest.approx(523 * 10 * 12, rel=0.02)


def test_a_session_is_over_when_its_last_bar_is() -> None:
    assert last_over("stocks", "1d", NOW) == date(2026, 3, 6)
    assert last_over("stocks", "1m", NOW, extended_hours=False) == date(2026, 3, 6)
    assert last_over("stocks", "1m", NOW) == date(2026, 3, 5), "after hours go on until 20:00"
    assert last_over("stocks", "1m", datetime.fromisoformat("2026-03-07T01:00:00+00:00")) == date(2026, 3, 6)
    assert last_over("crypto", "1m", NOW) == date(2026, 3, 5)


def test_the_bar_still_forming_is_not_asked_for() -> None:
    asked = build(["AAPL"], date(2026, 3, 2), date(2026, 3, 6), NOW, timeframes=["1m", "1d"])
    (_, minutes), (_, days) = asked.grids(NOW, timeframe="1m") + asked.grids(NOW, timeframe="1d")
    assert (minutes.sessions[-1], days.sessions[-1]) == (np.datetime64("2026-03-05"), np.datetime64("2026-03-06"))


def test_a_request_keeps_its_timeframes() -> None:
    asked = build(["AAPL"], date(2026, 3, 2), None, NOW, timeframes=["1m", "1h", "1m"], extended_hours=False)
    assert (asked.timeframes, asked.timeframe) == (("1m", "1h"), "1m")
    again = Request.from_dict(asked.as_dict())
    assert (again.timeframes, again.extended_hours) == (("1m", "1h"), False)
    with pytest.raises(ConfigurationError, match="no such timeframe"):
        build(["AAPL"], None, None, NOW, timeframes=["2m"])


def test_regular_hours_are_those_of_each_session() -> None:
    bars = minutes()
    assert judged(bars) == (20 * 960, set(), {})
    assert judged(bars, extended_hours=False)[0] == 20 * 390, "over the change of the clocks as well"
    half = Bars(("AAPL",), minutes(days=24).rows, "1m")
    half = half.where(half.rows["session"] == np.datetime64("2024-11-29"))
    assert judged(half, extended_hours=False)[0] == 210, "the day after Thanksgiving closes at 13:00"


def test_every_bar_opens_within_its_sessions_reach() -> None:
    bars = minutes()
    begins, ends = reach("stocks", bars.rows["session"])
    assert ((bars.rows["ts"] >= begins) & (bars.rows["ts"] < ends)).all()


def test_what_minutes_do_is_counted_and_what_nothing_does_is_kept_apart() -> None:
    bars = minutes()
    few = np.arange(50, 19_000, 700)
    doubled, spiked, cents = (Bars(bars.tickers, bars.rows.copy(), "1m") for _ in range(3))
    for name in ("open", "high", "low", "close", "vwap"):
        doubled.rows[name][few] *= 2
        cents.rows[name][few] *= 100
    spiked.rows["high"][few] *= 3
    assert judged(doubled) == (len(bars), set(), {"off_scale": len(few)})
    assert judged(spiked) == (len(bars), set(), {"half_split": len(few)})
    assert judged(cents)[:2] == (len(bars) - len(few), {"hundredfold"})
    adjusted = Bars(bars.tickers, bars.rows.copy(), "1m")
    for name in ("open", "high", "low", "close"):
        adjusted.rows[name] /= 4
    assert judged(adjusted, around=bars)[:2] == (0, {"restated"})


def test_some_equal_minutes_are_chance_and_a_whole_series_is_not() -> None:
    first, other = minutes(), minutes("MSFT")
    other.rows["volume"] += np.arange(len(other)) % 50 > 0  # one in fifty is the same
    twins = Twins()
    assert twins.claim("AAPL", first) is None
    assert twins.claim("MSFT", other) is None
    assert twins.claim("GOOG", minutes("GOOG")) == "AAPL"
