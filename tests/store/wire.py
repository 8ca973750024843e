"""A TCP proxy in front of PostgreSQL that can break a connection at a given message."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

import sqlalchemy as sa

COMMIT = b"Q\0\0\0\x0bCOMMIT\0"


class Wire:
    """Use it with ``with``; :attr:`url` leads through it.

    Args:
        url: of a database on loopback.
    """

    def __init__(self, url: sa.URL) -> None:
        self._target = (url.host or "127.0.0.1", url.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(host="127.0.0.1", port=self._listener.getsockname()[1])
        self._open: list[tuple[socket.socket, socket.socket]] = []
        self._down = False
        self._at = b""
        self._how = ""
        self.broken = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection, and let no other through until :meth:`mend`."""
        self._down = True
        for near, far in self._open:
            _close(near, far)

    def mend(self) -> None:
        """Let connections through again."""
        self._down = False

    def lose_question(self, at: bytes, *, orphan: bool = False) -> None:
        """Break the connection that next sends ``at``, which the server does not get; an orphan's end stays open."""
        self._at, self._how = at, "orphan" if orphan else "question"
        self.broken.clear()

    def lose_answer(self, at: bytes) -> None:
        """Break the connection that next sends ``at`` once the server has answered, before the answer is passed on."""
        self._at, self._how = at, "answer"
        self.broken.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._open.append((near, far))
            losing = threading.Event()
            threading.Thread(target=self._pass_on, args=(near, far, losing), daemon=True).start()
            threading.Thread(target=self._pass_back, args=(near, far, losing), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                if self._at and self._at in data:
                    how, self._at = self._how, b""
                    if how != "answer":
                        _close(near, *([] if how == "orphan" else [far]))
                        self.broken.set()
                        return
                    losing.set()
                far.sendall(data)
        _close(near, far)

    def _pass_back(self, near: socket.socket, far: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                if losing.is_set():
                    _close(near, far)
                    self.broken.set()
                    return
                near.sendall(data)
        _close(near, far)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
