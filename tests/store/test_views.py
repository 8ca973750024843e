"""The views, held against the same arithmetic done by numpy or by hand."""

from __future__ import annotations

import csv
import io
import math
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import SESSIONS, bars, change, count, days, ranged, rows_of
from derived import OF, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_facts import Held, clear, look, run_at

from closingbell.bars import BAR, NO_TRADES, Bars
from closingbell.calendar import calendar_for
from closingbell.outcome import Judge
from closingbell.plan import TickerRange
from closingbell.quality import PLAUSIBLE
from closingbell.sources.base import Dividend, Split
from closingbell.store import Store
from closingbell.store.schema import bar, facts_watermark, gap, revision, run, split, split_revision, ticker_history
from closingbell.store.schema import watermark as watermarks

COLUMNS = tuple(column.name for column in bar.c)
PRICES = ("open", "high", "low", "close", "vwap")
EVENING = datetime(2024, 4, 1, 2, tzinfo=UTC)


def day(position: int) -> date:
    session: date = SESSIONS[position].item()
    return session


def store_bars(
    store: Store, tickers: Sequence[str], first: int, last: int, shift: float = 0.0, as_of: datetime = EVENING
) -> UUID:
    """Bars of these sessions, written by a run of their own."""
    run_id = run_at(store, as_of)
    outcomes = [ranged(ticker, days(first, last), shift) for ticker in tickers]
    store.writer.flush(run_id, "polygon", "1d", outcomes)
    return run_id


def column(store: Store, relation: str, name: str = "factor", **how: Any) -> list[Any]:
    return [row for (row,) in read(store, relation, name, **how)]


def of(ticker: str) -> sa.ColumnElement[bool]:
    return OF["ticker"] == ticker


def factors(splits: Sequence[tuple[date, float, float]], sessions: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """The product of ``from / to`` of the splits after each session."""
    found = np.ones(len(sessions))
    for execution_date, split_from, split_to in splits:
        found[sessions < np.datetime64(execution_date)] *= split_from / split_to
    return found


def assert_adjusted(store: Store, relation: str, wanted: NDArray[np.float64], known: date | None = None) -> None:
    """Every column of an adjusted relation is the raw one, scaled; ``wanted`` in the order of ticker and ts."""
    raw = read(store, "bar", *COLUMNS)
    rows = read(store, relation, *COLUMNS, "factor", known=known)
    assert len(rows) == len(raw) == len(wanted)
    found = dict(zip([*COLUMNS, "factor"], zip(*rows, strict=True), strict=True))
    stored = dict(zip(COLUMNS, zip(*raw, strict=True), strict=True))
    near = partial(np.testing.assert_allclose, rtol=1e-12)
    near(numbers(found["factor"]), wanted)
    for name in PRICES:
        near(numbers(found[name]), numbers(stored[name]) * wanted, err_msg=name)  # absent where absent
    near(numbers(found["volume"]), numbers(stored["volume"]) / wanted)
    assert all(found[name] == stored[name] for name in stored if name not in (*PRICES, "volume"))


def numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Values of a column; an absent one is NaN, which equals NaN alone."""
    return np.array(values, np.float64)


# -- adjusted, real prices -------------------------------------------------------------------------------------------


def real(folder: Path, name: str) -> tuple[Bars, list[list[str]]]:
    """Raw bars, and until which date which factors hold: for dividends, for splits, and the last close."""
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        text = archive.read(f"{name}.csv").decode()
    table = list(csv.reader(io.StringIO(text)))
    rows = np.zeros(len(table), BAR)
    rows["session"] = [datetime.strptime(row[0][:8], "%Y%m%d").date() for row in table]  # noqa: DTZ007 - dates
    rows["ts"] = calendar_for("stocks").opens(rows["session"])
    for number, field in enumerate(("open", "high", "low", "close"), 1):
        rows[field] = [int(row[number]) / 10_000 for row in table]
    rows["volume"] = [float(row[5]) for row in table]
    rows["vwap"], rows["trades"] = np.nan, NO_TRADES
    with (folder / f"{name}_factors.csv").open() as file:
        return Bars((name.upper(),), rows), list(csv.reader(file))


def held_at(steps: Sequence[Sequence[str]], field: int, sessions: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """The factor in a field of the steps at each session: a step holds up to its date, and on it."""
    until = np.array([f"{step[0][:4]}-{step[0][4:6]}-{step[0][6:]}" for step in steps], "M8[D]")
    values = np.array([float(step[field]) for step in steps])
    return np.asarray(values[np.searchsorted(until, sessions)])


def after(step: Sequence[str]) -> date:
    """The session after a step's last one."""
    until = datetime.strptime(step[0], "%Y%m%d").date()  # noqa: DTZ007 - a date
    session: date = calendar_for("stocks").sessions(until + timedelta(days=1), until + timedelta(days=10))[0].item()
    return session


def store_real(store: Store, block: Bars) -> NDArray[np.datetime64]:
    """Write them; returns the sessions that were stored."""
    rows = block.rows
    sessions = calendar_for("stocks").sessions(rows["session"].min().item(), rows["session"].max().item())
    judge = Judge("stocks", sessions, np.datetime64("2030-01-01"), np.datetime64("2030-01-01"))
    outcome = judge.answered(TickerRange(block.tickers[0], tuple(sessions.tolist())), block, len(block))
    store.writer.flush(run_at(store, EVENING), "polygon", "1d", [outcome])
    accepted = np.sort(outcome.verdict.accepted.rows["session"])
    assert len(accepted) >= len(rows) - 3
    return accepted


def real_splits(ticker: str, steps: Sequence[Sequence[str]]) -> list[Split]:
    return [
        Split(ticker, after(step), float(step[2]), float(following[2]))
        for step, following in pairwise(steps)
        if step[2] != following[2]
    ]


@pytest.mark.data
@pytest.mark.parametrize(("name", "splits", "in_history"), [("googl", 1, 0), ("aig", 4, 4)])
def test_real_prices_over_real_splits(data: Path, store: Store, name: str, splits: int, in_history: int) -> None:
    """GOOGL's first bar is of the day on which its split was executed: the split touches none."""
    block, steps = real(data / "splits", name)
    sessions = store_real(store, block)
    listed = real_splits(name.upper(), steps)
    assert len(listed) == splits
    assert look(store, EVENING, listed, date(1990, 1, 1)) == splits
    wanted = held_at(steps, 2, sessions)
    assert len(np.unique(wanted)) == in_history + 1
    assert_adjusted(store, "bar_adjusted", wanted)
    assert_adjusted(store, "bar_adjusted_as_of", wanted, known=date(2024, 3, 31))


# -- adjusted, made up -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "splits",
    [
        [(day(5), 1, 4)],
        [(day(5), 20, 1)],
        [(day(5), 1, 2), (day(7), 3, 1)],
        [(day(5), 1, 2), (day(6), 1, 2)],
        [(day(0), 1, 2)],
        [(day(19), 2, 3)],
        [(day(30), 1.5, 1)],
        [(day(0) - timedelta(days=40), 1, 2)],
        [(day(4) + timedelta(days=2), 1, 10)],
        [(day(3), 7, 3), (day(6), 1, 21), (day(10), 40, 1)],
        [],
    ],
    ids=[
        "forward",
        "reverse",
        "two in a week",
        "two days running",
        "on the first session",
        "on the last session",
        "after the last session",
        "before the first session",
        "on a weekend",
        "crooked",
        "none",
    ],
)  # fmt: skip
def test_splits_scale_what_was_before_them(store: Store, splits: list[tuple[date, float, float]]) -> None:
    store_bars(store, ["AAPL", "MSFT"], 0, 19)
    look(store, EVENING, [Split("AAPL", *split) for split in splits], date(2023, 1, 1))
    wanted = np.concatenate([factors(splits, days(0, 19)), np.ones(20)])
    assert_adjusted(store, "bar_adjusted", wanted)


