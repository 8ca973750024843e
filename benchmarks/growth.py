"""How writing and reading minutes grow from a million stored bars to a hundred million.

Beside the table as it is, in partitions, the same bars in the same table without them. It needs 32 GB of disk, below
``TMPDIR``, and a quarter of an hour or more.

python -m benchmarks growth
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import psycopg2
import sqlalchemy as sa
from alembic import command

from benchmarks.database import Bench
from benchmarks.report import Table
from benchmarks.writes import market_day
from closingbell.bars import BAR, Bars
from closingbell.calendar import calendar_for
from closingbell.cells import Cells
from closingbell.errors import ConfigurationError
from closingbell.outcome import Judge, Outcome
from closingbell.plan import MarketDay, TickerRange
from closingbell.store.copy import Rows
from closingbell.store.database import Series
from closingbell.store.postgres import COPY, whole_rows
from closingbell.store.schema import watermark
from infra import migrations
from infra.postgres import EmbeddedPostgres
from tasks.flush import ROWS

TICKERS: Final = tuple(f"T{number:03}" for number in range(523))
MINUTES: Final = 390

#: Stored bars at which is measured.
SIZES: Final = (1_000_000, 10_000_000, 100_000_000)

#: What a bar takes with its key, in bytes, and room to spare.
_BYTES: Final = 160

_PARTITIONED, _PLAIN = "in partitions", "in one table"


@dataclass
class Kept:
    """One of the databases, and what was measured there: by what and size, a value for each round."""

    bench: Bench
    folder: Path
    seconds: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    run_id: Any = None

    def timed(self, what: str, size: int, work: Callable[[], Any]) -> Any:
        """Do something, and note how long it took, and how long the server's process was busy with it."""
        pid, before = self._pid(), self._busy()
        begun = time.perf_counter()
        found = work()
        self.seconds[what, size].append(time.perf_counter() - begun)
        if self._pid() == pid:
            self.seconds[f"{what}, busy", size].append(self._busy() - before)
        return found

    def forget(self) -> None:
        """Have the system forget the pages of the database's files, where it can be asked to."""
        self.bench.do("CHECKPOINT")
        for path in self.folder.rglob("*"):
            if path.is_file() and hasattr(os, "posix_fadvise"):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _pid(self) -> int:
        with self.bench.store.engine.connect() as connection:
            return int(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())

    def _busy(self) -> float:
        stat = Path(f"/proc/{self._pid()}/stat")
        if not stat.exists():
            return 0.0
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(*, quick: bool = False, sizes: Sequence[int] = SIZES) -> list[Table]:
    """Fill both databases, and measure at each size.

    Args:
        quick: a hundredth of it.
        sizes: stored bars at which is measured, ascending.

    Raises:
        ConfigurationError: there is not enough room on the disk.
    """
    sizes = [size // 100 for size in sizes] if quick else list(sizes)
    need = 2 * sizes[-1] * _BYTES
    if shutil.disk_usage(tempfile.gettempdir()).free < need:
        raise ConfigurationError(
            f"there is less than {need / 2**30:.0f} GB of room",
            value=tempfile.gettempdir(),
            fix="Set TMPDIR to a folder on a larger disk.",
        )
    days = iter(calendar_for("stocks").sessions(date(2024, 1, 2), date(2027, 12, 31)).tolist())
    with ExitStack() as stack:
        kept = _databases(stack)
        held, sessions = 0, []
        for size in sizes:
            while held + 3 * MINUTES * len(TICKERS) < size or not sessions:
                sessions.append(next(days))
                held += _fill(kept, session(sessions[-1]), size)
            for each in kept.values():
                _told(each, sessions)
                each.bench.do("VACUUM ANALYZE bar")
            for night in range(5):
                sessions.append(next(days))
                while minutes_of(sessions[-1]) < MINUTES:  # a night is a whole session here, so that all are alike
                    held += _fill(kept, session(sessions[-1]), size)
                    sessions.append(next(days))
                held += _night(kept, sessions[-1], size, first=night == 0)
            _read(kept, sessions, size)
            for each in kept.values():
                each.seconds["size", size].append(each.bench.number(_SIZE))
            print(*(table.markdown() for table in _tables(kept, sizes)), sep="\n", file=sys.stderr, flush=True)
        return _tables(kept, sizes)


def session(day: date) -> Bars:
    """A session's minutes of all tickers, their prices a random walk."""
    minutes = minutes_of(day)
    random, count = np.random.default_rng(day.toordinal()), len(TICKERS) * minutes
    rows = np.zeros(count, BAR)
    rows["ticker"] = np.repeat(np.arange(len(TICKERS)), minutes)
    rows["session"] = np.datetime64(day)
    opens = calendar_for("stocks").opens(rows["session"][:1])[0]
    rows["ts"] = np.tile(opens + np.arange(minutes) * np.timedelta64(1, "m"), len(TICKERS))
    steps = random.normal(0, 5e-4, (len(TICKERS), minutes)).cumsum(axis=1)
    rows["open"] = (100 * np.exp(steps)).ravel().round(2)
    rows["close"] = (rows["open"] * (1 + random.normal(0, 4e-4, count))).round(2)
    rows["high"] = np.maximum(rows["open"], rows["close"]) + 0.01
    rows["low"] = np.minimum(rows["open"], rows["close"]) - 0.01
    rows["vwap"] = (rows["high"] + rows["low"]) / 2
    rows["volume"], rows["trades"] = random.integers(100, 100_000, count), random.integers(1, 100, count)
    return Bars(TICKERS, rows, "1m")


def minutes_of(day: date) -> int:
    """The minutes of a session: some end at one o'clock."""
    calendar, days = calendar_for("stocks"), np.array([day], "M8[D]")
    return int((calendar.closes(days) - calendar.opens(days))[0] / np.timedelta64(1, "m"))


def _databases(stack: ExitStack) -> dict[str, Kept]:
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="closingbell-growth-")))
    server = stack.enter_context(EmbeddedPostgres(home))
    kept = {}
    for name, words in (("partitioned", _PARTITIONED), ("plain", _PLAIN)):
        server.ensure_database(name)
        bench = Bench(sa.make_url(server.url(name)))
        stack.callback(bench.close)
        migrations.upgrade(bench.store.engine)
        if words == _PLAIN:
            with bench.store.engine.begin() as connection:
                config = migrations.config()
                config.attributes["connection"] = connection
                command.downgrade(config, "0007")
            bench.store.engine.dispose()
        kept[words] = Kept(bench, server.data, run_id=bench.run())
    return kept


