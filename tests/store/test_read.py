"""``closingbell.read``: what is stored comes back as frames and tables, value for value, on each database."""

from __future__ import annotations

import gc
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from blocks import SESSIONS, answered, bars, change, days, expected, query, range_of, ranged
from derived import read as derived
from flushes import flush, outcomes
from test_facts import look, run_at
from test_grants import opened, roles  # noqa: F401  (a fixture)
from test_views import EVENING, day, night, pay, store_bars

from closingbell import read
from closingbell.bars import NO_TRADES, Bars
from closingbell.errors import ConfigurationError
from closingbell.read import arrow, reading
from closingbell.sources.base import Dividend, Split
from closingbell.store import Store
from closingbell.store.schema import bar, revision, run
from infra.migrations.grants import grant

ALL = ["ticker", "session", "ts", "open", "high", "low", "close", "volume", "vwap", "trades", "source"]
PRICES = ["open", "high", "low", "close", "vwap"]


@pytest.fixture
def filled(store: Store) -> Store:
    """Two tickers of ten sessions, one with a split, absent values, revisions and a later run."""
    block = bars("AAPL", days(0, 9))
    block.rows["vwap"][3], block.rows["trades"][4] = np.nan, NO_TRADES
    run_id = run_at(store, night(9))
    store.writer.flush(run_id, "polygon", "1d", [answered(range_of("AAPL", days(0, 9)), block)])
    store.writer.flush(run_id, "polygon", "1d", [ranged("BRK.B", days(0, 9), 5.0)])
    return store


def frame_of(block: Bars, source: str = "polygon") -> pd.DataFrame:
    """The frame that a block of bars is to be read as, made another way."""
    rows = [(*row[:1], *row[2:-2], row[-2]) for row in expected(block, uuid4(), source)]
    made = pd.DataFrame(rows, columns=ALL)
    made["session"] = pd.to_datetime(made["session"]).astype("datetime64[s]")
    made["ts"] = pd.to_datetime(made["ts"]).dt.tz_localize("UTC").astype("datetime64[us, UTC]")
    made["trades"] = made["trades"].astype("Int64")
    for name in ("ticker", "source"):
        made[name] = made[name].astype("category")
    return made.astype({"vwap": float})


def test_bars_are_those_that_were_stored(filled: Store) -> None:
    first = bars("AAPL", days(0, 9))
    first.rows["vwap"][3], first.rows["trades"][4] = np.nan, NO_TRADES
    whole = frame_of(Bars.concat([first, bars("BRK.B", days(0, 9), 5.0)]))
    pd.testing.assert_frame_equal(read.bars(database=filled), whole, check_exact=True)
    both = read.bars(["BRK.B", "AAPL", "AAPL"], database=filled)
    pd.testing.assert_frame_equal(both, whole, check_exact=True)
    one = read.bars("BRK.B", str(day(2)), day(4), database=filled)
    pd.testing.assert_frame_equal(
        one, frame_of(Bars.concat([bars("BRK.B", days(0, 9), 5.0)])).iloc[2:5].reset_index(drop=True)
    )
    assert read.bars("AAPL", day(5), database=filled)["session"].min() == pd.Timestamp(day(5))
    assert read.bars("AAPL", None, day(5), database=filled)["session"].max() == pd.Timestamp(day(5))


def test_columns_that_are_named(filled: Store) -> None:
    close = read.bars("AAPL", columns=["close", "ts", "run_id"], database=filled)
    assert list(close) == ["ticker", "session", "ts", "close", "run_id"]
    [run_id] = query(filled, sa.select(run.c.run_id))[0]
    assert [str(name).replace("-", "") for name in close["run_id"].unique()] == [run_id.hex]
    assert list(read.bars("AAPL", columns=[], database=filled)) == ["ticker", "session", "ts"]


def test_adjusted_by_splits(filled: Store) -> None:
    look(filled, EVENING, [Split("AAPL", day(5), 1, 4)], date(2023, 1, 1))
    raw, adjusted = (read.bars(adjusted=how, database=filled) for how in (False, True))
    assert list(adjusted) == [*ALL, "factor"]
    halved = (raw["ticker"] == "AAPL") & (raw["session"] < pd.Timestamp(day(5)))
    assert halved.sum() == 5
    factor = np.where(halved, 0.25, 1.0)
    np.testing.assert_array_equal(adjusted["factor"], factor)
    for name in PRICES:
        np.testing.assert_allclose(adjusted[name], raw[name] * factor, rtol=1e-15)
    np.testing.assert_allclose(adjusted["volume"], raw["volume"] / factor, rtol=1e-15)
    for name in ("trades", "ticker", "session", "ts", "source"):
        pd.testing.assert_series_equal(adjusted[name], raw[name])
    pd.testing.assert_frame_equal(read.bars(adjusted="splits", database=filled), adjusted)


