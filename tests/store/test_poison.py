"""What only the database refuses costs itself alone: the poison rows stand in quarantine, all others are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import log2
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import JUDGE, SESSIONS, answered, bars, days, gaps, market_day, marks, query, range_of, ranged, start

from closingbell.bars import Bars
from closingbell.errors import FatalError, RetryableError
from closingbell.outcome import FlushResult, Outcome
from closingbell.plan import MarketDay
from closingbell.quality import Verdict
from closingbell.store import Store
from closingbell.store.poison import MANY, Poison
from closingbell.told import ticker_lines

pytestmark = pytest.mark.postgres_only("its triggers and checks; Oracle's: test_oracle_poison.py")


def run(store: Store, *statements: str) -> None:
    with store.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def check(store: Store, table: str, condition: str) -> None:
    """A constraint of somebody's own."""
    run(store, f"ALTER TABLE {table} ADD CONSTRAINT somebodys CHECK ({condition})")


def refuse(store: Store, table: str, when: str = "true", events: str = "INSERT OR UPDATE") -> None:
    """A trigger of somebody's own, that raises."""
    run(
        store,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'not today, %%', NEW.ticker; END $$",
        f"CREATE TRIGGER refuse BEFORE {events} ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION refuse()",
    )


def flush(store: Store, *outcomes: Outcome) -> FlushResult:
    return store.writer.flush(start(store), "polygon", "1d", outcomes)


