"""Something that goes on beside a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Meanwhile:
    """Tells the work when the block is over."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def over(self, seconds: float) -> bool:
        """Wait so long, or until the block is over; whether it is."""
        return self._over.wait(seconds)

    def end(self) -> None:
        """The block is over."""
        self._over.set()


@contextmanager
def meanwhile(work: Callable[[Meanwhile, T], None], on: T) -> Iterator[None]:
    """Let ``work`` go on in a thread until the block is over; an error in it is raised at the end."""
    until, errors = Meanwhile(), list[Exception]()

    def run() -> None:
        try:
            work(until, on)
        except Exception as error:  # noqa: BLE001  (raised again in the test's own thread)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        until.end()
        thread.join()
    for error in errors:
        raise error