def test_adjusted_by_dividends(filled: Store) -> None:
    look(filled, EVENING, [Split("AAPL", day(5), 1, 4)], date(2023, 1, 1))
    pay(filled, Dividend("AAPL", day(7), 1.5, id="a"), Dividend("BRK.B", day(3), 2.0, id="b"))
    found = read.bars(adjusted="dividends", database=filled)
    assert list(found) == [*ALL, "factor", "dividend_factor"]
    names = ("ticker", "ts", "total_return_close", "factor", "dividend_factor")
    view = pd.DataFrame(derived(filled, "bar_total_return", *names), columns=[*names])
    np.testing.assert_allclose(found["close"], view["total_return_close"], rtol=1e-14)
    np.testing.assert_allclose(found["dividend_factor"], view["dividend_factor"], rtol=1e-15)
    assert found["dividend_factor"].nunique() == 3
    raw = read.bars(database=filled)
    np.testing.assert_allclose(found["open"], raw["open"] * found["factor"] * found["dividend_factor"], rtol=1e-15)
    np.testing.assert_allclose(found["volume"], raw["volume"] / found["factor"], rtol=1e-15)


def test_as_known_on_a_date(filled: Store) -> None:
    """Revisions are undone, later bars and tickers absent; adjusted by what was known then."""
    before = read.bars(database=filled)
    store_bars(filled, ["AAPL"], 5, 9, 3.0, night(20))
    store_bars(filled, ["AAPL"], 10, 12, as_of=night(20))
    store_bars(filled, ["NEW"], 0, 3, as_of=night(20))
    change(filled, sa.update(revision).values(seen_at=night(20)))
    look(filled, night(9), [Split("AAPL", day(2), 1, 2)], date(2023, 1, 1), last=day(30))
    look(filled, night(20), [Split("AAPL", day(2), 1, 2), Split("AAPL", day(5), 1, 4)], date(2023, 1, 1), last=day(30))
    now = read.bars(database=filled)
    assert len(now) == 10 + 3 + 10 + 4
    assert (now["close"].iloc[5:10].to_numpy() != before["close"].iloc[5:10].to_numpy()).all()
    for as_of in (night(19), night(20) - timedelta(microseconds=1), (night(20) - timedelta(days=1)).date()):
        for names in (None, ["AAPL", "BRK.B", "NEW"]):
            pd.testing.assert_frame_equal(read.bars(names, as_of=as_of, database=filled), before, check_exact=True)
    pd.testing.assert_frame_equal(read.bars(as_of=night(20), database=filled), now, check_exact=True)
    pd.testing.assert_frame_equal(read.bars(as_of=str(night(20).date()), database=filled), now, check_exact=True)
    assert not len(read.bars(as_of=night(3), database=filled))

    known = read.bars("AAPL", adjusted=True, as_of=night(19), database=filled)
    factor = np.array([0.5] * 2 + [1.0] * 8)
    np.testing.assert_array_equal(known["factor"], factor)
    np.testing.assert_allclose(known["close"], before["close"].iloc[:10] * factor, rtol=1e-15)
    np.testing.assert_allclose(known["volume"], before["volume"].iloc[:10] / factor, rtol=1e-15)
    later = read.bars("AAPL", adjusted=True, as_of=night(20), database=filled)
    np.testing.assert_allclose(later["factor"], [0.125] * 2 + [0.25] * 3 + [1.0] * 8, rtol=1e-15)
    pd.testing.assert_frame_equal(later, read.bars("AAPL", adjusted=True, database=filled), rtol=1e-14)


def test_a_vendors_bars_are_those_of_its_flat_files_too(filled: Store) -> None:
    change(filled, sa.update(bar).where(bar.c.session == day(3)).values(source="polygon-flat"))
    change(filled, sa.update(bar).where(bar.c.session == day(4)).values(source="polygon:1m"))
    look(filled, night(20), [Split("AAPL", day(5), 1, 4)], date(2023, 1, 1), last=day(30))
    assert len(read.bars("AAPL", source="polygon", database=filled)) == 9
    assert set(read.bars("AAPL", source="polygon-flat", database=filled)["session"]) == {pd.Timestamp(day(3))}
    assert set(read.bars("AAPL", source="polygon:1m", database=filled)["session"]) == {pd.Timestamp(day(4))}
    assert not len(read.bars("AAPL", source="databento", database=filled))
    for as_of in (None, night(20)):
        adjusted = read.bars("AAPL", adjusted=True, as_of=as_of, database=filled)
        assert adjusted["factor"].tolist() == [0.25] * 5 + [1.0] * 5, "splits reach all of them"


