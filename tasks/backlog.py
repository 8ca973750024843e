"""What waits to be written, and what of it goes into the next transaction.

Whole days go in the order of the plan, those of one transaction after those of the other: they are about the same
tickers, and a session that is skipped over would have to be noted for each of them, and unsaid when it comes. All else
goes in the order of its coming.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Final

from closingbell.errors import ClosingbellError
from closingbell.outcome import Outcome
from closingbell.store.claims import Claim

#: A transaction of such a part of the most rows is one for a writer of its own; what is less is left to one at work.
OWN: Final = 5


class Saving:
    """What came of a call, on its way into the database.

    Args:
        claim: on its cells.
        outcome: what is to be written.
        error: why the call failed, if it did.
        place: of a whole day, among all those of the plan; None: its order is nothing to the ledger.

    Attributes:
        parts: what of the outcome is not committed yet, a transaction each.
        of: how many those were; 0: nobody has cut it yet.
        since: when it was handed over, by the monotonic clock.
        taken: whether a writer has it in hand, or had.
        saved: whether it is committed.
        holes: how many cells of a call that failed have no bar now.
        failure: why it could not be written.
    """

    def __init__(
        self, claim: Claim, outcome: Outcome, error: ClosingbellError | None, place: int | None = None
    ) -> None:
        self.claim = claim
        self.outcome = outcome
        self.error = error
        self.place = place
        self.rows = max(1, len(outcome.verdict.accepted) + len(outcome.verdict.quarantined))
        self.parts = [outcome]
        self.of = 0
        self.since = 0.0
        self.taken = False
        self.saved = False
        self.holes = 0
        self.failure: BaseException | None = None


class Backlog:
    """Answers that wait for a writer; whoever uses it holds a lock.

    Args:
        most: rows of a transaction, but for a single answer that is larger.
        hold: seconds that an answer waits at most for an earlier day, or for a writer that is at work.
        one_by_one: each is a transaction of its own.

    Attributes:
        rows: of all that waits.
    """

    def __init__(self, most: int, hold: float, *, one_by_one: bool = False) -> None:
        self._most = most
        self._hold = hold
        self._one_by_one = one_by_one
        self._loose: deque[Saving] = deque()
        self._loose_rows = 0
        self._days: list[tuple[int, int, Saving]] = []  # a heap
        self._count = count()
        self._since = math.inf  # when the oldest of the days came
        self._stalled: float | None = None  # since when they wait for nothing but an earlier one
        self._expected: set[int] = set()  # places of days that batches at work have yet to bring, or have brought
        self._passed = -1  # the last place that was taken
        self._days_in_hand = False
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self._loose or self._days)

    def expect(self, places: Iterable[int]) -> None:
        """Take days for under way; those that others went past are not waited for."""
        self._expected.update(place for place in places if place > self._passed)

    def forget(self, places: Iterable[int]) -> None:
        """Expect days no longer."""
        self._expected.difference_update(places)

    def add(self, saving: Saving) -> None:
        """Let an answer wait."""
        self.rows += saving.rows
        if saving.place is None:
            self._loose.append(saving)
            self._loose_rows += saving.rows
        else:
            heappush(self._days, (saving.place, next(self._count), saving))
            self._since = min(self._since, saving.since)

    def wait(self, now: float, *, alone: bool) -> float | None:
        """Seconds until a writer shall take of it; None: not before more comes, or the days in hand are written.

        Args:
            now: by the monotonic clock.
            alone: whether no other writer is at work.
        """
        waits = [self._wait_for_loose(now, alone=alone), self._wait_for_days(now, alone=alone)]
        return min((seconds for seconds in waits if seconds is not None), default=None)

    def take(self, now: float, *, alone: bool) -> list[Saving]:
        """A transaction's worth of what shall be taken now; of all that waits where that is nothing."""
        days_wait, loose_wait = self._wait_for_days(now, alone=alone), self._wait_for_loose(now, alone=alone)
        first = days_wait == 0 and (loose_wait != 0 or self._since <= self._loose[0].since)
        these = self._take_days(now) if first or not self._loose else self._take_loose()
        self.rows -= sum(each.rows for each in these)
        for each in these:
            each.taken = True
        return these

    def release_days(self) -> None:
        """The transaction of those that were taken is over: the next ones may go."""
        self._days_in_hand = False

    def clear(self) -> list[Saving]:
        """All of it, which waits no longer."""
        left = [*self._loose, *(saving for _, _, saving in sorted(self._days))]
        self._loose.clear()
        self._days.clear()
        self._since, self._loose_rows, self.rows = math.inf, 0, 0
        return left

    def _wait_for_loose(self, now: float, *, alone: bool) -> float | None:
        if not self._loose:
            return None
        return self._until(self._loose[0].since, now, now_already=alone or self._loose_rows >= self._most // OWN)

    def _wait_for_days(self, now: float, *, alone: bool) -> float | None:
        if not self._days or self._days_in_hand:
            return None
        if not self._is_awaited(self._days[0][0]):
            self._stalled = None
            enough = alone or self.rows - self._loose_rows >= self._most // OWN
            return self._until(self._since, now, now_already=enough)
        if self._stalled is None:
            self._stalled = now
        return self._until(self._stalled, now)

    def _until(self, since: float, now: float, *, now_already: bool = False) -> float:
        return 0.0 if now_already else max(0.0, since + self._hold - now)

    def _is_awaited(self, place: int) -> bool:
        """Whether an earlier day than the first one that waits is under way."""
        return min(self._expected, default=place) < place

    def _take_loose(self) -> list[Saving]:
        these: list[Saving] = []
        rows = 0
        while self._loose and self._fits(self._loose[0], these, rows):
            these.append(self._loose.popleft())
            rows += these[-1].rows
        self._loose_rows -= rows
        return these

    def _take_days(self, now: float) -> list[Saving]:
        these: list[Saving] = []
        rows, overdue = 0, self._stalled is not None and self._stalled + self._hold <= now
        while self._days and self._fits(self._days[0][2], these, rows):
            if these and not overdue and self._is_awaited(self._days[0][0]):
                break
            place, _, saving = heappop(self._days)
            these.append(saving)
            rows += saving.rows
            self._passed = max(self._passed, place)
            self._expected = {other for other in self._expected if other > self._passed}
        self._since = min((saving.since for _, _, saving in self._days), default=math.inf)
        self._days_in_hand, self._stalled = True, None
        return these

    def _fits(self, one: Saving, these: Sequence[Saving], rows: int) -> bool:
        """Whether it may go into a transaction with so many rows: with others of its timeframe."""
        if not these:
            return True
        alike = one.outcome.call.timeframe == these[0].outcome.call.timeframe
        return not self._one_by_one and alike and rows + one.rows <= self._most
