"""Events of stored bars, on each database: chunks, kills, other runs and changed bars end at what the whole gives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import count, rows_of, start
from numpy.typing import NDArray

from closingbell.bars import BAR, Bars
from closingbell.calendar import calendar_for
from closingbell.errors import ConfigurationError
from closingbell.events import Triangles
from closingbell.events.engine import Derivation
from closingbell.events.tally import Tally
from closingbell.outcome import Outcome
from closingbell.plan import TickerRange
from closingbell.quality import Verdict
from closingbell.resample import resample
from closingbell.store import Store
from closingbell.store.events import Derived, Events, Mark
from closingbell.store.schema import event, event_mark, late_cell
from closingbell.told import ticker_lines

TICKER, SOURCE = "X:BTCUSD", "polygon"
AT = datetime(2024, 4, 1, 6, tzinfo=UTC)
SESSIONS = calendar_for("crypto").sessions(date(2024, 1, 1), date(2024, 1, 30))
HOUR = 60  # minutes that a session here has: 12 bars of five
SMALL = Triangles(wing=1, span=20)  # looks back two sessions
NOTHING = Verdict(Bars(()), Bars(()), (), {})


class Killed(BaseException):
    """The process ends here."""


def minutes(first: int, last: int) -> Bars:
    """The minutes of some sessions, by their position; the same whatever the span."""
    rng = np.random.default_rng(7)
    at = np.arange(len(SESSIONS) * HOUR)
    # Swings of forty minutes that narrow and widen: a triangle now and then, in each session some.
    price = 100 + np.round(np.sin(at / 6.4) * (1.5 + np.cos(at / 31)) + rng.normal(0, 0.1, len(at)), 3)
    rows = np.zeros(len(price), BAR)
    rows["session"] = np.repeat(SESSIONS, HOUR)
    rows["ts"] = rows["session"] + np.tile(np.arange(HOUR), len(SESSIONS)) * np.timedelta64(1, "m")
    rows["open"] = rows["close"] = price
    rows["high"], rows["low"] = price + 0.02, price - 0.02
    rows["volume"], rows["vwap"], rows["trades"] = 1.5, price, 7
    return Bars((TICKER,), rows[first * HOUR : (last + 1) * HOUR], "1m")


def put(store: Store, bars: Bars, sessions: NDArray[np.datetime64] | None = None, reason: str = "empty") -> None:
    """Write minutes as the answer to a call for some sessions; None: those that they are of."""
    asked = np.unique(bars.rows["session"]) if sessions is None else sessions
    call = TickerRange(TICKER, tuple(asked.tolist()), timeframe="1m")
    outcome = Outcome(call, Verdict(bars, Bars(()), (), {}), (TICKER,), asked, reason)
    store.writer.flush(start(store), SOURCE, "1m", [outcome], at=AT)


def derivation(store: Store, chunk: int = 250_000, detector: Triangles = SMALL) -> Derivation:
    return Derivation(
        store.records,
        Events(store.engine),
        detector,
        ticker=TICKER,
        source=SOURCE,
        timeframe="5m",
        from_timeframe="1m",
        chunk=chunk,
    )


def derive(store: Store, chunk: int = 250_000, *, run: int = 1, **asked: Any) -> Tally:
    return derivation(store, chunk).derive(UUID(int=run), **asked)


def stored(store: Store) -> list[Any]:
    rows = rows_of(store, event, "ts", "kind", "session", "first_ts", "bars", "upper", "lower", "lower_slope")
    return [
        (ts.astimezone(UTC), kind, session, first.astimezone(UTC), *rest) for ts, kind, session, first, *rest in rows
    ]


def whole(store: Store, first: int = 0, last: int = 29) -> list[Any]:
    """What all stored bars give at once, of the sessions by their position."""
    days = [SESSIONS[first].item(), SESSIONS[last].item()]
    bars = store.records.series(SOURCE, "1m", (TICKER,), SESSIONS[0].item(), SESSIONS[-1].item())
    found = SMALL.detect(resample(bars, "5m"))
    found = found[(found["session"] >= np.datetime64(days[0])) & (found["session"] <= np.datetime64(days[1]))]
    return [
        (
            row["ts"].item().replace(tzinfo=UTC),
            SMALL.kinds[row["kind"]],
            row["session"].item(),
            row["first_ts"].item().replace(tzinfo=UTC),
            *(row[name].item() for name in ("bars", "upper", "lower", "lower_slope")),
        )
        for row in found
    ]


@pytest.fixture
def filled(store: Store) -> Store:
    """Thirty sessions, none of them derived."""
    put(store, minutes(0, 29))
    return store


def test_chunks_give_what_the_whole_gives_and_again_nothing(filled: Store) -> None:
    tally = derive(filled)
    assert (tally.sessions, tally.bars, tally.commits) == (30, 30 * HOUR, 1)
    assert stored(filled) == whole(filled)
    assert tally.inserted == len(whole(filled)) > 30
    again = derive(filled)
    assert (again.sessions, again.bars, again.commits, again.inserted, again.removed) == (0, 0, 0, 0, 0)
    for chunk in (1, 2 * HOUR, 7 * HOUR):
        rebuilt = derive(filled, chunk, purge=True)
        assert stored(filled) == whole(filled)
        assert rebuilt.removed == rebuilt.inserted == tally.inserted
        assert rebuilt.commits > 2
        assert rebuilt.windows == [(SESSIONS[0].item(), SESSIONS[-1].item())]


@pytest.mark.postgres_only("what decides it here is the same code for each database")
def test_a_part_first_then_what_is_before_and_after(filled: Store) -> None:
    derive(filled, start=SESSIONS[10].item(), end=SESSIONS[14].item())
    assert stored(filled) == whole(filled, 10, 14)
    rest = derive(filled)
    assert rest.sessions == 25
    assert stored(filled) == whole(filled)


@pytest.mark.postgres_only("what decides it here is the same code for each database")
def test_purging_a_part_leaves_the_rest(filled: Store) -> None:
    derive(filled)
    tally = derive(filled, run=2, start=SESSIONS[10].item(), end=SESSIONS[14].item(), purge=True)
    assert tally.sessions == 5
    assert stored(filled) == whole(filled)
    of_second = rows_of(filled, event, "session", where=event.c.run_id == UUID(int=2))
    assert {session for (session,) in of_second} <= set(SESSIONS[10:15].tolist())


@pytest.mark.parametrize("at", [1, 9])
def test_a_kill_loses_the_chunk_at_work(filled: Store, at: int) -> None:
    calls = iter(range(100))

    def stop() -> None:
        if next(calls) == at:
            raise Killed

    with pytest.raises(Killed):
        derive(filled, 3 * HOUR, stop=stop)
    done = count(filled, event)
    tally = derive(filled, 3 * HOUR)
    assert tally.inserted + done == len(whole(filled))
    assert tally.removed == 0
    assert stored(filled) == whole(filled)


def revise(store: Store) -> None:
    bars = minutes(12, 12)
    bars.rows["high"][17] += 3
    put(store, bars)


def come_late(store: Store) -> None:
    """A minute of a session that had others."""
    put(store, minutes(12, 12))


def fill_the_gap(store: Store) -> None:
    put(store, minutes(12, 12))


def take_out(store: Store) -> None:
    bars = store.records.series(SOURCE, "1m", (TICKER,), SESSIONS[12].item(), SESSIONS[12].item())
    store.writer.take_out(start(store), SOURCE, "1m", Bars(bars.tickers, bars.rows[20:21], "1m"), ["spike"], AT)


def without(*at: int) -> Bars:
    bars = minutes(0, 29)
    return bars.where(~np.isin(np.arange(len(bars)), at))


@pytest.mark.parametrize(
    ("before", "change", "late"),
    [
        (minutes(0, 29), revise, 0),
        (without(12 * HOUR + 21), come_late, 1),
        (without(*range(12 * HOUR, 13 * HOUR)), fill_the_gap, 0),
        (minutes(0, 29), take_out, 0),
    ],
    ids=["revised", "late", "gap", "taken out"],
)
def test_a_changed_bar_derives_its_window_again(
    store: Store, before: Bars, change: Callable[[Store], None], late: int
) -> None:
    put(store, before, SESSIONS)
    derive(store)
    change(store)
    tally = derive(store, run=2)
    # Twenty bars of five minutes after the session: the first two sessions after it have 24.
    assert tally.windows == [(SESSIONS[12].item(), SESSIONS[14].item())]
    assert stored(store) == whole(store)
    assert count(store, late_cell) == late
    untouched = rows_of(store, event, "session", where=event.c.run_id == UUID(int=1))
    assert not {session for (session,) in untouched} & set(SESSIONS[12:15].tolist())
    assert derive(store).commits == 0


@pytest.mark.postgres_only("what decides it here is the same code for each database")
def test_history_that_comes_later_warms_up_what_began_without(store: Store) -> None:
    put(store, minutes(10, 29))
    derive(store)
    first = stored(store)
    put(store, minutes(0, 9))
    tally = derive(store, start=SESSIONS[10].item())
    assert tally.windows == [(SESSIONS[10].item(), SESSIONS[12].item())]
    assert stored(store) == whole(store, 10, 29) != first
    derive(store)
    assert stored(store) == whole(store)


def test_another_run_was_quicker(filled: Store) -> None:
    """Each writes only what it computed since the mark was last changed, so that nobody's stale events stay."""
    slow = derivation(filled, 5 * HOUR)
    done: list[bool] = []

    def told(sessions: int, of: int, tally: Tally) -> None:
        if not done:
            done.append(True)
            revise(filled)
            derive(filled, 4 * HOUR, run=2)

    tally = slow.derive(UUID(int=1), told=told)
    assert tally.overtaken == 1
    assert stored(filled) == whole(filled)
    assert rows_of(filled, event_mark, "todo") == [([],)]


