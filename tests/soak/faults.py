"""What goes wrong in a night, drawn from its seed; each says which reasons it can give to a cell that has a bar."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from deployments.prefect_server import PrefectServer
from tests.proxy import Proxy
from tests.soak.meanwhile import Meanwhile, meanwhile
from tests.soak.world import World


@dataclass(frozen=True)
class Scene:
    """What a fault can lay hands on.

    Attributes:
        world: the market and what is true.
        market, database, prefect: the ways to them, which can be cut.
        url: the database's, past the proxy.
        server: the Prefect server.
        setenv: changes a setting of the night's runs.
    """

    world: World
    market: Proxy
    database: Proxy
    prefect: Proxy
    url: str
    server: PrefectServer
    setenv: Callable[[str, str], None]

    @property
    def database_url(self) -> str:
        """The database's, by the proxy."""
        way = sa.make_url(self.url).set(host="127.0.0.1", port=self.database.port)
        return way.render_as_string(hide_password=False)


@dataclass(frozen=True)
class Fault:
    """One fault of a night.

    Attributes:
        name: with its numbers, for the line.
        felt: makes it happen for the time of a block.
        reasons: that a cell with a true bar may have after it.
        stops: whether a run may have to stop for it; it waits for a database or a Prefect server that is away.
        unheard: whether calls may get lost on their way to the market.
        waits: whether calls wait for an answer until a timeout, which is short then.
    """

    name: str
    felt: Callable[[Scene], AbstractContextManager[None]]
    reasons: frozenset[str] = frozenset()
    stops: bool = False
    unheard: bool = False
    waits: bool = False


# -- the market's answers ----------------------------------------------------------------------------------------

#: What may happen to a call, by the name in the line.
ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "429": {"action": "status", "status": 429},
    "429 with Retry-After": {"action": "status", "status": 429, "headers": {"Retry-After": "1"}},
    "500": {"action": "status", "status": 500},
    "502": {"action": "status", "status": 502},
    "503 with Retry-After": {"action": "status", "status": 503, "headers": {"Retry-After": "1"}},
    "504": {"action": "status", "status": 504},
    "408": {"action": "status", "status": 408},
    "reset": {"action": "reset"},
    "truncated": {"action": "truncate"},
    "html": {"action": "html"},
    "garbage": {"action": "garbage", "bytes": 300_000},
    "wrong ticker": {"action": "wrong_ticker", "path": "/range/"},
    "short count": {"action": "short_count"},
    "twice": {"action": "twice"},
    "loop": {"action": "loop", "path": "/range/"},
    "silence": {"action": "stall", "seconds": 3.0},
    "silence in the body": {"action": "stall", "seconds": 3.0, "when": "body"},
    "drip": {"action": "drip", "seconds": 6.0},
    "empty market day": {"action": "empty", "path": "/grouped/"},
}
_WAITING: Final = ("silence", "silence in the body", "drip")
_WHERE: Final = ("", "", "", "/range/", "/grouped/", "/splits")


def answers(chance: random.Random, world: World) -> Fault:
    """Some kinds of bad answers, to some calls or to all of them."""
    kinds = chance.sample(sorted(ANSWERS), chance.choice((1, 1, 2, 4)))
    for_ever = chance.random() < 0.25
    rules: list[dict[str, Any]] = []
    for kind in kinds:
        where = {"path": chance.choice(_WHERE), **ANSWERS[kind]}
        if for_ever:
            rules.append({**where, "after": chance.choice((0, 0, 1, 3))})
        else:
            rules += ({**where, "after": chance.randrange(12), "times": chance.choice((1, 1, 2, 5))} for _ in range(4))
    chance.shuffle(rules)
    reasons = {"failed", "pending"}
    reasons |= {"unpublished"} if "empty market day" in kinds else set()
    reasons |= {"quarantined"} if "twice" in kinds else set()
    return Fault(
        f"{' + '.join(kinds)}{' for ever' if for_ever else ''}",
        lambda scene: _rules(scene, rules),
        frozenset(reasons),
        stops=True,
        waits=any(kind in _WAITING for kind in kinds),
    )


