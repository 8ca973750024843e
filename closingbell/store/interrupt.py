"""What a database does for a run, broken off when the run is stopped.

A driver that waits for its database does so in C, where no signal's exception reaches it: a lock that somebody else
holds, or a long plan, would be waited for to the end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection
from typing import Final

import sqlalchemy as sa

from closingbell.store.database import database_of
from closingbell.store.faults import driver_errors
from closingbell.store.patience import HURRIED, UnderWay, patience_of

#: Seconds between two looks at what is still under way, and for how long is looked.
_LOOK: Final = 0.25
_LONG: Final = 15.0


def begin(engine: sa.Engine) -> None:
    """Have the transactions that are under way broken off, in a thread that nobody has to wait for.

    One that writes what a call has brought is let through, unless it waits for a lock, and for longer than the run's
    own other transactions take. What begins from now on is left alone. Whoever waits for one that is broken off gets an
    error of :mod:`closingbell.store.faults`.
    """
    older = list(patience_of(engine).under_way)
    if older:
        threading.Thread(target=_break_off, args=(engine, older), name="interrupt", daemon=True).start()


def _break_off(engine: sa.Engine, older: Collection[UnderWay]) -> None:
    patience, until = patience_of(engine), time.monotonic() + _LONG
    seen = Counter[UnderWay]()
    while older and time.monotonic() < until:
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
                for one in older:
                    _look_at(one, other, seen)
        except driver_errors(engine):
            return  # a database that is away is waited for by nobody any more
        time.sleep(_LOOK)
        older = [one for one in list(patience.under_way) if one in older or one.keeps]


def _look_at(one: UnderWay, other: sa.Connection, seen: Counter[UnderWay]) -> None:
    """Break a transaction off, if it is one to break off; ``seen``: how often each was found waiting, in a row."""
    if one.session is None:
        return
    database = database_of(other.engine)
    if one.keeps:
        seen[one] = seen[one] + 1 if database.holders(other, one.session) else 0
        if seen[one] * _LOOK < HURRIED:
            return
    one.while_under_way(lambda it: database.cancel(other, it.driver, it.session))
