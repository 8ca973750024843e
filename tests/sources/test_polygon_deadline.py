"""The time that a call has, whatever other calls there are."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from closingbell.sources.polygon.deadline import Deadline

#: Seconds until something that has to happen counts as not happening.
LONG = 60.0


@contextmanager
def silent() -> Iterator[socket.socket]:
    """A connection on which nothing ever comes."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.settimeout(LONG)
        yield ours


def test_a_call_with_less_time_ends_before_one_that_began_earlier() -> None:
    patient, hasty = Deadline(LONG), Deadline(0.05)
    with silent() as first, silent() as second:
        patient.start()
        patient.watch(first)
        hasty.start()
        hasty.watch(second)
        assert second.recv(1) == b""  # shut down, long before its own time-out
        assert hasty.exceeded == 0.05
        assert patient.exceeded is None
        hasty.stop()
        patient.stop()


def test_a_call_that_ended_in_time_keeps_its_connection() -> None:
    with silent() as kept, silent() as cut:
        early = Deadline(0.05)
        early.start()
        early.watch(kept)
        early.stop()
        late = Deadline(0.1)
        late.start()
        late.watch(cut)
        assert cut.recv(1) == b""
        assert not early.expired
        kept.setblocking(False)
        try:
            kept.recv(1)
        except BlockingIOError:
            return
        raise AssertionError("the connection was shut down")


def test_many_calls_at_once_are_watched_by_one_thread() -> None:
    before, deadlines = threading.active_count(), [Deadline(0.05 + 0.001 * i) for i in range(50)]
    with silent() as connection:
        for deadline in deadlines:
            deadline.start()
        assert threading.active_count() <= before + 1
        deadlines[-1].watch(connection)
        assert connection.recv(1) == b""
    assert all(deadline.expired for deadline in deadlines)
    for deadline in deadlines:
        deadline.stop()


def test_a_socket_that_comes_too_late_is_shut_down_at_once() -> None:
    deadline = Deadline(LONG)
    deadline.start()
    deadline.expire()
    with silent() as connection:
        deadline.watch(connection)
        assert connection.recv(1) == b""
    deadline.stop()