def test_part_by_part(filled: Store) -> None:
    whole = read.bars(database=filled)
    for rows, lengths in ((7, [7, 7, 6]), (20, [20]), (100_000, [20]), (1, [1] * 20)):
        parts = [*read.batches(rows=rows, database=filled)]
        assert [len(part) for part in parts] == lengths
        assert (pd.concat(parts, ignore_index=True)["ts"] == whole["ts"]).all()
        assert [str(name) for part in parts for name in part["ticker"]] == whole["ticker"].tolist()
        np.testing.assert_array_equal(np.concatenate([part["vwap"] for part in parts]), whole["vwap"])
    some = [*read.batches("AAPL", day(2), day(8), rows=3, adjusted=True, as_of=night(9), database=filled)]
    same = read.bars("AAPL", day(2), day(8), adjusted=True, as_of=night(9), database=filled)
    pd.testing.assert_frame_equal(pd.concat(some, ignore_index=True), same)
    assert [*read.batches(source="databento", database=filled)] == []


def test_what_is_left_half_read_leaves_nothing_open(filled: Store) -> None:
    with read.connect(filled.engine.url.render_as_string(hide_password=False)) as opened:
        pool: Any = opened.engine.pool
        parts = read.batches(rows=2, database=opened)
        assert len(next(parts)) == 2
        assert pool.checkedout() == 1
        parts.close()  # type: ignore[attr-defined]
        assert pool.checkedout() == 0
        for _ in read.batches(rows=2, database=opened):
            break
        gc.collect()
        assert pool.checkedout() == 0
        assert len(read.bars(database=opened)) == 20
    assert pool.checkedin() == 0, "closed with the connection"
    assert not [thread for thread in threading.enumerate() if "_receive" in thread.name]


MINUTES = """
    INSERT INTO bar SELECT 'T' || i, '1m', DATE '2024-01-02',
        CAST('2024-01-02 14:30Z' AS timestamptz) + n * interval '1 minute',
        n, n, n, n, 1, CASE WHEN n % 3 > 0 THEN n END, CASE WHEN n % 5 > 0 THEN n END,
        CASE WHEN n % 100 < 50 THEN 'polygon' ELSE 'polygon-flat' END, gen_random_uuid()
    FROM generate_series(8, 12) AS i, generate_series(1, 8000) AS n"""


@pytest.mark.postgres_only("the stream of its COPY")
def test_more_than_a_buffer_of_the_stream(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.text(MINUTES))
    found = read.bars(timeframe="1m", database=store)
    assert found["ticker"].cat.categories.tolist() == ["T10", "T11", "T12", "T8", "T9"], "byte by byte"
    n = np.tile(np.arange(1, 8_001), 5)
    np.testing.assert_array_equal(found["close"], n)
    np.testing.assert_array_equal(found["vwap"], np.where(n % 3 > 0, n, np.nan))
    np.testing.assert_array_equal(found["trades"].isna(), n % 5 == 0)
    np.testing.assert_array_equal(found["trades"].fillna(0), np.where(n % 5 > 0, n, 0))
    np.testing.assert_array_equal(found["source"].astype(str), np.where(n % 100 < 50, "polygon", "polygon-flat"))
    parts = read.batches(timeframe="1m", rows=1_000, columns=["close"], database=store)
    assert len(next(parts)) == 1_000
    parts.close()  # type: ignore[attr-defined]
    with store.engine.connect() as connection:  # the very connection that was left in the middle of a COPY
        assert connection.exec_driver_sql("SELECT count(*) FROM bar").scalar_one() == 40_000


# -- what is known of the bars ---------------------------------------------------------------------------------------