def key_refused(chance: random.Random, world: World) -> Fault:
    """The key is refused, from some call on or for a few."""
    after, times = chance.choice((0, 1, 3, 8)), chance.choice((1, 2, None))
    rule = {"action": "status", "status": 401, "body": '{"status":"ERROR","error":"Unknown API Key"}'}
    rule |= {"after": after, "times": times}
    name = f"key refused after {after} calls{'' if times is None else f', {times} times'}"
    return Fault(name, lambda scene: _rules(scene, [rule]), frozenset({"pending", "failed"}), stops=True)


def wrong_scale(chance: random.Random, world: World) -> Fault:
    """The newest bars of some tickers a hundredfold, or half of their prices halved; rules find that out.

    Not on the day of a split: where the look at splits fails too, nothing tells its share of the factor.
    """
    split = {one.ticker for one in world.splits if one.day == world.session}
    known = [ticker for ticker in world.asked if world.on_market_day(ticker) and ticker not in split]
    tickers = chance.sample(sorted(known), min(chance.choice((1, 3, 8)), len(known)))
    rule = {"action": "scale", "tickers": tickers, "first": str(world.session), "last": str(world.session)}
    name, how = chance.choice(
        (
            ("hundredfold", {"factor": 100}),
            ("hundredth", {"factor": 0.01}),
            ("half split", {"factor": 0.5, "fields": ["high", "close"]}),
        )
    )
    where = chance.choice(({}, {"path": "/grouped/"}))
    return Fault(
        f"{name} {len(tickers)}", lambda scene: _rules(scene, [{**rule, **how, **where}]), frozenset({"quarantined"})
    )


def same_series(chance: random.Random, world: World) -> Fault:
    """Market days give out one ticker's bars as everyone's."""
    of = chance.choice(sorted(ticker for ticker in world.asked if world.on_market_day(ticker)))
    rule = {"action": "same_series", "of": of, "path": "/grouped/"}
    return Fault(f"all are {of}", lambda scene: _rules(scene, [rule]), frozenset({"quarantined"}))


def market_down(chance: random.Random, world: World) -> Fault:
    """Nobody reaches the market for some seconds, now and then."""
    pauses = [(chance.uniform(0.0, 1.5), chance.uniform(0.05, 1.5)) for _ in range(chance.choice((1, 2, 4)))]
    name = f"market away {len(pauses)} times, {sum(down for _, down in pauses):.1f} s"
    reasons = frozenset({"failed", "pending"})
    return Fault(name, lambda scene: _cuts(scene.market, pauses), reasons, stops=True, unheard=True)


@contextmanager
def _rules(scene: Scene, rules: Sequence[dict[str, Any]]) -> Iterator[None]:
    scene.world.market.faults(rules)
    yield
    scene.world.calm()


# -- the database ------------------------------------------------------------------------------------------------


def backends_killed(chance: random.Random, world: World) -> Fault:
    """Connections to the database are ended by its server at any moment."""
    pauses = [chance.uniform(0.02, 0.6) for _ in range(chance.choice((1, 3, 10)))]

    def work(until: Meanwhile, engine: sa.Engine) -> None:
        for pause in pauses:
            if until.over(pause):
                return
            _insist(engine, _KILL_ONE)

    return Fault(f"{len(pauses)} backends killed", lambda scene: _on_database(scene, work))


def connections_cut(chance: random.Random, world: World) -> Fault:
    """The network to the database breaks all connections at once, now and then."""
    pauses = [(chance.uniform(0.02, 0.8), chance.choice((0.0, 0.0, 0.3))) for _ in range(chance.choice((1, 2, 4)))]
    name = f"database cut off {len(pauses)} times"
    return Fault(name, lambda scene: _cuts(scene.database, pauses))


