"""A hard limit on the time of one call.

A socket timeout limits the silence between two bytes, so a server that drips a byte a second is never timed out.
At the deadline the socket is shut down instead, which wakes whoever reads from it, in the head or in the body.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

_current = threading.local()


class Deadline:
    """The time that one call has, started and stopped by the thread that makes the call.

    Args:
        seconds: from :meth:`start` on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.expired = False
        self._socket: socket.socket | None = None
        self._over = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self.expire)
        self._timer.daemon = True

    @property
    def exceeded(self) -> float | None:
        """The limit in seconds, if it has passed; else None."""
        return self.seconds if self.expired else None

    def start(self) -> None:
        """Start the clock; connections used by this thread from now on obey it."""
        _current.deadline = self
        self._timer.start()

    def stop(self) -> None:
        """Let go of the socket, which may serve another call from now on."""
        with self._lock:
            self._over = True
            self._socket = None
        self._timer.cancel()
        _current.deadline = None

    def watch(self, sock: socket.socket | None) -> None:
        """Shut ``sock`` down when time is up, or at once if it is up already."""
        with self._lock:
            self._socket = sock
            if self.expired:
                _shut_down(sock)

    def expire(self) -> None:
        """Let the time be up, now."""
        with self._lock:
            if not self._over:
                self.expired = True
                _shut_down(self._socket)


def _shut_down(sock: socket.socket | None) -> None:
    if sock is not None:
        with suppress(OSError):  # it may be gone already
            # Not sock.shutdown(): a TLS socket's own would take its state from under the thread that is reading.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _watch(sock: socket.socket | None) -> None:
    deadline: Deadline | None = getattr(_current, "deadline", None)
    if deadline is not None:
        deadline.watch(sock)


class _WatchedHTTPConnection(HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        _watch(self.sock)
        return super().getresponse()


class _WatchedHTTPSConnection(HTTPSConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        _watch(self.sock)
        return super().getresponse()


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _WatchedHTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPSConnection


def pool_manager(size: int) -> urllib3.PoolManager:
    """Connections that obey the calling thread's :class:`Deadline`, up to ``size`` of them kept open to one host.

    ``maxsize`` is what bounds the connections to one host; the vendor's client only sets ``num_pools``, the number
    of hosts, so that 8 threads there open a new connection for almost every call.
    """
    manager = urllib3.PoolManager(num_pools=2, maxsize=size, cert_reqs="CERT_REQUIRED", ca_certs=certifi.where())
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager
