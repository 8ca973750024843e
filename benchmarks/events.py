"""Triangles on five-minute bars, made on the way of fifteen years of minutes, with one core for all of it.

python -m benchmarks events
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np
import sqlalchemy as sa

from benchmarks.database import Bench, bench
from benchmarks.report import Table
from closingbell.bars import BAR, Bars
from closingbell.calendar import calendar_for
from closingbell.events import Triangles
from closingbell.events.engine import Derivation
from closingbell.events.tally import Tally
from closingbell.outcome import Outcome
from closingbell.plan import TickerRange
from closingbell.quality import Verdict
from closingbell.resample import resample
from closingbell.store import Store, open_store
from closingbell.store.events import Events
from closingbell.store.schema import event

_TICKER: Final = "C:EURUSD"
_SOURCE: Final = "polygon"
_START: Final = date(2011, 1, 1)
_END: Final = date(2025, 12, 31)
_SHARE: Final = 0.577  # of a day's minutes are traded in: 3.9 million of 15 years
_WRITTEN: Final = 200  # sessions of a transaction that fills the table


def measure(*, quick: bool = False) -> list[Table]:
    """Fill, derive, kill and resume, revise one bar; the database and its client share one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return _measure(quick=quick)
    finally:
        os.sched_setaffinity(0, cores)


def _measure(*, quick: bool) -> list[Table]:
    start = date(2024, 7, 1) if quick else _START
    with bench() as found:
        url = found.url.render_as_string(hide_password=False)
        count = _fill(found, start)
        runs = {
            "first": _child(url),
            "again, nothing to do": _child(url),
            "rebuilt with purge": _child(url, "--purge"),
        }
        undisturbed = _contents(found.store)
        whole = _at_once(found.store) == undisturbed
        killed = _child(url, "--purge", "--die-after", "1" if quick else "4")
        runs["killed in the middle, resumed"] = _child(url)
        resumed = _contents(found.store) == undisturbed
        revised, same = _revise(found)
    rows = [
        (name, told["bars"], told["commits"], told["inserted"], told["seconds"], told["peak"])
        for name, told in runs.items()
    ]
    spent = sum(revised.seconds.values())
    rows.append(("one bar revised", revised.bars, revised.commits, revised.inserted, spent, None))
    stages = runs["rebuilt with purge"]["stages"]
    notes = [
        f"{count:,} generated minutes of one ticker, {start} to {_END}, in PostgreSQL; triangles on bars of five "
        "minutes, resampled on the way. Client and database server together on one core.",
        "Of the rebuild: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items()) + ". "
        "*MB at most*: the resident set of a process that does nothing else.",
        f"In chunks the same as at once: {whole}. Killed ({signal.Signals(-killed['code']).name}) and resumed the same "
        f"as undisturbed: {resumed}. After the revision the same as at once: {same}; its window: "
        f"{revised.windows[0][0]} to {revised.windows[-1][1]}.",
    ]
    return [Table("Events", ("run", "bars", "commits", "events", "seconds", "MB at most"), rows, notes)]


def _minutes(start: date) -> Bars:
    rng = np.random.default_rng(20)
    days = calendar_for("fx").sessions(start, _END)
    ts = (days[:, None].astype("M8[us]") + np.arange(1440) * np.timedelta64(1, "m")).ravel()
    ts = ts[rng.random(len(ts)) < _SHARE]
    rows = np.zeros(len(ts), BAR)
    rows["ts"], rows["session"] = ts, ts.astype("M8[D]")
    price = 1.2 * np.exp(np.cumsum(rng.normal(0, 1e-4, len(ts))))
    rows["open"] = rows["close"] = price
    rows["high"] = price * (1 + rng.random(len(ts)) * 1e-4)
    rows["low"] = price * (1 - rng.random(len(ts)) * 1e-4)
    rows["volume"], rows["vwap"], rows["trades"] = 100.0, price, 10
    return Bars((_TICKER,), rows, "1m")


