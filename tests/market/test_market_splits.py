"""Adjusted is raw rescaled by the list of splits, exactly; and splits go right or wrong as they are scripted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import httpx
import pytest

from infra.market.process import MarketProcess

Get = Callable[..., httpx.Response]
Rows = list[dict[str, Any]]

TODAY = "2026-03-09"
EXACT = 1e-12
PRICES = ("o", "h", "l", "c", "vw")

MSFT = "/v2/aggs/ticker/MSFT/range/1/day/2026-02-20/2026-03-09"
MINUTES = "/v2/aggs/ticker/MSFT/range/1/minute/2026-03-04/2026-03-06"
DAY = "/v2/aggs/grouped/locale/us/market/stocks/"


def rows(get: Get, path: str, adjusted: bool = True) -> Rows:
    answer = get(path, params={"adjusted": str(adjusted).lower(), "limit": "50000"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["adjusted"] is adjusted
    return answer.json().get("results", [])


def listed(get: Get, **params: str) -> Rows:
    answer = get("/v3/reference/splits", params={"limit": "1000", **params})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def day_of(row: dict[str, Any]) -> str:
    return datetime.fromtimestamp(row["t"] / 1000, UTC).date().isoformat()


def assert_rescaled(raw: dict[str, Any], adjusted: dict[str, Any], ratio: float) -> None:
    """Every price divided by the ratio, the volume multiplied, the rest the same."""
    assert list(adjusted) == list(raw)
    for key, value in raw.items():
        expected = value / ratio if key in PRICES else value * ratio if key == "v" else value
        assert adjusted[key] == expected or math.isclose(adjusted[key], expected, rel_tol=EXACT), (raw, adjusted, ratio)


def ratio_after(splits: Rows, day: str) -> float:
    """The product of the ratios of later splits up to today, each date once."""
    ratio = 1.0
    for on, to in {s["execution_date"]: s["split_to"] / s["split_from"] for s in splits}.items():
        ratio *= to if day < on <= TODAY else 1.0
    return ratio


@pytest.fixture
def ask(spoilt: MarketProcess, getter: Callable[..., Get], now: str) -> Get:
    spoilt.set_now(datetime.fromisoformat(now))
    return getter(spoilt)


def all_splits(get: Get, since: int) -> Rows:
    """Every split from a year on."""
    years = [(f"{year}-01-01", f"{year + 2}-01-01") for year in range(since, 2027, 2)]
    return [s for first, end in years for s in listed(get, **{"execution_date.gte": first, "execution_date.lt": end})]


@pytest.fixture
def often(get: Get) -> list[str]:
    """Tickers that split more than once, and two with a split that is listed twice."""
    everyone = all_splits(get, 2003)
    by_ticker = Counter(s["ticker"] for s in everyone)
    twice = Counter((s["ticker"], s["execution_date"]) for s in everyone)
    found = [ticker for ticker, count in by_ticker.most_common() if count > 2][:6]
    return found + [ticker for (ticker, _), count in twice.items() if count == 2][:2]


def test_every_adjusted_bar_of_every_kind_is_the_raw_one_rescaled(get: Get, often: list[str]) -> None:
    assert len(often) == 8
    ratios = set()
    for ticker in often:
        splits = listed(get, ticker=ticker)
        for part in ("1/day/2003-09-10/2026-03-09", "5/minute/2017-06-05/2017-06-07", "1/hour/2019-05-06/2019-05-08"):
            path = f"/v2/aggs/ticker/{ticker}/range/{part}"
            raw, adjusted = rows(get, path, adjusted=False), rows(get, path)
            for before, after in zip(raw, adjusted, strict=True):
                ratio = ratio_after(splits, day_of(before))
                ratios.add(ratio)
                assert_rescaled(before, after, ratio)
    assert len(ratios) > 12


@pytest.mark.parametrize("day", ["2004-01-05", "2015-01-05", "2026-03-06"])
def test_so_is_a_whole_market_day(get: Get, day: str) -> None:
    splits: dict[str, Rows] = {}
    for split in all_splits(get, int(day[:4])):
        splits.setdefault(split["ticker"], []).append(split)
    raw, adjusted = rows(get, DAY + day, adjusted=False), rows(get, DAY + day)
    assert [row["T"] for row in raw] == [row["T"] for row in adjusted]
    for before, after in zip(raw, adjusted, strict=True):
        assert_rescaled(before, after, ratio_after(splits.get(before["T"], []), day))


def test_a_week_in_which_the_scale_changes_is_made_of_adjusted_days(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.split("MSFT", "2026-03-04", 1, 4)
    days = rows(ask, "/v2/aggs/ticker/MSFT/range/1/day/2026-03-02/2026-03-06")
    (week,) = rows(ask, "/v2/aggs/ticker/MSFT/range/1/week/2026-03-02/2026-03-06")
    assert (week["o"], week["c"]) == (days[0]["o"], days[-1]["c"])
    assert week["h"] == max(day["h"] for day in days)
    assert week["v"] == pytest.approx(sum(day["v"] for day in days))


@pytest.mark.parametrize(("split_from", "split_to"), [(1, 4), (3, 2), (20, 1), (1, 3)])
def test_at_a_split_raw_bars_move_and_adjusted_ones_do_not(
    spoilt: MarketProcess, ask: Get, split_from: int, split_to: int
) -> None:
    before = {path: rows(ask, path, adjusted=False) for path in (MSFT, MINUTES)}
    market_days = {day: rows(ask, DAY + day, adjusted=False) for day in ("2026-03-04", "2026-03-05")}
    spoilt.split("MSFT", date(2026, 3, 5), split_from, split_to)
    ratio = split_to / split_from
    for path, was in before.items():
        raw, adjusted = rows(ask, path, adjusted=False), rows(ask, path)
        assert len(raw) == len(was)
        for old, new, smooth in zip(was, raw, adjusted, strict=True):
            happened = day_of(old) >= "2026-03-05"
            assert_rescaled(old, new, ratio if happened else 1.0)
            assert_rescaled(old, smooth, ratio)
    for day, was in market_days.items():
        raw = {row["T"]: row for row in rows(ask, DAY + day, adjusted=False)}
        for old in was:
            moved = old["T"] == "MSFT" and day == "2026-03-05"
            assert_rescaled(old, raw[old["T"]], ratio if moved else 1.0)
    (entry,) = listed(ask, ticker="MSFT", execution_date="2026-03-05")
    assert (entry["split_from"], entry["split_to"]) == (split_from, split_to)


def test_splits_of_one_ticker_multiply_and_days_without_a_session_count_too(spoilt: MarketProcess, ask: Get) -> None:
    was = rows(ask, MSFT, adjusted=False)
    spoilt.split("MSFT", "2026-03-01", 1, 3)  # a Sunday
    spoilt.split("MSFT", "2026-03-05", 10, 1)
    for old, raw, smooth in zip(was, rows(ask, MSFT, adjusted=False), rows(ask, MSFT), strict=True):
        done = (3 if day_of(old) >= "2026-03-01" else 1) * (0.1 if day_of(old) >= "2026-03-05" else 1)
        assert_rescaled(old, raw, done)
        assert_rescaled(old, smooth, 0.3)


def test_a_split_ahead_is_listed_and_adjusts_nothing_yet(spoilt: MarketProcess, ask: Get) -> None:
    was = rows(ask, MSFT)
    spoilt.split("MSFT", "2026-03-12", 1, 2)
    spoilt.split("MSFT", "2026-05-12", 1, 2)  # more than two weeks ahead
    spoilt.split("AAPL", "2026-05-12", 1, 2, announced="2026-03-02T00:00:00Z")
    assert [s["execution_date"] for s in listed(ask, ticker="MSFT")][:1] == ["2026-03-12"]
    assert [s["execution_date"] for s in listed(ask, ticker="AAPL")][:1] == ["2026-05-12"]
    assert rows(ask, MSFT) == was
    # In New York it is still the 11th, whatever the date in London.
    spoilt.set_now(datetime(2026, 3, 12, 2, tzinfo=UTC))
    assert rows(ask, MSFT) == was
    spoilt.set_now(datetime(2026, 3, 12, 5, tzinfo=UTC))
    assert [row["c"] for row in rows(ask, MSFT)] == pytest.approx([row["c"] / 2 for row in was], rel=EXACT)


def test_a_split_announced_late_has_moved_the_bars_already(spoilt: MarketProcess, ask: Get) -> None:
    was = rows(ask, MSFT, adjusted=False)
    spoilt.split("MSFT", "2026-03-05", 1, 2, announced="2026-03-10T12:00:00+00:00")
    raw = rows(ask, MSFT, adjusted=False)
    assert raw[-1]["c"] == was[-1]["c"] / 2
    assert rows(ask, MSFT) == raw
    assert listed(ask, ticker="MSFT", execution_date="2026-03-05") == []
    spoilt.set_now(datetime(2026, 3, 10, 11, 59, tzinfo=UTC))
    assert rows(ask, MSFT) == raw
    spoilt.set_now(datetime(2026, 3, 10, 12, 0, tzinfo=UTC))
    assert len(listed(ask, ticker="MSFT", execution_date="2026-03-05")) == 1
    assert rows(ask, MSFT, adjusted=False) == raw
    assert rows(ask, MSFT)[0]["c"] == raw[0]["c"] / 2


@pytest.mark.parametrize("first", [{"split_to": 3}, {"day": "2026-03-04"}, {"split_from": 2, "split_to": 1}])
def test_a_split_that_is_corrected(spoilt: MarketProcess, ask: Get, first: dict[str, Any]) -> None:
    was = rows(ask, MSFT, adjusted=False)
    spoilt.split("MSFT", "2026-03-05", 1, 2, first=first, corrected=datetime(2026, 3, 11, tzinfo=UTC))
    told = {"day": "2026-03-05", "split_from": 1, "split_to": 2, **first}
    (entry,) = listed(ask, ticker="MSFT", **{"execution_date.gte": "2026-03-01"})
    assert (entry["execution_date"], entry["split_from"], entry["split_to"]) == tuple(told.values())
    raw = rows(ask, MSFT, adjusted=False)
    assert [row["c"] / (2 if day_of(row) >= "2026-03-05" else 1) for row in was] == [row["c"] for row in raw]
    for plain, smooth in zip(raw, rows(ask, MSFT), strict=True):
        assert_rescaled(plain, smooth, told["split_to"] / told["split_from"] if day_of(plain) < told["day"] else 1.0)
    spoilt.set_now(datetime(2026, 3, 11, tzinfo=UTC))
    (entry,) = listed(ask, ticker="MSFT", **{"execution_date.gte": "2026-03-01"})
    assert (entry["execution_date"], entry["split_from"], entry["split_to"]) == ("2026-03-05", 1, 2)
    for old, smooth in zip(was, rows(ask, MSFT), strict=False):
        assert_rescaled(old, smooth, 2.0)


def test_a_split_that_is_retracted(spoilt: MarketProcess, ask: Get) -> None:
    was = rows(ask, MSFT)
    spoilt.split("MSFT", "2026-03-05", 1, 2, moves=False, retracted="2026-03-10T12:00:00+00:00")
    assert rows(ask, MSFT, adjusted=False)[-1]["c"] == was[-1]["c"]
    assert rows(ask, MSFT)[0]["c"] == was[0]["c"] / 2
    spoilt.set_now(datetime(2026, 3, 10, 12, tzinfo=UTC))
    assert listed(ask, ticker="MSFT", execution_date="2026-03-05") == []
    assert rows(ask, MSFT) == was


def test_a_split_listed_twice_counts_once_and_one_never_listed_not_at_all(spoilt: MarketProcess, ask: Get) -> None:
    was = rows(ask, MSFT, adjusted=False)
    spoilt.split("MSFT", "2026-03-05", 1, 2, copies=2)
    entries = listed(ask, ticker="MSFT", execution_date="2026-03-05")
    assert len({entry.pop("id") for entry in entries}) == 2
    assert entries[0] == entries[1]
    for old, smooth in zip(was, rows(ask, MSFT), strict=True):
        assert_rescaled(old, smooth, 2.0)
    spoilt.split("MSFT", "2026-03-06", 1, 5, listed=False)
    assert listed(ask, ticker="MSFT", execution_date="2026-03-06") == []
    smooth = rows(ask, MSFT)
    assert smooth[-1]["c"] == pytest.approx(was[-1]["c"] / 10, rel=EXACT)
    assert smooth[0]["c"] == was[0]["c"] / 2
    spoilt.clear_faults()
    assert rows(ask, MSFT, adjusted=False) == was


def test_a_correction_is_of_the_bar_as_it_is_served_after_a_split(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.split("MSFT", "2026-03-05", 1, 2)
    spoilt.fault("revise", ticker="MSFT", date="2026-03-06", values={"c": 77.0})
    spoilt.fault("revise", ticker="MSFT", date="2026-03-04", values={"c": 150.0})
    by_day = {day_of(row): row["c"] for row in rows(ask, MSFT, adjusted=False)}
    assert (by_day["2026-03-04"], by_day["2026-03-06"]) == (150.0, 77.0)
    by_day = {day_of(row): row["c"] for row in rows(ask, MSFT)}
    assert (by_day["2026-03-04"], by_day["2026-03-06"]) == (75.0, 77.0)


@pytest.mark.parametrize(
    "said",
    [
        {"split_to": 0},
        {"day": "Friday"},
        {"first": {"split_to": 3}},
        {"corrected": "2026-03-11T00:00:00Z"},
        {"announced": "2026-03-11T00:00:00"},
        {"announced": "2026-03-11T00:00:00Z", "retracted": "2026-03-10T00:00:00Z"},
        {"copies": 0},
    ],
)
def test_a_split_that_makes_no_sense_is_refused(spoilt: MarketProcess, said: dict[str, Any]) -> None:
    given = {"ticker": "MSFT", "day": "2026-03-05", "split_from": 1, "split_to": 2, **said}
    with pytest.raises(ValueError, match="not a script"):
        spoilt.split(**given)
