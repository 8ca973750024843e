"""Splits, dividends and tenures as they are stored: what changes, what is kept of it, and since when it is known."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from blocks import change, query, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closingbell.errors import MalformedResponseError
from closingbell.sources.base import Dividend, Split
from closingbell.store import Store
from closingbell.store.facts import Facts
from closingbell.store.schema import dividend, facts_watermark, run, split, split_revision, ticker_history

DAY = date(2024, 6, 10)
FIRST, LAST = date(2024, 1, 1), date(2024, 12, 31)


def at(month: int, day: int, hour: int = 2) -> datetime:
    return datetime(2024, month, day, hour, tzinfo=UTC)


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def run_at(store: Store, as_of: datetime | None) -> UUID:
    """A run that takes this instant for the present."""
    run_id = uuid4()
    asked = {"source": "polygon", "timeframe": "1d"}
    store.records.start_run(run_id, "ingest", asked, {"planned_calls": 0, "cells": 0}, as_of)
    return run_id


def look(store: Store, as_of: datetime, splits: Sequence[Split], first: date = FIRST, last: date | None = None) -> int:
    return store.facts.store_splits(run_at(store, as_of), "polygon", splits, first, last or as_of.date())


def known_from(store: Store) -> dict[tuple[str, date], datetime]:
    return {(t, d): known for t, d, known in rows_of(store, split, "ticker", "execution_date", "known_from")}


def revisions(store: Store) -> list[Any]:
    """What has been replaced: which split, the old ratio and the new one, and when the old one counted; in order."""
    ratios = ("old_split_from", "old_split_to", "new_split_from", "new_split_to")
    names = ("ticker", "execution_date", *ratios, "old_known_from", "seen_at")
    chosen = sa.select(*(split_revision.c[name] for name in names))
    return query(store, chosen.order_by(split_revision.c.revision_id))


def written(store: Store, table: sa.Table, where: Any = True) -> list[Any]:
    """Every row with the run that wrote it and, where the database says so, the transaction."""
    rows = rows_of(store, table, where=where)
    if store.engine.dialect.name != "postgresql":
        return rows
    version = sa.literal_column("xmin::text")
    where = sa.true() if where is True else where
    return [*rows, *query(store, sa.select(version).select_from(table).where(where).order_by(*table.primary_key))]


def clear(store: Store, *tables: sa.Table) -> None:
    for table in tables:
        change(store, sa.delete(table))


# -- splits ----------------------------------------------------------------------------------------------------------


def test_what_a_first_look_finds_was_known_on_its_day(store: Store) -> None:
    nvda, ge = Split("NVDA", DAY, 1, 10, "a"), Split("GE", date(2024, 8, 1), 8, 1, None)
    assert look(store, at(7, 1), [nvda, ge]) == 2
    assert store.facts.splits_seen("polygon") == (FIRST, date(2024, 7, 1))
    assert known_from(store) == {("NVDA", DAY): midnight(DAY), ("GE", date(2024, 8, 1)): at(7, 1)}, "GE is announced"
    assert set(rows_of(store, split, "seen_at")) == {(at(7, 1),)}
    assert store.facts.splits("polygon") == [ge, nvda]
    assert store.facts.splits("polygon", ["NVDA", "NONE"]) == [nvda]
    assert store.facts.splits("other") == []
    assert store.facts.splits("polygon", []) == []


def test_looking_again_changes_nothing(store: Store) -> None:
    splits = [Split("NVDA", DAY, 1, 10, "a"), Split("GE", DAY, 1.5, 1, None)]
    look(store, at(7, 1), splits)
    before = written(store, split)
    assert look(store, at(7, 2), splits) == 0
    assert look(store, at(7, 3), [], date(2024, 7, 1)) == 0, "days without a split"
    assert written(store, split) == before
    assert revisions(store) == []
    assert store.facts.splits_seen("polygon") == (FIRST, date(2024, 7, 3)), "a look never shrinks the span"


def test_no_splits_are_an_answer_too(store: Store) -> None:
    assert store.facts.splits_seen("polygon") is None
    assert look(store, at(1, 5), []) == 0
    assert store.facts.splits_seen("polygon") == (FIRST, date(2024, 1, 5))
    assert store.facts.splits_seen("other") is None
    assert store.facts.dividends_seen("polygon") is None


def test_a_late_split_is_known_since_it_was_seen(store: Store) -> None:
    look(store, at(7, 1), [])
    late, on_time = Split("NVDA", DAY, 1, 10), Split("GE", date(2024, 7, 2), 8, 1)
    earlier = Split("AAPL", date(2023, 8, 1), 1, 4)
    assert look(store, at(7, 3), [late, on_time, earlier], date(2023, 1, 1)) == 3
    assert known_from(store) == {
        ("NVDA", DAY): at(7, 3),
        ("GE", date(2024, 7, 2)): midnight(date(2024, 7, 2)),
        ("AAPL", date(2023, 8, 1)): midnight(date(2023, 8, 1)),
    }
    assert revisions(store) == []


def test_a_corrected_ratio(store: Store) -> None:
    look(store, at(7, 1), [Split("NVDA", DAY, 1, 10, "a"), Split("GE", DAY, 8, 1)])
    assert look(store, at(7, 4), [Split("NVDA", DAY, 1, 20, "b"), Split("GE", DAY, 8, 1)]) == 1
    assert revisions(store) == [("NVDA", DAY, 1, 10, 1, 20, midnight(DAY), at(7, 4))]
    assert known_from(store) == {("NVDA", DAY): at(7, 4), ("GE", DAY): midnight(DAY)}
    [(run_id, old_run_id)] = rows_of(store, split_revision, "run_id", "old_run_id")
    runs = {as_of: run_id for run_id, as_of in rows_of(store, run, "run_id", "as_of")}
    assert (runs[at(7, 4)], runs[at(7, 1)]) == (run_id, old_run_id)


def test_another_vendors_number_is_no_revision(store: Store) -> None:
    look(store, at(7, 1), [Split("NVDA", DAY, 1, 10, "a")])
    assert look(store, at(7, 4), [Split("NVDA", DAY, 1, 10, "b")]) == 0
    assert revisions(store) == []
    assert rows_of(store, split, "vendor_id", "seen_at") == [("b", at(7, 1))]


def test_a_retracted_split_and_its_return(store: Store) -> None:
    look(store, at(7, 1), [Split("NVDA", DAY, 1, 10)])
    assert look(store, at(7, 2), []) == 1
    assert store.facts.splits("polygon") == []
    assert revisions(store) == [("NVDA", DAY, 1, 10, None, None, midnight(DAY), at(7, 2))]
    assert look(store, at(7, 3), [Split("NVDA", DAY, 1, 10)]) == 1
    assert known_from(store) == {("NVDA", DAY): at(7, 3)}


def test_only_days_looked_at_are_retracted(store: Store) -> None:
    look(store, at(7, 1), [Split("NVDA", DAY, 1, 10), Split("GE", date(2024, 3, 1), 8, 1)])
    store.facts.store_splits(run_at(store, at(7, 1)), "other", [Split("NVDA", DAY, 1, 9)], DAY, DAY)
    assert look(store, at(7, 2), [], date(2024, 6, 11)) == 0
    assert look(store, at(7, 2), [], date(2024, 3, 2), date(2024, 6, 9)) == 0
    assert look(store, at(7, 2), [], DAY, DAY) == 1
    assert rows_of(store, split, "source", "ticker") == [("other", "NVDA"), ("polygon", "GE")]


@pytest.mark.parametrize("moved", [date(2024, 6, 7), date(2024, 6, 12), date(2024, 7, 2)])
def test_a_corrected_date(store: Store, moved: date) -> None:
    """Never are both known at once, nor neither: also where nobody had looked at the new day before."""
    look(store, at(7, 1), [Split("NVDA", DAY, 1, 10)])
    assert look(store, at(7, 2), [Split("NVDA", moved, 1, 10)]) == 2
    assert revisions(store) == [("NVDA", DAY, 1, 10, None, None, midnight(DAY), at(7, 2))]
    assert known_from(store) == {("NVDA", moved): at(7, 2)}


def test_a_split_listed_twice_is_taken_once(store: Store) -> None:
    twice = [Split("NVDA", DAY, 1, 2, "early"), Split("NVDA", DAY, 1, 10, "late")]
    assert look(store, at(7, 1), twice) == 1
    assert look(store, at(7, 2), twice) == 0
    assert rows_of(store, split, "split_to", "vendor_id") == [(10.0, "late")]


@pytest.mark.parametrize(("known", "left", "believed"), [(2, 0, True), (3, 1, False), (4, 2, True), (10, 4, False)])
def test_a_list_that_lacks_most_is_not_believed(store: Store, known: int, left: int, believed: bool) -> None:
    splits = [Split(f"T{number}", DAY, 1, 2) for number in range(known)]
    look(store, at(7, 1), splits)
    new = Split("NEW", DAY, 1, 2)
    if believed:
        assert look(store, at(7, 9), [*splits[:left], new]) == known - left + 1
        return
    before = written(store, split)
    with pytest.raises(MalformedResponseError, match=f"{known - left} of {known} from 2024-01-01 to 2024-07-09"):
        look(store, at(7, 9), [*splits[:left], new])
    assert written(store, split) == before
    assert store.facts.splits_seen("polygon") == (FIRST, date(2024, 7, 1))
    assert revisions(store) == []


def test_a_replayed_night_does_not_unsay_what_was_known(store: Store) -> None:
    look(store, at(7, 1), [])
    look(store, at(7, 9), [Split("NVDA", DAY, 1, 10)])
    look(store, at(7, 5), [Split("NVDA", DAY, 1, 20)], last=date(2024, 7, 9))
    look(store, at(7, 4), [], last=date(2024, 7, 9))
    assert [(old, seen) for *_, old, seen in revisions(store)] == [(at(7, 9), at(7, 9)), (at(7, 9), at(7, 9))]
    look(store, at(7, 6), [Split("NVDA", DAY, 1, 10)])
    assert known_from(store) == {("NVDA", DAY): at(7, 9)}


def test_a_run_without_a_row_sees_with_the_databases_clock(store: Store) -> None:
    [(before,)] = query(store, sa.select(sa.func.now()))
    store.facts.store_splits(uuid4(), "polygon", [Split("NVDA", DAY, 1, 10)], DAY, DAY)
    [(seen_at, known)] = rows_of(store, split, "seen_at", "known_from")
    assert seen_at > before
    assert known == midnight(DAY)


def test_looks_at_once_take_place_one_after_the_other(store: Store) -> None:
    """Each of them new, changed and retracted rows; whoever comes second finds what the first one wrote."""
    lists = [[Split(f"T{n}", DAY, 1, 2 + turn) for n in range(turn, 40 + turn)] for turn in range(6)]
    runs = [run_at(store, at(7, 1 + turn)) for turn in range(6)]
    errors: list[BaseException] = []
    gate = threading.Barrier(6)

    def write(turn: int) -> None:
        try:
            gate.wait(30)
            store.facts.store_splits(runs[turn], "polygon", lists[turn], FIRST, LAST)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(turn,), daemon=True) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []
    found = store.facts.splits("polygon")
    assert sorted(found, key=str) in [sorted(splits, key=str) for splits in lists]
    assert rows_of(store, split_revision, where=split_revision.c.seen_at < split_revision.c.old_known_from) == []


LISTS = st.lists(
    st.lists(
        st.builds(
            Split,
            ticker=st.sampled_from(["A", "B", "C"]),
            execution_date=st.sampled_from([DAY, date(2024, 6, 11), date(2024, 6, 20)]),
            split_from=st.sampled_from([1.0, 3.0, 20.0]),
            split_to=st.sampled_from([1.0, 2.0, 7.0]),
        ),
        max_size=8,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=LISTS)
def test_at_each_look_the_known_splits_were_the_vendors(store: Store, lists: list[list[Split]]) -> None:
    clear(store, split, split_revision, facts_watermark)
    believed: list[tuple[datetime, set[tuple[str, date, float, float]]]] = []
    current: set[tuple[str, date, float, float]] = set()
    for turn, listed in enumerate(lists):
        as_of = at(7, 1) + timedelta(days=turn)
        try:
            look(store, as_of, listed)
        except MalformedResponseError:
            listed = None  # type: ignore[assignment]
        if listed is not None:
            unique = {(entry.ticker, entry.execution_date): entry for entry in listed}.values()
            current = {(entry.ticker, entry.execution_date, entry.split_from, entry.split_to) for entry in unique}
        believed.append((as_of, current))
    for turn, (as_of, expected) in enumerate(believed):
        assert known_at(store, as_of) == expected
        if turn:
            assert known_at(store, as_of - timedelta(microseconds=1)) == believed[turn - 1][1]


def known_at(store: Store, instant: datetime) -> set[tuple[str, date, float, float]]:
    now, old = split.c, split_revision.c
    listed = sa.select(now.ticker, now.execution_date, now.split_from, now.split_to).where(now.known_from <= instant)
    replaced = sa.select(old.ticker, old.execution_date, old.old_split_from, old.old_split_to).where(
        old.old_known_from <= instant, old.seen_at > instant
    )
    rows = query(store, listed) + query(store, replaced)
    assert len(rows) == len({row[:2] for row in rows}), "one version at a time"
    return set(rows)


# -- dividends -------------------------------------------------------------------------------------------------------


def dividends(store: Store) -> list[Any]:
    return rows_of(store, dividend, "ticker", "ex_date", "seq", "kind", "cash_amount", "vendor_id")


def test_dividends_are_written_once(store: Store) -> None:
    paid = [
        Dividend("MSFT", DAY, 0.75, pay_date=date(2024, 6, 20), id="m"),
        Dividend("COST", DAY, 15.0, kind="SC", id="special"),
        Dividend("COST", DAY, 1.02, id="regular"),
    ]
    run_id = run_at(store, at(7, 1))
    assert store.facts.store_dividends(run_id, "polygon", paid, FIRST, LAST) == 3
    assert dividends(store) == [
        ("COST", DAY, 1, "CD", 1.02, "regular"),
        ("COST", DAY, 2, "SC", 15.0, "special"),
        ("MSFT", DAY, 1, "CD", 0.75, "m"),
    ]
    assert store.facts.dividends_seen("polygon") == (FIRST, LAST)
    assert store.facts.splits_seen("polygon") is None
    assert set(rows_of(store, dividend, "currency", "run_id", "seen_at")) == {("USD", run_id, at(7, 1))}
    before = written(store, dividend)
    assert store.facts.store_dividends(run_at(store, at(7, 2)), "polygon", paid[::-1], FIRST, LAST) == 0
    assert written(store, dividend) == before


def test_dividends_are_corrected_and_taken_back(store: Store) -> None:
    def write(*paid: Dividend, ticker: str | None = None, first: date = FIRST) -> int:
        return store.facts.store_dividends(run_at(store, at(7, 1)), "polygon", paid, first, LAST, ticker)

    msft, ko = Dividend("MSFT", DAY, 0.75, id="m"), Dividend("KO", DAY, 0.485, id="k")
    old = Dividend("MSFT", date(2023, 6, 9), 0.68, id="o")
    assert write(msft, ko, old, first=date(2023, 1, 1)) == 3
    assert write(replace(msft, cash_amount=0.83), ko) == 1
    assert write(ko, ticker="MSFT") == 1, "one ticker's look takes back that ticker's"
    assert write(ticker="MSFT") == 0
    assert [row[:2] for row in dividends(store)] == [("KO", DAY), ("MSFT", date(2023, 6, 9))]
    assert write() == 1, "nor did it touch what lies before the days looked at"
    assert [row[:2] for row in dividends(store)] == [("MSFT", date(2023, 6, 9))]
    assert store.facts.dividends_seen("other") is None


def test_one_tickers_look_says_nothing_of_the_market(store: Store) -> None:
    store.facts.store_dividends(uuid4(), "polygon", [Dividend("KO", DAY, 0.485)], FIRST, LAST, "KO")
    assert store.facts.dividends_seen("polygon") is None
    assert len(dividends(store)) == 1


def test_a_dividend_listed_twice_is_paid_once(store: Store) -> None:
    first = Dividend("KO", DAY, 0.485, id="a")
    listed = [first, replace(first, cash_amount=0.5), replace(first, cash_amount=0.5, id="b"), Dividend("KO", DAY, 2.0)]
    store.facts.store_dividends(uuid4(), "polygon", listed, FIRST, LAST)
    assert dividends(store) == [("KO", DAY, 1, "CD", 0.5, "b"), ("KO", DAY, 2, "CD", 2.0, None)]


def test_words_that_the_vendor_left_empty(store: Store) -> None:
    """A database that takes an empty text for NULL finds no difference either when it is told again."""
    paid = [Dividend("KO", DAY, 0.485, currency="", kind="", id=""), Dividend("KO", DAY, 0.5, currency="", kind="")]
    splits = [Split("KO", DAY, 1, 2, "")]
    assert store.facts.store_dividends(uuid4(), "polygon", paid, FIRST, LAST) == 2
    assert look(store, at(7, 1), splits) == 1
    before = [written(store, dividend), written(store, split)]
    assert store.facts.store_dividends(uuid4(), "polygon", paid, FIRST, LAST) == 0
    assert look(store, at(7, 1), splits) == 0
    assert [written(store, dividend), written(store, split)] == before
    assert store.facts.splits("polygon") == [Split("KO", DAY, 1, 2, None)]


# -- tenures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    ticker: str
    instrument_id: str
    first: date
    end: date | None = None
    name: str = "a name"


def y(year: int) -> date:
    return date(year, 1, 1)


def tell(facts: Facts, *tenures: Held, origin: Any = "vendor") -> int:
    return facts.store_tenures(uuid4(), "polygon", tenures, origin)


def held(facts: Facts, tickers: Sequence[str] | None = None) -> list[tuple[str, str, int, int | None]]:
    return [
        (row.instrument_id, row.ticker, row.first.year, row.end and row.end.year)
        for row in facts.tenures("polygon", tickers)
    ]


def test_an_instrument_is_told_of_as_a_whole(store: Store) -> None:
    facts = store.facts
    fb, meta = Held("FB", "BBG1", y(2012), y(2022)), Held("META", "BBG1", y(2022), name="Meta Platforms")
    assert tell(facts, fb, meta) == 2
    assert tell(facts, fb, meta) == 0
    assert tell(facts, meta, fb) == 0
    assert held(facts, ["FB"]) == held(facts, ["META"]) == [("BBG1", "FB", 2012, 2022), ("BBG1", "META", 2022, None)]
    [row] = [row for row in facts.tenures("polygon") if row.ticker == "META"]
    assert (row.name, row.origin) == ("Meta Platforms", "vendor")
    assert facts.tenures("polygon", ["NONE"]) == facts.tenures("other") == facts.tenures("polygon", []) == []
    assert tell(facts, replace(fb, first=y(2013)), replace(meta, name="Meta")) == 3, "one gone, one new, one changed"
    assert held(facts) == [("BBG1", "FB", 2013, 2022), ("BBG1", "META", 2022, None)]
    assert tell(facts, Held("META", "BBG1", y(2022), y(2022))) == 0, "for no day"


def test_an_instrument_without_a_name(store: Store) -> None:
    nameless = Held("T", "A", y(2010), name="")
    assert tell(store.facts, nameless) == 1
    assert [row.name for row in store.facts.tenures("polygon")] == [""]
    assert tell(store.facts, nameless) == 0


def test_only_what_differs_is_written(store: Store) -> None:
    tell(store.facts, Held("FB", "BBG1", y(2012), y(2022)), Held("META", "BBG1", y(2022)))
    before = written(store, ticker_history, ticker_history.c.ticker == "FB")
    assert tell(store.facts, Held("FB", "BBG1", y(2012), y(2022)), Held("META", "BBG1", y(2022), y(2030))) == 1
    assert written(store, ticker_history, ticker_history.c.ticker == "FB") == before


def test_the_vendor_outweighs_what_was_shipped(store: Store) -> None:
    facts = store.facts
    tell(
        facts,
        Held("META", "CIK1", y(2010), y(2015)),
        Held("META", "CIK2", y(2020), y(2021)),
        Held("METV", "CIK2", y(2021)),
        Held("FB", "CIK3", y(2012)),
        origin="shipped",
    )
    tell(facts, Held("FB", "BBG1", y(2012), y(2020)), Held("META", "BBG1", y(2020)))
    assert held(facts) == [
        ("BBG1", "FB", 2012, 2020),
        ("BBG1", "META", 2020, None),
        ("CIK1", "META", 2010, 2015),
        ("CIK2", "METV", 2021, None),
    ]


def test_what_is_shipped_never_replaces_the_vendor(store: Store) -> None:
    facts = store.facts
    tell(facts, Held("META", "BBG1", y(2022)))
    shipped = (
        Held("META", "BBG1", y(2000), y(2001)),
        Held("META", "CIK2", y(2020), y(2023)),
        Held("META", "CIK3", y(2020), y(2022)),
        Held("FB", "CIK3", y(2012), y(2020)),
    )
    assert tell(facts, *shipped, origin="shipped") == 2
    assert held(facts) == [
        ("BBG1", "META", 2022, None),
        ("CIK3", "FB", 2012, 2020),
        ("CIK3", "META", 2020, 2022),
    ]
    assert tell(facts, *shipped, origin="shipped") == 0


def test_a_later_holder_ends_the_earlier_ones_tenure(store: Store) -> None:
    facts = store.facts
    tell(facts, Held("T", "A", y(2010)))
    tell(facts, Held("T", "B", y(2018), y(2020)))
    assert held(facts) == [("A", "T", 2010, 2018), ("B", "T", 2018, 2020)]
    assert tell(facts, Held("T", "A", y(2010))) == 0, "told again, it ends there still"
    tell(facts, Held("T", "C", y(2018)))
    assert held(facts) == [("A", "T", 2010, 2018), ("C", "T", 2018, None)], "of two since one day, the last told of"


@pytest.mark.postgres_only("Oracle samples a table without statistics when it is read")
def test_a_first_load_is_known_to_the_planner(store: Store) -> None:
    statement = "SELECT reltuples FROM pg_class WHERE relname = 'ticker_history'"
    assert tell(store.facts, *(Held(f"T{n}", f"I{n}", y(2010)) for n in range(99))) == 99
    assert tell(store.facts, *(Held(f"U{n}", f"J{n}", y(2010)) for n in range(100))) == 100
    assert query(store, statement) == [(199,)]


def test_sources_know_their_own_tickers_only(store: Store) -> None:
    tell(store.facts, Held("T", "A", y(2010)))
    store.facts.store_tenures(uuid4(), "other", [Held("T", "B", y(2010))], "vendor")
    assert held(store.facts) == [("A", "T", 2010, None)]
    assert len(store.facts.tenures("other")) == 1
