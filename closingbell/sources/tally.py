"""How many calls a source has made, and where its time went, for the run's report."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Tally:
    """Calls by kind and seconds by stage, counted from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._seconds = {"waiting": 0.0, "api": 0.0, "decoding": 0.0}

    def call(self, kind: str) -> None:
        """Count one HTTP attempt."""
        with self._lock:
            self._calls[kind] += 1

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the body's duration to ``stage``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Add ``seconds`` to ``stage``."""
        with self._lock:
            self._seconds[stage] += seconds

    @property
    def calls(self) -> dict[str, int]:
        """A copy of the counts."""
        with self._lock:
            return dict(self._calls)

    @property
    def seconds(self) -> dict[str, float]:
        """A copy of the sums."""
        with self._lock:
            return dict(self._seconds)