def test_the_ledger(store: Store) -> None:
    flush(store, ranged("AAPL", days(0, 4)))
    flush(store, *outcomes())
    gaps = read.gaps(database=store)
    assert dict(zip(gaps["ticker"], gaps["reason"], strict=True)) == {"AAPL": "quarantined", "GONE": "failed"}
    assert gaps["attempts"].dtype == "Int64"
    assert gaps["last_error"].dtype == "string"
    assert set(gaps.loc[gaps["ticker"] == "GONE", "session"]) == {pd.Timestamp(day(0)), pd.Timestamp(day(1))}
    assert not len(read.gaps("GONE", day(2), database=store))

    cells = read.cells(database=store)
    assert len(cells) == 10 + 5 + 2, "every cell, once"
    assert cells.groupby("ticker", observed=True)["bars"].sum().to_dict() == {"AAPL": 9, "GONE": 0, "NEW": 5}
    states = cells.loc[cells["ticker"] == "AAPL", "state"].tolist()
    assert states == ["stored"] * 8 + ["quarantined"] + ["stored"]
    assert len(read.cells("AAPL", day(2), day(8), timeframe="1d", source="polygon", database=store)) == 7
    assert not len(read.cells(timeframe="1m", database=store))

    marks = read.watermarks(database=store)
    assert marks["ticker"].tolist() == ["AAPL", "GONE", "NEW"]
    assert (marks["first_session"] == pd.Timestamp(day(0))).all()

    revised = read.revisions("AAPL", database=store)
    assert revised["session"].tolist() == [pd.Timestamp(session) for session in days(0, 4)]
    assert (revised["new_close"] > revised["old_close"]).all()
    [kept] = read.quarantine(database=store).to_dict("records")
    assert (kept["ticker"], kept["session"], kept["high"]) == ("AAPL", pd.Timestamp(day(8)), 1.0)


def test_facts_and_runs(filled: Store) -> None:
    look(filled, EVENING, [Split("AAPL", day(5), 1, 4), Split("GE", day(9), 8, 1)], date(2023, 1, 1))
    pay(filled, Dividend("AAPL", day(7), 1.5, id="a"))
    assert read.splits(database=filled)["ticker"].tolist() == ["AAPL", "GE"]
    assert read.splits("GE", database=filled)["split_from"].tolist() == [8.0]
    assert not len(read.splits(start=day(10), database=filled))
    assert read.dividends(end=day(7), database=filled)["cash_amount"].tolist() == [1.5]
    runs = read.runs(database=filled)
    assert runs["started_at"].is_monotonic_decreasing
    assert runs["asked"].iloc[-1]["source"] == "polygon"
    assert len(read.runs(last=2, database=filled)) == 2
    assert arrow.runs(database=filled)["asked"][0].as_py().startswith("{")


# -- the forms -------------------------------------------------------------------------------------------------------

READS = ["bars", "cells", "gaps", "watermarks", "revisions", "quarantine", "events", "splits", "dividends", "runs"]


def test_nothing_has_the_types_of_something(store: Store) -> None:
    empty = {name: getattr(read, name)(database=store) for name in READS}
    tables = {name: getattr(arrow, name)(database=store) for name in READS}
    flush(store, ranged("AAPL", days(0, 4)))
    flush(store, *outcomes())
    look(store, EVENING, [Split("AAPL", day(5), 1, 4)], date(2023, 1, 1))
    pay(store, Dividend("AAPL", day(7), 1.5, id="a"))
    for name in READS:
        frame, table = getattr(read, name)(database=store), getattr(arrow, name)(database=store)
        assert len(empty[name]) == tables[name].num_rows == 0
        assert table.num_rows == len(frame)
        assert len(frame) or name == "events"
        assert [str(kind) for kind in empty[name].dtypes] == [str(kind) for kind in frame.dtypes], name
        assert tables[name].schema == table.schema, name
    assert read.bars([], database=store).dtypes.astype(str).tolist() == empty["bars"].dtypes.astype(str).tolist()


def test_arrow_has_the_same(filled: Store) -> None:
    import pyarrow as pa

    table, frame = arrow.bars(adjusted=True, database=filled), read.bars(adjusted=True, database=filled)
    names = pa.dictionary(pa.int32(), pa.string())
    kinds = [names, pa.date32(), pa.timestamp("us", "UTC"), *[pa.float64()] * 6, pa.int64(), names, pa.float64()]
    assert table.schema.types == kinds
    assert table["vwap"].null_count == table["trades"].null_count == 1
    for name in ("open", "volume", "vwap", "factor"):
        np.testing.assert_array_equal(table[name].to_numpy(), frame[name])
    assert table["ticker"].to_pylist() == frame["ticker"].tolist()
    assert table["session"].to_pylist() == [session.date() for session in frame["session"]]
    assert table["ts"].to_pylist() == frame["ts"].dt.to_pydatetime().tolist()
    assert sum(part.num_rows for part in arrow.batches(rows=3, database=filled)) == 20