def _write(store: Store, run_id: UUID, bars: Bars) -> None:
    sessions = np.unique(bars.rows["session"])
    call = TickerRange(_TICKER, tuple(sessions.tolist()), timeframe="1m")
    outcome = Outcome(call, Verdict(bars, Bars(()), (), {}), (_TICKER,), sessions, "empty")
    store.writer.flush(run_id, _SOURCE, "1m", [outcome], at=datetime(2026, 1, 1, tzinfo=UTC))


def _fill(found: Bench, start: date) -> int:
    bars, run_id = _minutes(start), found.run()
    days = np.unique(bars.rows["session"])
    for first in range(0, len(days), _WRITTEN):
        low, high = np.searchsorted(bars.rows["session"], [days[first], days[min(first + _WRITTEN, len(days)) - 1] + 1])
        _write(found.store, run_id, Bars(bars.tickers, bars.rows[low:high], "1m"))
    found.do("VACUUM ANALYZE bar")
    return len(bars)


def _derivation(store: Store) -> Derivation:
    return Derivation(
        store.records,
        Events(store.engine),
        Triangles(),
        ticker=_TICKER,
        source=_SOURCE,
        timeframe="5m",
        from_timeframe="1m",
    )


def _child(url: str, *options: str) -> dict[str, Any]:
    """Derive in a process that does nothing else; what it says of it, or the signal that it died of."""
    done = subprocess.run(  # noqa: S603  (this file)
        [sys.executable, "-m", "benchmarks.events", url, *options], stdout=subprocess.PIPE, text=True, check=False
    )
    return {"code": done.returncode} if done.returncode else json.loads(done.stdout)


def _alone(url: str, options: list[str]) -> dict[str, Any]:
    """What such a process does."""
    die = int(options[options.index("--die-after") + 1]) if "--die-after" in options else 0

    def told(sessions: int, of: int, tally: Tally) -> None:
        if tally.commits == die:
            os.kill(os.getpid(), signal.SIGKILL)

    store = open_store(url, connections=1)
    begun = time.perf_counter()
    tally = _derivation(store).derive(uuid4(), purge="--purge" in options, told=told)
    return {
        "seconds": time.perf_counter() - begun,
        "peak": _peak(),
        "bars": tally.bars,
        "commits": tally.commits,
        "inserted": tally.inserted,
        "stages": tally.seconds,
    }


def _peak() -> float:
    """The most memory that this process had, in MB: what getrusage tells begins with that of its parent."""
    told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(told[1]) / 1024 if told else math.nan


def _contents(store: Store) -> str:
    """All events in one number."""
    names = ("ts", "kind", "first_ts", "bars", "upper", "upper_slope", "lower", "lower_slope", "apex_bars")
    query = sa.select(*(event.c[name] for name in names)).order_by(event.c.ts, event.c.kind)
    with store.engine.connect() as connection:
        rows = [(row[0].astimezone(UTC), row[1], row[2].astimezone(UTC), *row[3:]) for row in connection.execute(query)]
    return _number(rows)


def _at_once(store: Store) -> str:
    """The same of what the detector finds in all bars at once."""
    detector = Triangles()
    bars = store.records.series(_SOURCE, "1m", (_TICKER,), _START, _END)
    found = np.sort(detector.detect(resample(bars, "5m")), order=["ts", "kind"])
    names = ("bars", "upper", "upper_slope", "lower", "lower_slope", "apex_bars")
    rows = [
        (
            row["ts"].item().replace(tzinfo=UTC),
            detector.kinds[row["kind"]],
            row["first_ts"].item().replace(tzinfo=UTC),
            *(row[name].item() for name in names),
        )
        for row in found
    ]
    return _number(rows)


def _number(rows: list[tuple[Any, ...]]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _revise(found: Bench) -> tuple[Tally, bool]:
    """Change one bar in the middle, and derive; what that took, and whether it is as if derived at once."""
    day = calendar_for("fx").sessions(date(2025, 3, 3), _END)[0].item()
    bars = found.store.records.series(_SOURCE, "1m", (_TICKER,), day, day)
    bars.rows["high"][len(bars) // 2] *= 1.01
    _write(found.store, found.run(), bars)
    tally = _derivation(found.store).derive(uuid4())
    return tally, _contents(found.store) == _at_once(found.store)


if __name__ == "__main__":
    print(json.dumps(_alone(sys.argv[1], sys.argv[2:])))
