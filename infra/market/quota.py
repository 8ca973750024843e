"""The vendor's limiter: how many calls a key has made lately, and whether one more is one too many."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from typing import Literal

from closingbell.quota import Quota


class Limiter:
    """Admits or refuses calls, each key on its own.

    Args:
        quota: calls a window; None admits everything.
        window: ``rolling`` looks back from each call; ``fixed`` starts anew every window, whenever calls came.
        count_refused: whether a refused call uses up quota as well.
    """

    def __init__(
        self, quota: Quota | None, window: Literal["rolling", "fixed"] = "rolling", *, count_refused: bool = True
    ) -> None:
        self._quota, self._window, self._count_refused = quota, window, count_refused
        self._calls: defaultdict[str, deque[float]] = defaultdict(deque)

    def admit(self, key: str, now: float) -> float | None:
        """Record a call received at ``now`` (monotonic seconds): None admits it, else the seconds to wait.

        A call at exactly one window's length after another is outside that one's window.
        """
        if self._quota is None:
            return None
        seconds, calls = self._quota.seconds, self._calls[key]
        opens = now - seconds if self._window == "rolling" else math.floor(now / seconds) * seconds
        while calls and (calls[0] <= opens if self._window == "rolling" else calls[0] < opens):
            calls.popleft()
        if len(calls) < self._quota.calls:
            calls.append(now)
            return None
        if self._window == "fixed":
            wait = opens + seconds - now
        else:
            wait = calls[len(calls) - self._quota.calls] + seconds - now
        if self._count_refused:
            calls.append(now)
        return min(max(0.0, wait), seconds)  # never more than a window, not even by a rounding
