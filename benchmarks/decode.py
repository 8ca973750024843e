"""How fast rows are read, from the socket to checked columns: the planner's ``ROWS_PER_SECOND``.

    python -m benchmarks decode

The market's pages are kept and given again, so that making them is no part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Final

from benchmarks.pages import Pages
from benchmarks.report import Table, ratio, rounds
from closingbell.calendar import calendar_for
from closingbell.quality import PROFILES, Asked, check, profile_of
from closingbell.sources.polygon import PolygonSource
from infra.market.process import MarketProcess

_FIRST, _LAST = date(2025, 1, 2), date(2025, 6, 30)
_ROUNDS: Final = 11


class OpenGate:
    """A gate without a quota."""

    @contextmanager
    def call(self) -> Iterator[None]:
        """Pass."""
        yield

    def of(self, asset_class: str) -> OpenGate:
        """One gate for all."""
        return self

    def pause(self, seconds: float | None) -> None:
        """Go on."""


def measure(*, quick: bool = False) -> list[Table]:
    """Read minutes, years of days and market days, with and without the checks."""
    sessions = calendar_for("stocks").sessions(_FIRST, _LAST)
    years = calendar_for("stocks").sessions(date(2016, 3, 10), date(2026, 3, 6))
    found = []
    with MarketProcess(size=11_000, now="2026-03-10T02:00:00+00:00") as market, Pages(market.url) as pages:
        source = PolygonSource("any", pages.url, OpenGate())

        def minutes() -> int:
            bars = source.fetch_range("AAPL", _FIRST, _LAST, "1m")
            return len(check(bars, Asked(sessions, sessions[-1]), profile_of("stocks", "1m")).accepted)

        def ten_years() -> int:
            bars = source.fetch_range("AAPL", years[0].item(), years[-1].item())
            return len(check(bars, Asked(years, years[-1]), PROFILES["stocks"]).accepted)

        def market_day() -> int:
            page = source.market_day(sessions[0].item(), wanted={"AAPL"})
            check(page.bars, Asked(sessions, sessions[-1]), PROFILES["stocks"])
            return page.rows

        cases: dict[str, tuple[Callable[[], int], int]] = {
            "minutes, 50,000 a page": (minutes, 1),
            "ten years of days": (ten_years, 20),
            "market days": (market_day, 5),
        }
        for name, (work, times) in cases.items():
            rows = work()  # the first one fills the kept pages

            def seconds(work: Callable[[], int] = work, times: int = times) -> float:
                begun = time.perf_counter()
                for _ in range(times):
                    work()
                return time.perf_counter() - begun

            spent = rounds({name: seconds}, 3 if quick else _ROUNDS, warm_up=1)[name]
            found.append((name, rows, ratio([rows * times] * len(spent), spent)))
    notes = ["One thread, over HTTP on loopback: fetched, unzipped, decoded, and checked by every rule."]
    return [Table("From the socket to checked columns", ("pages", "rows a call", "rows/s"), found, notes)]