def commits_unanswered(chance: random.Random, world: World) -> Fault:
    """The answer to a COMMIT, or a COPY before it, never arrives: nobody knows whether it was done."""
    words = chance.choices(("COMMIT", "COPY", "MERGE", "INSERT"), (6, 2, 1, 1), k=chance.choice((1, 2, 4)))
    pauses = [chance.uniform(0.02, 0.3) for _ in words]

    def work(until: Meanwhile, proxy: Proxy) -> None:
        for word, pause in zip(words, pauses, strict=True):
            if until.over(pause):
                return
            proxy.lose(word)
            while not proxy.lost.wait(0.02):
                if until.over(0.0):
                    return

    @contextmanager
    def felt(scene: Scene) -> Iterator[None]:
        with meanwhile(work, scene.database):
            yield
        scene.database.lose("")

    return Fault(f"answers to {', '.join(words)} lost", felt)


def rows_locked(chance: random.Random, world: World) -> Fault:
    """A stranger locks watermarks for a second, in an order that makes deadlocks."""
    tickers = chance.sample(sorted(world.asked), min(6, len(world.asked)))
    tickers.sort(reverse=True)
    pauses = [chance.uniform(0.02, 0.3) for _ in tickers]

    def work(until: Meanwhile, engine: sa.Engine) -> None:
        for _ in range(2):
            # It may be the stranger's turn to lose the deadlock, or its server may die.
            with suppress(sa.exc.OperationalError), engine.connect() as connection:
                connection = connection.execution_options(isolation_level="READ COMMITTED")
                for ticker, pause in zip(tickers, pauses, strict=True):
                    connection.execute(_LOCK_ONE, {"ticker": ticker})
                    if until.over(pause):
                        return

    return Fault(f"{len(tickers)} rows locked backwards", lambda scene: _on_database(scene, work))


def read_only(chance: random.Random, world: World) -> Fault:
    """The server fails over to a read-only one for some seconds."""
    before, lasts = chance.uniform(0.0, 1.0), chance.uniform(0.2, 2.0)

    def work(until: Meanwhile, engine: sa.Engine) -> None:
        name = engine.url.database
        if until.over(before):
            return
        for statement in (f'ALTER DATABASE "{name}" SET default_transaction_read_only = on', _KILL_ALL):
            _insist(engine, statement)
        until.over(lasts)
        for statement in (f'ALTER DATABASE "{name}" RESET default_transaction_read_only', _KILL_ALL):
            _insist(engine, statement)

    # A server that has taken nothing yet may be the wrong one: that stops a run.
    stopped: dict[str, Any] = {"reasons": frozenset({"pending"}), "stops": True}
    return Fault(f"read-only for {lasts:.1f} s", lambda scene: _on_database(scene, work), **stopped)


#: The name of connections that bring trouble, and are spared by others that do.
_STRANGER: Final = "stranger"


def postgres_crashed(chance: random.Random, world: World) -> Fault:
    """``kill -9`` of a server process of PostgreSQL, which ends all others; it recovers from its log."""
    pauses = [chance.uniform(0.05, 1.5) for _ in range(chance.choice((1, 1, 2)))]

    @contextmanager
    def felt(scene: Scene) -> Iterator[None]:
        def work(until: Meanwhile, engine: sa.Engine) -> None:
            for pause in pauses:
                if not until.over(pause):
                    with suppress(sa.exc.OperationalError), engine.connect() as connection:
                        os.kill(connection.execute(_MY_PROCESS).scalar_one(), signal.SIGKILL)

        # The tests' own server may forget what it committed just before it is killed, unless it is told otherwise;
        # and a sequence copied with its database goes back to what it was, unless there was a checkpoint since.
        engine = _stranger(scene)
        for statement in ("ALTER SYSTEM SET synchronous_commit = on", _RELOAD, "CHECKPOINT"):
            _insist(engine, statement)
        with meanwhile(work, engine):
            yield
        for statement in ("ALTER SYSTEM SET synchronous_commit = off", _RELOAD):
            _insist(engine, statement)

    return Fault(f"PostgreSQL killed {len(pauses)} times", felt)


_MY_PROCESS: Final = sa.text("SELECT pg_backend_pid()")
_RELOAD: Final = "SELECT pg_reload_conf()"

_OTHERS: Final = f"""
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name <> '{_STRANGER}' AND backend_type = 'client backend'
"""
_KILL_ONE: Final = f"SELECT pg_terminate_backend(pid) {_OTHERS} ORDER BY random() LIMIT 1"
_KILL_ALL: Final = f"SELECT pg_terminate_backend(pid) {_OTHERS}"
_LOCK_ONE: Final = sa.text("SELECT FROM watermark WHERE ticker = :ticker FOR UPDATE")