@pytest.mark.parametrize(
    "ratios",
    [
        [(1, 2)],
        [(1, 3)],
        [(1, 7)],
        [(20, 1)],
        [(2, 3)],
        [(1, 10), (1, 4)],
        [(1, 7), (1, 4), (1, 2), (1, 2)],
        [(30, 1), (7, 4), (1, 50)],
        [(100_000, 1), (1, 3)],
    ],
)
def test_factors_of_whole_numbers_are_exact_to_the_last_digit(store: Store, ratios: list[tuple[int, int]]) -> None:
    store_bars(store, ["AAPL"], 0, 0)
    look(store, EVENING, [Split("AAPL", day(n), *ratio) for n, ratio in enumerate(ratios, 1)])
    exact = math.prod((Fraction(*ratio) for ratio in ratios), start=Fraction(1))
    [found] = column(store, "bar_adjusted")
    assert abs(Fraction(found) - exact) <= math.ulp(float(exact))
    assert found == ratios[0][0] / ratios[0][1] or len(ratios) > 1


def test_absent_values_stay_absent(store: Store) -> None:
    block = bars("AAPL", days(0, 1))
    block.rows["vwap"][0], block.rows["trades"][0] = np.nan, NO_TRADES
    sessions = days(0, 1)
    judge = Judge("stocks", sessions, np.datetime64("2030-01-01"), np.datetime64("2030-01-01"))
    outcome = judge.answered(TickerRange("AAPL", tuple(sessions.tolist())), block, 2)
    store.writer.flush(run_at(store, EVENING), "polygon", "1d", [outcome])
    look(store, EVENING, [Split("AAPL", day(5), 1, 4)])
    assert [value is None for value in column(store, "bar_adjusted", "vwap")] == [True, False]
    assert [value is None for value in column(store, "bar_adjusted", "trades")] == [True, False]


def test_every_timeframe_is_scaled_by_its_session(store: Store) -> None:
    store_bars(store, ["AAPL"], 0, 9)
    of_the_days = [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(store, bar)]
    minutes = [
        {**row, "timeframe": "1m", "ts": row["ts"] + timedelta(minutes=n)} for row in of_the_days for n in range(30)
    ]
    with store.engine.begin() as connection:
        connection.execute(sa.insert(bar), minutes)
    look(store, EVENING, [Split("AAPL", day(5), 1, 4)])
    assert Counter(read(store, "bar_adjusted", "session", "timeframe", "factor")) == {
        (day(n), timeframe, 0.25 if n < 5 else 1.0): bars_of_it
        for n in range(10)
        for timeframe, bars_of_it in (("1d", 1), ("1m", 30))
    }


