"""The oracle can fail: each thing that could be wrong is done behind the system's back, and named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import sqlalchemy as sa

from closingbell.store import open_store
from tests.soak import oracle
from tests.soak.conftest import Weeks
from tests.soak.contents import Contents, contents_of, read
from tests.soak.runs import Ask, Ran
from tests.soak.weeks import CALM, QUOTA, Week

pytestmark = pytest.mark.prefect

#: What is done, in SQL, and what the oracle says then.
TAMPERINGS = {
    "a bar is gone": (
        "DELETE FROM bar WHERE ticker = 'AAPL' AND session = '2026-03-04'",
        "have neither a bar nor a gap",
    ),
    "a price is off by a cent": (
        "UPDATE bar SET close = close + 0.01 WHERE ticker = 'AAPL' AND session = '2026-03-04'",
        "have a bar that was never true",
    ),
    "a volume has changed without a revision": (
        "UPDATE bar SET volume = volume + 1 WHERE ticker = 'AAPL' AND session = '2026-03-04'",
        "its revisions say",
    ),
    "a number of trades is gone": (
        "UPDATE bar SET trades = NULL WHERE ticker = 'AAPL' AND session = '2026-03-04'",
        "are not as they are true",
    ),
    "a bar opens an hour late": (
        "UPDATE bar SET ts = ts + interval '1 hour' WHERE ticker = 'AAPL' AND session = '2026-03-04'",
        "or one of another instant",
    ),
    "a session has two bars": (
        "INSERT INTO bar SELECT ticker, timeframe, session, ts + interval '1 hour', open, high, low, close, volume, "
        "vwap, trades, source, run_id FROM bar WHERE ticker = 'AAPL' AND session = '2026-03-04'",
        "have two bars",
    ),
    "a bar is another ticker's": (
        "UPDATE bar SET open = o.open, high = o.high, low = o.low, close = o.close, volume = o.volume FROM bar AS o "
        "WHERE bar.ticker = 'AAPL' AND bar.session = '2026-03-04' AND o.ticker = 'ABT' AND o.ts = bar.ts",
        "have a bar that was never true",
    ),
    "a correction did not arrive": (
        "UPDATE bar SET low = 16.15 WHERE ticker = 'ABT' AND session = '2026-03-06'",
        "are not as they are true",
    ),
    "a gap is beside its bar": (
        "INSERT INTO gap SELECT source, ticker, timeframe, '2026-03-04', 'empty', 1, NULL, run_id FROM watermark "
        "WHERE ticker = 'AAPL'",
        "have both a bar and a gap",
    ),
    "a gap says that a call failed": ("UPDATE gap SET reason = 'failed'", "is no bar, because it is failed"),
    "a gap says that a bar is kept apart": (
        "UPDATE gap SET reason = 'quarantined'",
        "are in quarantine without their bar",
    ),
    "a gap is gone": ("DELETE FROM gap", "have neither a bar nor a gap"),
    "a bar is said not to exist": (
        "WITH gone AS (DELETE FROM bar WHERE ticker = 'AAPL' AND session = '2026-03-04' RETURNING *) INSERT INTO gap "
        "SELECT source, ticker, timeframe, session, 'empty', 1, NULL, run_id FROM gone",
        "is missing, though true, because it is empty",
    ),
    "a watermark ends a session early": (
        "UPDATE watermark SET last_session = '2026-03-06' WHERE ticker = 'ABT'",
        "lie outside of their watermark",
    ),
    "a watermark is gone": ("DELETE FROM watermark WHERE ticker = 'AAPL'", "is accounted for None"),
    "a revision is gone": ("DELETE FROM revision", "its revisions say"),
    "a revision is there twice": (
        "INSERT INTO revision (source, ticker, timeframe, session, ts, run_id, old_open, new_open) "
        "SELECT source, ticker, timeframe, session, ts, run_id, old_open, new_open FROM revision",
        "but the bar was",
    ),
    "a revision changes nothing": (
        "INSERT INTO revision (source, ticker, timeframe, session, ts, run_id, old_open, new_open) "
        "SELECT source, ticker, timeframe, session, ts, run_id, open, open FROM bar WHERE ticker = 'AAPL'",
        "a revision that changes nothing",
    ),
    "a run's state is another": ("UPDATE run SET state = 'Failed' WHERE report IS NOT NULL", "its row says Failed"),
    "a run's report is another": (
        "UPDATE run SET report = jsonb_set(report, '{inserted}', '7')",
        "they differ in ['inserted']",
    ),
    "a run never ended": ("UPDATE run SET state = 'Running', report = NULL", "its row has no report"),
    "a split is known that never was": (
        "INSERT INTO split SELECT source, ticker, '2026-03-05', 1, 2, NULL, run_id, now(), now() FROM watermark "
        "WHERE ticker = 'AAPL'",
        "are known or true, not both",
    ),
}


@dataclass
class Night:
    """A calm night with a correction and a session without a bar, before anybody laid hands on it."""

    week: Week
    ran: list[Ran]
    before: Contents

    def judged(self, after: Contents, ran: list[Ran] | None = None) -> list[str]:
        """What the oracle says."""
        world, ran = self.week.world, self.ran if ran is None else ran
        return [
            *oracle.lasting(after, world),
            *oracle.revised(self.before, after),
            *oracle.explained(after, world, ran, frozenset()),
            *oracle.told(ran, self.before, after),
            *oracle.settled(after, world),
        ]


@pytest.fixture(scope="module")
def night(calm_years: Weeks) -> Iterator[Night]:
    """That night."""
    with calm_years.week(0, 0, (), lambda line: None) as week:
        before, world = read(week.scene.url), week.world
        world.move_to(world.after(1))
        yesterday, today = world.sessions(2)
        world.correct("ABT", yesterday, {"close": 11.5, "low": 1.0})
        world.correct("AAPL", today, None)
        world.market.clear_calls()
        ask = Ask("ingest", tuple(world.asked), None, today, 3)
        ran = week.run((ask,), CALM, ())
        yield Night(week, ran, before)


def test_a_calm_night_breaks_no_law(night: Night) -> None:
    after = read(night.week.scene.url)
    assert night.judged(after) == []
    assert [one.cell[0] for one in after.revisions] == ["ABT"]
    assert [cell[0] for cell in after.gaps] == ["AAPL"]
    assert list(oracle.counted(night.ran, night.week.world.market.calls(), QUOTA, heard=True)) == []


@pytest.mark.parametrize("what", TAMPERINGS)
def test_what_is_done_behind_its_back_is_named(night: Night, what: str) -> None:
    statement, said = TAMPERINGS[what]
    engine = sa.create_engine(night.week.scene.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert connection.execute(sa.text(statement)).rowcount
        after = contents_of(connection)
        connection.rollback()
    judged = night.judged(after)
    assert any(said in line for line in judged), judged


def test_reports_that_are_not_true_are_named(night: Night) -> None:
    after, (run,) = read(night.week.scene.url), night.ran
    assert run.report is not None
    for wrong, line in (
        ({"inserted": 1}, "the reports say 1 bars were inserted"),
        ({"rewritten": 5}, "the report says 5 rewritten, there are 1"),
        ({"stored_bars": 7}, "its sums are off"),
        ({"error": "it was told to"}, "it stopped: it was told to"),
    ):
        said = night.judged(after, [replace(run, report={**run.report, **wrong})])
        assert any(line in each for each in said), (line, said)
    for ran, line in (
        (replace(run, exit_code=1), "it ended with 1, its report means 0"),
        (replace(run, state="FAILED"), "Prefect says FAILED"),
        (replace(run, report=None), "it left no report"),
        (replace(run, hung=True), "it did not end"),
    ):
        said = night.judged(after, [ran])
        assert any(line in each for each in said), (line, said)


def test_calls_that_are_not_counted_are_named(night: Night) -> None:
    calls = night.week.world.market.calls()
    assert "the market saw" in next(iter(oracle.counted(night.ran, [*calls, calls[0]], QUOTA, heard=True)))
    assert "the quota is 2 in 60" in next(iter(oracle.counted([], calls, (2, 60.0), heard=True)))
    bars = [call for call in calls if call["path"].startswith("/v2/aggs")]
    assert "while on its way" in next(iter(oracle.apart([bars[0], {**bars[0], "time": bars[0]["time"] + 1e-6}])))


def test_the_audit_is_held_to_account(night: Night) -> None:
    after = read(night.week.scene.url)
    store = open_store(night.week.scene.url, connections=1, retries=0)
    assert list(oracle.audited(after, store)) == []
    fewer = replace(after, bars={cell: bar for cell, bar in after.bars.items() if cell[0] != "ABT"})
    assert "the audit counts" in next(iter(oracle.audited(fewer, store)))
    store.close()
