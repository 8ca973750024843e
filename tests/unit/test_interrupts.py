"""Signals that end a run are heard by another thread than the one that handles them."""

from __future__ import annotations

import signal
import threading

import pytest

from tasks.interrupts import heard


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_told_by_another_thread(number: signal.Signals, request: pytest.FixtureRequest) -> None:
    before = signal.signal(number, lambda *_: None)
    request.addfinalizer(lambda: signal.signal(number, before))
    told = threading.Event()
    tellers: list[threading.Thread] = []

    def tell() -> None:
        tellers.append(threading.current_thread())
        told.set()

    with heard(tell):
        signal.raise_signal(number)
        assert told.wait(10)
    assert tellers[0] is not threading.current_thread()
    assert not tellers[0].is_alive()
    assert signal.set_wakeup_fd(-1) == -1


def test_other_signals_and_other_threads_end_nothing(request: pytest.FixtureRequest) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR1, before))
    told: list[str] = []
    listeners: list[str] = []

    def elsewhere() -> None:
        with heard(lambda: told.append("elsewhere")):
            listeners.extend(thread.name for thread in threading.enumerate() if thread.name == "signals")

    with heard(lambda: told.append("here")):
        signal.raise_signal(signal.SIGUSR1)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert told == []
    assert listeners == ["signals"], "that of the main thread"
