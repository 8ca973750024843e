"""Whole runs: from the API's page to the committed row, and what of it is Prefect.

    python -m benchmarks runs

At a quota that nobody reaches, the pages kept and given again (:mod:`benchmarks.pages`), PostgreSQL durable as by
default. Beside each run, in the same round: the same night with Prefect taken out (:mod:`benchmarks.plain`), and
decoding alone, what ``python -m benchmarks decode`` measures, of the same pages. Real bars where CLOSINGBELL_DATA names
their folder.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.decode import OpenGate
from benchmarks.report import Table, ratio, rounds
from benchmarks.surroundings import Surroundings, surroundings
from benchmarks.whole import Measured
from closingbell import universe
from closingbell.calendar import calendar_for
from closingbell.quality import Asked, check, profile_of
from closingbell.sources.polygon import PolygonSource

_ROUNDS: Final = 3

#: Tickers of the run of minutes, each three full pages.
_MINUTES: Final = 12

#: Sessions of minutes on a page, as the planner cuts them.
_PAGE: Final = 52

#: The stages of a run's report, and what they are.
_STAGES: Final = {
    "waiting": "for the quota's slots",
    "api": "request to last byte",
    "decoding": "bytes to columns, and the answer's own checks",
    "checks": "the quality rules, and the stored bars that they need",
    "database": "transactions, of two writers at once",
}

_ALONE: Final = (
    "Decoding alone: every page of the run fetched over the same HTTP, unzipped, decoded to typed columns and checked "
    "by every rule, in one thread; nothing is stored."
)


def measure(*, quick: bool = False) -> list[Table]:
    """Backfills of an index, generated and real, and its nights."""
    count = 2 if quick else _ROUNDS
    names = universe.resolve(universe.DEFAULT, None)[: 50 if quick else None]
    with surroundings() as around:
        tables = _backfill(
            f"{_MINUTES} tickers, 150 sessions of minutes",
            around,
            names[:_MINUTES],
            "2025-08-01",
            "2026-03-06",
            count,
            "1m",
        )
        tables += _backfill(f"{len(names)} tickers, ten years", around, names, "2016-03-10", "2026-03-06", count)
        tables.append(_night(around, names, count))
    folder = os.environ.get("CLOSINGBELL_DATA")
    real = Path(folder).resolve() / "daily" / "sp500_5yr.parquet" if folder else None
    if real and real.exists():
        tickers = _tickers(real)[: 50 if quick else None]
        with surroundings(real) as around:
            what = f"{len(tickers)} tickers, five years of real bars"
            tables += _backfill(what, around, tickers, "2013-02-08", "2018-02-07", count)
    return tables


def _backfill(
    what: str, around: Surroundings, names: Sequence[str], first: str, last: str, count: int, timeframe: str = "1d"
) -> list[Table]:
    runs: dict[bool, list[Measured]] = {False: [], True: []}

    def whole(*, plain: bool) -> float:
        asked: dict[str, Any] = {"tickers": list(names), "start": first, "end": last, "timeframes": [timeframe]}
        if timeframe != "1d":
            asked["batch_size"] = 2  # so that all threads have some
        found = around.run(around.database(), plain=plain, **asked)
        runs[plain].append(found)
        return found.seconds

    _decode(around, names, first, last, timeframe)  # fills the kept pages
    cases: dict[str, Callable[[], float]] = {
        "whole": lambda: whole(plain=False),
        "plain": lambda: whole(plain=True),
        "decoding": lambda: _decode(around, names, first, last, timeframe),
    }
    spent = rounds(cases, count, warm_up=1)
    bars = runs[False][0].bars
    rows = [
        (
            told,
            bars,
            statistics.median(spent[case]),
            ratio([bars] * count, spent[case]),
            ratio(spent["decoding"], spent[case]),
        )
        for case, told in {
            "decoding": "decoding alone",
            "plain": "the run, Prefect taken out",
            "whole": "the run",
        }.items()
    ]
    share = 1 - ratio(spent["plain"], spent["whole"])
    columns = ("", "bars", "seconds", "bars/s", "of decoding alone")
    notes = [_ALONE, f"Prefect's share of the run: {share:.1%}. Medians of {count} rounds."]
    return [Table(f"Whole run: {what}", columns, rows, notes), _stages(what, runs[False][1:])]


def _stages(what: str, runs: Sequence[Measured]) -> Table:
    """Where the time of the runs went."""
    rows: list[tuple[object, ...]] = [
        (stage, statistics.median(run.told["seconds"].get(stage, 0.0) for run in runs), meaning)
        for stage, meaning in _STAGES.items()
    ]
    rows.append(("processor", statistics.median(run.cpu for run in runs), "of the run's process, all threads"))
    rows.append(("whole run", statistics.median(run.seconds for run in runs), "by the clock"))
    peak = statistics.median(run.peak for run in runs)
    notes = [f"Stages are summed over the threads, which overlap. Memory: {peak:,.0f} MB at most."]
    return Table(f"Seconds by stage: {what}", ("stage", "seconds", "what"), rows, notes)


def _night(around: Surroundings, names: Sequence[str], count: int) -> Table:
    """The usual night: one market day, into a database that holds a month of days before it."""
    runs: dict[bool, list[Measured]] = {False: [], True: []}

    def night(*, plain: bool) -> float:
        database = around.database()
        span: dict[str, Any] = {"tickers": list(names), "start": "2026-02-09"}
        around.run(database, plain=True, end="2026-03-05", **span)
        runs[plain].append(around.run(database, plain=plain, end="2026-03-06", **span))
        return runs[plain][-1].seconds

    spent = rounds({"whole": lambda: night(plain=False), "plain": lambda: night(plain=True)}, count, warm_up=1)
    rows = [
        (
            told,
            found[0].told["actual_calls"],
            found[0].told["inserted"],
            statistics.median(spent[case]),
            statistics.median(run.peak for run in found),
        )
        for case, told, found in (("whole", "the night", runs[False]), ("plain", "Prefect taken out", runs[True]))
    ]
    more = statistics.median(spent["whole"]) - statistics.median(spent["plain"])
    notes = [
        f"From the call of the flow to its final state; Prefect then waits up to a second for the thread of its "
        f"heartbeats. Prefect adds {more:.2f} s: the states and artifacts of one night."
    ]
    return Table(f"One night of {len(names)} tickers", ("", "calls", "bars", "seconds", "MB at most"), rows, notes)


def _decode(around: Surroundings, names: Sequence[str], first: str, last: str, timeframe: str) -> float:
    """Seconds of fetching, decoding and checking every ticker's range, one after the other."""
    source = PolygonSource("any", around.market_url, OpenGate())
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    sessions = calendar_for("stocks").sessions(begin, end)
    parts = [sessions] if timeframe == "1d" else np.split(sessions, range(_PAGE, len(sessions), _PAGE))
    profile = profile_of("stocks", timeframe)
    begun = time.perf_counter()
    for name in names:
        for part in parts:
            bars = source.fetch_range(name, part[0].item(), part[-1].item(), timeframe)
            check(bars, Asked(part, np.datetime64(end)), profile)
    seconds = time.perf_counter() - begun
    source.close()
    return seconds


def _tickers(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    (name,) = {"ticker", "symbol", "Name"} & set(pq.read_schema(path).names)
    return sorted(set(pq.read_table(path, columns=[name])[name].to_pylist()))
