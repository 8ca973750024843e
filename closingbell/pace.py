"""How fast a run's calls go, and how long the rest will take: arithmetic that terminal and UI share."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from closingbell.report import duration

#: Seconds of the past that the present rate is taken from: longer than a quota's window, a minute, which comes as a
#: burst and a wait.
WINDOW: Final = 90.0


@dataclass(slots=True)
class Pace:
    """The calls of one run, as they are seen to be made.

    Attributes:
        planned: how many are planned; a run that has to try again makes more.
        made: how many were made when it was last looked at.
    """

    planned: int
    made: int = 0
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def see(self, made: int, at: float) -> None:
        """Note how many calls are made by now, an instant of the monotonic clock in seconds."""
        self.made = made
        self._seen.append((at, made))
        while len(self._seen) > 2 and self._seen[1][0] <= at - WINDOW:
            self._seen.popleft()

    @property
    def left(self) -> int:
        """Calls that are still to be made."""
        return max(0, self.planned - self.made)

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        return min(1.0, self.made / self.planned) if self.planned else 1.0

    @property
    def rate(self) -> float:
        """Calls a second of late; 0 as long as nothing is known."""
        if len(self._seen) < 2:
            return 0.0
        (begun, before), (now, made) = self._seen[0], self._seen[-1]
        return (made - before) / (now - begun) if now > begun else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the calls left will take at this rate; None where that cannot be said."""
        return self.left / self.rate if self.rate else None

    @property
    def rate_told(self) -> str:
        """The rate in the unit that a person would use."""
        return f"{self.rate:,.1f} calls/s" if self.rate >= 1 else f"{60 * self.rate:,.1f} calls a minute"

    @property
    def left_told(self) -> str:
        """The time left in words; nothing where it cannot be said, or nothing is left."""
        seconds = self.seconds_left
        return f"{duration(seconds)} to go" if self.left and seconds is not None else ""

    def told(self, bars: int) -> str:
        """All of it in one line.

        Args:
            bars: how many have come.
        """
        said = [f"{self.made:,} of {self.planned:,} calls", f"{bars:,} bars", self.rate_told, self.left_told]
        return ", ".join(word for word in said if word)