def test_two_begin_at_once_and_duplicates_are_ignored(filled: Store) -> None:
    events, of = Events(filled.engine), Derived(TICKER, "5m", "triangles", SMALL.version, SOURCE, "1m")
    span = (SESSIONS[0].item(), SESSIONS[-1].item())
    mark = Mark(*span, (span,), span[0], span[0], frozenset({span[1]}), 5, 6)
    assert events.settle(of, UUID(int=1), None, mark) == 0
    assert events.settle(of, UUID(int=2), None, mark) is None
    assert events.standing(of).mark == mark
    found = SMALL.detect(resample(minutes(0, 29), "5m"))
    twice = np.concatenate([found, found])
    later = Mark(*span, (), span[0], span[0], frozenset(), 5, 6, 1)
    assert events.replace(of, UUID(int=1), later, span, SMALL.kinds, found) == (0, len(found))
    assert events.replace(of, UUID(int=1), later, span, SMALL.kinds, found) is None
    assert events.count(of) == len(found)
    if filled.engine.dialect.name == "postgresql":  # the other has no way to pass over a row of its own statement
        again = Mark(*span, (), span[0], span[0], frozenset(), 5, 6, 2)
        assert events.replace(of, UUID(int=1), again, span, SMALL.kinds, twice) == (len(found), len(found))