def _fill(kept: Mapping[str, Kept], bars: Bars, size: int) -> int:
    """Bars of a session by COPY, as a run writes those that are new."""
    rows = Rows(len(bars), whole_rows([bars], Series("polygon", "1m", uuid4())))
    stream = b"".join(iter(lambda: rows.read(), b""))
    for each in kept.values():
        plain = each.bench.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with closing(psycopg2.connect(plain)) as connection, connection.cursor() as cursor:
            begun = time.perf_counter()
            cursor.copy_expert(COPY, io.BytesIO(stream))
            connection.commit()
            each.seconds["fill", size].append(time.perf_counter() - begun)
    return len(bars)


def _told(kept: Kept, sessions: Sequence[date]) -> None:
    """The ledger's word of what was filled."""
    marks = {
        "source": "polygon",
        "timeframe": "1m",
        "first_session": sessions[0],
        "last_session": sessions[-1],
        "run_id": kept.run_id,
    }
    with kept.bench.store.engine.begin() as connection:
        connection.execute(sa.delete(watermark).where(watermark.c.timeframe == "1m"))
        connection.execute(sa.insert(watermark), [{**marks, "ticker": ticker} for ticker in TICKERS])


def _night(kept: Mapping[str, Kept], day: date, size: int, *, first: bool) -> int:
    """A session's minutes, and its daily bars; both once more; and the minutes with other values in one of a hundred.

    The first one warms up: it compiles, and opens what was not open yet.
    """
    judge = Judge("stocks", np.array([day], "M8[D]"), np.datetime64(day), np.datetime64(day))
    bars = session(day)
    minutes, daily = _minutes(judge, bars, day), _daily(judge, day)
    moved = bars.rows.copy()
    moved["close"][np.random.default_rng(1).random(len(moved)) < 0.01] += 0.005
    changed = _minutes(judge, Bars(bars.tickers, moved, "1m"), day)
    turned = list(kept.values()) if day.toordinal() % 2 else list(kept.values())[::-1]
    for each in turned:
        size_of = 0 if first else size
        each.bench.do("CHECKPOINT")
        told = each.timed("night", size_of, lambda each=each: _flushed(each, "1m", minutes))
        assert told == (len(bars), 0), told
        assert each.timed("again", size_of, lambda each=each: _flushed(each, "1m", minutes)) == (0, 0)
        inserted, rewritten = each.timed("changed", size_of, lambda each=each: _flushed(each, "1m", changed))
        assert (inserted, rewritten > 0) == (0, True)
        each.bench.do("CHECKPOINT")
        assert each.timed("daily", size_of, lambda each=each: _flushed(each, "1d", daily)) == (len(TICKERS), 0)
    return len(bars)


def _minutes(judge: Judge, bars: Bars, day: date) -> list[list[Outcome]]:
    """An answer for each ticker, in groups of one transaction."""
    each = []
    for number, ticker in enumerate(TICKERS):
        rows = bars.rows[number * MINUTES : (number + 1) * MINUTES].copy()
        rows["ticker"] = 0
        each.append(judge.answered(TickerRange(ticker, (day,), timeframe="1m"), Bars((ticker,), rows, "1m"), MINUTES))
    group = ROWS // MINUTES
    return [each[begin : begin + group] for begin in range(0, len(each), group)]


def _daily(judge: Judge, day: date) -> list[list[Outcome]]:
    bars = market_day(day, TICKERS)
    return [[judge.answered(MarketDay(day, TICKERS), bars, len(bars))]]


