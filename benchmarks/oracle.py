"""What a flush costs its client on Oracle, beside PostgreSQL: processor time a row, side by side in one run.

    python -m benchmarks oracle

Driver, binds and statements are the real ones on both sides. Behind Oracle's wire is the stand-in that
CLOSINGBELL_ORACLE_STAND_IN names, in a process of its own, whose speed is nobody's: only what this process spends is
measured, and no Oracle's throughput can be read from it.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Final
from uuid import uuid4

import numpy as np

from benchmarks.report import Table, ratio, rounds
from closingbell.bars import BAR, Bars
from closingbell.calendar import calendar_for
from closingbell.outcome import Judge, Outcome
from closingbell.plan import MarketDay, TickerRange
from closingbell.store import Store, open_store
from infra import migrations
from infra.postgres import EmbeddedPostgres
from tests.oracle import PROGRAM, OracleStandIn

_SESSIONS: Final = calendar_for("stocks").sessions(date(2024, 1, 2), date(2024, 12, 31))
_JUDGE: Final = Judge("stocks", _SESSIONS, np.datetime64("2030-01-01"), np.datetime64("2030-01-01"))

_ASKED: Final = {"source": "polygon", "timeframe": "1d", "tickers": [], "start": "2024-01-02", "end": "2024-12-31"}

#: As many as a night has.
_TICKERS: Final = 523


def measure(*, quick: bool) -> list[Table]:
    """Flushes of one size on both, fresh, again and changed; none where there is no stand-in."""
    if not os.environ.get(PROGRAM):
        print(f"{PROGRAM} is not set: nothing to measure on Oracle's wire")
        return []
    with tempfile.TemporaryDirectory(prefix="closingbell-benchmark-") as home, ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres(Path(home)))
        server.ensure_database("benchmark")
        stand_in = stack.enter_context(OracleStandIn())
        stores = {
            "PostgreSQL": stack.enter_context(_store(server.url("benchmark"))),
            "Oracle": stack.enter_context(_store(stand_in.url)),
        }
        days = 10 if quick else 40
        cases = {
            (name, kind): case for name, store in stores.items() for kind, case in _Flushes(store, days).cases().items()
        }
        found = rounds({f"{kind}|{name}": case for (name, kind), case in cases.items()}, 3 if quick else 7, warm_up=1)
        stand_in.log()
        cases["Oracle", "fresh"]()
        log = [statement.sql for statement in stand_in.log()]
    rows = []
    for kind in dict.fromkeys(kind for _, kind in cases):
        ours, theirs = found[f"{kind}|PostgreSQL"], found[f"{kind}|Oracle"]
        count = _TICKERS * (1 if kind == "a night" else days)
        rows.append((kind, count, float(np.median(ours)), float(np.median(theirs)), ratio(theirs, ours)))
    return [
        Table(
            "Client processor time of a flush",
            ("flush", "rows", "PostgreSQL, µs a row", "Oracle, µs a row", "ratio"),
            rows,
            (
                f"A fresh flush on Oracle's wire, with the start of its run, was {len(log)} executes, among them "
                f"{sum('INTO bar ' in sql for sql in log)} MERGE into bar.",
                "Wire-tested with the real driver against a stand-in; what an Oracle server does with it was never "
                "measured.",
            ),
        )
    ]


class _Flushes:
    """Flushes into one store.

    Args:
        store: the store.
        days: sessions of each ticker.
    """

    def __init__(self, store: Store, days: int) -> None:
        self._store = store
        self._days = days
        self._numbers = itertools.count(1)
        self._shift = itertools.count(1)
        self._held = self._ranges("H")
        self._flush(self._held + self._ranges("C"))

    def cases(self) -> dict[str, Callable[[], float]]:
        """By name: each flushes once, and returns the microseconds of processor time that a row took."""
        return {
            "fresh": lambda: self._flush(self._ranges(f"F{next(self._numbers)}-")),
            "again": lambda: self._flush(self._held),
            "1% changed": lambda: self._flush(self._changed()),
            "a night": lambda: self._flush([self._night()]),
        }

    def _flush(self, outcomes: Sequence[Outcome]) -> float:
        run_id = uuid4()
        self._store.records.start_run(run_id, "benchmark", _ASKED, {"planned_calls": 1, "cells": 1})
        begun = time.process_time()
        result = self._store.writer.flush(run_id, "polygon", "1d", outcomes)
        return (time.process_time() - begun) * 1e6 / result.stored

    def _ranges(self, prefix: str, shift: float = 0.0) -> list[Outcome]:
        days = _SESSIONS[: self._days]
        asked = tuple(days.tolist())
        return [
            _JUDGE.answered(TickerRange(name, asked), _bars((name,), days, i / 8 + shift), len(days))
            for i, name in enumerate(f"{prefix}{number}" for number in range(_TICKERS))
        ]

    def _changed(self) -> list[Outcome]:
        """What is held of others, but for a bar in a hundred; each time other values."""
        outcomes = self._ranges("C")
        shift = next(self._shift) / 64
        for outcome in outcomes[:: max(1, 100 // self._days)]:
            outcome.verdict.accepted.rows["volume"][:: min(100, self._days)] += shift
        return outcomes

    def _night(self) -> Outcome:
        """The next session of every ticker that is held, in one answer."""
        at = self._days + next(self._numbers)
        names = tuple(f"H{number}" for number in range(_TICKERS))
        block = _bars(names, _SESSIONS[at : at + 1], 0.0)
        return _JUDGE.answered(MarketDay(_SESSIONS[at].item(), names), block, len(block))


def _bars(tickers: Sequence[str], days: np.ndarray[tuple[int], np.dtype[np.datetime64]], shift: float) -> Bars:
    rows = np.zeros(len(tickers) * len(days), BAR)
    rows["ticker"] = np.repeat(np.arange(len(tickers)), len(days))
    rows["session"] = np.tile(days, len(tickers))
    rows["ts"] = calendar_for("stocks").opens(rows["session"])
    rows["open"] = 100 + shift + np.arange(len(rows)) % 97 / 7
    rows["high"], rows["low"], rows["close"] = rows["open"] + 2 / 3, rows["open"] - 1 / 3, rows["open"] + 0.1
    rows["volume"], rows["vwap"] = 1e6 + np.arange(len(rows)) / 3, rows["open"] + 0.05
    rows["trades"] = 1_000 + np.arange(len(rows))
    return Bars(tuple(tickers), rows)


@contextmanager
def _store(url: str) -> Iterator[Store]:
    store = open_store(url, connections=1)
    try:
        migrations.upgrade(store.engine)
        store.engine.dispose()  # the stand-in cannot go on with a connection that has made tables
        yield store
    finally:
        store.close()
