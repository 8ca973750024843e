"""What a test of outages does beside its thread, and how long it waits for what comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

TIME = 60  # seconds that anything here may take before the test says that it hangs


class InBackground:
    """Work in a thread of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self.value = work()
        except BaseException as error:  # noqa: BLE001 - it is raised again by result()
            self.error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(TIME)
        assert self.done, "it hangs"
        if self.error is not None:
            raise self.error
        return self.value


def until(there: Callable[[], object]) -> None:
    """Wait for something that comes."""
    deadline = time.monotonic() + TIME
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def told(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in record.getMessage() for record in caplog.records if record.name == "closingbell.store")
