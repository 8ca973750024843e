"""A TCP proxy in front of the Prefect server: it can be down, or lose the answer to a request."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """Use it with ``with``. While :attr:`down` is set, connections break; :meth:`lose` loses an answer.

    Args:
        port: of the server on loopback.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._down = False
        self._lose = b""
        self.lost = threading.Event()

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
        with self._lock:
            self._down = True
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._down = False

    def lose(self, path: str) -> None:
        """Pass the next request whose path holds ``path`` on, and break off instead of passing its answer back."""
        self.lost.clear()
        self._lose = path.encode()

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
                if self._lose and self._lose in data.partition(b"\r\n")[0]:
                    self._lose = b""
                    doomed.set()
                far.sendall(data)
        self._close(near, far)

    def _pass_back(self, far: socket.socket, near: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                if doomed.is_set():
                    self.lost.set()
                    break
                near.sendall(data)
        self._close(near, far)

    def _close(self, *sockets: socket.socket) -> None:
        with self._lock:
            for each in sockets:
                self._open.discard(each)
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