def test_another_sources_splits_are_not_applied(store: Store) -> None:
    store_bars(store, ["AAPL"], 0, 9)
    store.facts.store_splits(uuid4(), "other", [Split("AAPL", day(5), 1, 4)], day(0), day(9))
    assert column(store, "bar_adjusted") == [1.0] * 10


def test_an_earlier_owners_bars_are_not_scaled(store: Store) -> None:
    """Told of or not: who held the ticker before the tenure began is somebody else."""
    store_bars(store, ["META"], 0, 19)
    tell(
        store, Held("META", "FUND", day(2), day(8)), Held("FB", "BBG1", day(0), day(12)), Held("META", "BBG1", day(12))
    )
    look(store, EVENING, [Split("META", day(15), 1, 2), Split("META", day(5), 1, 3), Split("META", day(10), 1, 5)])
    wanted = [1.0] * 2 + [1 / 3] * 3 + [1.0] * 3 + [1 / 5] * 2 + [1.0] * 2 + [1 / 2] * 3 + [1.0] * 5
    assert column(store, "bar_adjusted") == wanted
    assert column(store, "bar_adjusted_as_of", known=date(2024, 3, 31)) == wanted


def test_splits_on_the_day_of_a_change(store: Store) -> None:
    """The last day's split is the old holder's, unless a new one came on that day."""
    store_bars(store, ["T", "U"], 0, 19)
    tell(store, Held("T", "A", day(2), day(8)), Held("U", "B", day(2), day(8)), Held("U", "C", day(8)))
    look(store, EVENING, [Split("T", day(8), 1, 2), Split("U", day(8), 1, 2)])
    assert column(store, "bar_adjusted", where=of("T")) == [1.0] * 2 + [0.5] * 6 + [1.0] * 12
    assert column(store, "bar_adjusted", where=of("U")) == [1.0] * 20


def test_where_a_shipped_chain_starts_nobody_came_before(store: Store) -> None:
    """It starts where the membership of an index does. Where it goes on, another ticker was before."""
    store_bars(store, ["FB", "META", "U"], 0, 19)
    tell(store, Held("FB", "CIK:1", day(5), day(12)), Held("META", "CIK:1", day(12)), origin="shipped")
    tell(store, Held("U", "CIK:2", day(10), day(11)), Held("V", "CIK:2", day(11)), origin="shipped")
    tell(store, Held("U", "BBG", day(3), day(10)))
    look(
        store,
        EVENING,
        [Split("FB", day(10), 1, 2), Split("META", day(15), 1, 2), Split("U", day(10), 1, 2)],
    )
    assert column(store, "bar_adjusted", where=of("FB")) == [0.5] * 10 + [1.0] * 10
    assert column(store, "bar_adjusted", where=of("META")) == [1.0] * 12 + [0.5] * 3 + [1.0] * 5
    assert column(store, "bar_adjusted", where=of("U")) == [1.0] * 20


RATIO = st.sampled_from([1.0, 2.0, 3.0, 1.5, 20.0, 0.125, 7.0])
SPLITS = st.dictionaries(
    st.tuples(st.sampled_from(["A", "B"]), st.integers(-3, 32)), st.tuples(RATIO, RATIO), max_size=12
)
CUTS = st.lists(st.integers(1, 28), unique=True, max_size=4).map(sorted)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(splits=SPLITS, cuts=CUTS, told=st.lists(st.booleans(), min_size=5, max_size=5))
def test_any_splits_and_holders_are_as_numpy_has_them(
    store: Store, splits: dict[tuple[str, int], tuple[float, float]], cuts: list[int], told: list[bool]
) -> None:
    """Ticker A changes hands at the cuts, and not of each holder is known who it was; B was never identified."""
    if not count(store, bar):
        store_bars(store, ["A", "B"], 0, 29)
    clear(store, split, split_revision, facts_watermark, ticker_history)
    edges = [0, *cuts, 29]
    spans = list(zip(edges, [*edges[1:-1], None], strict=False))
    known = [span for span, whether in zip(spans, told, strict=False) if whether]
    tell(store, *(Held("A", f"I{n}", day(first), day(end) if end else None) for n, (first, end) in enumerate(known)))
    listed = [Split(ticker, on(n), *ratio) for (ticker, n), ratio in splits.items()]
    look(store, EVENING, listed, date(2023, 1, 1))

    # Neighbours of whom nobody told are one stretch; a split on the day between is the earlier one's, if only he
    # was told of.
    starts = {day(first) for first, _ in known}
    ends = {day(end) for _, end in known if end} - starts
    wanted = np.ones(60)
    for entry in listed:
        bounds = [b for b in starts if b <= entry.execution_date] + [b for b in ends if b < entry.execution_date]
        since = max(bounds, default=date.min) if entry.ticker == "A" else date.min
        scaled = (days(0, 29) < np.datetime64(entry.execution_date)) & (days(0, 29) >= np.datetime64(since))
        wanted[(0 if entry.ticker == "A" else 30) :][:30][scaled] *= entry.split_from / entry.split_to
    assert_adjusted(store, "bar_adjusted", wanted)


