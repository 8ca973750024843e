"""On Oracle's wire: what is sent for a flush, and for a list of values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa
from blocks import SESSIONS, ranged, start
from flushes import flush

from closingbell.store import Store, open_store
from closingbell.store.database import database_of
from closingbell.store.schema import bar
from tests.oracle import OracleStandIn

pytestmark = pytest.mark.oracle_only("counts what is executed")

#: More executes than a flush needs, however many bars it has.
MANY = 30


@pytest.fixture
def wired(oracle_stand_in: OracleStandIn) -> Iterator[Store]:
    """A store on the stand-in, connected."""
    with closing(open_store(oracle_stand_in.url, connections=1)) as store:
        store.records.overview()
        yield store


@pytest.mark.parametrize("tickers", [1, 40])
def test_one_merge_a_flush_and_one_array_of_binds(wired: Store, oracle_stand_in: OracleStandIn, tickers: int) -> None:
    """However many bars, and however few of them differ."""
    first = [ranged(f"T{i:02}", SESSIONS) for i in range(tickers)]
    rows = tickers * len(SESSIONS)
    changed = [ranged(f"T{i:02}", SESSIONS, 1.0) for i in range(tickers)]
    for blocks, wanted in ((first, (rows, 0)), (first, (0, 0)), (changed, (0, rows))):
        run_id = start(wired)
        oracle_stand_in.log()
        result = flush(wired, *blocks, run_id=run_id)
        log = oracle_stand_in.log()
        assert (result.inserted, result.rewritten) == wanted
        (merge,) = (statement for statement in log if re.search(r"(INTO|UPDATE|DELETE FROM) bar\b", statement.sql))
        assert merge.sql.split()[0] == "MERGE"
        assert merge.rows == 1
        (staged,) = (statement for statement in log if "INTO staged_bar" in statement.sql)
        assert staged.rows == rows
        assert len(log) < MANY


@pytest.mark.parametrize(("listed", "told"), [(1, set()), (2, {"10"}), (10, {"100"}), (250, {"1000"})])
def test_each_size_of_a_list_has_a_plan_of_its_own(
    wired: Store, oracle_stand_in: OracleStandIn, listed: int, told: set[str]
) -> None:
    """By the text of its statement; one value is not listed at all."""
    names = [f"T{number:03}" for number in range(listed)]
    flush(wired, ranged("T000", SESSIONS), run_id=start(wired))
    oracle_stand_in.log()
    with wired.engine.begin() as connection:
        among = database_of(connection).among(connection, bar.c.ticker, names)
        found = connection.execute(sa.select(bar.c.ticker).where(among)).scalars().all()
    assert found == ["T000"] * len(SESSIONS)
    sent = " ".join(statement.sql for statement in oracle_stand_in.log())
    assert set(re.findall(r"CARDINALITY\(given (\d+)\)", sent)) == told
    assert ("INTO given" in sent) == bool(told)
