"""A sign of life that no kill can fake: a lock that a run holds in the database for as long as its process lives.

The lock belongs to a transaction that stays open, so that it works behind a transaction-pooling proxy as well;
an idle transaction without a snapshot keeps nothing from being vacuumed. The server drops it with the connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from closingbell.errors import ClosingbellError
from closingbell.store.database import database_of
from closingbell.store.faults import driver_errors, transaction
from closingbell.store.lives import life
from closingbell.store.redo import again

log = logging.getLogger("closingbell.store")

#: Seconds between two looks at the connection: so long a run whose server restarted may pass for dead.
BEAT: Final = 1.0

#: Whether the connection still stands.
_BEAT: Final[sa.Select[tuple[int]]] = sa.select(sa.literal_column("1"))


@contextmanager
def pulse(engine: sa.Engine, run_id: UUID) -> Iterator[None]:
    """Hold the run's lock for the time of the block, again after its connection was lost.

    Raises:
        ClosingbellError: the lock cannot be had at the beginning, see :mod:`closingbell.store.faults`.
    """
    held = again(engine, lambda: _hold(engine, run_id))
    over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(engine, run_id, held, over), name="pulse", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join(5 * BEAT)  # one that waits for its lock again may be left alone with it


def _hold(engine: sa.Engine, run_id: UUID) -> tuple[ExitStack, sa.Connection]:
    """A transaction that holds the lock, with what ends it."""
    with ExitStack() as stack:
        connection = stack.enter_context(transaction(engine, lasting=True))
        # A machine that dies says no farewell: its server finds out by asking, and must not mind the silence.
        database_of(connection).keep_idle(connection)
        database_of(connection).lock(connection, life(run_id))
        return stack.pop_all(), connection


def _keep(engine: sa.Engine, run_id: UUID, held: tuple[ExitStack, sa.Connection], over: threading.Event) -> None:
    while not over.wait(BEAT):
        try:
            held[1].execute(_BEAT)
        except driver_errors(engine) as error:
            log.warning("the run's lock went with its connection (%s); it is taken again", type(error).__name__)
            _let_go(held[0])
            while not over.is_set():
                with suppress(ClosingbellError):
                    held = _hold(engine, run_id)
                    break
                over.wait(BEAT)
    _let_go(held[0])


def _let_go(stack: ExitStack) -> None:
    with suppress(ClosingbellError):
        stack.close()
