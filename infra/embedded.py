"""The embedded default for whatever the settings leave unset, started or joined, from any process.

A run in a worker, a command in a terminal and the local stack all come here. With everything set, nothing is
started and neither PostgreSQL nor the market is even imported.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.error import URLError
from urllib.request import urlopen

from pydantic import SecretStr

from closingbell.quota import Quota
from closingbell.settings import Settings
from infra import standing
from infra.process import how_it_ended
from infra.supervision import Supervisor

if TYPE_CHECKING:
    from infra.market.process import MarketProcess

DATABASE: Final = "closingbell"

#: What the stand-in is sent as a key; it accepts any.
STAND_IN_KEY: Final = "stand-in"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Provided:
    """What a run works against, wherever each part came from.

    Attributes:
        database_url: SQLAlchemy URL, with its password.
        polygon_base_url: the vendor's address, or the stand-in's.
        polygon_api_key: the key for it.
        quota: the calls that it allows.
        started: what this process started or joined, for people: ``PostgreSQL at ...``.
    """

    database_url: SecretStr
    polygon_base_url: str
    polygon_api_key: SecretStr
    quota: Quota
    started: tuple[str, ...] = field(default=())


@contextmanager
def provide(settings: Settings) -> Iterator[Provided]:
    """Everything a run needs, for the time of the block; what this process started or joined ends with it.

    Raises:
        ConfigurationError: an embedded part cannot be used here; says which setting replaces it.
        FatalError: an embedded part does not start.
    """
    with ExitStack() as stack:
        started: list[str] = []
        database_url = settings.database_url or SecretStr(stack.enter_context(database(settings, started)))
        base_url, key = settings.polygon_base_url, settings.polygon_api_key
        if key is None:
            base_url, key = stack.enter_context(market(settings, started)), SecretStr(STAND_IN_KEY)
        yield Provided(database_url, base_url, key, settings.quota, tuple(started))


@contextmanager
def database(settings: Settings, started: list[str]) -> Iterator[str]:
    """The URL of the embedded database, with its server running, and started again if it dies."""
    from infra.postgres import running

    with running(settings.closingbell_home) as server, Supervisor(_log.warning) as supervisor:
        if not standing.is_claimed(settings.closingbell_home):  # else it is the stack that keeps it
            supervisor.keep(server)
        server.ensure_database(DATABASE)
        started.append(f"PostgreSQL on port {server.port}, database {DATABASE}")
        yield server.url(DATABASE)


@contextmanager
def market(settings: Settings, started: list[str]) -> Iterator[str]:
    """The address of the stand-in market: the running stack's, if it is the market that is wanted, else our own."""
    there = standing.read(settings.closingbell_home)
    wanted = standing.market_identity(settings)
    if there and there.market_url and there.market == wanted and _health(there.market_url):
        started.append(f"stand-in market at {there.market_url} (joined)")
        yield there.market_url
        return
    with StandIn(settings) as own, Supervisor(_log.warning) as supervisor:
        supervisor.keep(own)
        started.append(f"stand-in market at {own.url}")
        yield own.url


class StandIn:
    """A stand-in market of this process's own, as the settings describe it; a context manager.

    Args:
        settings: which bars it serves, at which quota.
    """

    name: Final = "the stand-in market"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._market = self._start(0)

    @property
    def url(self) -> str:
        """Where it answers, also after it was started again."""
        return self._market.url

    @property
    def pid(self) -> int:
        """The process that serves it now."""
        return self._market.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._market.stop()

    def ended(self) -> str | None:
        """How it ended; None while it runs."""
        status = self._market.poll()
        return None if status is None else how_it_ended(128 - status if status < 0 else status)

    def revive(self, stopping: Callable[[], bool]) -> None:
        """Start it again on its port, with an empty log of calls.

        Raises:
            FatalError: it does not start.
        """
        self._market.stop()
        self._market = self._start(int(self.url.rpartition(":")[2]))

    def _start(self, port: int) -> MarketProcess:
        from infra.market.process import MarketProcess

        return MarketProcess(
            size=self._settings.market_size,
            seed=self._settings.market_seed,
            replay=self._settings.market_replay,
            now=self._settings.closingbell_now,
            quota=f"{self._settings.quota.calls}/{self._settings.quota.seconds:g}s",
            port=port,
        )


def _health(url: str) -> bool:
    """Whether a market answers there."""
    try:
        with urlopen(f"{url}/_market/health", timeout=5) as answer:  # noqa: S310 - a loopback address of ours
            return bool(json.load(answer).get("ready"))
    except (URLError, OSError, ValueError):
        return False