@pytest.mark.postgres_only("what decides it here is the same code for each database")
def test_versions_live_side_by_side(filled: Store) -> None:
    derive(filled)
    other = derivation(filled, detector=Triangles(wing=2, span=20))
    assert other.derive(UUID(int=1)).inserted
    assert derive(filled).commits == 0
    assert count(filled, event_mark) == 2
    derive(filled, purge=True)
    assert stored_versions(filled) == {SMALL.version, "1 wing=2 span=20 flat=0.1"}


@pytest.mark.postgres_only("what decides it here is the same code for each database")
def test_status_shows_how_far_they_are_derived(filled: Store) -> None:
    derive(filled, end=SESSIONS[20].item())
    lines = list(ticker_lines(filled.records.of_ticker(TICKER)))
    told = f"{count(filled, event)} triangles ({SMALL.version}) on polygon 5m made of 1m  2024-01-01 to 2024-01-21"
    assert told in map(str.strip, lines)


def stored_versions(store: Store) -> set[str]:
    return {version for (version,) in rows_of(store, event, "version")}


def test_nothing_stored_is_said(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="no bars are stored"):
        derive(store)
    put(store, minutes(3, 4))
    with pytest.raises(ConfigurationError, match="2023-01-01"):
        derive(store, start=date(2022, 1, 1), end=date(2023, 1, 1))


@pytest.mark.postgres_only("it ends the other sessions of its database")
def test_cut_connections_cost_nothing(filled: Store) -> None:
    killer = sa.create_engine(filled.engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def told(sessions: int, of: int, tally: Tally) -> None:
        if sessions == of:
            return
        with killer.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    tally = derive(filled, 9 * HOUR, told=told)
    assert tally.commits > 2
    assert stored(filled) == whole(filled)
