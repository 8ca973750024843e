"""Kills at random instants, of every process there is: nothing lost, nothing twice, nobody left behind."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from closingbell.universe import resolve
from tests.stack.kills import VICTIMS, Served, kill, look, wipe

pytestmark = [pytest.mark.soak, pytest.mark.prefect]

#: What every round asks for: some eighty calls, four seconds at the quota.
ASKED = {
    "tickers": list(resolve("sp500", None))[:64],
    "start": "2025-09-02",
    "end": "2026-02-27",
    "recheck_sessions": 0,
    "skip_non_sessions": False,
}
QUOTA = "15/s"


@pytest.fixture
def served(processes_of: Callable[[Path], list[str]], eventually: Callable[..., None]) -> Iterator[Served]:
    """A stack of its own, away from where other test sessions change the folders' rights."""
    settings = {"MARKET_SIZE": "100", "POLYGON_CALLS_PER_MINUTE": QUOTA, "CLOSINGBELL_NOW": "2026-03-10T02:00:00+00:00"}
    with TemporaryDirectory(prefix="closingbell-kills-") as home:
        stack = Served(Path(home), settings, processes_of, eventually)
        stack.start()
        try:
            yield stack
            stack.process.terminate()
            assert stack.process.wait(120) == 0, stack.log.read_text()
            assert processes_of(stack.home) == []
        finally:
            stack.process.kill()
            stack.process.wait()
            eventually(lambda: not processes_of(stack.home), 120)


@pytest.mark.timeout(0)
def test_kills_at_random_instants_everywhere(served: Served, eventually: Callable[..., None]) -> None:
    rounds = int(os.environ.get("CLOSINGBELL_KILLS", "100"))
    seed = int(os.environ.get("CLOSINGBELL_SEED") or random.randrange(2**32))
    print(f"seed {seed}: CLOSINGBELL_SEED={seed} CLOSINGBELL_KILLS={rounds}")  # noqa: T201
    chance, killed, ends = random.Random(seed), Counter[str](), Counter[str]()
    began = time.monotonic()
    state, message = served.end_of(served.begin("nightly", **ASKED))
    assert state == "COMPLETED", message
    lasted, calm = time.monotonic() - began, look(served.home)
    assert len(calm[0]) > 5_000
    number = 0
    while killed.total() < rounds:
        number += 1
        wipe(served.home)
        begun, said = time.monotonic(), []
        run = served.begin("nightly", **ASKED)
        for _ in range(chance.choice((1, 2, 3, 4))):
            time.sleep(chance.uniform(0, lasted / 2))
            (victim,) = chance.choices(list(VICTIMS), list(VICTIMS.values()))
            if kill(served, victim, chance):
                killed[victim] += 1
                said.append(f"{victim} after {time.monotonic() - begun:.1f} s")
                print(f"{number:4}: {said[-1]}")  # noqa: T201
            if victim == "the command":
                served.process.wait()
                eventually(lambda: not served.processes_of(served.home), 120)
                served.start()
        about = f"seed {seed}, round {number}: {', '.join(said) or 'nobody'}"
        end, message = served.end_of(run)
        ends[end] += 1
        if end != "COMPLETED":  # nothing is lost, and one calm run does the rest
            state, message = served.end_of(served.begin("nightly", **ASKED))
            assert state == "COMPLETED", f"{about}, {end}; the next: {state} {message}"
        assert look(served.home) == calm, f"{about}, {end} {message}"
        eventually(lambda: not served.under_way(), 60)
        print(f"{number:4}: {end}, well after {time.monotonic() - begun:.0f} s")  # noqa: T201
    eventually(lambda: not served.slots(), 240)
    print(f"seed {seed}: {number} rounds, {dict(killed)}, first runs: {dict(ends)}")  # noqa: T201
