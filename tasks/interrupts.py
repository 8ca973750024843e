"""Signals that end a run, heard at once, whatever its main thread is at."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: Those that end a run.
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)

#: Seconds that the end of the block waits for who is being told.
_LAST: Final = 1.0


@contextmanager
def heard(tell: Callable[[], None]) -> Iterator[None]:
    """Have it told from another thread when a signal comes that ends the run, for the time of the block.

    The main thread hears of a signal only between two steps of Python: not while a driver waits in C for its database.
    Handlers stay as they are; a signal that nobody handles is not heard here either.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)

    def listen() -> None:
        with ear:
            while numbers := ear.recv(64):
                if any(number in _ENDING for number in numbers):
                    tell()

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        mouth.close()
        listener.join(_LAST)
