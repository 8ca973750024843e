"""A database that holds two calm years, weeks that begin with a copy of it, and ways to every part that can be cut."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

import pytest
import sqlalchemy as sa

from closingbell.settings import Settings, load
from deployments.prefect_server import PrefectServer
from infra.market.process import MarketProcess
from tests.databases import copied
from tests.proxy import Proxy
from tests.soak.faults import Scene
from tests.soak.runs import Ask, Runner
from tests.soak.weeks import CALM, QUOTA, Week
from tests.soak.world import World

#: The last session that the calm years hold.
BEGIN: Final = date(2026, 3, 6)

#: How many tickers they hold: few in the tests; make soak has more.
KNOWN: Final = int(os.environ.get("CLOSINGBELL_SOAK_TICKERS", "16"))

#: How many others may be asked for later; and two that no market day carries, as OTC stocks are.
NEW: Final = 24
OTC: Final = ("JQKVY", "ZQJKY")


@dataclass
class Weeks:
    """Makes weeks, each with a copy of its own of a database that holds two calm years.

    Attributes:
        scene: that of the calm years.
        runner: runs what is asked.
        server: where databases are made.
        asked: what the calm years were asked for.
        tickers: listed ones that may be asked for.
    """

    scene: Scene
    runner: Runner
    server: sa.URL
    asked: dict[str, tuple[date, date]]
    tickers: Sequence[str]

    @contextmanager
    def week(
        self, seed: int, number: int, kinds: Sequence[str], say: Callable[[str], None], *, kills: bool = True
    ) -> Iterator[Week]:
        """The week of that number, drawn from the seed."""
        calm, scene = sa.make_url(self.scene.url), self.scene
        world = World(scene.world.market, BEGIN)
        world.asked = dict(self.asked)
        with copied(self.server, str(calm.database)) as url:
            here = replace(scene, world=world, url=url.render_as_string(hide_password=False))
            runner = replace(self.runner, environment={**self.runner.environment, "DATABASE_URL": here.database_url})
            for variable, value in runner.environment.items():
                scene.setenv(variable, value)
            yield Week(seed, number, here, runner, self.tickers, kinds, kills, say)


@pytest.fixture(scope="package")
def calm_years(
    prefect_server: PrefectServer,
    postgres: sa.URL,
    _template: str,
    _market: MarketProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Weeks]:
    """A database after two calm years on the shared market; everything goes by ways that can be cut."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    from deployments.bootstrap import bootstrap

    world, home = World(_market, BEGIN), tmp_path_factory.mktemp("soak")
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        Proxy(_port(_market.url)) as vendor,
        Proxy(postgres.port or 5432) as database,
        Proxy(_port(prefect_server.api_url.removesuffix("/api"))) as prefect,
        copied(postgres, _template) as url,
    ):
        monkeypatch.setitem(Settings.model_config, "env_file", None)
        # A flow in this process waits for its heartbeat's thread, which looks up once a second.
        monkeypatch.setattr("prefect.flow_engine.BaseFlowRunEngine.heartbeat_seconds", None)
        way = url.render_as_string(hide_password=False)
        scene = Scene(world, vendor, database, prefect, way, prefect_server, monkeypatch.setenv)
        environment = {
            **CALM,
            "DATABASE_URL": scene.database_url,
            "POLYGON_BASE_URL": f"http://127.0.0.1:{vendor.port}",
            "POLYGON_API_KEY": "any",
            "POLYGON_CALLS_PER_MINUTE": f"{QUOTA[0]}/{QUOTA[1]:g}s",
            "CLOSINGBELL_HOME": str(home),
            "CLOSINGBELL_NOW": world.now.isoformat(),
        }
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        bootstrap(load())
        listed = [one.ticker for one in world.truth.listed("stocks")]
        first = tuple(listed[:KNOWN])
        runner = Runner(home, _market, environment)
        (ran,) = runner.run((Ask("ingest", first, None, BEGIN),))
        assert ran.report is not None, ran.words
        assert ran.report["gaps"] == {}
        asked = dict.fromkeys(first, (ran.ask.first, BEGIN))
        yield Weeks(scene, runner, postgres, asked, (*listed[KNOWN : KNOWN + NEW], *OTC))
        _market.clear_faults()
        # What is still on its way to the server by the proxy would be tried again and again once that is gone.
        APILogWorker.drain_all()
        EventsWorker.drain_all()


@pytest.fixture
def weeks(calm_years: Weeks, monkeypatch: pytest.MonkeyPatch) -> Weeks:
    """Weeks, each after two calm years; the settings of its runs are in the environment for the time of the test."""
    return replace(calm_years, scene=replace(calm_years.scene, setenv=monkeypatch.setenv))


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