def on(position: int) -> date:
    """The session at a position; weekdays beyond the first one count too."""
    return day(position) if position >= 0 else day(0) + timedelta(days=7 * position)


# -- adjusted as of --------------------------------------------------------------------------------------------------


def closes(store: Store, relation: str, known: date | None = None) -> dict[date, float]:
    return dict(read(store, relation, "session", "close", where=of("AAPL"), known=known))


def night(number: int) -> datetime:
    """An hour after which the session at that position is over."""
    return datetime.combine(day(number), datetime.min.time(), UTC) + timedelta(days=1, hours=2)


def adjusted_at(store: Store, number: int) -> list[float]:
    """The factors by which the first three bars were adjusted on that night."""
    return column(store, "bar_adjusted_as_of", where=of("AAPL"), known=night(number))[:3]


def test_as_of_before_and_after_each_change(store: Store) -> None:
    """A split on its day, late, corrected in its ratio, corrected in its date, retracted."""
    store_bars(store, ["AAPL"], 0, 29)
    look(store, night(5), [], last=day(5))
    look(store, night(6), [Split("AAPL", day(6), 1, 2)])
    look(store, night(8), [Split("AAPL", day(6), 1, 2), Split("AAPL", day(4), 1, 3)])
    look(store, night(10), [Split("AAPL", day(6), 1, 5), Split("AAPL", day(4), 1, 3)])
    look(store, night(12), [Split("AAPL", day(6), 1, 5), Split("AAPL", day(2), 1, 3)])
    look(store, night(14), [Split("AAPL", day(6), 1, 5)])
    found = {number: adjusted_at(store, number) for number in range(3, 16)}
    assert found[3] == found[4] == [1.0] * 3
    assert found[5] == [0.5] * 3, "known from midnight of its day; night 5 is two hours later"
    assert found[6] == found[7] == [0.5] * 3
    assert found[8] == found[9] == pytest.approx([1 / 6] * 3, rel=1e-15)
    assert found[10] == found[11] == pytest.approx([1 / 15] * 3, rel=1e-15)
    assert found[12] == found[13] == pytest.approx([1 / 15, 1 / 15, 1 / 5], rel=1e-15)
    assert found[14] == found[15] == [1 / 5] * 3 == column(store, "bar_adjusted")[:3]


def test_a_days_end_is_the_last_that_is_known_of_it(store: Store) -> None:
    store_bars(store, ["AAPL"], 0, 9)
    look(store, night(9), [Split("AAPL", day(5), 1, 2)])
    eve, morrow = day(5) - timedelta(days=1), day(5)
    before = closes(store, "bar_adjusted_as_of", eve)
    assert max(before) == eve == day(4), "bars that had opened"
    assert before[day(0)] == closes(store, "bar")[day(0)]
    after = closes(store, "bar_adjusted_as_of", morrow)
    assert max(after) == morrow
    assert after[day(0)] == before[day(0)] / 2
    assert after[day(5)] == closes(store, "bar")[day(5)]
    assert spans(store, eve) == []
    [(ticker, first, before, factor)] = spans(store, morrow)
    assert (ticker, before, factor) == ("AAPL", day(5), 0.5)
    assert first.year == 1


def spans(store: Store, known: date) -> list[Any]:
    names = ("ticker", "first_session", "before_session", "factor")
    return read(store, "split_factor_as_of", *names, known=known, order=("ticker", "first_session"))


@pytest.mark.postgres_only("elsewhere an instant is given, not a day")
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_a_day_ends_in_utc_wherever_the_reader_is(store: Store, zone: str) -> None:
    store_bars(store, ["AAPL"], 0, 3)
    look(store, night(3), [Split("AAPL", day(3), 1, 2)])
    with store.engine.connect() as connection:
        connection.exec_driver_sql(f"SET TimeZone = '{zone}'")
        for known, factor in ((day(2), 1.0), (day(3), 0.5)):
            statement = sa.text("SELECT factor FROM bar_adjusted_as_of(CAST(:day AS date)) ORDER BY ts LIMIT 1")
            assert connection.execute(statement, {"day": known}).scalar_one() == factor


# -- as known on -----------------------------------------------------------------------------------------------------


def as_known(store: Store, instant: datetime) -> list[Any]:
    return read(store, "bar_as_of", *COLUMNS, known=instant)


def test_each_version_in_its_time(store: Store) -> None:
    """Every night's whole table comes back, also after bars were revised, and revised back."""
    tables = []
    for number, (first, last, shift) in enumerate([(0, 4, 0.0), (3, 6, 1.0), (0, 6, 0.0), (6, 8, 5.0), (0, 8, 0.0)]):
        store_bars(store, ["AAPL", "MSFT"], first, last, shift, night(10 + number))
        tables.append((night(10 + number), read(store, "bar", *COLUMNS)))
    writers = rows_of(store, revision, "old_run_id")
    assert len(writers) > 8
    assert (None,) not in writers
    assert as_known(store, night(9)) == []
    for at, table in tables:
        assert as_known(store, at) == table
        assert as_known(store, at + timedelta(hours=20)) == table


