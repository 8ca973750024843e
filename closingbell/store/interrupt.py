"""What a database does for a run, broken off when the run is stopped.

A driver that waits for its database does so in C, where no signal's exception reaches it: a lock that somebody else
holds, or a long plan, would be waited for to the end.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Final

import sqlalchemy as sa

from closingbell.store.database import database_of
from closingbell.store.faults import driver_errors
from closingbell.store.patience import patience_of

#: Seconds between two looks at what is still under way, and for how long is looked.
_LOOK: Final = 0.25
_LONG: Final = 15.0


def interrupt(engine: sa.Engine) -> None:
    """Break off the transactions that are under way: those that only read at once, those that write where they wait.

    A write that goes on is what a call has brought: it is let through. Returns when all that was under way is over, or
    after a while. What is broken off ends with an error of :mod:`closingbell.store.faults`.
    """
    under_way, until = patience_of(engine).under_way, time.monotonic() + _LONG
    older = list(under_way)
    while older and time.monotonic() < until:
        for one in older:
            if one.begun is None or _waits(engine, one.begun):
                with suppress(*driver_errors(engine)):
                    one.cancel()
        time.sleep(_LOOK)
        older = [one for one in older if one in under_way]


def _waits(engine: sa.Engine, begun: Any) -> bool:
    """Whether somebody holds a lock that a transaction waits for, as far as that can be seen."""
    try:
        with engine.connect() as other:
            return bool(database_of(engine).holders(other, begun))
    except driver_errors(engine):
        return False
