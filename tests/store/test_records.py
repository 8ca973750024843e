"""What runs and people read of the database, and how runs that died are closed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import SESSIONS, answered, bars, change, days, range_of, ranged, start

from closingbell.bars import Bars
from closingbell.cells import REASONS, RETRYABLE, Watermark
from closingbell.healing import is_due
from closingbell.store import Store, open_store
from closingbell.store.schema import gap, quarantine, run

_SECOND = timedelta(seconds=1)
SPAN = {"start": "2024-01-02", "end": "2024-01-31"}


def ended(store: Store, state: str, missed: int, *tickers: str, **asked: Any) -> UUID:
    """A run that was asked for tickers, and came to its end."""
    run_id = uuid4()
    known = {"source": "polygon", "timeframe": "1d", "tickers": list(tickers), **SPAN, **asked}
    store.records.start_run(run_id, "ingest", known, {"planned_calls": 1, "cells": 1})
    store.records.end_run(run_id, state, {"actual_calls": 1, "unchecked_calls": missed})
    return run_id


def test_the_last_recheck_that_got_all_it_asked_for(store: Store) -> None:
    def rechecked(*tickers: str) -> date | None:
        return store.records.rechecked("polygon", "1d", tickers)

    assert rechecked("AAPL") is None
    ended(store, "Completed", 0, "AAPL", "MSFT", recheck_sessions=3)
    assert (rechecked("AAPL"), rechecked("MSFT", "AAPL")) == (date(2024, 1, 31), date(2024, 1, 31))
    assert rechecked("AAPL", "ORCL") is None
    ended(store, "Completed", 0, "AAPL", recheck_sessions=0, end="2024-02-01")
    ended(store, "PartiallyCompleted", 1, "AAPL", recheck_sessions=3, end="2024-02-02")
    ended(store, "Failed", 0, "AAPL", recheck_sessions=3, end="2024-02-05")
    assert rechecked("AAPL") == date(2024, 1, 31), "none of these is one"
    ended(store, "PartiallyCompleted", 0, "AAPL", recheck_sessions=3, end="2024-02-06")
    assert rechecked("AAPL") == date(2024, 2, 6)


def test_what_runs_left_unswept_is_there_until_it_is_swept(store: Store) -> None:
    mine, first, last = uuid4(), "2024-01-03", "2024-01-30"
    known = {"source": "polygon", "timeframe": "1d", **SPAN}

    def begun(
        ticker: str, run_id: UUID | None = None, days: Sequence[str] = (first, last), count: int = 1, **asked: Any
    ) -> UUID:
        run_id, plan = run_id or uuid4(), {"planned_calls": 1, "cells": 1, **({"sweep": list(days)} if days else {})}
        store.records.start_run(run_id, "ingest", {**known, "tickers": [ticker], **asked}, plan)
        with store.engine.begin() as connection:
            connection.execute(sa.update(run).where(run.c.run_id == run_id).values(accepted_bars=count))
        return run_id

    def end(run_id: UUID, state: str, **report: Any) -> None:
        store.records.end_run(run_id, state, {"actual_calls": 1, **report})

    def left(run_id: UUID = mine, source: str = "polygon") -> list[tuple[str, str, str]]:
        found = store.records.unswept(source, run_id)
        return [(each.tickers[0], each.first.isoformat(), each.last.isoformat()) for each in found]

    end(begun("SWEPT"), "PartiallyCompleted")
    end(begun("SWEPT TOO"), "Failed")  # all its calls failed, but it came to its end
    end(begun("RANGES", days=()), "Failed", error="a wrong key")
    end(begun("NO BARS", count=0), "Failed", error="a wrong key")
    end(begun("ANOTHER'S", source="databento"), "Failed", error="a wrong key")
    assert left() == []
    end(begun("STOPPED"), "Failed", error="a wrong key")
    begun("KILLED")
    with store.records.alive(alive := begun("ALIVE")):
        begun("MINE", run_id=mine)  # finds the one that was killed
        assert left() == [("STOPPED", first, last), ("KILLED", first, last)]
        assert left(source="databento") == [("ANOTHER'S", first, last)]
        store.records.swept([each.run_id for each in store.records.unswept("polygon", mine)])
        assert left() == []
    end(alive, "Cancelled", error="the run was stopped by Ctrl-C")
    assert left() == [("ALIVE", first, last)]


def test_what_a_run_left_that_is_begun_once_more_is_its_own(store: Store) -> None:
    other, run_id, known = uuid4(), uuid4(), {"source": "polygon", "timeframe": "1d", "tickers": ["A"], **SPAN}

    def begin(*days: str) -> None:
        plan = {"planned_calls": 1, "cells": 1, **({"sweep": list(days)} if days else {})}
        store.records.start_run(run_id, "ingest", known, plan)
        with store.engine.begin() as connection:
            connection.execute(sa.update(run).where(run.c.run_id == run_id).values(accepted_bars=1))

    def left(asking: UUID) -> list[tuple[date, date]]:
        return [(each.first, each.last) for each in store.records.unswept("polygon", asking)]

    begin("2024-01-03", "2024-01-20")
    assert left(run_id) == [], "what it fetches itself it knows"
    begin("2024-01-18", "2024-01-30")  # by another process, for the first one was killed
    assert left(run_id) == [(date(2024, 1, 3), date(2024, 1, 30))]
    begin()
    assert left(run_id) == [(date(2024, 1, 3), date(2024, 1, 30))]
    assert left(other) == [], "it lives"
    store.records.end_run(run_id, "Failed", {"actual_calls": 1})  # in order
    assert left(other) == []
    begin("2024-01-31", "2024-01-31")
    start(store)  # finds that it died
    assert left(other) == [(date(2024, 1, 31), date(2024, 1, 31))], "whatever it reported before"


def test_tickers_that_lost_their_watermark_are_known_from_what_was_asked(store: Store) -> None:
    limits = {"MSFT": ["2024-01-08", None], "GONE": [None, "2024-01-10"], "NEVER": ["2024-03-01", None]}
    names = ("AAPL", "MSFT", "GONE", "NEVER")
    ended(store, "Completed", 0, *names, limits=limits)
    ended(store, "Crashed", 0, "LOST")
    first, last = SESSIONS[0].item(), date(2024, 1, 31)
    spans = {
        "AAPL": Watermark(first, last),
        "MSFT": Watermark(date(2024, 1, 8), last),
        "GONE": Watermark(first, date(2024, 1, 10)),
    }
    assert store.records.damage("polygon", "1d", [*names, "OTHER", "LOST"]).orphans == spans
    store.writer.flush(start(store), "polygon", "1d", [ranged("AAPL", days(0, 3))])
    del spans["AAPL"]
    assert store.records.damage("polygon", "1d", names).orphans == spans
    assert store.records.audit()["polygon", "1d"].damage.orphans == spans

    store.records.mend(start(store), "polygon", "1d", store.records.damage("polygon", "1d", names), _now())
    assert not store.records.damage("polygon", "1d", names)
    ledger = store.records.ledger("polygon", "1d", names, None, date(2024, 3, 28))
    assert set(ledger.watermarks) == {"AAPL", "MSFT", "GONE"}
    assert {gap.reason for gap in ledger.gaps} == {"pending"}


def test_answers_that_stand_are_left_where_they_are(store: Store) -> None:
    now = datetime(2026, 3, 10, 2, tzinfo=UTC)
    ages = [
        timedelta(days=days) + more for days in (0, 1, 7, 30, 90, 365) for more in (-_SECOND, timedelta(0), _SECOND)
    ]
    rows = [
        {"reason": reason, "attempts": attempts, "updated_at": now - age}
        for reason in REASONS
        for attempts in (0, 1, 2, 3, 4, 5, 9)
        for age in ages
    ]
    run_id, first = start(store), date(2020, 1, 1)
    for i, row in enumerate(rows):
        row |= {"source": "polygon", "ticker": "AAPL", "timeframe": "1d", "run_id": run_id}
        row |= {"session": first + timedelta(days=i), "last_error": None}
    with store.engine.begin() as connection:
        connection.execute(sa.insert(gap), rows)
    last = rows[-1]["session"]

    every = store.records.ledger("polygon", "1d", ["AAPL"], None, last).gaps
    some = store.records.ledger("polygon", "1d", ["AAPL"], None, last, now).gaps
    assert len(every) == len(rows)
    assert some == [each for each in every if each.reason in RETRYABLE or is_due(each, now)]
    assert {each.reason for each in some} == set(REASONS)


def test_who_has_the_same_bars_stored(store: Store) -> None:
    block = bars("AAPL", days(0, 9))
    for ticker, until in (("AAPL", 9), ("COPY", 4)):
        same = bars(ticker, days(0, until))
        store.writer.flush(start(store), "polygon", "1d", [answered(range_of(ticker, days(0, until)), same)])
    store.writer.flush(start(store), "polygon", "1d", [ranged("OTHER", days(0, 9), 1.0)])

    def owner(*tickers: str, but: str = "NEW", at_least: int = 2) -> str | None:
        return store.records.owner("1d", tickers, but, block.rows, at_least)

    assert owner("OTHER", "COPY", "AAPL") == "AAPL"
    assert owner("OTHER", "COPY", "AAPL", but="AAPL") == "COPY"
    assert owner("OTHER", "COPY", "AAPL", but="AAPL", at_least=6) is None
    assert owner("OTHER") is None
    assert owner() is None


def test_bars_that_came_under_another_ticker_as_well(store: Store) -> None:
    run_id = start(store)
    twin = answered(range_of("TWIN", days(0, 2)), bars("TWIN", days(0, 2)))
    apart = twin.without(dict.fromkeys(range(3), "the same"))
    store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 4)), apart])
    assert change(store, sa.update(quarantine).values(rule="same_series")) == 3
    found = store.records.copied(run_id, "polygon", "1d", ["MSFT", "AAPL"])
    assert found.tickers == ("MSFT", "AAPL")
    assert sorted(found.rows["session"].tolist()) == days(0, 2).tolist()
    assert set(found.rows["ticker"].tolist()) == {1}
    wanted = bars("AAPL", days(0, 2)).rows
    for name in ("ts", "close", "volume"):
        assert np.array_equal(np.sort(found.rows[name]), np.sort(wanted[name]))
    assert len(store.records.copied(uuid4(), "polygon", "1d", ["AAPL"])) == 0


def test_bars_that_came_under_two_tickers_in_two_processes(store: Store) -> None:
    check_shared(store)


@pytest.mark.postgres_only("settings of its own")
def test_a_server_that_rounds_what_it_tells_and_has_a_time_zone(
    store: Store, database_url: str, unpooled: None
) -> None:
    """What is read has to be what is stored: bars are compared with it, and found by it."""
    with store.engine.begin() as connection:
        for setting in ("extra_float_digits = 0", "timezone = 'America/New_York'"):
            connection.exec_driver_sql(f'ALTER DATABASE "{store.engine.url.database}" SET {setting}')
    with closing(open_store(database_url)) as other:
        check_shared(other)
        told = "SELECT current_setting('extra_float_digits'), current_setting('timezone')"
        with other.engine.connect() as connection:
            assert connection.exec_driver_sql(told).one() == ("1", "America/New_York")
        with other.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            assert connection.exec_driver_sql(told).one() == ("0", "America/New_York"), "the transaction's alone"


def check_shared(store: Store) -> None:
    earlier, mine = start(store), start(store)
    other = ranged("MSFT", days(0, 9), shift=7)
    store.writer.flush(earlier, "polygon", "1d", [ranged("KO", days(0, 9))])
    store.writer.flush(mine, "polygon", "1d", [ranged("AAPL", days(0, 9)), other])
    twin = Bars(("TWIN",), bars("AAPL", days(0, 9)).rows[5:])
    store.writer.flush(mine, "polygon", "1d", [answered(range_of("TWIN", days(5, 9)), twin)])

    found = store.records.shared(mine, "1d", ("AAPL", "TWIN"))
    cells = {(found.tickers[row["ticker"]], row["session"].item()) for row in found.rows}
    assert cells == {(ticker, session) for ticker in ("AAPL", "TWIN") for session in days(5, 9).tolist()}
    gone = store.writer.take_out(mine, "polygon", "1d", found, ("same_series",) * len(found), datetime.now(UTC))
    assert len(gone) == len(found) == 10
    assert not len(store.records.shared(mine, "1d", ("AAPL", "TWIN")))
    assert not len(store.records.shared(mine, "1d", ("AAPL", "MSFT")))


def test_spans_and_progress_and_revisions(store: Store) -> None:
    run_id = start(store)
    store.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(2, 4)), ranged("MSFT", days(4, 9))], calls=2)
    assert store.records.span("polygon", "1d", ["AAPL", "MSFT", "NONE"]) == Watermark(
        SESSIONS[2].item(), SESSIONS[9].item()
    )
    assert store.records.span("polygon", "1d", ["NONE"]) is None
    assert store.records.tickers("polygon", "1d") == ("AAPL", "MSFT")
    row = store.records.progress(run_id)
    assert row is not None
    assert (row["state"], row["plan"], row["actual_calls"]) == ("Running", {"planned_calls": 1, "cells": 1}, 2)
    assert (row["done_cells"], row["accepted_bars"]) == (9, 9)
    again = start(store)
    store.writer.flush(again, "polygon", "1d", [ranged("AAPL", days(2, 4), 1.0)])
    told = store.records.revisions(again, limit=2)
    assert [line.split(" open ")[0] for line in told] == [f"AAPL {day}" for day in days(2, 3)]


def test_of_very_many_tickers(store: Store) -> None:
    """More than one statement could name one by one."""
    names = [f"T{i:05}" for i in range(1_500)]
    store.writer.flush(start(store), "polygon", "1d", [ranged(name, days(0, 0)) for name in names[::500]])
    ledger = store.records.ledger("polygon", "1d", names, SESSIONS[0].item(), SESSIONS[0].item())
    assert set(ledger.watermarks) == set(names[::500])
    assert not store.records.damage("polygon", "1d", names)


def test_a_dead_run_whose_row_somebody_writes_is_left_to_the_next(store: Store) -> None:
    """Nobody who starts waits for it."""
    dead = start(store)
    with store.engine.begin() as other:
        other.execute(sa.update(run).where(run.c.run_id == dead).values(done_cells=1))
        begun = datetime.now(UTC)
        start(store)
        assert datetime.now(UTC) - begun < timedelta(seconds=20)  # the stand-in for an Oracle takes seconds to say no
    assert store.records.run(dead)["state"] == "Running"  # type: ignore[index]
    start(store)
    assert store.records.run(dead)["state"] == "Crashed"  # type: ignore[index]


def test_a_run_that_has_ended_is_not_closed_once_more(store: Store) -> None:
    run_id = ended(store, "Completed", 0, "AAPL")
    start(store)
    assert store.records.run(run_id)["state"] == "Completed"  # type: ignore[index]


def _now() -> datetime:
    return datetime(2024, 4, 1, 6, tzinfo=UTC)