def test_a_bar_that_was_removed_comes_back(store: Store) -> None:
    store_bars(store, ["AAPL"], 0, 4, as_of=night(10))
    store_bars(store, ["AAPL"], 2, 2, 1.0, as_of=night(11))
    before = read(store, "bar", *COLUMNS)
    remove(store, day(2), night(12))
    without = [row for row in before if row[2] != day(2)]
    store_bars(store, ["AAPL"], 2, 2, 7.0, as_of=night(14))
    again = read(store, "bar", *COLUMNS)
    assert len(as_known(store, night(10))) == 5
    assert as_known(store, night(11)) == before
    assert as_known(store, night(12)) == as_known(store, night(13)) == without
    assert as_known(store, night(14)) == again


def remove(store: Store, session: date, as_of: datetime) -> None:
    """Take a bar out of the table, as quarantining it later does."""
    measured = ("open", "high", "low", "close", "volume", "vwap", "trades")
    values: dict[str, Any] = {
        **{name: bar.c[name] for name in ("source", "ticker", "timeframe", "session", "ts")},
        **{f"old_{name}": bar.c[name] for name in measured},
        "run_id": sa.literal(run_at(store, as_of), sa.Uuid),
        "seen_at": sa.literal(as_of, sa.DateTime(timezone=True)),
        "old_run_id": bar.c.run_id,
    }
    gone = sa.select(*values.values()).where(bar.c.session == session)
    change(store, sa.insert(revision).from_select(list(values), gone))
    change(store, sa.delete(bar).where(bar.c.session == session))


def test_what_a_run_without_a_row_wrote_was_always_known(store: Store) -> None:
    store.writer.flush(uuid4(), "polygon", "1d", [ranged("AAPL", days(0, 4))])
    assert len(as_known(store, night(4))) == 5
    assert len(as_known(store, night(2))) == 3, "but for bars that had not opened yet"
    store_bars(store, ["AAPL"], 0, 4, 1.0, night(20))
    first = dict(rows_of(store, revision, "session", "old_close"))
    assert closes(store, "bar_as_of", night(19)) == first
    assert closes(store, "bar_as_of", night(20).date()) == closes(store, "bar")


def test_a_night_replayed_with_an_earlier_present_gives_no_bar_twice(store: Store) -> None:
    for number in (10, 14, 12, 11, 13):
        store_bars(store, ["AAPL"], 0, 4, float(number), night(number))
        for other in range(9, 16):
            rows = as_known(store, night(other))
            assert len(rows) == len({row[3] for row in rows})
    assert closes(store, "bar_as_of", night(15)) == closes(store, "bar")


def test_a_run_that_starts_again_keeps_its_present(store: Store) -> None:
    run_id = run_at(store, night(3))
    asked = {"source": "polygon", "timeframe": "1d"}
    store.records.start_run(run_id, "ingest", asked, {"planned_calls": 0, "cells": 0}, night(4))
    assert rows_of(store, run, "as_of") == [(night(3),)]


def test_a_run_told_nothing_takes_the_databases_clock(store: Store) -> None:
    run_at(store, None)
    [(as_of, started_at)] = rows_of(store, run, "as_of", "started_at")
    assert as_of == started_at


NIGHTS = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 7), st.sampled_from([0.0, 1.0, 2.0]), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nights=NIGHTS)
def test_any_nights_tables_come_back(store: Store, nights: list[tuple[int, int, float, bool]]) -> None:
    clear(store, bar, revision, run, watermarks, gap)
    tables = []
    for number, (one, other, shift, removed) in enumerate(nights):
        at = night(10) + timedelta(days=number)
        if removed:
            remove(store, day(one), at)
        else:
            store_bars(store, ["AAPL"], min(one, other), max(one, other), shift, at)
        tables.append((at, read(store, "bar", *COLUMNS)))
    for at, table in tables:
        assert as_known(store, at) == table


# -- total return ----------------------------------------------------------------------------------------------------


def pay(store: Store, *dividends: Dividend) -> None:
    store.facts.store_dividends(uuid4(), "polygon", dividends, date(2020, 1, 1), date(2030, 1, 1))


def set_closes(store: Store, ticker: str, *prices: float) -> None:
    """Daily bars of the first sessions, closing at these prices."""
    block = bars(ticker, days(0, len(prices) - 1))
    for name in ("open", "high", "low", "close", "vwap"):
        block.rows[name] = prices
    sessions = days(0, len(prices) - 1)
    judge = Judge("stocks", sessions, np.datetime64("2030-01-01"), np.datetime64("2030-01-01"))
    outcome = judge.answered(TickerRange(ticker, tuple(sessions.tolist())), block, len(block))
    store.writer.flush(run_at(store, EVENING), "polygon", "1d", [outcome])


def total(store: Store, ticker: str = "KO") -> list[float]:
    return column(store, "bar_total_return", "total_return_close", where=of(ticker))


