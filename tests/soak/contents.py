"""What a database holds, as plain values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from closingbell.bars import VALUES
from closingbell.calendar import calendar_for
from tests.soak.world import Cell, Values

_SESSIONS = sa.text("""
    SELECT concat_ws(' ', state, age(clock_timestamp(), state_change), left(query, 200)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'closingbell'
""")
_OLD_AND_NEW = ", ".join(f"{side}_{name}" for side in ("old", "new") for name in VALUES)


@dataclass(frozen=True)
class Revision:
    """A change of a stored bar; no new values where it was taken out."""

    cell: Cell
    old: Values
    new: Values | None
    run_id: UUID


@dataclass(frozen=True)
class Contents:
    """Every row that the oracle looks at.

    Attributes:
        bars: the bar of each cell.
        doubles: cells with two bars, or with one that does not open with its session.
        gaps: why cells have none: the reason and the last error.
        marks: first and last session of each watermark.
        quarantined: the rules that bars of a cell broke.
        revisions: in the order in which they were written.
        runs: the rows of the table ``run``.
        splits: ticker, day, from, to.
    """

    bars: Mapping[Cell, Values]
    doubles: tuple[Cell, ...]
    gaps: Mapping[Cell, tuple[str, str | None]]
    marks: Mapping[str, tuple[date, date]]
    quarantined: Mapping[Cell, tuple[str, ...]]
    revisions: tuple[Revision, ...]
    runs: Mapping[UUID, Mapping[str, Any]]
    splits: frozenset[tuple[str, date, float, float]]


def read(url: str) -> Contents:
    """Read it all, as of one moment."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        return contents_of(connection)


def still_open(url: str, seconds: float = 10.0) -> list[str]:
    """What sessions of runs do that are still open after so long; none as soon as there is none."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    deadline = time.monotonic() + seconds
    while True:
        with engine.connect() as connection:
            found = list(connection.execute(_SESSIONS).scalars())
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def contents_of(connection: sa.Connection) -> Contents:
    """What a transaction sees."""

    def rows(query: str) -> list[Any]:
        return list(connection.execute(sa.text(query)).all())

    return Contents(
        *_bars(rows(f"SELECT ticker, session, ts, {', '.join(VALUES)} FROM bar WHERE timeframe = '1d'")),  # noqa: S608
        {
            (t, s): (reason, error)
            for t, s, reason, error in rows("SELECT ticker, session, reason, last_error FROM gap")
        },
        {t: (first, last) for t, first, last in rows("SELECT ticker, first_session, last_session FROM watermark")},
        _together(rows("SELECT ticker, session, rule FROM quarantine ORDER BY 1, 2, 3")),
        tuple(
            _revision(*row)
            for row in rows(f"SELECT ticker, session, run_id, {_OLD_AND_NEW} FROM revision ORDER BY revision_id")  # noqa: S608
        ),
        {row.run_id: dict(row._mapping) for row in rows("SELECT run_id, state, report, ended_at FROM run")},
        frozenset(
            (t, day, a, b) for t, day, a, b in rows("SELECT ticker, execution_date, split_from, split_to FROM split")
        ),
    )


def _bars(rows: list[Any]) -> tuple[dict[Cell, Values], tuple[Cell, ...]]:
    """The bar of each cell; and those that have two, or one that does not open with its session."""
    bars: dict[Cell, Values] = {}
    doubles = []
    opens = _opens({row[1] for row in rows})
    for ticker, session, ts, *values in rows:
        if (ticker, session) in bars or ts.astimezone(UTC).replace(tzinfo=None) != opens.get(session):
            doubles.append((ticker, session))
        bars[ticker, session] = tuple(values)
    return bars, tuple(doubles)


def _opens(sessions: set[date]) -> dict[date, Any]:
    if not sessions:
        return {}
    days = calendar_for("stocks").sessions(min(sessions), max(sessions))
    return dict(zip(days.tolist(), calendar_for("stocks").opens(days).tolist(), strict=True))


def _together(rows: list[Any]) -> dict[Cell, tuple[str, ...]]:
    found: dict[Cell, tuple[str, ...]] = {}
    for ticker, session, rule in rows:
        found[ticker, session] = (*found.get((ticker, session), ()), rule)
    return found


def _revision(ticker: str, session: date, run_id: UUID, *values: float | None) -> Revision:
    old, new = values[: len(VALUES)], values[len(VALUES) :]
    return Revision((ticker, session), old, new if new[0] is not None else None, run_id)
