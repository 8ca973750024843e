"""What a whole run needs around it, started once: PostgreSQL, a Prefect server, a market and its kept pages."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.pages import Pages
from benchmarks.whole import Measured, run
from closingbell.settings import load
from closingbell.store import open_store
from deployments.bootstrap import bootstrap
from deployments.prefect_server import PrefectServer, client_environment, prefect_environment
from infra import migrations
from infra.market.process import MarketProcess
from infra.postgres import EmbeddedPostgres

#: Monday evening in New York; Friday, 2026-03-06, is the last session that is due.
NOW: Final = "2026-03-10T02:00:00+00:00"

#: A quota that nobody reaches here, 10,000 calls a second; its window is short, for a run ends when its last one has.
UNLIMITED: Final = "1000/0.1s"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All of it, running.

    Attributes:
        home: a folder that is gone afterwards.
        postgres: durable, as PostgreSQL is by default.
        market_url: of the kept pages.
        environment: the settings of a run, but for its database.
    """

    home: Path
    postgres: EmbeddedPostgres
    market_url: str
    environment: dict[str, str]
    _numbers: Iterator[int]

    def database(self) -> str:
        """The URL of a database that is new, with its tables."""
        name = f"benchmark_{next(self._numbers)}"
        self.postgres.ensure_database(name)
        url = self.postgres.url(name)
        store = open_store(url)
        migrations.upgrade(store.engine)
        store.close()
        return url

    def run(self, database: str, *, plain: bool = False, **parameters: object) -> Measured:
        """Run the ingest flow into a database; see :func:`benchmarks.whole.run`."""
        return run({**self.environment, "DATABASE_URL": database}, plain=plain, **parameters)


@contextmanager
def surroundings(replay: Path | None = None) -> Iterator[Surroundings]:
    """Start all of it; stop it at the end of the block."""
    logging.getLogger("closingbell").setLevel(logging.WARNING)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="closingbell-benchmark-")))
        postgres = stack.enter_context(EmbeddedPostgres(home))
        market = stack.enter_context(MarketProcess(size=11_000, now=NOW, replay=replay, history_years=40))
        pages = stack.enter_context(Pages(market.url))
        postgres.ensure_database("prefect")
        server = PrefectServer(home, postgres.url("prefect", driver="postgresql+asyncpg"))
        stack.callback(server.stop)
        server.start()
        server.wait_ready()
        environment = {
            **client_environment(home, server.api_url),
            "CLOSINGBELL_HOME": str(home),
            "CLOSINGBELL_NOW": NOW,
            "POLYGON_BASE_URL": pages.url,
            "POLYGON_API_KEY": "a-key",
            "POLYGON_CALLS_PER_MINUTE": UNLIMITED,
        }
        stack.enter_context(prefect_environment(environment))
        bootstrap(load())
        yield Surroundings(home, postgres, pages.url, environment, itertools.count(1))
