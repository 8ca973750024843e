"""A gate that is always open, and a key that must be seen nowhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Long and odd enough that it is nowhere by chance.
CANARY = "cAnArY-0kqv7xyzzy-8d1f"


class OpenGate:
    """Lets every call through and remembers what happened."""

    def __init__(self) -> None:
        self.calls = 0
        self.inside = 0
        self.most_inside = 0
        self.pauses: list[float | None] = []
        self.left = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def call(self) -> Iterator[None]:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        try:
            yield
        finally:
            with self._lock:
                self.inside -= 1
            self.left.set()

    def of(self, asset_class: str) -> OpenGate:
        return self

    def pause(self, seconds: float | None) -> None:
        self.pauses.append(seconds)
