"""From the vendor's JSON to columns: exact numbers, and the right session on every day of the year."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polygon_bodies import row, series, stamp

from closingbell.bars import BAR, NO_TRADES
from closingbell.calendar import calendar_for
from closingbell.sources.polygon.answers import bars_of_range
from closingbell.sources.polygon.wire import RangeBody, columns, decode

PRICE = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
FIELDS = {
    "o": ("open", PRICE),
    "h": ("high", PRICE),
    "l": ("low", PRICE),
    "c": ("close", PRICE),
    "v": ("volume", PRICE),
    "vw": ("vwap", PRICE),
}
ROW = st.fixed_dictionaries(
    {"t": st.integers(0, 10**13)},
    optional={**{name: values for name, (_, values) in FIELDS.items()}, "n": st.none() | st.integers(0, 2**53)},
)


@given(st.lists(ROW, max_size=20))
def test_columns_hold_what_was_sent(rows: list[dict[str, Any]]) -> None:
    block = columns(decode(json.dumps({"results": rows}).encode(), RangeBody, "x").results or ())
    assert block.dtype == BAR
    assert block["ts"].astype("M8[ms]").astype(np.int64).tolist() == [r["t"] for r in rows]
    for name, (column, _) in FIELDS.items():
        sent = [math.nan if r.get(name) is None else float(r[name]) for r in rows]
        assert np.array_equal(block[column], np.array(sent, np.float64), equal_nan=True)
    assert block["trades"].tolist() == [NO_TRADES if r.get("n") is None else r["n"] for r in rows]


def read(ticker: str, rows: list[dict[str, Any]], first: date, last: date, timeframe: str = "1d") -> np.ndarray:
    body = json.dumps(series(ticker, rows)).encode()
    return bars_of_range(body, ticker, first, last, timeframe, None, "x")[0].rows


@pytest.mark.parametrize("year", [2005, 2006, 2007, 2024, 2025, 2026])
def test_every_session_of_a_year_keeps_its_date_and_opens_at_the_bell(year: int) -> None:
    """The stamps are at 04:00Z or 05:00Z, and changed over on other dates before 2007."""
    first, last = date(year, 1, 1), date(year, 12, 31)
    sessions = calendar_for("stocks").sessions(first, last)
    rows = read("AAPL", [row(day) for day in sessions.astype(object)], first, last)
    assert np.array_equal(rows["session"], sessions)
    assert np.array_equal(rows["ts"], calendar_for("stocks").opens(sessions))


def test_a_day_that_is_no_session_keeps_the_vendors_instant() -> None:
    """On Saturday, 2019-01-26, the vendor had a bar of a test; its rule will be the judge of it."""
    saturday = date(2019, 1, 26)
    rows = read("AAC", [row(date(2019, 1, 25)), row(saturday, 16)], date(2019, 1, 21), date(2019, 1, 28))
    assert rows["session"].tolist() == [date(2019, 1, 25), saturday]
    assert rows["ts"].tolist()[1] == datetime(2019, 1, 26, 21)  # noqa: DTZ001 - numpy's instants are UTC without a zone


@pytest.mark.parametrize("ticker", ["X:BTCUSD", "C:EURUSD"])
def test_crypto_and_currencies_are_cut_at_midnight_utc(ticker: str) -> None:
    first = date(2024, 3, 8)
    midnights = [datetime(2024, 3, 8, tzinfo=UTC) + timedelta(days=n) for n in range(5)]
    rows = read(ticker, [row(first, t=int(m.timestamp() * 1000)) for m in midnights], first, date(2024, 3, 12))
    assert rows["session"].tolist() == [m.date() for m in midnights]
    assert rows["ts"].tolist() == [m.replace(tzinfo=None) for m in midnights]


def test_intraday_bars_keep_their_instant_and_fall_on_the_date_in_new_york() -> None:
    """From 04:00 to 19:59 New York; after-hours are the next day in UTC."""
    day = date(2024, 3, 8)
    stamps = [stamp(day, 4), stamp(day, 9), stamp(day, 19) + 59 * 60_000]
    rows = read("AAPL", [row(day, t=t) for t in stamps], day, day, "1m")
    assert rows["session"].tolist() == [day] * 3
    assert rows["ts"].astype("M8[ms]").astype(np.int64).tolist() == stamps
