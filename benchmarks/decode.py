"""How fast rows are read, from the socket to checked columns: the planner's ``ROWS_PER_SECOND``.

python -m benchmarks.decode
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import numpy as np

from closingbell.calendar import calendar_for
from closingbell.quality import PROFILES, Asked, check
from closingbell.sources.polygon import PolygonSource
from infra.market.process import MarketProcess


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


def main() -> None:
    """Read pages of minutes and market days for a few seconds each, and print rows a second."""
    calendar = calendar_for("stocks")
    sessions = calendar.sessions(date(2025, 1, 2), date(2025, 6, 30))
    with MarketProcess(size=11_000, now="2026-03-10T02:00:00+00:00") as market:
        source = PolygonSource("any", market.url, OpenGate())
        asked = Asked(sessions, np.datetime64("2026-03-09"))
        for name, rounds in (("minutes", 10), ("market days", 20)):
            rows, seconds = 0, 0.0
            for number in range(rounds + 1):
                begun = time.perf_counter()
                if name == "minutes":
                    bars = source.fetch_range("AAPL", date(2025, 1, 2), date(2025, 6, 30), "1m")
                    read = len(bars)
                else:
                    page = source.market_day(sessions[0].item(), wanted={"AAPL"})
                    bars, read = page.bars, page.rows
                check(bars, asked, PROFILES["stocks"])
                if number:  # the first one fills the market's cache
                    rows, seconds = rows + read, seconds + time.perf_counter() - begun
            print(f"{name:<12} {rows:>10,} rows  {rows / seconds:>12,.0f} rows/s")


if __name__ == "__main__":
    main()
