"""The memory of a run that loads 1, 5 and 25 times as much.

python -m benchmarks memory
"""

from __future__ import annotations

import statistics
from typing import Final

import msgspec
import urllib3

from benchmarks.report import Table
from benchmarks.surroundings import surroundings

#: Tickers of the smallest run; each has ten years of daily bars. They are more than a run holds at once: two
#: transactions and what waits for them, 50,000 rows each.
_TICKERS: Final = 105
_ROUNDS: Final = 3
_TIMES: Final = (1, 5, 25)
_START: Final = "2016-03-10"


class _Row(msgspec.Struct):
    T: str


class _Day(msgspec.Struct):
    results: list[_Row]


def measure(*, quick: bool = False) -> list[Table]:
    """Load more and more, each into a new database in a process of its own."""
    times, rounds = (_TIMES[:2], 1) if quick else (_TIMES, _ROUNDS)
    with surroundings() as around:
        names = listed(around.market_url)
        rows = []
        peaks: list[float] = []
        for factor in times:
            runs = [
                around.run(around.database(), tickers=names[: factor * _TICKERS], start=_START) for _ in range(rounds)
            ]
            peaks.append(statistics.median(run.peak for run in runs))
            before = statistics.median(run.before for run in runs)
            seconds = statistics.median(run.seconds for run in runs)
            rows.append((f"{factor}x", runs[0].bars, seconds, before, peaks[-1], peaks[-1] / peaks[0]))
    columns = ("data", "bars", "seconds", "MB before", "MB at most", "of 1x")
    notes = [
        f"Ranges of ten years of daily bars, {_TICKERS} tickers and multiples; medians of {rounds}. "
        "*MB before*: of the process when the flow is called, most modules loaded; *MB at most*: its resident set."
    ]
    return [Table("Memory", columns, rows, notes)]


def listed(market_url: str) -> list[str]:
    """The tickers that the market has a bar of on one day, in their order."""
    url = f"{market_url}/v2/aggs/grouped/locale/us/market/stocks/2026-03-06?adjusted=false&include_otc=false"
    body = urllib3.request("GET", url, headers={"Authorization": "Bearer any"}).data
    return sorted({row.T for row in msgspec.json.decode(body, type=_Day).results})
