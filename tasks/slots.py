"""The slots of a limit that this process holds: which are free, lent to a call, or waiting for their window to end.

Plain bookkeeping over instants that the caller names: no threads, no server, no clock.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

#: So many slots that were lent last are remembered.
_REMEMBERED: Final = 256


@dataclass(eq=False, slots=True)
class Lease:
    """Slots that the server granted together, and takes back together.

    Attributes:
        id: the server's name for it.
        slots: how many.
        old: from then on no call begins on it.
        expires: when the server takes it back by itself.
        idle: how many of its slots may be lent.
        rested: since when all are idle.
        doubted: whether the server was away since it was granted, and may have lost it.
        asked: whether the server was asked to take it back, without an answer so far.
        before: when the limit had last changed when it was asked, if that is known.
        left_behind: whether another process held it, and died.
    """

    id: UUID
    slots: int
    old: float
    expires: float
    idle: int = field(init=False)
    rested: float = field(init=False, default=0.0)
    doubted: bool = False
    asked: bool = False
    before: datetime | None = None
    left_behind: bool = False

    def __post_init__(self) -> None:
        self.idle = self.slots


class Slots:
    """What one process holds. Not safe for use from several threads at once.

    Args:
        window: seconds that a slot stays taken after its call.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._leases: dict[UUID, Lease] = {}
        self._cooling: list[tuple[float, int, Lease]] = []
        self._order = itertools.count()
        self._lent: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def held(self) -> int:
        """Slots that the server counts as ours."""
        return sum(lease.slots for lease in self._leases.values())

    @property
    def counted(self) -> int:
        """Of those, the slots that it cannot have counted free."""
        return sum(lease.slots for lease in self._leases.values() if not (lease.asked or lease.left_behind))

    @property
    def leases(self) -> list[Lease]:
        """What is held, oldest first."""
        return list(self._leases.values())

    def add(self, lease: Lease, now: float) -> None:
        """Hold another lease."""
        lease.rested = now
        self._leases[lease.id] = lease

    def inherit(self, lease: UUID, now: float) -> None:
        """Take over what a process left behind that died before now: nothing is lent, all of it cools."""
        left = Lease(lease, 1, now, math.inf, doubted=True, left_behind=True)
        left.idle = 0
        self.add(left, now)
        self.finish(left, now)

    def drop(self, lease: Lease) -> None:
        """Hold it no more: it is given back, or left to run out."""
        del self._leases[lease.id]

    def lend(self, now: float) -> Lease | None:
        """A slot for one call, or None; the call ends with :meth:`finish`."""
        self._cool(now)
        for lease in self._leases.values():
            if lease.idle and now < lease.old:
                lease.idle -= 1
                self._lent.append(now)
                return lease
        return None

    def finish(self, lease: Lease, now: float) -> None:
        """The vendor has counted the call: its slot is free again one window from now."""
        heapq.heappush(self._cooling, (now + self._window, next(self._order), lease))

    def ready(self, now: float) -> int:
        """How many slots could be lent at once."""
        self._cool(now)
        return sum(lease.idle for lease in self._leases.values() if now < lease.old)

    def lent_lately(self, now: float, seconds: float) -> int:
        """How many slots were lent in the last so many seconds, as far as that is remembered."""
        return sum(1 for _ in itertools.takewhile(lambda at: at >= now - seconds, reversed(self._lent)))

    def next_free(self) -> float | None:
        """When the next slot's window ends."""
        return self._cooling[0][0] if self._cooling else None

    def retire(self, now: float) -> None:
        """Begin no further call on anything held."""
        for lease in self._leases.values():
            lease.old = min(lease.old, now)

    def doubt(self) -> None:
        """The server is away: what it knows of our leases when it is back is to be asked."""
        for lease in self._leases.values():
            lease.doubted = True

    def disown(self, now: float, *, harmless: bool) -> None:
        """The server no longer counts what is held: lend none of it.

        Args:
            now: the present instant.
            harmless: whether giving it back changes no count, either.
        """
        self.retire(now)
        for lease in self._leases.values():
            lease.doubted = True
            if harmless:
                lease.left_behind = True
            else:
                lease.asked = True

    def forget_expired(self, now: float) -> None:
        """Stop counting what the server has taken back; a call that never ended held it."""
        for lease in self.leases:
            if lease.expires <= now:
                self.drop(lease)

    def spent(self, now: float, linger: float) -> list[Lease]:
        """The leases to give back: wholly idle, and old or unused for ``linger`` seconds. They lend no more."""
        self._cool(now)
        found = [lease for lease in self._leases.values() if lease.idle == lease.slots]
        found = [lease for lease in found if lease.old <= now or lease.rested + linger <= now]
        for lease in found:
            lease.old = min(lease.old, now)
        return found

    def cooled_at(self, lease: Lease) -> float | None:
        """When the last window of its slots ends; None while one of them is lent to a call."""
        ends = [at for at, _, of in self._cooling if of is lease]
        if lease.idle + len(ends) < lease.slots:
            return None
        return max(ends, default=0.0)

    def _cool(self, now: float) -> None:
        while self._cooling and self._cooling[0][0] <= now:
            at, _, lease = heapq.heappop(self._cooling)
            lease.idle += 1
            lease.rested = at
