"""What came of deriving events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from closingbell.store.events import Span


@dataclass(slots=True)
class Tally:
    """What came of deriving; adds up.

    Attributes:
        sessions: sessions worked through.
        bars: stored bars of theirs that were read, those of the warm-up not counted.
        inserted: events written.
        removed: events deleted: by a purge, or because their bars had changed.
        commits: chunks committed.
        overtaken: how often another run was quicker, and the mark was read again.
        windows: the spans of sessions that were derived, in order.
        seconds: by stage: read, resample, detect, database.
    """

    sessions: int = 0
    bars: int = 0
    inserted: int = 0
    removed: int = 0
    commits: int = 0
    overtaken: int = 0
    windows: list[Span] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Take in another one."""
        for name in ("sessions", "bars", "inserted", "removed", "commits", "overtaken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.windows += other.windows
        for stage, seconds in other.seconds.items():
            self.spend(stage, seconds)

    def spend(self, stage: str, seconds: float) -> None:
        """Note seconds spent in a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def spent(self, stage: str) -> Iterator[None]:
        """Note the seconds of a block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.spend(stage, time.perf_counter() - begun)
