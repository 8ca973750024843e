"""In which partitions PostgreSQL keeps the bars, and until when they are prepared.

Daily bars are few, and are read over decades: one partition, ``bar_1d``. All others are in ``bar_intraday``, by the
instant at which they open: those of years past by the year, the later ones by the quarter. A quarter of minutes of the
S&P 500 is 13 million bars, 1.7 GB with its key; of the whole market 120 million, 16 GB. What is older or younger than
all of these has a partition as well, so that no bar is ever refused for its age.

Who writes bars need not be allowed to make tables: partitions are made by migrations, years ahead, and by
``python -m infra.migrations``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, Final

import sqlalchemy as sa

#: From and before when bars of a partition open; None where there is no bound.
Span = tuple[str, date | None, date | None]

DAILY: Final = "bar_1d"
INTRADAY: Final = "bar_intraday"

#: The youngest: all bars that open after the last prepared quarter.
LATER: Final = "bar_later"

_MOVED: Final = "bar_to_be_moved"

#: The youngest partition's first instant. It is the server who reads what it wrote, whatever its time zone.
_PREPARED: Final = sa.text("""
    SELECT CAST(CAST((regexp_match(pg_get_expr(relpartbound, oid), 'FROM \\(''([^'']+)'''))[1] AS timestamptz)
        AT TIME ZONE 'UTC' AS date)
    FROM pg_class WHERE oid = to_regclass(:name)
""").bindparams(name=LATER)

#: Every table that bars are kept in or that stands over them, as they are called in the schema.
_ALL: Final = sa.text("""
    SELECT relname FROM pg_partition_tree('bar') JOIN pg_class ON pg_class.oid = relid
    WHERE parentrelid IS NOT NULL ORDER BY relname
""")


def prepared_until(connection: sa.Connection) -> date | None:
    """The day, UTC, from which on all bars are in one partition; None where the table has no partitions."""
    day: date | None = connection.execute(_PREPARED).scalar_one_or_none()
    return day


def partitions(connection: sa.Connection) -> list[str]:
    """The names of all partitions."""
    return list(connection.execute(_ALL).scalars())


def prepare(connection: sa.Connection, until: date) -> bool:
    """Make partitions up to a day, and move the bars there that are younger than those that there were.

    It locks the whole table, for a moment, or for as long as the moving takes.

    Args:
        connection: in a transaction, of the table's owner.
        until: the first day of a quarter.

    Returns:
        Whether any were made.
    """
    first = prepared_until(connection)
    if first is None or first >= until:
        return False
    connection.exec_driver_sql("LOCK TABLE bar IN ACCESS EXCLUSIVE MODE")
    made = [create(span) for span in (*quarters(first, until), (LATER, until, None))]
    for statement in (
        f"ALTER TABLE {INTRADAY} DETACH PARTITION {LATER}",
        f"ALTER TABLE {LATER} RENAME TO {_MOVED}",
        *made,
        f"INSERT INTO bar SELECT * FROM {_MOVED}",  # noqa: S608  (fixed text)
        f"DROP TABLE {_MOVED}",
    ):
        connection.exec_driver_sql(statement)
    return True


def quarters(first: date, end: date) -> Iterator[Span]:
    """The quarters from one day to another, each the first of one."""
    while first < end:
        quarter = (first.month + 2) // 3
        after = date(first.year + quarter // 4, 3 * quarter % 12 + 1, 1)
        yield f"bar_{first.year}_q{quarter}", first, after
        first = after


def spans() -> Sequence[Span]:
    """The partitions of intraday bars as migration 0008 makes them, the oldest first."""
    years: list[Span] = [(f"bar_{year}", date(year, 1, 1), date(year + 1, 1, 1)) for year in range(2003, 2021)]
    end = date(2033, 1, 1)
    return (
        ("bar_earlier", None, date(2003, 1, 1)),
        *years,
        *quarters(date(2021, 1, 1), end),
        (LATER, end, None),
    )


def create(span: Span) -> str:
    """The statement that makes a partition.

    A bar opens within 7 days of its session (:func:`closingbell.store.columns.around`). As a check it lets the planner
    choose partitions by conditions on sessions, too, and not only by those on ``ts``. New pages are vacuumed after 2%
    of a partition, not 20: only then are they in the index of ``ts``, by which a session of all tickers is read.
    """
    name, first, end = span
    near: list[Any] = [f"session >= date '{first}' - 7"] if first else []
    near += [f"session < date '{end}' + 7"] if end else []
    lo, hi = f"'{first} 00:00+00'" if first else "MINVALUE", f"'{end} 00:00+00'" if end else "MAXVALUE"
    return (
        f"CREATE TABLE {name} PARTITION OF {INTRADAY} (CONSTRAINT bar_near_its_session CHECK ({' AND '.join(near)})) "
        f"FOR VALUES FROM ({lo}) TO ({hi}) WITH (autovacuum_vacuum_insert_scale_factor = 0.02)"
    )
