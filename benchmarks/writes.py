"""How fast bars are written, beside the limit: a binary COPY of the same rows into the same table with its key.

python -m benchmarks writes
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import date
from threading import Lock
from typing import Any, Final
from uuid import uuid4

import numpy as np
import psycopg2

from benchmarks.competitors import COMPETITORS, DLT_PYTHON, as_rows, dlt_seconds, seconds_of
from benchmarks.database import Bench, bench, data, real_outcomes
from benchmarks.report import Table, ratio
from closingbell.bars import BAR, Bars
from closingbell.calendar import calendar_for
from closingbell.errors import ConfigurationError
from closingbell.outcome import FlushResult, Judge, Outcome
from closingbell.plan import MarketDay, TickerRange
from closingbell.store.claims import Claim
from closingbell.store.columns import ordered
from closingbell.store.copy import Rows
from closingbell.store.database import Series
from closingbell.store.postgres import COPY, whole_rows
from tasks.backlog import Saving
from tasks.flush import ROWS, WRITERS, Flusher

_RAW: Final = "binary COPY into the same table: the limit"
_FRESH: Final = "closingbell, fresh, ledger included"
_AGAIN: Final = "closingbell, the same again"
_CHANGED: Final = "closingbell, 1% changed"
_ALONE: Final = ", one connection"
_DLT: Final = (("dlt merge, from dicts", "dicts", 20_000), ("dlt merge, from Arrow", "arrow", 60_000))


def measure(*, quick: bool = False) -> list[Table]:
    """All that is written in bulk, the small transactions, the night, and several connections.

    Raises:
        ConfigurationError: there are no real bars to write.
    """
    path = data()
    if path is None:
        raise ConfigurationError(
            "there are no real bars to write", value="CLOSINGBELL_DATA", fix="Set it to the folder of real market data."
        )
    outcomes = real_outcomes(path, share=10 if quick else 1)
    count = 1 if quick else 5
    with bench() as database:
        return [
            _bulk(database, outcomes, count),
            _small(database, outcomes, count),
            _night(database, outcomes, 5 if quick else 30),
            _connections(database, outcomes, count),
        ]


def raw_stream(bars: Bars) -> bytes:
    """The COPY stream of bars, in the order of the key: made before the clock runs."""
    bars = ordered(bars)
    rows = Rows(len(bars), whole_rows([bars], Series("polygon", "1d", uuid4())))
    return b"".join(iter(lambda: rows.read(), b""))


def _raw(database: Bench, stream: bytes) -> float:
    """Seconds of a COPY and its commit."""
    plain = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg2.connect(plain)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        begun = time.perf_counter()
        cursor.copy_expert(COPY, io.BytesIO(stream))
        connection.commit()
        return time.perf_counter() - begun


def _flushed(
    database: Bench, outcomes: Sequence[Outcome], rows: int = ROWS, writers: int = WRITERS
) -> tuple[float, FlushResult]:
    """Seconds that all of it takes as a run writes it, so many rows a transaction, and what was changed."""
    run_id, told, lock = database.run(), FlushResult(), Lock()

    def write(parts: Sequence[Outcome], claims: Sequence[int | None]) -> FlushResult:
        result = database.store.writer.flush(run_id, "polygon", "1d", parts, calls=1)
        with lock:
            told.add(result)
        return result

    begun = time.perf_counter()
    flusher = Flusher(write, writers=writers, rows=rows)
    savings = [Saving(Claim(outcome.call), outcome, None) for outcome in outcomes]
    for saving in savings:
        flusher.put(saving)
    for saving in savings:
        flusher.wait(saving)
    seconds = time.perf_counter() - begun
    flusher.close()
    if failed := [saving.failure for saving in savings if saving.failure]:
        raise failed[0]
    return seconds, told


def _moved(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The same answers with another close in one bar of a hundred."""
    random = np.random.default_rng(1)
    moved = []
    for outcome in outcomes:
        bars = outcome.verdict.accepted
        rows = bars.rows.copy()
        rows["close"][random.random(len(rows)) < 0.01] += 0.01
        accepted = Bars(bars.tickers, rows, bars.timeframe)
        moved.append(replace(outcome, verdict=replace(outcome.verdict, accepted=accepted)))
    return moved


