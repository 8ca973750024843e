"""A market's answers, kept and given again, so that making them is no part of what is measured.

A process of its own that stands before a market: what it was asked before it answers from memory, byte by byte as the
market did, at the cost of a send; anything else it asks the market for, and keeps.
"""

from __future__ import annotations

import http.client
import multiprocessing
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

#: What an answer says of itself besides its length.
_HEADERS: Final = ("content-type", "content-encoding")


class Pages:
    """The process; ``url`` is where it answers. Ends with this process."""

    def __init__(self, market_url: str) -> None:
        ours, theirs = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        self._child = spawn.Process(target=_serve, args=(market_url, theirs), daemon=True)
        self._child.start()
        theirs.close()
        self._pipe = ours
        self.url = f"http://127.0.0.1:{ours.recv()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._child.terminate()
        self._child.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, market_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.market = urlsplit(market_url)
        self.kept: dict[str, bytes] = {}
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        kept = self.server.kept.get(self.path)
        if kept is None:
            kept = self._asked()
        self.wfile.write(kept)

    def _asked(self) -> bytes:
        market = self.server.market
        connection = http.client.HTTPConnection(market.hostname or "", market.port or 80, timeout=120)
        connection.request("GET", self.path, headers=dict(self.headers.items()))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name in _HEADERS if (value := answer.getheader(name))]
        whole = "\r\n".join([*lines, "", ""]).encode() + body
        if answer.status == 200:
            with self.server.lock:
                self.server.kept[self.path] = whole
        return whole

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _serve(market_url: str, pipe: Connection) -> None:
    server = _Server(market_url)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_address[1])
    try:
        pipe.recv()
    except EOFError:
        return
