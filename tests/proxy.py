"""A TCP proxy in front of a server on loopback: it can be down, and break a connection at a given message."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from tests.listening import stop_accepting


class Proxy:
    """Use it with ``with``.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._down = False
        self._at, self._how = b"", ""
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop_accepting(self._listener, self._accepting)
        self.cut()

    def cut(self) -> None:
        """Break every connection, and let no other through until :meth:`mend`."""
        with self._lock:
            self._down = True
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._down = False

    def lose(self, at: str | bytes) -> None:
        """Break the connection that next sends ``at`` once the server has answered, before the answer is passed on."""
        self._set(at, "answer")

    def lose_question(self, at: str | bytes, *, orphan: bool = False) -> None:
        """Break the connection that next sends ``at``, which the server does not get; an orphan's end stays open."""
        self._set(at, "orphan" if orphan else "question")

    def is_meant(self, data: bytes, at: bytes) -> bool:
        """Whether ``at`` is in what a client sends."""
        return at in data

    def _set(self, at: str | bytes, how: str) -> None:
        self.lost.clear()
        self._at, self._how = at.encode() if isinstance(at, str) else at, how

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._down:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # the server itself is down
                    near.close()
                    continue
                self._open |= {near, far}
            doomed = threading.Event()
            threading.Thread(target=self._pass_on, args=(near, far, doomed), daemon=True).start()
            threading.Thread(target=self._pass_back, args=(far, near, doomed), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                if self._at and self.is_meant(data, self._at):
                    how, self._at = self._how, b""
                    if how != "answer":
                        self._close(near, *([] if how == "orphan" else [far]))
                        self.lost.set()
                        return
                    doomed.set()
                far.sendall(data)
        self._close(near, far)

    def _pass_back(self, far: socket.socket, near: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                if doomed.is_set():
                    self._close(near, far)
                    self.lost.set()
                    return
                near.sendall(data)
        self._close(near, far)

    def _close(self, *sockets: socket.socket) -> None:
        with self._lock:
            for each in sockets:
                self._open.discard(each)
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