def kept(store: Store) -> list[Any]:
    return query(store, "SELECT ticker, session, rule, message FROM quarantine ORDER BY ticker, session")


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """Every statement sent, the savepoints included; a COPY, which goes past the engine, is not."""
    seen: list[str] = []

    def execute(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    def other(connection: Any, *_: Any) -> None:
        seen.append("SAVEPOINT")

    events: list[tuple[str, Callable[..., None]]] = [("before_cursor_execute", execute)]
    events += [(name, other) for name in ("savepoint", "release_savepoint", "rollback_savepoint")]
    for name, listener in events:
        sa.event.listen(store.engine, name, listener)
    try:
        yield seen
    finally:
        for name, listener in events:
            sa.event.remove(store.engine, name, listener)


# -- rows -------------------------------------------------------------------------------------------------------


def minutes(count: int) -> Outcome:
    """A long answer: ``count`` minute bars of one ticker."""
    block = bars("AAPL", np.repeat(SESSIONS[0], count))
    block.rows["ts"] += np.arange(count) * np.timedelta64(1, "m")
    block.rows["volume"] = np.arange(count)
    return Outcome(
        range_of("AAPL", days(0, 0)),
        Verdict(replace(block, timeframe="1m"), Bars(()), (), {}),
        ("AAPL",),
        days(0, 0),
        "x",
    )


@pytest.mark.parametrize("poison", [[71_234], [0, 18, 50_000, 99_999]])
def test_a_few_rows_of_a_hundred_thousand_cost_a_few_statements(store: Store, poison: list[int]) -> None:
    count = 100_000
    check(store, "bar", f"volume NOT IN ({', '.join(map(str, poison))})")
    run_id = start(store)
    with counted(store) as seen:
        result = store.writer.flush(run_id, "polygon", "1m", [minutes(count)])
    assert len(seen) < 60 + len(poison) * 2 * 8 * log2(count)
    assert (result.inserted, result.quarantined) == (count - len(poison), len(poison))
    assert query(
        store,
        "SELECT count(*), count(*) FILTER (WHERE volume IN :p) FROM bar".replace(
            ":p", f"({', '.join(map(str, poison))})"
        ),
    ) == [(count - len(poison), 0)]
    assert query(store, "SELECT volume, rule FROM quarantine ORDER BY 1") == [(float(i), "refused") for i in poison]


def test_a_refused_bar_is_a_gap_with_the_databases_words(store: Store) -> None:
    outcome = ranged("AAPL", days(0, 9))
    bad = float(outcome.verdict.accepted.rows["close"][3])
    check(store, "bar", f"close <> {bad!r}")
    result = flush(store, outcome)
    said = 'new row for relation "bar_1d" violates check constraint "somebodys"'
    assert (result.inserted, result.quarantined, result.gaps) == (9, 1, 1)
    assert kept(store) == [("AAPL", SESSIONS[3].item(), "refused", said)]
    assert gaps(store) == {("AAPL", SESSIONS[3].item()): ("quarantined", 1, said)}
    assert marks(store) == {"AAPL": (SESSIONS[0].item(), SESSIONS[9].item())}
    shown = list(ticker_lines(store.records.of_ticker("AAPL")))
    assert f"  quarantine  {SESSIONS[3].item()}  refused  {said}" in shown
    run(store, "ALTER TABLE bar DROP CONSTRAINT somebodys")
    assert flush(store, outcome).inserted == 1
    assert gaps(store) == {}


def test_a_triggers_words_are_kept(store: Store) -> None:
    refuse(store, "bar", "NEW.ticker = 'MSFT'")
    result = flush(store, market_day(0, ["AAPL", "MSFT", "NVDA"]))
    assert (result.inserted, result.quarantined) == (2, 1)
    assert kept(store) == [("MSFT", SESSIONS[0].item(), "refused", "not today, MSFT")]


def test_a_refused_change_leaves_the_stored_bar_as_it_was(store: Store) -> None:
    flush(store, ranged("AAPL", days(0, 4)))
    check(store, "bar", "session <> '2024-01-04' OR open < 101")
    result = flush(store, ranged("AAPL", days(0, 4), 1.0))
    assert (result.rewritten, result.quarantined) == (4, 1)
    assert query(store, "SELECT open < 101 FROM bar WHERE session = '2024-01-04'") == [(True,)]
    assert query(store, "SELECT count(*) FROM revision") == [(4,)]
    assert gaps(store) == {}, "the cell has its bar"


def test_a_constraint_that_is_checked_at_the_commit(store: Store) -> None:
    run(
        store,
        'CREATE TABLE allowed (ticker varchar(32) COLLATE "C" PRIMARY KEY)',
        "INSERT INTO allowed VALUES ('AAPL'), ('NVDA')",
        "ALTER TABLE bar ADD FOREIGN KEY (ticker) REFERENCES allowed DEFERRABLE INITIALLY DEFERRED",
    )
    result = flush(store, market_day(0, ["AAPL", "MSFT", "NVDA"]))
    assert (result.inserted, result.quarantined) == (2, 1)
    [(ticker, _, rule, said)] = kept(store)
    assert (ticker, rule) == ("MSFT", "refused")
    assert said.endswith('(Key (ticker)=(MSFT) is not present in table "allowed".)')


def test_of_two_bars_that_do_not_go_together_the_first_is_stored(store: Store) -> None:
    run(store, "CREATE UNIQUE INDEX somebodys ON bar_1d (ticker, volume)")
    block = bars("AAPL", days(0, 9))
    block.rows["volume"][7] = block.rows["volume"][2]
    result = flush(store, answered(range_of("AAPL", days(0, 9)), block))
    assert (result.inserted, result.quarantined) == (9, 1)
    assert kept(store)[0][:3] == ("AAPL", SESSIONS[7].item(), "refused")


# -- everything --------------------------------------------------------------------------------------------------


def everything(store: Store) -> list[Any]:
    tables = ("bar", "watermark", "gap", "quarantine", "revision")
    return [query(store, f"SELECT {table} FROM {table} ORDER BY {table}::text") for table in tables]  # noqa: S608


@pytest.mark.parametrize("stored_before", [True, False])
def test_a_database_that_takes_no_bar_is_an_error_and_nothing_is_lost(store: Store, stored_before: bool) -> None:
    if stored_before:
        flush(store, market_day(0, ["AAPL", "OTHER"]))
    before = everything(store)
    refuse(store, "bar")
    with counted(store) as seen, pytest.raises(FatalError, match="refuses everything: 'not today") as caught:
        flush(store, *(market_day(i, [f"T{n:03}" for n in range(300)]) for i in range(3)))
    assert "nothing is lost" in caught.value.fix
    assert len(seen) < 300, "it does not try each of 900 bars"
    assert everything(store) == before


@pytest.mark.parametrize("stored_before", [True, False])
def test_a_ticker_that_is_refused_whole_does_not_stop_the_run(store: Store, stored_before: bool) -> None:
    """It is all that came in its flush; but another ticker's bar would be taken."""
    if stored_before:
        flush(store, ranged("AAPL", days(0, 4)))
    check(store, "bar", "ticker <> 'BAD'")
    result = flush(store, ranged("BAD", days(0, 9)))
    assert (result.inserted, result.quarantined, result.refused) == (0, 10, {})
    assert {gap[0] for (ticker, _), gap in gaps(store).items() if ticker == "BAD"} == {"quarantined"}
    assert flush(store, ranged("NEXT", days(0, 9))).inserted == 10
    assert query(store, "SELECT count(*) FROM bar WHERE ticker IN ('CLOSINGBELL', 'BAD')") == [(0,)]


def test_the_search_ends_where_too_many_are_refused() -> None:
    tries = 0

    def load(first: int, end: int) -> str | None:
        nonlocal tries
        tries += 1
        return None if end - first == 1 and first % 2 else "no"

    with pytest.raises(FatalError, match="too many"):
        Poison(load, lambda: True).find(100_000)
    assert tries < 5 * MANY
    found = Poison(load, lambda: True).find(500)
    assert found == dict.fromkeys(range(0, 500, 2), "no")


# -- what is no bar ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["T" * 33, "caf\u00e9\u200b" * 11])
def test_a_ticker_that_is_too_long_costs_the_others_nothing(store: Store, name: str) -> None:
    result = flush(store, market_day(0, ["AAPL", name, "NVDA"]))
    assert result.inserted == 2
    assert list(result.refused) == [name]
    assert "too long" in result.refused[name]
    assert sorted(marks(store)) == ["AAPL", "NVDA"]


def test_a_gap_that_is_refused_costs_its_ticker_alone(store: Store) -> None:
    check(store, "gap", "last_error NOT LIKE '%%poison%%'")
    failed = [JUDGE.failed(range_of(name, days(0, 2)), RetryableError(f"said {name}")) for name in ("A", "poison", "Z")]
    result = flush(store, *failed, ranged("GOOD", days(0, 2)))
    assert result.inserted == 3
    assert list(result.refused) == ["poison"]
    said = gaps(store)
    assert {ticker for ticker, _ in said} == {"A", "poison", "Z"}
    assert "somebodys" in str(said["poison", SESSIONS[0].item()][2])


def test_a_ledger_that_takes_nothing_is_an_error(store: Store) -> None:
    before = everything(store)
    refuse(store, "watermark")
    with counted(store) as seen, pytest.raises(FatalError, match="refuses everything"):
        flush(store, market_day(0, [f"T{n:04}" for n in range(2_000)]))
    assert len(seen) < 600
    assert everything(store) == before


def test_calls_and_claims_are_counted_once(store: Store) -> None:
    run_id = start(store)
    call = MarketDay(SESSIONS[0].item(), ("AAPL", "T" * 33))
    mark = store.writer.mark()
    claim = store.writer.claim(run_id, "polygon", "1d", MarketDay(SESSIONS[0].item(), ("AAPL",)), mark)
    assert claim.claim_id is not None
    outcome = answered(call, bars(call.tickers, days(0, 0)))
    store.writer.flush(run_id, "polygon", "1d", [outcome], calls=4, claims=[claim.claim_id])
    row = store.records.run(run_id)
    assert row is not None
    assert (row["actual_calls"], row["inserted"], row["accepted_bars"]) == (4, 1, 1)
    assert query(store, "SELECT done_at IS NOT NULL FROM claim") == [(True,)]
