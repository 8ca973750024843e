"""Calendars against golden weeks, and their laws."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from textwrap import dedent
from typing import get_args
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closingbell.calendar import AssetClass, Calendar, asset_class, calendar_for
from closingbell.errors import ConfigurationError
from closingbell.schedules import EXCHANGES, FIRST_DAY, KEPT, LAST_DAY, Schedule, schedule_of, written

GOLDEN = Path(__file__).parents[1] / "golden"
CLASSES: tuple[AssetClass, ...] = get_args(AssetClass)

calendars = st.sampled_from([calendar_for(name) for name in CLASSES])
days = st.dates(date(1990, 2, 1), date(2099, 11, 30))
instants = st.datetimes(datetime(1993, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def golden(name: str) -> list[dict[str, str]]:
    with (GOLDEN / f"calendar_{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def instant(text: str) -> np.datetime64:
    return np.datetime64(text.removesuffix("Z"), "us")


@pytest.mark.parametrize("name", CLASSES)
def test_golden_weeks(name: AssetClass) -> None:
    calendar = calendar_for(name)
    for row in golden(name):
        day = date.fromisoformat(row["day"])
        assert bool(calendar.is_session(np.datetime64(day))) is bool(row["open"]), row
        found = calendar.sessions(day, day)
        assert len(found) == bool(row["open"]), row
        if len(found):
            assert calendar.opens(found)[0] == instant(row["open"]), row
            assert calendar.closes(found)[0] == instant(row["close"]), row


@pytest.mark.parametrize("row", golden("due"), ids=lambda row: f"{row['asset_class']} {row['now']}")
def test_golden_instants(row: dict[str, str]) -> None:
    calendar, now = Calendar(row["asset_class"]), datetime.fromisoformat(row["now"])  # type: ignore[arg-type]
    assert str(calendar.last_closed(now)) == row["last_closed"]
    assert str(calendar.last_due(now)) == row["last_due"]
    assert str(calendar.default_start(now)) == row["default_start"]
    elsewhere = now.astimezone(ZoneInfo("Asia/Tokyo"))
    assert calendar.last_due(elsewhere) == calendar.last_due(now)
    assert calendar.default_start(elsewhere) == calendar.default_start(now)


@pytest.mark.parametrize(
    ("ticker", "expected"),
    [
        ("AAPL", "stocks"),
        ("BRK.B", "stocks"),
        ("PEBpE", "stocks"),
        ("X:BTCUSD", "crypto"),
        ("C:EURUSD", "fx"),
        ("NQ.v.0", "futures"),
        ("6E.c.1", "futures"),
        ("BAC.WS.A", "stocks"),
    ],
)
def test_the_prefix_names_the_class(ticker: str, expected: str) -> None:
    assert asset_class(ticker) == expected


@pytest.mark.parametrize(
    ("ticker", "what"),
    [("I:SPX", "indices"), ("O:SPY251219C00650000", "options"), ("NQ.x.0", "continuous"), ("x:A", "'x:'")],
)
def test_a_class_without_a_calendar_is_refused(ticker: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        asset_class(ticker)


def test_there_are_252_or_so_sessions_a_year() -> None:
    stocks = calendar_for("stocks")
    counts = [len(stocks.sessions(date(year, 1, 1), date(year, 12, 31))) for year in (2012, 2013, 2023, 2024, 2025)]
    assert counts == [250, 252, 250, 252, 250]


@given(calendars, days, st.integers(-5, 400))
def test_sessions_are_sorted_unique_and_in_range(calendar: Calendar, start: date, length: int) -> None:
    end = min(start + timedelta(days=length), LAST_DAY)
    sessions = calendar.sessions(start, end)
    assert sessions.dtype == np.dtype("M8[D]")
    assert (np.diff(sessions) > np.timedelta64(0, "D")).all()
    assert calendar.is_session(sessions).all()
    every = np.arange(np.datetime64(start), np.datetime64(end) + 1)
    assert (every[calendar.is_session(every)] == sessions).all()


@given(calendars, days)
def test_sessions_do_not_overlap_and_hold_their_own_bars(calendar: Calendar, start: date) -> None:
    sessions = calendar.sessions(start, min(start + timedelta(days=30), LAST_DAY))
    opens, closes = calendar.opens(sessions), calendar.closes(sessions)
    assert (opens < closes).all()
    assert (closes[:-1] <= opens[1:]).all()
    assert (calendar.session_of(opens) == sessions).all()
    assert (calendar.session_of(closes - np.timedelta64(1, "us")) == sessions).all()


@given(calendars, instants)
def test_what_is_due_has_closed(calendar: Calendar, now: datetime) -> None:
    due, closed = calendar.last_due(now), calendar.last_closed(now)
    assert due <= closed <= now.date()
    assert calendar.is_session(np.array([due, closed], "M8[D]")).all()
    assert calendar.closes(np.datetime64(closed)) <= np.datetime64(now.replace(tzinfo=None), "us")
    assert calendar.last_due(now + timedelta(days=2)) >= due
    later = calendar.sessions(closed + timedelta(days=1), closed + timedelta(days=14))[:1]
    assert (calendar.closes(later) > np.datetime64(now.replace(tzinfo=None), "us")).all()


@given(calendars, instants)
def test_the_default_start_is_two_years_back(calendar: Calendar, now: datetime) -> None:
    start = calendar.default_start(now)
    assert bool(calendar.is_session(np.datetime64(start)))
    assert 730 - 8 <= (now.date() - start).days <= 731


def test_a_bar_belongs_to_its_day_in_new_york() -> None:
    stamps = ["2024-07-01T04:00", "2024-01-02T05:00", "2024-07-02T00:00", "2024-01-03T00:59", "2024-07-01T20:00", "NaT"]
    expected = ["2024-07-01", "2024-01-02", "2024-07-01", "2024-01-02", "2024-07-01", "NaT"]
    found = calendar_for("stocks").session_of(np.array(stamps, "M8[us]"))
    assert found.astype(str).tolist() == expected
    assert calendar_for("crypto").session_of(np.datetime64("2024-01-02T00:00")) == np.datetime64("2024-01-02")


def test_shapes_are_kept() -> None:
    for calendar in (calendar_for("stocks"), calendar_for("fx")):
        grid = np.array([["2024-07-01", "2024-07-02"], ["2024-07-03", "2024-07-05"]], "M8[D]")
        assert calendar.opens(grid).shape == calendar.closes(grid).shape == calendar.is_session(grid).shape == (2, 2)
        assert calendar.session_of(calendar.opens(grid)).tolist() == grid.tolist()
        assert calendar.opens(grid[:0]).shape == (0, 2)
        assert calendar.opens(grid).dtype == np.dtype("M8[us]")


def test_what_is_handed_out_is_the_callers() -> None:
    stocks = calendar_for("stocks")
    stocks.sessions(date(2024, 7, 1), date(2024, 7, 5))[:] = np.datetime64("1999-01-01")
    assert len(stocks.sessions(date(2024, 7, 1), date(2024, 7, 5))) == 4


@pytest.mark.parametrize("name", CLASSES)
def test_absurd_days_are_no_sessions(name: AssetClass) -> None:
    absurd = np.array(["NaT", "1970-01-01", "1989-12-29", "2100-01-04", "9999-12-31", "50000-01-03"], "M8[D]")
    assert not calendar_for(name).is_session(absurd).any()


def test_only_sessions_open() -> None:
    with pytest.raises(ValueError, match="2025-01-09 is not a session of the stocks calendar"):
        calendar_for("stocks").opens(np.array(["2025-01-08", "2025-01-09"], "M8[D]"))
    with pytest.raises(ValueError, match="2023-01-07 is not a session of the fx calendar"):
        calendar_for("fx").closes(np.datetime64("2023-01-07"))


@pytest.mark.parametrize("method", ["last_closed", "last_due", "default_start"])
def test_a_time_without_a_zone_is_refused(method: str) -> None:
    with pytest.raises(ConfigurationError, match="no time zone"):
        getattr(calendar_for("stocks"), method)(datetime(2024, 7, 1, 12))  # noqa: DTZ001


def test_unknown_years_and_classes_are_refused() -> None:
    for start, end in ((FIRST_DAY - timedelta(days=1), FIRST_DAY), (LAST_DAY, LAST_DAY + timedelta(days=1))):
        with pytest.raises(ConfigurationError, match="does not know this date"):
            calendar_for("stocks").sessions(start, end)
    with pytest.raises(ConfigurationError, match="no calendar for this asset class"):
        calendar_for("bonds")


def test_sessions_are_known_without_pandas() -> None:
    code = """
        import sys, datetime
        from closingbell.calendar import calendar_for
        day = datetime.date(2026, 3, 6)
        found = [len(calendar_for(name).sessions(day, day)) for name in ("stocks", "futures", "fx", "crypto")]
        sys.exit(found != [1, 1, 1, 1] or "pandas" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", dedent(code)], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("name", EXCHANGES)
def test_what_is_kept_is_what_the_libraries_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = EXCHANGES[name]
    asked = Mock(side_effect=exchange.ask)
    monkeypatch.setitem(EXCHANGES, name, replace(exchange, ask=asked))
    kept = schedule_of.__wrapped__(name)
    assert not asked.called, "run `make calendar`: another version of the library is installed than was asked"
    said = exchange.ask()
    for column in ("days", "opens", "closes"):
        np.testing.assert_array_equal(getattr(kept, column), getattr(said, column))

    monkeypatch.setattr("closingbell.schedules.version", lambda _: "another")
    np.testing.assert_array_equal(schedule_of.__wrapped__(name).closes, said.closes)
    assert asked.called


def test_what_is_kept_is_as_it_would_be_written() -> None:
    assert files("closingbell").joinpath(*KEPT).read_text(encoding="utf-8") == written()


def test_a_session_that_does_not_fit_the_form_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    saturday = np.array(["2026-03-07"], "M8[D]")
    odd = Schedule(saturday, saturday.astype("M8[us]"), saturday.astype("M8[us]"))
    monkeypatch.setitem(EXCHANGES, "stocks", replace(EXCHANGES["stocks"], ask=lambda: odd))
    with pytest.raises(ValueError, match="on a weekend"):
        written()
