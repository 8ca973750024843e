"""A sign of life that no kill can fake: a lock that a run holds in the database for as long as its process lives.

The lock belongs to a transaction that stays open, so that it works behind a transaction-pooling proxy as well;
an idle transaction without a snapshot keeps nothing from being vacuumed. The server drops it with the connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from closingbell.store import statements as sql

log = logging.getLogger("closingbell.store")

#: Seconds between two looks at the connection: so long a run whose server restarted may pass for dead.
BEAT: Final = 1.0


@contextmanager
def pulse(engine: sa.Engine, run_id: UUID) -> Iterator[None]:
    """Hold the run's lock for the time of the block, again after its connection was lost.

    Raises:
        SQLAlchemyError: the lock cannot be had at the beginning.
    """
    connection = _hold(engine, run_id)
    over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(engine, run_id, connection, over), name="pulse", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join(5 * BEAT)  # one that waits for its lock again may be left alone with it


def _hold(engine: sa.Engine, run_id: UUID) -> sa.Connection:
    connection = engine.connect()
    try:
        # A machine that dies says no farewell: its server finds out by asking, and must not mind the silence.
        connection.execute(sql.KEEP_IDLE)
        connection.execute(sql.HOLD, {"run_id": run_id})
    except BaseException:
        connection.close()
        raise
    return connection


def _keep(engine: sa.Engine, run_id: UUID, connection: sa.Connection | None, over: threading.Event) -> None:
    while not over.wait(BEAT):
        try:
            if connection is None:
                connection = _hold(engine, run_id)
            connection.execute(sql.BEAT)
        except sa.exc.SQLAlchemyError as error:
            if connection is not None:
                log.warning("the run's lock went with its connection (%s); it is taken again", type(error).__name__)
                with suppress(sa.exc.SQLAlchemyError):
                    connection.invalidate()
                with suppress(sa.exc.SQLAlchemyError):
                    connection.close()
            connection = None
    if connection is not None:
        with suppress(sa.exc.SQLAlchemyError):
            connection.close()
