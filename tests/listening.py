"""How a server of the tests ends that accepts connections in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import threading


def stop_accepting(listener: socket.socket, accepting: threading.Thread) -> None:
    """Close a listening socket after the thread that accepts on it has ended.

    Else that thread might be just about to accept on what is by then the next server's socket, of the same number.
    """
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave accept() waiting for one more
    accepting.join(10)
    listener.close()