def test_total_return_by_hand(store: Store) -> None:
    """102 pays 1.02: 0.99. A 1:4 split brings 104 to 26, of which 0.26 a new share is paid on its day: 0.99."""
    set_closes(store, "KO", 100, 102, 101, 104, 26, 27)
    look(store, EVENING, [Split("KO", day(4), 1, 4)])
    pay(store, Dividend("KO", day(2), 1.02), Dividend("KO", day(4), 0.26))
    wanted = [25 * 0.99 * 0.99, 25.5 * 0.99 * 0.99, 25.25 * 0.99, 26 * 0.99, 26, 27]
    assert total(store) == pytest.approx(wanted, rel=1e-14)
    rows = read(store, "bar_total_return", "session", "close", "factor", "adjusted_close", "dividend_factor")
    assert rows[0] == (day(0), 100.0, 0.25, 25.0, pytest.approx(0.99 * 0.99, rel=1e-14))
    assert rows[5] == (day(5), 27.0, 1.0, 27.0, 1.0)
    # The return over an ex-date is that of the price with the dividend: (26 + 0.26) / 26, and 101 / (102 - 1.02).
    found = total(store)
    assert found[4] / found[3] == pytest.approx(26 / (26 - 0.26), rel=1e-14)
    assert found[2] / found[1] == pytest.approx(101 / (102 - 1.02), rel=1e-14)


@pytest.mark.data
@pytest.mark.postgres_only("what stands in for Oracle works the spans out anew for each bar: minutes for 23 years")
def test_real_prices_with_real_dividends(data: Path, store: Store) -> None:
    """The factors have seven digits, so the dividends made of them are right to a few millionths of a price."""
    block, steps = real(data / "splits", "aig")
    sessions = store_real(store, block)
    look(store, EVENING, real_splits("AIG", steps), date(1990, 1, 1))
    dividends = [
        Dividend("AIG", after(step), float(step[3]) * (1 - float(step[1]) / float(following[1])))
        for step, following in pairwise(steps)
        if step[1] != following[1]
    ]
    assert len(dividends) == 75
    store.facts.store_dividends(uuid4(), "polygon", dividends, date(1990, 1, 1), date(2030, 1, 1))
    wanted = held_at(steps, 1, sessions)
    found = np.array(read(store, "bar_total_return", "total_return_close", "adjusted_close"))
    assert found[:, 0] / found[:, 1] == pytest.approx(wanted / wanted[-1], rel=1e-5)


def test_dividends_of_one_day_add_up(store: Store) -> None:
    set_closes(store, "COST", 600, 500, 480)
    pay(store, Dividend("COST", day(2), 4, id="a"), Dividend("COST", day(2), 16, kind="SC", id="b"))
    assert total(store, "COST") == pytest.approx([600 * 0.96, 500 * 0.96, 480], rel=1e-14)


@pytest.mark.parametrize(
    "dividend",
    [
        Dividend("KO", day(2), 50.0, currency="CAD"),
        Dividend("KO", day(2), 102.0),
        Dividend("KO", day(2), 103.0),
        Dividend("KO", day(0), 1.0),
        Dividend("KO", day(3), 1.0),
        Dividend("MSFT", day(2), 1.0),
    ],
    ids=["another currency", "the whole price", "more than the price", "no close before", "not yet", "another ticker"],
)
def test_dividends_that_are_passed_over(store: Store, dividend: Dividend) -> None:
    set_closes(store, "KO", 100, 102, 101)
    pay(store, dividend)
    assert total(store) == [100, 102, 101]


def test_the_close_before_may_be_some_days_ago(store: Store) -> None:
    set_closes(store, "KO", 100, 102, 101, 104)
    change(store, sa.delete(bar).where(bar.c.session == day(2)))
    look(store, EVENING, [Split("KO", day(2), 1, 2)])
    pay(store, Dividend("KO", day(3), 5.1))
    assert total(store) == pytest.approx([50 * 0.9, 51 * 0.9, 104], rel=1e-14), "102 is 51 in the scale of the ex-date"


def test_an_earlier_owners_bars_are_not_paid(store: Store) -> None:
    set_closes(store, "META", 10, 12, 300, 303, 310)
    tell(store, Held("META", "BBG1", day(2)))
    pay(store, Dividend("META", day(2), 1.0), Dividend("META", day(4), 3.03))
    assert total(store, "META") == pytest.approx([10, 12, 300 * 0.99, 303 * 0.99, 310], rel=1e-14)


# -- histories over renames ------------------------------------------------------------------------------------------


def tell(store: Store, *tenures: Held, origin: Any = "vendor") -> None:
    store.facts.store_tenures(uuid4(), "polygon", tenures, origin)


@pytest.fixture
def renamed(store: Store) -> Store:
    """FB until session 12, then META, a ticker that a fund had until session 8, which is METV since."""
    store_bars(store, ["FB"], 0, 11)
    store_bars(store, ["META"], 0, 7, 1_000.0)
    store_bars(store, ["METV"], 8, 19, 1_000.0)
    store_bars(store, ["META"], 12, 19)
    store_bars(store, ["AAPL"], 0, 19)
    return store


