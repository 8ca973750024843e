"""The same facts in PostgreSQL and in Oracle: the same is derived of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from blocks import days, ranged
from derived import read
from test_facts import Held, look, run_at
from test_views import EVENING, day, night, pay, store_bars, tell

from closingbell.sources.base import Dividend, Split
from closingbell.store import Store, open_store

PRICES = ("open", "high", "low", "close", "volume", "vwap", "trades")
SPANS = ("source", "ticker", "first_session", "before_session", "factor")
BARS = ("ticker", "timeframe", "session", "ts", *PRICES, "source")

#: Each view's columns but for the run's, for every story has runs of its own.
VIEWS = {
    "bar_adjusted": (*BARS, "factor"),
    "bar_total_return": (
        "ticker",
        "session",
        "ts",
        "adjusted_close",
        "total_return_close",
        "factor",
        "dividend_factor",
    ),
    "bar_history": ("instrument_id", "traded_as", *BARS, "factor"),
    "split_factor": SPANS,
}
AS_OF = {"bar_adjusted_as_of": (*BARS, "factor"), "bar_as_of": BARS, "split_factor_as_of": SPANS}

#: As far back as what stands in for Oracle can tell days apart.
LONG_AGO = date(1, 1, 3)


@pytest.fixture
def stores(store: Store, oracle_url: str) -> Iterator[list[Store]]:
    with closing(open_store(oracle_url)) as other:
        yield [store, other]


def live(store: Store) -> None:
    """Bars that are revised, splits that are late and corrected, renames, dividends."""
    store_bars(store, ["FB"], 0, 11, as_of=night(11))
    store_bars(store, ["META"], 0, 7, 1_000.0, night(11))
    store_bars(store, ["METV"], 8, 19, 1_000.0, night(19))
    store_bars(store, ["META"], 12, 19, as_of=night(19))
    store_bars(store, ["AAPL"], 0, 19, as_of=night(19))
    store_bars(store, ["AAPL"], 15, 19, 3.0, night(20))
    store.writer.flush(run_at(store, night(21)), "polygon", "1d", [ranged("AAPL", days(18, 21), 5.0)])
    tell(store, Held("FB", "BBG1", day(0), day(12)), Held("META", "BBG1", day(12)))
    tell(store, Held("META", "BBG2", day(0), day(8)), Held("METV", "BBG2", day(8)), origin="shipped")
    first = [Split("FB", day(5), 1, 3), Split("META", day(12), 1, 2), Split("AAPL", day(10), 7, 3)]
    look(store, night(19), first, date(2023, 1, 1))
    look(store, night(20), [*first[:2], Split("AAPL", day(10), 7, 4), Split("AAPL", day(14), 1.5, 1)], last=day(30))
    look(store, night(21), [*first[1:], Split("AAPL", day(14), 1.5, 1), Split("METV", day(9), 1, 20)], last=day(30))
    pay(
        store,
        Dividend("AAPL", day(3), 0.24, id="a"),
        Dividend("AAPL", day(3), 1.5, kind="SC", id="b"),
        Dividend("AAPL", day(14), 0.25, id="c"),
        Dividend("META", day(13), 0.5, id="d"),
        Dividend("METV", day(12), 9.5, currency="EUR", id="e"),
        Dividend("FB", day(7), 2.25, id="f"),
    )
    store.facts.store_splits(uuid4(), "other", [Split("AAPL", day(5), 1, 9)], day(0), day(9))


def derived(store: Store, relation: str, columns: tuple[str, ...], known: datetime | None = None) -> list[Any]:
    order = ("ticker", "before_session") if columns == SPANS else ("ticker", "ts")
    rows = read(store, relation, *columns, known=known, order=order)
    return [tuple(max(value, LONG_AGO) if type(value) is date else value for value in row) for row in rows]


def assert_same(one: list[Any], other: list[Any], what: str) -> None:
    assert len(one) == len(other), what
    for row, its in zip(one, other, strict=True):
        for value, theirs in zip(row, its, strict=True):
            assert theirs == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), what


@pytest.mark.postgres_only("opens an Oracle beside it")
def test_the_same_is_derived_on_both(stores: list[Store]) -> None:
    for store in stores:
        live(store)
    for relation, columns in VIEWS.items():
        one, other = (derived(store, relation, columns) for store in stores)
        assert one
        assert_same(one, other, relation)
    instants = [EVENING, night(21), night(20), night(19), night(14), night(9) - timedelta(microseconds=1)]
    for known in instants:
        for relation, columns in AS_OF.items():
            one, other = (derived(store, relation, columns, known) for store in stores)
            assert_same(one, other, f"{relation} {known}")
    assert derived(stores[1], "bar_as_of", BARS, EVENING) == derived(stores[1], "bar", BARS)