def _bulk(database: Bench, outcomes: Sequence[Outcome], count: int) -> Table:
    bars = Bars.concat(outcome.verdict.accepted for outcome in outcomes)
    stream, moved, run_id = raw_stream(bars), _moved(outcomes), uuid4()
    rows = as_rows(Bars(bars.tickers, bars.rows[: max(size for _, size in COMPETITORS.values())]), run_id)
    speed: dict[str, list[float]] = {}
    wal: dict[str, float] = {}
    rewritten: dict[str, int] = {}

    def ours(name: str, what: Sequence[Outcome], writers: int = WRITERS) -> None:
        before = database.wal()
        seconds, told = _flushed(database, what, writers=writers)
        wal[name] = (database.wal() - before) / len(bars) * 1_000
        rewritten[name] = told.rewritten
        speed.setdefault(name, []).append(len(bars) / seconds)

    for _ in range(count):
        database.empty()
        before = database.wal()
        speed.setdefault(_RAW, []).append(len(bars) / _raw(database, stream))
        wal[_RAW] = (database.wal() - before) / len(bars) * 1_000
        database.empty()
        ours(_FRESH, outcomes)
        ours(_AGAIN, outcomes)
        ours(_CHANGED, moved)
        database.empty()
        ours(_FRESH + _ALONE, outcomes, 1)
        ours(_AGAIN + _ALONE, outcomes, 1)
        ours(_CHANGED + _ALONE, moved, 1)
        for name, (work, size) in COMPETITORS.items():
            database.empty()
            some = rows[:size]
            speed.setdefault(name, []).append(len(some) / seconds_of(work, database.url, some))
        for name, kind, size in _DLT:
            database.do(f"DROP SCHEMA IF EXISTS dlt_{kind}, dlt_{kind}_staging CASCADE")
            part = Bars(bars.tickers, bars.rows[:size])
            seconds = dlt_seconds(database.url, part, run_id, kind)
            if seconds is not None:
                speed.setdefault(name, []).append(len(part) / seconds)
    table = []
    mine = (_FRESH, _AGAIN, _CHANGED)
    for name in (_RAW, *mine, *(name + _ALONE for name in mine), *COMPETITORS, *(name for name, _, _ in _DLT)):
        if name not in speed:
            table.append((name, "not installed", None, None, None, None))
            continue
        of_raw, slower = ratio(speed[name], speed[_RAW]), ratio(speed[_FRESH], speed[name])
        table.append((name, _median(speed[name]), of_raw, slower, wal.get(name), rewritten.get(name)))
    return Table(
        f"{len(bars):,} daily bars into one table with its key",
        ("path", "rows/s", "of the limit", "times slower than ours", "WAL bytes per 1,000 rows", "rewritten"),
        table,
        [
            f"Medians of {count} rounds, all in each of them. Ours: as a run writes, over {WRITERS} connections, up to "
            f"{ROWS:,} rows a transaction, with watermarks, gaps, quarantine and counters; and the same over one. The "
            "COPY has one connection; its stream is made before the clock runs, in the order of the key.",
            "The others have a part of the rows, as Python values before the clock runs, and no ledger; those that can "
            "update do so by the same key.",
            f"dlt runs in the interpreter that {DLT_PYTHON} names, else in this one.",
        ],
    )


def _small(database: Bench, outcomes: Sequence[Outcome], count: int) -> Table:
    """500 rows a transaction."""
    part = [outcome for outcome in outcomes if len(outcome.sessions) >= 500][:80]
    small = [each for outcome in part for each in _cut(outcome, 500)]
    work, size = COMPETITORS["execute_values, 500 rows a commit"]
    rows = as_rows(Bars.concat(outcome.verdict.accepted for outcome in small), uuid4())[:size]
    count_of = sum(len(outcome.verdict.accepted) for outcome in small)
    ours: dict[int, list[float]] = {WRITERS: [], 1: []}
    again: dict[int, list[float]] = {WRITERS: [], 1: []}
    theirs: list[float] = []
    for _ in range(count):
        for writers in (WRITERS, 1):
            database.empty()
            ours[writers].append(count_of / _flushed(database, small, 500, writers)[0])
            again[writers].append(count_of / _flushed(database, small, 500, writers)[0])
        database.empty()
        theirs.append(len(rows) / seconds_of(work, database.url, rows))
    return Table(
        "500 rows a transaction",
        ("path", "rows/s", "of execute_values"),
        [
            ("execute_values", _median(theirs), 1.0),
            *(
                (f"closingbell, {what}{alone}", _median(found[writers]), ratio(found[writers], theirs))
                for writers, alone in ((WRITERS, ""), (1, _ALONE))
                for what, found in (("fresh", ours), ("the same again", again))
            ),
        ],
        [f"A flush of 500 sessions of one ticker each, {len(small)} of them; medians of {count} rounds."],
    )


