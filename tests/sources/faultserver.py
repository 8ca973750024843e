"""A raw HTTP server that answers as badly as it is told to, and remembers what it was asked.

It writes bytes to a socket and nothing else, so that every fault on the wire can be had.
"""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.listening import stop_accepting


class Reset:
    """Break the connection off with a TCP reset."""


class Close:
    """End the connection in an orderly way."""


#: What an answer is made of: bytes are sent, a number is a pause in seconds, an Event is waited for.
Step = bytes | float | threading.Event | type[Reset] | type[Close]


@dataclass(frozen=True)
class Request:
    """What the server was asked: the target is path and query."""

    method: str
    target: str
    headers: dict[str, str]


Reply = Callable[[Request], Iterable[Step]]


def head(status: int, length: int | None, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Something"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(body: Any = b"", status: int = 200, headers: dict[str, str] | None = None) -> list[Step]:
    """A well-formed HTTP answer; a body that is not bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [head(status, len(raw), headers), raw]


def zipped(body: Any, cut: int | None = None) -> list[Step]:
    """A gzip answer, cut after ``cut`` bytes although its Content-Length agrees with the cut."""
    raw = gzip.compress(body if isinstance(body, bytes) else json.dumps(body).encode())[:cut]
    return [head(200, len(raw), {"Content-Encoding": "gzip"}), raw]


class FaultServer:
    """Serves ``replies`` in turn, the last one for ever; a context manager."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.replies: list[Reply] = []
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def reply(self, *replies: Reply | list[Step]) -> None:
        """Answer the coming requests so."""
        self.replies = [r if callable(r) else (lambda _, steps=r: steps) for r in replies]

    def json(self, *bodies: Any) -> None:
        """Answer the coming requests with 200 and these bodies."""
        self.reply(*[answer(body) for body in bodies])

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    def __enter__(self) -> FaultServer:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        stop_accepting(self._socket, self._accepting)
        for connection in self._open:
            connection.close()

    def wrap(self, connection: socket.socket) -> socket.socket:
        """Where a subclass adds TLS."""
        return connection

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            connection = self.wrap(raw)
            reader = connection.makefile("rb")
            while (request := _read(reader)) is not None:
                with self._lock:
                    reply = self.replies[min(len(self.requests), len(self.replies) - 1)]
                    self.requests.append(request)
                for step in reply(request):
                    if isinstance(step, bytes):
                        connection.sendall(step)
                    elif isinstance(step, float):
                        time.sleep(step)
                    elif isinstance(step, threading.Event):
                        step.wait(10)
                    else:
                        if step is Reset:
                            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        reader.close()
                        connection.close()
                        return
        except (OSError, ValueError):
            pass  # the other side has gone


def _read(reader: Any) -> Request | None:
    first = reader.readline()
    if not first:
        return None
    method, target, _ = first.decode("latin-1").split(" ", 2)
    headers = {}
    while (line := reader.readline().decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Request(method, target, headers)