META = (Held("FB", "BBG1", day(0), day(12)), Held("META", "BBG1", day(12)))
FUND = (Held("META", "BBG2", day(0), day(8)), Held("METV", "BBG2", day(8)))


def history(store: Store, which: str, column: str = "ticker") -> list[tuple[str, int]]:
    """Of a ticker, or of what another column says: each bar's ticker and session's position, in order."""
    position = {day(n): n for n in range(30)}
    rows = read(store, "bar_history", "traded_as", "session", where=OF[column] == which, order=("ts",))
    return [(traded_as, position[session]) for traded_as, session in rows]


def test_a_history_goes_back_over_renames(renamed: Store) -> None:
    tell(renamed, *META, *FUND)
    meta = [("FB", n) for n in range(12)] + [("META", n) for n in range(12, 20)]
    fund = [("META", n) for n in range(8)] + [("METV", n) for n in range(8, 20)]
    assert history(renamed, "META") == history(renamed, "BBG1", "instrument_id") == meta
    assert history(renamed, "METV") == fund
    assert history(renamed, "FB") == []
    assert history(renamed, "AAPL") == [("AAPL", n) for n in range(20)]
    assert set(read(renamed, "bar_history", "ticker", "instrument_id")) == {
        ("AAPL", None),
        ("META", "BBG1"),
        ("METV", "BBG2"),
    }
    again = ["traded_as", *COLUMNS[1:]]
    assert read(renamed, "bar_history", *again, order=("traded_as", "ts")) == read(renamed, "bar", *COLUMNS)


def test_an_untold_earlier_owner_is_left_out(renamed: Store) -> None:
    tell(renamed, *META)
    assert history(renamed, "META") == [("FB", n) for n in range(12)] + [("META", n) for n in range(12, 20)]
    assert history(renamed, "METV") == [("METV", n) for n in range(8, 20)], "nobody identified it"
    assert set(column(renamed, "bar_history", "ticker")) == {"META", "METV", "AAPL"}


def test_splits_of_a_whole_life(renamed: Store) -> None:
    """Also those under a later ticker; none of another holder's; one on the day of the rename counts once."""
    tell(renamed, *META, *FUND)
    look(
        renamed,
        EVENING,
        [
            Split("FB", day(5), 1, 3),
            Split("FB", day(12), 1, 2),
            Split("META", day(12), 1, 2),
            Split("META", day(15), 1, 5),
            Split("META", day(3), 1, 7),
            Split("METV", day(10), 1, 11),
            Split("AAPL", day(10), 1, 13),
        ],
    )
    meta = [(day(5), 1, 3), (day(12), 1, 2), (day(15), 1, 5)]
    for ticker, splits in (
        ("META", meta),
        ("METV", [(day(3), 1, 7), (day(10), 1, 11)]),
        ("AAPL", [(day(10), 1, 13)]),
    ):
        found = column(renamed, "bar_history", where=of(ticker))
        assert found == pytest.approx(factors(splits, days(0, 19)).tolist(), rel=1e-14)


@pytest.mark.parametrize("listed_as", ["FB", "META"])
def test_a_split_of_the_day_of_a_rename_may_stand_under_either_ticker(renamed: Store, listed_as: str) -> None:
    tell(renamed, *META, *FUND)
    look(renamed, EVENING, [Split(listed_as, day(12), 1, 2), Split("META", day(8), 1, 3)])
    assert column(renamed, "bar_history", where=of("META")) == [0.5] * 12 + [1.0] * 8
    assert column(renamed, "bar_history", where=of("METV")) == pytest.approx([1 / 3] * 8 + [1.0] * 12)


def test_of_two_that_ended_under_a_ticker_the_latest_has_it(renamed: Store) -> None:
    """The fund was wound up as META: it has no name left to be found by."""
    tell(renamed, *META, Held("META", "BBG2", day(0), day(8)))
    assert history(renamed, "META") == [("FB", n) for n in range(12)] + [("META", n) for n in range(12, 20)]
    assert history(renamed, "BBG2", "instrument_id") == []
    assert history(renamed, "METV") == [("METV", n) for n in range(8, 20)]


def test_a_ticker_that_its_latest_holder_left_is_the_last_ones_who_ended_there(renamed: Store) -> None:
    tell(
        renamed,
        Held("META", "BBG2", day(0), day(8)),
        Held("META", "BBG1", day(12), day(15)),
        Held("MVRS", "BBG1", day(15)),
    )
    assert history(renamed, "META") == [("META", n) for n in range(8)]
    assert history(renamed, "MVRS") == [("META", n) for n in range(12, 15)]


def test_a_ticker_that_came_back(store: Store) -> None:
    store_bars(store, ["A"], 0, 19)
    store_bars(store, ["B"], 5, 9)
    tell(store, Held("A", "I", day(0), day(5)), Held("B", "I", day(5), day(10)), Held("A", "I", day(10)))
    spans = [("A", range(5)), ("B", range(5, 10)), ("A", range(10, 20))]
    assert history(store, "A") == [(name, n) for name, span in spans for n in span]


# -- how it is read --------------------------------------------------------------------------------------------------


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", []) for node in nodes(part))]


