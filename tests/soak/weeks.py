"""Weeks of nights, each drawn from a seed, played and judged.

A week begins with a copy of a database that holds two calm years. Each of its nights is a fault night; where that left
anything missing, the next is a calm one, and has to bring all of it. Weeks share nothing: the week of a night that
failed can be played again without the others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

from prefect.settings import PREFECT_API_URL, temporary_settings

from closingbell.store import open_store
from tests.soak import evening, oracle
from tests.soak.contents import Contents, read, still_open
from tests.soak.faults import Fault, Scene, draw
from tests.soak.runs import Ask, Ran, Runner
from tests.soak.world import World

#: Nights of a week.
WEEK: Final = 5

#: Calls, seconds.
QUOTA: Final = (100, 0.5)

#: A night's settings, with short waits so that it takes seconds; and what a night has besides in which calls wait.
CALM: Final = {
    "RETRY_DELAY": "0.05",
    "MAX_RETRIES": "2",
    "FETCH_THREADS": "8",
    "POLYGON_READ_TIMEOUT": "30",
    "POLYGON_CALL_TIMEOUT": "120",
}
IMPATIENT: Final = {"POLYGON_READ_TIMEOUT": "0.4", "POLYGON_CALL_TIMEOUT": "1.0"}


class BrokenLawError(AssertionError):
    """A night after which something did not hold."""


@dataclass
class Week:
    """One week.

    Attributes:
        seed, number: what it is drawn from.
        scene: the world, and the ways to its parts.
        runner: runs what is asked.
        tickers: listed ones that may be asked for.
        kinds: of faults that may happen.
        kills: whether runs may be processes that are killed.
        say: takes a line a night.
    """

    seed: int
    number: int
    scene: Scene
    runner: Runner
    tickers: Sequence[str]
    kinds: Sequence[str]
    kills: bool
    say: Callable[[str], None]

    @property
    def world(self) -> World:
        """What is true, and what was asked for."""
        return self.scene.world

    def play(self, nights: int = WEEK) -> None:
        """Night by night, each said in a line.

        Raises:
            BrokenLawError: something did not hold; the rest of the week is not played.
        """
        before = read(self.scene.url)
        for night in range(nights):
            begun, chance = time.monotonic(), random.Random(f"{self.seed}:{self.number}:{night}")
            self.world.move_to(self.world.after(chance.choices((1, 2, 3), (6, 1, 1))[0]))
            evening.happen(chance, self.world)
            asks = evening.asked(chance, self.world, self.tickers, kills=self.kills)
            faults = draw(chance, self.world, self.kinds)
            threads = chance.choice((1, 3, 8))
            wrong = "; ".join(fault.name for fault in faults) or "calm"
            title = f"{self.number}.{night} {self.world.session} {' | '.join(map(str, asks))} :: {wrong}"
            ran, calls, after, broken = self._fault_night(asks, faults, threads, before)
            verdict = "identical"
            if missing := oracle.lacking(after, self.world):
                after, more = self._calm_night(ran, before.marks, after)
                broken += more
                verdict = f"{len(missing)} cells behind, healed in a night"
            outcomes = ", ".join(one.outcome for one in ran)
            self.say(f"{title}\n    -> {outcomes}; {len(calls)} calls; {verdict}; {time.monotonic() - begun:.1f} s")
            for one in ran:
                if one.outcome in ("stopped", "not started"):
                    self.say(f"    {one}: {one.last_words}")
            if broken:
                said = [f"{one}: {one.last_words}" for one in ran]
                raise BrokenLawError("\n  ".join([title, *broken, "the runs said:", *said]))
            before = after

    def _fault_night(
        self, asks: tuple[Ask, ...], faults: Sequence[Fault], threads: int, before: Contents
    ) -> tuple[list[Ran], list[dict[str, object]], Contents, list[str]]:
        self.world.market.clear_calls()
        settings = {**CALM, **(IMPATIENT if any(fault.waits for fault in faults) else {})}
        ran = self.run(asks, {**settings, "FETCH_THREADS": str(threads)}, faults)
        stops = any(fault.stops for fault in faults)
        for one in ran:
            one.may_stop = stops
        left = still_open(self.scene.url)
        calls, after = self.world.market.calls(), read(self.scene.url)
        reasons = frozenset().union(*(fault.reasons for fault in faults))
        if not all(one.ended for one in ran):
            reasons |= {"pending"}
        heard = len(ran) == 1 and not any(fault.unheard for fault in faults)
        broken = [
            *(f"a session of a run is still open: {session}" for session in left),
            *self._lasting(before, after),
            *oracle.explained(after, self.world, ran, reasons),
            *oracle.told(ran, before, after),
            *oracle.counted(ran, calls, QUOTA, heard=heard),
        ]
        if not any(fault.waits for fault in faults):
            broken += oracle.apart(calls)
        if not faults and not any(one.killed for one in ran) and not oracle.lacking(after, self.world):
            broken += self._calm(ran)
        return ran, calls, after, broken

    def _calm_night(
        self, ran: Sequence[Ran], known: Mapping[str, tuple[date, date]], before: Contents
    ) -> tuple[Contents, list[str]]:
        """The nightly over all that was ever asked for, and what did not come to its end and was new once more."""
        self.world.move_to(self.world.after(1))
        again = [
            replace(one.ask, start=one.ask.first, after=0.0, process=False, kill=None)
            for one in ran
            if one.ask.flow == "ingest" and not one.ended and not one.ask.within(known)
        ]
        nightly = Ask("ingest", tuple(sorted(self.world.asked)), None, self.world.session, 3)
        told: list[Ran] = []
        for ask in (*again, nightly):
            told += self.run((ask,), CALM, ())
        after = read(self.scene.url)
        broken = [
            *self._lasting(before, after),
            *oracle.told(told, before, after),
            *oracle.settled(after, self.world),
            *self._calm(told),
        ]
        return after, [f"the calm night after: {line}" for line in broken]

    def _lasting(self, before: Contents, after: Contents) -> Iterator[str]:
        store = open_store(self.scene.url, connections=1, retries=0)
        try:
            yield from oracle.lasting(after, self.world)
            yield from oracle.audited(after, store)
            yield from oracle.revised(before, after)
        finally:
            store.close()

    def _calm(self, ran: Sequence[Ran]) -> Iterator[str]:
        yield from (f"{one}: ended {one.outcome}: {one.words}" for one in ran if one.outcome != "Completed")

    def run(self, asks: tuple[Ask, ...], settings: Mapping[str, str], faults: Sequence[Fault]) -> list[Ran]:
        """Run what is asked, with these settings and while these faults are felt."""
        scene = self.scene
        for ask in asks:
            self.world.ask(ask.tickers, ask.first, ask.end)
        settings = {**settings, "CLOSINGBELL_NOW": self.world.now.isoformat()}
        for name, value in settings.items():
            scene.setenv(name, value)
        api = f"http://127.0.0.1:{scene.prefect.port}/api"
        self.runner.environment = {**self.runner.environment, **settings, "PREFECT_API_URL": api}
        with temporary_settings({PREFECT_API_URL: api}), ExitStack() as stack:
            for fault in faults:
                stack.enter_context(fault.felt(scene))
            return self.runner.run(asks)