def test_without_pyarrow(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert len(read.bars("AAPL", database=filled)) == 10
    with pytest.raises(ConfigurationError, match=r"closingbell\[arrow\]"):
        arrow.bars("AAPL", database=filled)


# -- mistakes --------------------------------------------------------------------------------------------------------


#: What is asked for, and what is said of it.
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"timeframe": "2m"}, "no such timeframe: '2m'. Use 1d, 1h"),
    ({"start": "2024-02-01", "end": "2024-01-31"}, "reversed: 2024-02-01 to 2024-01-31"),
    ({"start": "yesterday"}, "start is not a date: 'yesterday'"),
    ({"end": datetime(2024, 1, 2, 16, tzinfo=UTC)}, "end is not a date"),
    ({"tickers": ["AAPL", "NEVER", "brk.b"]}, "nothing is stored of these tickers: NEVER, brk.b"),
    ({"tickers": ["AAPL", None]}, "not a ticker: None"),
    ({"tickers": ""}, "not a ticker: ''"),
    ({"adjusted": "all"}, "adjusted so: 'all'"),
    ({"adjusted": "dividends", "timeframe": "1m"}, "daily bars only: 1m"),
    ({"adjusted": "dividends", "as_of": "2024-01-02"}, "is not kept"),
    ({"as_of": datetime(2024, 1, 2)}, "with its time zone"),  # noqa: DTZ001
    ({"as_of": "2024-01-02 10:00"}, "with its time zone"),
    ({"as_of": "then"}, "neither a date nor"),
    ({"columns": ["close", "factor"]}, "no such column: 'factor'"),
    ({"rows": 0}, "at least one row: 0"),
]


def test_what_cannot_be_read(filled: Store) -> None:
    for asked, says in MISTAKES:
        reads: list[Any] = [read.batches] if "rows" in asked else [read.bars, arrow.bars]
        for one in reads:
            with pytest.raises(ConfigurationError) as error:
                one(**asked, database=filled)
            assert says in str(error.value)
        with pytest.raises(ConfigurationError):
            [*read.batches(**asked, database=filled)]


def test_dates_as_pandas_and_numpy_have_them(filled: Store) -> None:
    for start in (pd.Timestamp(day(5)), np.datetime64(day(5)), SESSIONS[5], day(5), str(day(5))):
        assert len(read.bars("AAPL", start, database=filled)) == 5


def test_a_database_without_tables(bare_url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a table is missing.*Any closingbell command applies"):
        read.bars("AAPL", database=bare_url)


def test_the_database_that_the_settings_name(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", filled.engine.url.render_as_string(hide_password=False))
    assert len(read.bars()) == 20
    with read.connect() as opened:
        assert len(read.bars(database=opened)) == 20
    assert len(read.bars(database=sa.create_engine(filled.engine.url))) == 20
    with closing(read.connect()) as opened:
        assert ":***@" in repr(opened)


@pytest.mark.postgres_only("what a reader may, only a real Oracle can show")
def test_a_reader_may_read(filled: Store, database_url: str, roles: dict[str, str]) -> None:  # noqa: F811
    grant(filled.engine, readers=[roles["reader"]])
    for role, allowed in (("reader", True), ("somebody", False)):
        with opened(database_url, roles[role]) as own:
            for name in READS:
                if allowed:
                    assert len(getattr(read, name)(database=own)) == len(getattr(read, name)(database=filled))
                else:
                    with pytest.raises(ConfigurationError, match="may not do this"):
                        getattr(read, name)(database=own)
            if allowed:
                for how in ({"adjusted": True, "as_of": night(9)}, {"adjusted": "dividends"}, {"tickers": "AAPL"}):
                    assert read.bars(**how, database=own).equals(read.bars(**how, database=filled))


def test_several_threads_read_at_once(filled: Store) -> None:
    with (
        read.connect(filled.engine.url.render_as_string(hide_password=False)) as opened,
        ThreadPoolExecutor(3) as pool,
    ):
        found = list(pool.map(lambda name: len(read.bars(name, database=opened)), ["AAPL", "BRK.B"] * 6))
    assert found == [10] * 12


@pytest.mark.postgres_only("no database at all")
def test_no_database_is_made_for_reading(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="there is no database to read"):
        read.bars()
    assert not (tmp_path / "home").exists()
    with pytest.raises(ConfigurationError, match="this is no database"):
        read.connect(5)  # type: ignore[arg-type]


@pytest.mark.postgres_only("no database at all")
def test_both_forms_have_every_read_and_say_what_they_return() -> None:
    for module, form in ((read, "pd.DataFrame"), (arrow, "pa.Table")):
        reads = set(module.__all__) - {"Connection", "connect"}
        assert reads == {*READS, "batches"} == {name for name in vars(reading) if name in reads}
        for name in reads:
            told = inspect.signature(getattr(module, name))
            assert told.return_annotation == (f"Iterator[{form}]" if name == "batches" else form)
            assert list(told.parameters)[-1] == "database"
            assert getattr(module, name).__doc__
