"""The pause that a 429 calls for: one instant, for every caller of a quota, whichever process or machine it is on.

On one machine the instant stands in a file beside the books of leases, and every call looks there before it begins.
Other machines learn it from a Prefect variable, within a second. The latest instant counts: a storm of refusals is
one pause. Both hold instants and no durations, so whoever comes late waits no longer than the others.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tasks.limits import Limit, remember, steady, variable_name

log = logging.getLogger("closingbell.limiter")

#: No pause is longer, and an instant further away is not believed: a clock was wrong. As long as the longest
#: Retry-After that is followed.
LONGEST_PAUSE: Final = 3600.0
_LEEWAY: Final = 60.0


class Pause:
    """Until when no call of a quota may begin. Not safe for use from several threads at once.

    Args:
        limit: the name of the quota's limit.
        folder: of the books of leases on this machine; None: other processes here learn of it as other machines do.

    Attributes:
        variable: the Prefect variable's name.
        untold: the UTC instant (epoch seconds) that the server is yet to be told.
    """

    def __init__(self, limit: str, folder: Path | None) -> None:
        self.variable = variable_name(limit, "paused-until")
        self.untold: float | None = None
        self._limit = limit
        self._file = folder / "paused" if folder else None
        self._seen = 0.0
        self._heard = ""
        self._doubted = False
        self._until = 0.0

    def until(self) -> float:
        """Until when, by :func:`~tasks.limits.steady`; an instant of the past when there is no pause."""
        if self._file:
            with suppress(OSError):
                # The file is empty: its time is what it says.
                instant = os.stat(self._file).st_mtime  # noqa: PTH116 - called for every call
                if instant != self._seen:
                    self._seen = instant
                    self._learn(instant - time.time())
        return self._until

    def begin(self, seconds: float, ahead: float = 0.0) -> None:
        """Pause for so long, unless a longer pause is on already.

        Args:
            seconds: from now, :data:`LONGEST_PAUSE` at most.
            ahead: seconds by which the server's clock is ahead.
        """
        seconds = min(max(0.0, seconds), LONGEST_PAUSE)
        now = steady()
        if self.until() <= now:
            log.warning("the vendor refuses calls: %s pauses for %.1f s", self._limit, seconds)
        if now + seconds <= self._until:
            return
        self._until = now + seconds
        instant = time.time() + seconds
        self.untold = max(self.untold or 0.0, instant + ahead)
        if self._file:
            try:
                self._write(self._file, instant)
            except OSError as error:
                log.warning("other runs on this machine learn late of the pause (%s)", error)

    def exchange(self, limit: Limit) -> float | None:
        """Tell the server what it is to know; returns what others told it, for :meth:`hear`.

        Without a lock: this asks the server, and changes nothing here.
        """
        variable = limit.client.read_variable_by_name(self.variable)
        told = _instant(variable.value) if variable else None
        if told is not None and not self._believable(told - limit.ahead - time.time()):
            told = None
        untold = self.untold
        # Who overwrites a later instant than its own is overwritten by whoever told that one, and then agrees.
        if untold is not None and untold > time.time() + limit.ahead and (told is None or told < untold - 0.001):
            remember(limit.client, self.variable, datetime.fromtimestamp(untold, UTC).isoformat())
        return told

    def hear(self, told: float | None, ahead: float) -> None:
        """Believe what the server was told."""
        if self.untold is not None and (self.untold <= time.time() + ahead or (told or 0.0) >= self.untold - 0.001):
            self.untold = None
        if told is not None and str(told) != self._heard:
            self._heard = str(told)
            self._learn(told - ahead - time.time())

    def _learn(self, left: float) -> None:
        if left > 0 and self._believable(left):
            self._until = max(self._until, steady() + left)

    def _believable(self, left: float) -> bool:
        if left <= LONGEST_PAUSE + _LEEWAY:
            return True
        if not self._doubted:
            log.warning("a pause of %s for another %.0f s is not believed", self._limit, left)
        self._doubted = True
        return False

    def _write(self, file: Path, instant: float) -> None:
        with file.open("a") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            before = os.fstat(opened.fileno()).st_mtime
            if self._believable(before - time.time()):
                instant = max(instant, before)
            os.utime(opened.fileno(), (instant, instant))


def _instant(text: object) -> float | None:
    """Epoch seconds of what the variable holds; None if someone wrote something else there."""
    try:
        instant = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return instant.timestamp() if instant.tzinfo else None