def _flushed(kept: Kept, timeframe: str, groups: Sequence[Sequence[Outcome]]) -> tuple[int, int]:
    inserted = rewritten = 0
    for outcomes in groups:
        told = kept.bench.store.writer.flush(kept.run_id, "polygon", timeframe, outcomes, calls=1)
        inserted, rewritten = inserted + told.inserted, rewritten + told.rewritten
    return inserted, rewritten


def _read(kept: Mapping[str, Kept], sessions: Sequence[date], size: int) -> None:
    """A ticker's year, a session of all tickers, and what the ledger asks."""
    year = [day for day in sessions if day.toordinal() > sessions[-1].toordinal() - 365]
    bars_of_year = sum(map(minutes_of, year))
    last = [Cells.all(TICKERS, np.array(sessions[-3:], "M8[D]"))]
    bars_of_last = len(TICKERS) * sum(map(minutes_of, sessions[-3:]))
    for turn, each in enumerate([*kept.values()] * 2):
        records = each.bench.store.records

        def one(ticker: str, records: Any = records) -> None:
            bars = records.series("polygon", "1m", [ticker], year[0], year[-1])
            assert len(bars) == bars_of_year

        each.forget()
        for ticker in TICKERS[7 + turn :: 100]:
            each.timed("ticker, cold", size, lambda ticker=ticker, one=one: one(ticker))
            for _ in range(3):
                each.timed("ticker", size, lambda ticker=ticker, one=one: one(ticker))
        for day in (sessions[-2], sessions[len(sessions) // 2]):
            each.timed("session", size, lambda day=day, each=each: _session_of_all(each, day))
        for _ in range(3):
            held = each.timed("ledger", size, lambda records=records: records.reconcile("polygon", "1m", last))
            assert (held.balanced, held.stored) == (True, last[0].count)
            found = each.timed("count", size, lambda records=records: records.count_bars("1m", last))
            assert found == bars_of_last
        if turn < len(kept):
            assert each.timed("audit", size, records.audit)["polygon", "1m"].balanced


def _session_of_all(kept: Kept, day: date) -> None:
    query = sa.text("""
        SELECT count(*), sum(volume) FROM bar
        WHERE timeframe = '1m' AND session = :day AND ts >= CAST(:day AS date) AND ts < CAST(:day AS date) + 2
    """)
    with kept.bench.store.engine.connect() as connection:
        assert connection.execute(query, {"day": day}).one().count == minutes_of(day) * len(TICKERS)


#: What is shown: in words, the measured one, and in what unit.
_WRITTEN: Final = (
    ("the night: 203,970 minutes, s", "night", 1.0),
    ("the same, seconds that the server's process was busy", "night, busy", 1.0),
    ("the night once more: nothing is written, s", "again", 1.0),
    ("the night with 1% changed: 2,000 rewritten, s", "changed", 1.0),
    ("the night of 523 daily bars, ms", "daily", 1e3),
    ("COPY of a session while filling, s", "fill", 1.0),
)
_READS: Final = (
    ("a ticker's last year, ms", "ticker", 1e3),
    ("the same, from the disk, ms", "ticker, cold", 1e3),
    ("a session of all tickers, ms", "session", 1e3),
    ("the ledger held against the last 3 sessions, ms", "ledger", 1e3),
    ("the bars of the last 3 sessions counted, ms", "count", 1e3),
    ("the whole ledger held against all bars (doctor), s", "audit", 1.0),
    ("size with all indexes, GB", "size", 1e-9),
)

#: Of a table without partitions there is no tree.
_SIZE: Final = """
    SELECT CAST(pg_total_relation_size('bar') + coalesce(
        (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('bar')), 0) AS bigint)
"""


def _tables(kept: Mapping[str, Kept], sizes: Sequence[int]) -> list[Table]:
    def rows(what: Sequence[tuple[str, str, float]]) -> list[list[object]]:
        made = []
        for words, name, unit in what:
            for where, each in kept.items():
                rounds = [each.seconds.get((name, size)) for size in sizes]
                found = [unit * float(np.median(round_)) if round_ else None for round_ in rounds]
                of_first = found[-1] / found[0] if found[0] and found[-1] else None
                made.append([words, where, *found, of_first])
        return made

    head = ("what", "where", *(f"at {size:,}" for size in sizes), "last / first")
    minutes = len(TICKERS) * MINUTES
    return [
        Table(
            "Writing minutes as the table grows",
            head,
            rows(_WRITTEN),
            [
                f"{len(TICKERS)} tickers, {MINUTES} minutes a session: {minutes:,} bars a night. As a run writes them, "
                f"with the ledger, {ROWS:,} rows a transaction, over one connection; medians of 4 nights, each after a "
                "checkpoint. Both databases are on one server, and take turns.",
            ],
        ),
        Table(
            "Reading minutes as the table grows",
            head,
            rows(_READS),
            [
                "A ticker's year has some 97,000 bars where a whole year is stored, else what there is: at the first "
                "size 8 sessions. The system is asked to forget the files before what is called from the disk; all "
                "else is in memory, the system's or the server's.",
            ],
        ),
    ]
