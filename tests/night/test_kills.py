"""``kill -9`` at any moment loses nothing: what is committed stands, and the next run does the rest."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from closingbell.settings import load
from deployments.bootstrap import bootstrap
from infra.market.process import MarketProcess
from tests.databases import copied
from tests.night.command import contents, finish, start
from tests.night.conftest import NOW, Nights

pytestmark = pytest.mark.prefect

#: Forty-four sessions.
FIRST, LAST = "2026-01-02", "2026-03-06"


@pytest.fixture
def fresh_database(postgres: sa.URL, _template: str) -> Iterator[Callable[[], str]]:
    """Makes empty databases, and removes them all at the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(copied(postgres, _template)).render_as_string(hide_password=False)


def killed_and_run_again(
    market: MarketProcess, environment: dict[str, str], arguments: list[str], kill_after_calls: int
) -> dict[str, object]:
    """Kill a run when the market has seen so many calls, run it again, and count what was asked for twice."""
    market.clear_calls()
    process = start(environment, *arguments)
    deadline = time.monotonic() + 120
    while len(market.calls()) < kill_after_calls and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    made = len(market.calls())
    committed = answered(environment["DATABASE_URL"])
    told = finish(start(environment, *arguments))
    paths = Counter(call["path"] for call in market.calls())
    repeated = sum(count - 1 for count in paths.values())
    # What was on its way, or waited for a writer of a busy database, is asked again: nothing that was committed.
    assert repeated <= max(made - committed, 0), f"{made} made, {committed} committed, {repeated} repeated"
    return {**told, "repeated": repeated}


def answered(url: str) -> int:
    """How many sessions are stored: each is an answer of its own where the plan is of market days."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT count(DISTINCT session) FROM bar")).scalar_one())


def test_a_killed_run_is_finished_by_the_next(
    nights: Nights, market: MarketProcess, fresh_database: Callable[[], str], tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    kills = random.Random(seed)
    arguments = ["ingest", "-u", "sp500", "--start", FIRST, "--end", LAST, "--batch-size", "5"]
    calm = nights.ingest(universe="sp500", start=FIRST, end=LAST)
    assert calm["state"] == "Completed"
    expected = contents(nights.database_url)
    assert len(expected[0]) == calm["stored_bars"] > 20_000
    environment = settings(market, fresh_database(), tmp_path) | {"CLOSINGBELL_NOW": NOW}
    bootstrap(load(polygon_calls_per_minute=environment["POLYGON_CALLS_PER_MINUTE"]))
    at = kills.randrange(1, calm["actual_calls"])  # twenty more are in the soak
    told = killed_and_run_again(market, environment, arguments, at)
    assert told["state"] == "Completed", f"seed {seed}"
    assert contents(environment["DATABASE_URL"]) == expected, f"seed {seed}, killed after {at} calls"


@pytest.mark.soak
@pytest.mark.data
def test_twenty_kills_of_a_replay_of_five_years(
    prefect_api: str, fresh_database: Callable[[], str], tmp_path: Path, data: Path, say: Callable[[str], None]
) -> None:
    import pandas as pd

    file = data / "daily" / "sp500_5yr.parquet"
    tickers = tmp_path / "tickers.txt"
    tickers.write_text("\n".join(pd.read_parquet(file, columns=["ticker"])["ticker"].unique()))
    arguments = ["ingest", "-t", f"@{tickers}", "--start", "2013-02-08", "--end", "2018-02-07"]
    seed = random.randrange(2**32)
    kills = random.Random(seed)
    with MarketProcess(replay=file) as market:
        environment = settings(market, fresh_database(), tmp_path)
        bootstrap(load(polygon_calls_per_minute=environment["POLYGON_CALLS_PER_MINUTE"]))
        calm = finish(start(environment, *arguments))
        assert calm["stored_bars"] + sum(calm["quarantined"].values()) == 619_040
        expected = contents(environment["DATABASE_URL"])
        for number in range(20):
            at = kills.randrange(1, calm["actual_calls"])
            environment = settings(market, fresh_database(), tmp_path)
            told = killed_and_run_again(market, environment, arguments, at)
            say(f"{number}: seed {seed}, killed after {at} calls, {told['repeated']} repeated")
            assert contents(environment["DATABASE_URL"]) == expected, f"seed {seed}, killed after {at} calls"


def settings(market: MarketProcess, database_url: str, tmp_path: Path) -> dict[str, str]:
    """The settings of a run, as a process gets them."""
    return {
        "DATABASE_URL": database_url,
        "POLYGON_BASE_URL": market.url,
        "POLYGON_API_KEY": "any",
        "POLYGON_CALLS_PER_MINUTE": "100/0.5s",
        "FETCH_THREADS": "8",
        "CLOSINGBELL_HOME": str(tmp_path / "home"),
    }