def _cut(outcome: Outcome, size: int) -> list[Outcome]:
    """An outcome as several ones of so many sessions, the incomplete last one left out."""
    assert isinstance(outcome.call, TickerRange)
    bars, parts = outcome.verdict.accepted, []
    for first in range(0, len(outcome.sessions) - size + 1, size):
        sessions = outcome.sessions[first : first + size]
        inside = (bars.rows["session"] >= sessions[0]) & (bars.rows["session"] <= sessions[-1])
        if np.count_nonzero(inside) == size:
            verdict = replace(outcome.verdict, accepted=bars.where(inside), quarantined=Bars(()), rules=())
            call = TickerRange(outcome.call.ticker, tuple(sessions.tolist()))
            parts.append(replace(outcome, call=call, verdict=verdict, sessions=sessions))
    return parts


def _night(database: Bench, outcomes: Sequence[Outcome], count: int) -> Table:
    """One market day of 523 tickers, on the filled table."""
    database.empty()
    _flushed(database, outcomes)
    database.do("VACUUM ANALYZE")
    held = database.number("SELECT count(*) FROM bar")
    tickers = [outcome.tickers[0] for outcome in outcomes]
    tickers = (tickers + [f"ZZ{i:03}" for i in range(523)])[:523]
    last = max(outcome.sessions[-1] for outcome in outcomes).item()
    days = calendar_for("stocks").sessions(last, date(last.year + 2, 1, 1))[1:]
    judge = Judge("stocks", days, days[-1], days[-1])
    raw: dict[str, list[float]] = {"warm": [], "cold": []}
    ours: dict[str, list[float]] = {"warm": [], "cold": []}
    run_id = database.run()

    def flushed(outcome: Outcome) -> float:
        begun = time.perf_counter()
        database.store.writer.flush(run_id, "polygon", "1d", [outcome], calls=1)
        return time.perf_counter() - begun

    for number, day in enumerate(days[: 4 * count + 1].tolist()):
        bars = market_day(day, tickers)
        outcome = judge.answered(MarketDay(day, tuple(tickers)), bars, len(bars))
        state = "cold" if number % 4 >= 2 else "warm"
        if state == "cold":
            database.do("CHECKPOINT")
        if number == 0:
            flushed(outcome)  # the first one makes the watermarks of new tickers, and compiles
        elif number % 2:
            raw[state].append(_raw(database, raw_stream(bars)))
            flushed(outcome)  # what the ledger lacks of this day; compares
        else:
            ours[state].append(flushed(outcome))
    table: list[Sequence[Any]] = []
    for state, words in (("cold", "first after a checkpoint"), ("warm", "at once after another")):
        of = _median(ours[state]) / _median(raw[state])
        table.append((words, 1e3 * _median(raw[state]), 1e3 * _median(ours[state]), of))
    return Table(
        f"The night: 523 bars into {held:,}",
        ("when", "COPY and commit, ms", "flush, ms", "times"),
        table,
        [
            f"One transaction: bars, 523 watermarks, counters. Medians of {count} nights. Between two real nights lies "
            "a checkpoint, after which each page that is touched goes whole into the log.",
        ],
    )


def market_day(day: date, tickers: Sequence[str]) -> Bars:
    """A daily bar of each ticker, all alike."""
    rows = np.zeros(len(tickers), BAR)
    rows["ticker"], rows["session"] = np.arange(len(tickers)), np.datetime64(day)
    rows["ts"] = calendar_for("stocks").opens(rows["session"])
    for name in ("open", "high", "low", "close", "vwap"):
        rows[name] = 100.0
    rows["volume"], rows["trades"] = 1e6, 1_000
    return Bars(tuple(tickers), rows)


def _connections(database: Bench, outcomes: Sequence[Outcome], count: int) -> Table:
    """Flushes from several threads, a connection each."""
    bars = sum(len(outcome.verdict.accepted) for outcome in outcomes)
    parts = [outcomes[first : first + 40] for first in range(0, len(outcomes), 40)]
    speed: dict[tuple[str, int], list[float]] = {}

    def load(threads: int) -> float:
        run_id = database.run()
        flush: Callable[[Sequence[Outcome]], FlushResult] = lambda part: database.store.writer.flush(  # noqa: E731
            run_id, "polygon", "1d", part, calls=1
        )
        begun = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(flush, parts))
        return bars / (time.perf_counter() - begun)

    for _ in range(count):
        for threads in (1, 2, 4):
            database.empty()
            for what in ("fresh", "the same again"):
                speed.setdefault((what, threads), []).append(load(threads))
    return Table(
        "Several connections",
        ("what", "connections", "rows/s", "of one connection"),
        [
            (what, threads, _median(found), ratio(found, speed[what, 1]))
            for (what, threads), found in sorted(speed.items())
        ],
        [f"40 tickers a transaction, a thread for each connection; medians of {count} rounds."],
    )


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
