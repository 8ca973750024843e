"""What only an Oracle refuses costs itself alone, and one statement finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import SESSIONS, answered, bars, count, days, gaps, market_day, query, range_of, ranged, rows_of, start

from closingbell.bars import Bars
from closingbell.errors import FatalError
from closingbell.outcome import FlushResult, Outcome
from closingbell.quality import Verdict
from closingbell.store import Store, schema
from closingbell.store.poison import MANY
from tests.databases import contents

pytestmark = pytest.mark.oracle_only("its array DML")


def run(store: Store, *statements: str) -> None:
    with store.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    store.engine.dispose()


@pytest.fixture
def needs_vwap(store: Store) -> Iterator[Callable[[], None]]:
    """Makes a rule of somebody's own, every bar needs an average price; it is gone afterwards."""
    with ExitStack() as made:

        def make() -> None:
            run(store, "ALTER TABLE bar MODIFY vwap NOT NULL")
            made.callback(run, store, "ALTER TABLE bar MODIFY vwap NULL")

        yield make


def flush(store: Store, *outcomes: Outcome, timeframe: str = "1d") -> FlushResult:
    return store.writer.flush(start(store), "polygon", timeframe, outcomes)


def minutes(total: int, poison: list[int]) -> Outcome:
    """A long answer: minute bars of one ticker, some of them without an average price."""
    block = bars("AAPL", np.repeat(SESSIONS[0], total))
    block.rows["ts"] += np.arange(total) * np.timedelta64(1, "m")
    block.rows["vwap"][poison] = np.nan
    verdict = Verdict(replace(block, timeframe="1m"), Bars(()), (), {})
    return Outcome(range_of("AAPL", days(0, 0)), verdict, ("AAPL",), days(0, 0), "x")


def without_vwap(outcome: Outcome, *positions: int) -> Outcome:
    outcome.verdict.accepted.rows["vwap"][list(positions)] = np.nan
    return outcome


def executes(store: Store, work: Any) -> int:
    """How many statements it takes, those past the engine not counted."""
    seen: list[str] = []

    def listen(*arguments: Any) -> None:
        seen.append(arguments[2])

    sa.event.listen(store.engine, "before_cursor_execute", listen)
    try:
        work()
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", listen)
    return len(seen)


@pytest.mark.parametrize("poison", [[7_123], [0, 18, 5_000, 9_999, 10_000, 11_999]])
def test_a_few_rows_of_thousands_cost_no_more_statements(
    store: Store, needs_vwap: Callable[[], None], poison: list[int]
) -> None:
    needs_vwap()
    results: list[FlushResult] = []
    assert executes(store, lambda: results.append(flush(store, minutes(12_000, poison), timeframe="1m"))) < 90
    assert (results[0].inserted, results[0].quarantined) == (12_000 - len(poison), len(poison))
    kept = rows_of(store, schema.quarantine, "trades", "rule")
    assert kept == [(1_000 + position, "refused") for position in poison]


def test_a_refused_bar_is_a_gap_with_the_databases_words(store: Store, needs_vwap: Callable[[], None]) -> None:
    needs_vwap()
    result = flush(store, without_vwap(ranged("AAPL", days(0, 9)), 3))
    assert (result.inserted, result.quarantined, result.gaps) == (9, 1, 1)
    [(ticker, session, rule, said)] = rows_of(store, schema.quarantine, "ticker", "session", "rule", "message")
    assert (ticker, session, rule) == ("AAPL", SESSIONS[3].item(), "refused")
    assert said.startswith("ORA-01400: cannot insert NULL")
    assert "Help" not in said
    assert gaps(store) == {("AAPL", SESSIONS[3].item()): ("quarantined", 1, said)}
    assert flush(store, ranged("AAPL", days(0, 9))).inserted == 1
    assert gaps(store) == {}


def test_a_refused_change_leaves_the_stored_bar_as_it_was(store: Store, needs_vwap: Callable[[], None]) -> None:
    flush(store, ranged("AAPL", days(0, 4)))
    needs_vwap()
    result = flush(store, without_vwap(ranged("AAPL", days(0, 4), 1.0), 2))
    assert (result.rewritten, result.quarantined) == (4, 1)
    assert [row for (row,) in rows_of(store, schema.bar, "open") if row < 101] != []
    assert count(store, schema.revision) == 4
    assert gaps(store) == {}, "the cell has its bar"


@pytest.mark.usefixtures("altered")
def test_of_two_bars_that_do_not_go_together_the_first_is_stored(store: Store) -> None:
    run(store, "CREATE UNIQUE INDEX somebodys ON bar (ticker, volume)")
    block = bars("AAPL", days(0, 9))
    block.rows["volume"][7] = block.rows["volume"][2]
    result = flush(store, answered(range_of("AAPL", days(0, 9)), block))
    assert (result.inserted, result.quarantined) == (9, 1)
    assert rows_of(store, schema.quarantine, "session") == [(SESSIONS[7].item(),)]


@pytest.mark.usefixtures("altered")
@pytest.mark.parametrize("stored_before", [True, False])
def test_a_database_that_takes_no_bar_is_an_error_and_nothing_is_lost(store: Store, stored_before: bool) -> None:
    if stored_before:
        flush(store, market_day(0, ["AAPL", "OTHER"]))
    before = contents(store.engine)
    # What is there may stay as it is; nothing can be added.
    run(store, "ALTER TABLE bar ADD (somebodys NUMBER)")
    if stored_before:
        run(store, "UPDATE bar SET somebodys = 1")
    run(store, "ALTER TABLE bar MODIFY somebodys NOT NULL")
    with pytest.raises(FatalError, match="refuses everything: 'ORA-01400") as caught:
        flush(store, *(market_day(i, [f"T{n:03}" for n in range(300)]) for i in range(3)))
    assert "nothing is lost" in caught.value.fix
    after = contents(store.engine)
    assert {name: rows for name, rows in after.items() if name != "run"} == {
        name: rows for name, rows in before.items() if name != "run"
    }


def test_a_ticker_that_is_refused_whole_does_not_stop_the_run(store: Store, needs_vwap: Callable[[], None]) -> None:
    """It is all that came in its flush; but another bar would be taken."""
    needs_vwap()
    result = flush(store, without_vwap(ranged("BAD", days(0, 9)), *range(10)))
    assert (result.inserted, result.quarantined, result.refused) == (0, 10, {})
    assert {gap[0] for gap in gaps(store).values()} == {"quarantined"}
    assert count(store, schema.bar) == 0


def test_too_many_are_no_matter_of_single_rows(store: Store, needs_vwap: Callable[[], None]) -> None:
    needs_vwap()
    with pytest.raises(FatalError, match="too many bars"):
        flush(store, minutes(4_000, list(range(0, 4_000, 2))), timeframe="1m")
    assert MANY < 2_000
    assert query(store, sa.select(sa.func.count()).select_from(schema.bar)) == [(0,)]


@pytest.mark.parametrize("name", ["T" * 33, "caf\u00e9" * 11])
def test_a_ticker_that_is_too_long_costs_the_others_nothing(store: Store, name: str) -> None:
    result = flush(store, market_day(0, ["AAPL", name, "NVDA"]))
    assert result.inserted == 2
    assert list(result.refused) == [name]
    assert "ORA-12899" in result.refused[name]
