"""Which runs live: each holds a lock for as long as its process does (:mod:`closingbell.store.pulse`)."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from closingbell.store.database import database_of
from closingbell.store.faults import LockedError, RaceError, driver_errors, explain
from closingbell.store.schema import run


def life(run_id: UUID) -> str:
    """The name of the lock that a run holds: it goes with the run's process, however that ends."""
    return f"run {run_id}"


def is_gone(connection: sa.Connection, run_id: UUID) -> bool:
    """Whether the run's process is gone; if it is, nobody takes its place before the transaction ends."""
    return database_of(connection).try_lock(connection, life(run_id))


def bury(connection: sa.Connection) -> None:
    """Close the rows of runs that died without closing theirs, as ``Crashed``.

    Waits for nobody: a run that another process buries is not found gone, and one whose row somebody writes is left
    to the next.
    """
    running = connection.execute(sa.select(run.c.run_id).where(run.c.state == "Running")).scalars().all()
    for run_id in running:
        is_open = sa.and_(run.c.run_id == run_id, run.c.state == "Running")
        if is_gone(connection, run_id) and _at_once(connection, sa.select(run.c.run_id).where(is_open)):
            connection.execute(sa.update(run).where(is_open).values(state="Crashed", ended_at=sa.func.now()))


def _at_once(connection: sa.Connection, row: sa.Select[tuple[UUID]]) -> bool:
    """Lock a row, if it is there and can be had without waiting."""
    try:
        with connection.begin_nested():
            return connection.execute(row.with_for_update(nowait=True)).first() is not None
    except driver_errors(connection) as error:
        failure = explain(error, connection)
    if isinstance(failure, LockedError | RaceError):
        return False
    raise failure