def scans(store: Store, statement: str) -> set[tuple[str, str]]:
    """The tables that a statement reads, each with the condition that its rows are looked up by.

    Of the partitions of ``bar`` the one of daily bars stands for all: the others are empty here.
    """
    with store.engine.connect() as connection:
        [(plan,)] = connection.exec_driver_sql("EXPLAIN (FORMAT json, VERBOSE) " + statement)
    return {
        (
            node["Relation Name"].removesuffix("_1d"),
            node.get("Index Cond") or node.get("Recheck Cond") or node["Node Type"],
        )
        for node in nodes(plan[0]["Plan"])
        if "Relation Name" in node and not re.match(r"bar_(\d{4}|earlier|later)", node["Relation Name"])
    }


#: Enough of everything that nobody would read all of it for one ticker.
MARKET = """
    INSERT INTO bar SELECT 'T' || i, '1d', DATE '2024-01-01' + n, DATE '2024-01-01' + n, 1, 1, 1, 1, 1, 1, 1,
        'polygon', gen_random_uuid() FROM generate_series(1, 1000) AS i, generate_series(1, 50) AS n;
    INSERT INTO revision (source, ticker, timeframe, session, ts, old_open, run_id)
        SELECT source, ticker, timeframe, session, ts, open, run_id FROM bar WHERE session < '2024-01-08';
    INSERT INTO split (source, ticker, execution_date, split_from, split_to, run_id, known_from)
        SELECT 'polygon', 'T' || i, DATE '2024-01-01' + n * 10, 1, 2, gen_random_uuid(), now()
        FROM generate_series(1, 1000) AS i, generate_series(1, 5) AS n;
    INSERT INTO split_revision (source, ticker, execution_date, old_split_from, old_split_to, old_known_from, seen_at,
            run_id, old_run_id)
        SELECT source, ticker, execution_date, 1, 3, known_from, known_from, run_id, run_id FROM split;
    INSERT INTO dividend
        SELECT source, ticker, execution_date, 1, 'CD', 0.01, 'USD', NULL, NULL, run_id, now() FROM split;
    INSERT INTO ticker_history
        SELECT 'polygon', 'T' || i, DATE '2020-01-01', NULL, 'I' || i, '', 'vendor', gen_random_uuid(), now()
        FROM generate_series(1, 1000) AS i;
    ANALYZE;
"""


@pytest.mark.postgres_only("plans are the database's own")
def test_one_tickers_rows_are_looked_up(store: Store) -> None:
    """The condition reaches the indices below the windows and inside the functions."""
    with store.engine.begin() as connection:
        connection.exec_driver_sql(MARKET)
    for relation, tables in {
        "bar_adjusted": {"bar", "split"},
        "bar_adjusted_as_of(date '2024-03-01')": {"bar", "split", "split_revision"},
        "bar_adjusted_as_of(timestamptz '2024-03-01Z')": {"bar", "split", "split_revision"},
        "bar_as_of(date '2024-03-01')": {"bar", "revision"},
        "bar_as_of(timestamptz '2024-03-01Z')": {"bar", "revision"},
        "bar_total_return": {"bar", "split", "dividend"},
        "bar_history": {"bar", "split"},
        "split_factor": {"split"},
        "split_factor_as_of(date '2024-03-01')": {"split", "split_revision"},
    }.items():
        found = scans(store, f"SELECT * FROM {relation} WHERE ticker = 'T4'")  # noqa: S608
        assert tables <= {table for table, _ in found}
        without = [(table, by) for table, by in found if "ticker" not in by and table not in ("run", "ticker_history")]
        assert without == [], relation


MANUAL = (Path(__file__).parents[2] / "docs" / "reading.md").read_text().split("\n## On Oracle\n")


def examples(section: str) -> list[str]:
    return [part.split("```")[0] for part in section.split("```sql\n")[1:]]


@pytest.mark.postgres_only("Oracle has a section of its own")
@pytest.mark.parametrize("statement", examples(MANUAL[0]))
def test_what_the_manual_says_can_be_run(store: Store, statement: str) -> None:
    with store.engine.connect() as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.oracle_only("PostgreSQL has the others")
def test_what_the_manual_says_of_oracle_can_be_run(store: Store) -> None:
    found = examples(MANUAL[1])
    assert len(found) >= 4
    with store.engine.connect() as connection:
        for example in found:
            for statement in example.strip().rstrip(";").split(";\n"):
                connection.exec_driver_sql(statement)


@pytest.mark.parametrize("size", PLAUSIBLE)
@pytest.mark.parametrize("ratio", [(1, 1e8), (1e8, 1)])
def test_whatever_the_rules_let_pass_can_be_read_adjusted(
    size: float, ratio: tuple[float, float], store: Store
) -> None:
    store_bars(store, ["AAPL"], 0, 4)
    look(store, EVENING, [Split("AAPL", day(i), *ratio) for i in (1, 2, 3)])
    change(store, sa.update(bar).values(dict.fromkeys((*PRICES, "volume"), size)))
    for relation, known in (
        ("bar_adjusted", None),
        ("bar_adjusted_as_of", date(2024, 4, 1)),
        ("bar_total_return", None),
    ):
        assert len(read(store, relation, "ts", "factor", known=known)) == 5
