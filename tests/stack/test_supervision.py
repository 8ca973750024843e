"""What dies is started again where it was; what dies again and again is given up, with its last words."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from closingbell.errors import FatalError
from closingbell.settings import load
from infra import cluster, supervision
from infra.embedded import StandIn
from infra.postgres import EmbeddedPostgres
from infra.process import Child
from infra.supervision import Supervisor, _delay

ProcessesOf = Callable[[Path], list[str]]
Eventually = Callable[..., None]

#: Leaves a descendant in a session of its own, says its pid, and waits to be killed.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""


class Mortal:
    """A part whose every life ends at once, or which is not to be revived at all."""

    name = "the mortal"

    def __init__(self, *, revivable: bool = True) -> None:
        self.lives = 0
        self._revivable = revivable

    def ended(self) -> str | None:
        return "was killed"

    def revive(self, stopping: Callable[[], bool]) -> None:
        self.lives += 1
        if not self._revivable:
            raise FatalError("it did not start", value="no room left")


def given_up(supervisor: Supervisor) -> bool:
    try:
        supervisor.check()
    except FatalError:
        return True
    return False


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_LOOK", 0.01)
    monkeypatch.setattr(supervision, "_delay", lambda ends: 0)


def test_one_that_dies_again_and_again_is_given_up(eventually: Eventually) -> None:
    said: list[str] = []
    with Supervisor(said.append) as supervisor:
        mortal = Mortal()
        supervisor.keep(mortal)
        eventually(lambda: given_up(supervisor))
        with pytest.raises(FatalError, match="the mortal ends again and again: 5 times within 60 seconds"):
            supervisor.check()
    assert mortal.lives == supervision.MOST - 1
    assert len(said) == 2 * mortal.lives


def test_one_that_never_gets_ready_is_given_up_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(supervision, "WITHIN", 0.0)
    with Supervisor(lambda line: None) as supervisor:
        supervisor.keep(Mortal(revivable=False))
        eventually(lambda: given_up(supervisor))
        with pytest.raises(FatalError, match="no room left"):
            supervisor.check()


def test_a_bug_in_a_part_is_told_and_not_lost_in_its_thread(eventually: Eventually) -> None:
    class Broken(Mortal):
        def ended(self) -> str | None:
            raise ZeroDivisionError

    with Supervisor(lambda line: None) as supervisor:
        supervisor.keep(Broken())
        eventually(lambda: given_up(supervisor))
        with pytest.raises(FatalError, match="ZeroDivisionError"):
            supervisor.check()


def test_the_first_time_at_once_and_then_ever_later() -> None:
    assert [_delay(ends) for ends in (1, 2, 3, 4)] == [0, 1, 2, 4]


def test_postgres_is_back_on_its_port_after_its_postmaster_was_killed(tmp_path: Path, eventually: Eventually) -> None:
    said: list[str] = []
    with EmbeddedPostgres(tmp_path) as server, Supervisor(said.append) as supervisor:
        supervisor.keep(server)
        server.ensure_database("kept")
        port, before = server.port, cluster.running(server.data)
        assert before
        os.kill(before.pid, signal.SIGKILL)
        eventually(lambda: len(said) == 2)
        after = cluster.running(server.data)
        assert after
        assert (after.port, server.port) == (port, port)
        assert after.pid != before.pid
        server.ensure_database("kept")
    assert said[0].startswith("PostgreSQL ")
    assert said[1].startswith("PostgreSQL is back")


def test_the_stand_in_is_back_where_it_was(eventually: Eventually, tmp_path: Path) -> None:
    said: list[str] = []
    with StandIn(load(market_size=5)) as market, Supervisor(said.append) as supervisor:
        supervisor.keep(market)
        url = market.url
        os.kill(market.pid, signal.SIGKILL)
        eventually(lambda: len(said) == 2)
        assert market.url == url
        assert httpx.get(f"{url}/_market/health").status_code == 200
    assert said[0] == "the stand-in market was killed; starting it again"


def test_what_a_killed_worker_had_started_goes_on_until_the_end(
    tmp_path: Path, processes_of: ProcessesOf, eventually: Eventually
) -> None:
    log = tmp_path / "log"
    child = Child("the parent", [sys.executable, "-c", PARENT], log, cwd=tmp_path, grace=0.3, outlived=True)
    with child:
        child.wait_ready(lambda: child.said("child"), 20)
        descendant = int(log.read_text().split()[1])
        (parent,) = [line.split()[0] for line in processes_of(tmp_path) if "print(" in line and "leash" not in line]
        os.kill(int(parent), signal.SIGKILL)
        eventually(lambda: child.poll() is not None)
        assert child.ended() == "was killed"
        os.kill(descendant, 0)  # lives
    with pytest.raises(ProcessLookupError):
        os.kill(descendant, 0)
    assert processes_of(tmp_path) == []
