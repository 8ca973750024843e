"""A hard limit on the time of one call.

A socket timeout limits the silence between two bytes, so a server that drips a byte a second is never timed out.
At the deadline the socket is shut down instead, which wakes whoever reads from it, in the head or in the body.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from contextlib import suppress

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

_current = threading.local()


class Deadline:
    """The time that one call has, started and stopped by the thread that makes the call.

    Args:
        seconds: from :meth:`start` on.

    Attributes:
        expired: whether it is over.
        until: when it is, by the monotonic clock.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.expired = False
        self.until = math.inf
        self._socket: socket.socket | None = None
        self._over = False
        self._lock = threading.Lock()

    @property
    def exceeded(self) -> float | None:
        """The limit in seconds, if it has passed; else None."""
        return self.seconds if self.expired else None

    def start(self) -> None:
        """Start the clock; connections used by this thread from now on obey it."""
        _current.deadline = self
        self.until = time.monotonic() + self.seconds
        _watchman.begin(self)

    def stop(self) -> None:
        """Let go of the socket, which may serve another call from now on."""
        with self._lock:
            self._over = True
            self._socket = None
        _watchman.end(self)
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


class _Watchman:
    """One thread that looks at the clock for all calls of the process: to start one for each costs more than the call's
    own work, where answers come quickly."""

    def __init__(self) -> None:
        self._running: set[Deadline] = set()
        self._change = threading.Condition()
        self._wakes = math.inf
        self._thread: threading.Thread | None = None

    def begin(self, deadline: Deadline) -> None:
        with self._change:
            self._running.add(deadline)
            if self._thread is None or not self._thread.is_alive():  # none survives a fork
                self._wakes = math.inf
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
            elif deadline.until < self._wakes:
                self._change.notify()

    def end(self, deadline: Deadline) -> None:
        with self._change:
            self._running.discard(deadline)  # whoever sleeps until its time wakes in vain, and once

    def _watch(self) -> None:
        while True:
            with self._change:
                now = time.monotonic()
                late = [each for each in self._running if each.until <= now]
                self._running.difference_update(late)
                if not late:
                    self._wakes = min((each.until for each in self._running), default=math.inf)
                    self._change.wait(None if self._wakes == math.inf else self._wakes - now)
            for each in late:
                each.expire()


_watchman = _Watchman()


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
