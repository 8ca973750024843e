"""What becomes true on an evening, and what is asked for in its night, drawn from the week's seed."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from typing import Any

from tests.soak.runs import Ask, Kill
from tests.soak.world import World


def happen(chance: random.Random, world: World) -> None:
    """Corrections of the session before, splits, tickers that were not traded.

    Only what the next calm night looks at as well: bars of older sessions are for ``reconcile``.
    """
    yesterday, today = world.sessions(2)
    known = [ticker for ticker in sorted(world.asked) if world.on_market_day(ticker)]
    if chance.random() < 0.5:
        for ticker in chance.sample(known, min(chance.choice((1, 3, 10)), len(known))):
            if values := world.true(ticker).get((ticker, yesterday)):
                high, close = (float(values[i] or 0.0) for i in (1, 3))
                world.correct(ticker, yesterday, {"close": round(close * 1.001, 4), "high": round(high * 1.1, 4)})
    if chance.random() < 0.2:
        world.split(chance.choice(known), today, 1, chance.choice((2, 3, 10)))
    if chance.random() < 0.2:
        world.correct(chance.choice(known), today, None)


def asked(chance: random.Random, world: World, new: Sequence[str], *, kills: bool) -> tuple[Ask, ...]:
    """The runs of a night, in any order: the nightly, or others beside it or in its place.

    Args:
        chance: the week's.
        world: knows what was asked for before.
        new: tickers that may be asked for the first time.
        kills: whether a run may be a process that is killed.
    """
    known = tuple(sorted(world.asked))
    nightly = Ask("ingest", known, None, world.session, 3, **_manner(chance))
    shapes = ("nightly", "two", "three", "manual", "reconcile", "killed")
    shape = chance.choices(shapes, (6, 3, 2, 1, 1, 3 if kills else 0))[0]
    asks = [nightly]
    if shape == "killed":
        by = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT))
        calls = chance.choice((0, 1, 2, 4, 8))
        kill = Kill(calls, chance.uniform(0.0, 1.5) if calls else chance.uniform(1.0, 6.0), by)  # it has to start first
        asks = [Ask("ingest", known, None, world.session, 3, 5, process=True, kill=kill)]
    if shape in ("two", "three", "manual") or (shape == "killed" and chance.random() < 0.5):
        asks.append(_manual(chance, world, new))
    if shape == "three":
        asks.append(Ask("retry", (), None, world.session, **_manner(chance)))
    if shape == "reconcile":
        asks.append(Ask("reconcile", known[:8], world.sessions(20)[0], world.session, **_manner(chance)))
    if shape == "manual":
        asks.remove(nightly)
    chance.shuffle(asks)
    return tuple(asks)


def _manual(chance: random.Random, world: World, new: Sequence[str]) -> Ask:
    """Some known tickers and some new ones, from a day of the last weeks on."""
    fresh = [ticker for ticker in new if ticker not in world.asked]
    chosen = chance.sample(sorted(world.asked), 4) + chance.sample(fresh, min(chance.choice((0, 2, 6)), len(fresh)))
    return Ask("ingest", tuple(chosen), chance.choice(world.sessions(60)[:45]), world.session, **_manner(chance))


def _manner(chance: random.Random) -> dict[str, Any]:
    return {"batch_size": chance.choice((1, 3, 25)), "after": chance.choice((0.0, 0.0, chance.uniform(0.0, 1.0)))}
