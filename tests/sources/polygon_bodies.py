"""Answers in the vendor's wire format, right in every field until a test spoils one."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")

#: Two weeks without a holiday.
FIRST, LAST = date(2024, 3, 4), date(2024, 3, 15)


def stamp(day: date, hour: int = 0) -> int:
    """Milliseconds at ``hour`` o'clock in New York."""
    return int(datetime(day.year, day.month, day.day, hour, tzinfo=NEW_YORK).timestamp() * 1000)


def row(day: date, hour: int = 0, **changes: Any) -> dict[str, Any]:
    made = {"v": 3.7039737e07, "vw": 10.1, "o": 10, "c": 10.5, "h": 11, "l": 9.5, "t": stamp(day, hour), "n": 120}
    return {key: value for key, value in {**made, **changes}.items() if value is not ...}


def weekdays(first: date = FIRST, last: date = LAST) -> list[date]:
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return [day for day in days if day.weekday() < 5]


def series(ticker: str = "AAPL", rows: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """A page of daily bars; a change to ``...`` removes the field."""
    results = [row(day) for day in weekdays()] if rows is None else rows
    made = {
        "ticker": ticker,
        "queryCount": len(results),
        "resultsCount": len(results),
        "adjusted": False,
        "results": results if results else ...,
        "status": "OK",
        "request_id": "0123",
        "count": len(results),
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not ...}


def market(day: date, tickers: list[str], **changes: Any) -> dict[str, Any]:
    """A market day, stamped with the close as the vendor does."""
    return series(ticker=..., rows=[{"T": ticker, **row(day, 16)} for ticker in tickers], **changes)  # type: ignore[arg-type]


def next_url(ticker: str = "AAPL", at: int = 1, host: str = "https://api.polygon.io") -> str:
    return f"{host}/v2/aggs/ticker/{ticker}/range/1/day/{stamp(FIRST) + at}/{LAST}?cursor=bGltaXQ9MiZzb3J0PWFzYw"