def _on_database(scene: Scene, work: Callable[[Meanwhile, sa.Engine], None]) -> AbstractContextManager[None]:
    """Let it work on connections of its own, past the proxy."""
    return meanwhile(work, _stranger(scene))


def _stranger(scene: Scene) -> sa.Engine:
    named = {"application_name": _STRANGER, "options": "-c default_transaction_read_only=off"}
    return sa.create_engine(scene.url, poolclass=sa.NullPool, connect_args=named, isolation_level="AUTOCOMMIT")


def _insist(engine: sa.Engine, statement: str) -> None:
    """Carry a statement out, also when another fault has its connection die."""
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
                return
        except sa.exc.OperationalError:
            time.sleep(0.05)


@contextmanager
def _cuts(proxy: Proxy, pauses: Sequence[tuple[float, float]]) -> Iterator[None]:
    def work(until: Meanwhile, proxy: Proxy) -> None:
        for before, down in pauses:
            if until.over(before):
                return
            proxy.cut()
            until.over(down)
            proxy.mend()

    with meanwhile(work, proxy):
        yield


# -- Prefect -----------------------------------------------------------------------------------------------------


def prefect_away(chance: random.Random, world: World) -> Fault:
    """Nobody reaches the Prefect server for some seconds."""
    pauses = [(chance.uniform(0.2, 1.5), chance.uniform(0.1, 2.0)) for _ in range(chance.choice((1, 2)))]
    name = f"Prefect away {len(pauses)} times, {sum(down for _, down in pauses):.1f} s"
    return Fault(name, lambda scene: _cuts(scene.prefect, pauses))


def prefect_killed(chance: random.Random, world: World) -> Fault:
    """``kill -9`` of the Prefect server; it is started again."""
    pause = chance.uniform(0.2, 2.0)

    def work(until: Meanwhile, server: PrefectServer) -> None:
        until.over(pause)
        for pid in _processes_of(server.api_url.removesuffix("/api").rpartition(":")[2]):
            os.kill(pid, signal.SIGKILL)
        server.revive(lambda: False)

    @contextmanager
    def felt(scene: Scene) -> Iterator[None]:
        with meanwhile(work, scene.server):
            yield

    return Fault("Prefect server killed", felt)


def _processes_of(port: str) -> list[int]:
    """The processes that were started to serve that port, without the leash that they are on."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_bytes().split(b"\0")
            if b"--port" in words and port.encode() in words and not any(b"leash" in word for word in words):
                found.append(int(file.parent.name))
    return found


#: Every kind, with its weight. The names are those that CLOSINGBELL_SOAK_FAULTS takes.
KINDS: Final[dict[str, tuple[float, Callable[[random.Random, World], Fault]]]] = {
    "answers": (5, answers),
    "key": (1, key_refused),
    "market": (1, market_down),
    "scale": (1.5, wrong_scale),
    "series": (0.7, same_series),
    "backends": (1.5, backends_killed),
    "cuts": (1, connections_cut),
    "commits": (1.5, commits_unanswered),
    "locks": (1, rows_locked),
    "readonly": (0.7, read_only),
    "prefect": (1, prefect_away),
    "crash": (0.7, postgres_crashed),
    "restart": (0.5, prefect_killed),
}

#: Those that take seconds to recover from: not for the short tests.
SLOW: Final = ("crash", "restart")


def draw(chance: random.Random, world: World, kinds: Sequence[str]) -> list[Fault]:
    """The faults of a night: none now and then, three at most, each of another kind."""
    count, chosen = chance.choices((0, 1, 2, 3), (1, 4, 3, 2))[0], list[str]()
    while len(chosen) < min(count, len(kinds)):
        (kind,) = chance.choices(kinds, [KINDS[kind][0] for kind in kinds])
        if kind not in chosen:
            chosen.append(kind)
    return [KINDS[kind][1](chance, world) for kind in sorted(chosen)]
