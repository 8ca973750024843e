"""The local stack: everything that a night needs, on loopback, for as long as one process lives."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from closingbell.errors import FatalError
from closingbell.settings import Settings
from deployments.bootstrap import CHECKOUT, POOL, bootstrap
from deployments.prefect_server import (
    PrefectServer,
    client_environment,
    prefect_environment,
    settings_environment,
)
from deployments.register import TIDY
from infra import embedded, standing
from infra.postgres import EmbeddedPostgres
from infra.process import Child

#: Seconds between a worker's questions for work; Prefect's own default makes a person wait up to 10.
_WORKER_POLL = "2"
_REGISTER_SECONDS = 240.0


class Stack:
    """The embedded parts that the settings leave unset, with deployments and a worker; a context manager.

    While the block lasts, this process's environment names the Prefect server.

    Args:
        settings: what to start, and what the runs get.
        serves: whether to deploy the flows and start a market and a worker; else only the server and its limit.
        nightly: whether nights that were missed while it was down are made up for.
    """

    def __init__(self, settings: Settings, *, serves: bool = True, nightly: bool = False) -> None:
        self.settings = settings
        self.serves = serves
        self.nightly = nightly
        self.home = settings.closingbell_home
        self.environment: dict[str, str] = {}
        self.database_shown = ""
        self.market_url: str | None = None
        self._exit = ExitStack()
        self._children: list[Child] = []

    @property
    def api_url(self) -> str:
        """The Prefect server's API."""
        return self.environment["PREFECT_API_URL"]

    @property
    def ui_url(self) -> str:
        """Where people look at it."""
        return self.api_url.removesuffix("/api")

    def __enter__(self) -> Self:
        try:
            self._exit.enter_context(standing.claim(self.home))
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def check(self) -> None:
        """Raise when a part has ended by itself.

        Raises:
            FatalError: it has; the message ends with its log.
        """
        for child in self._children:
            if (status := child.poll()) is not None:
                raise FatalError(
                    f"{child.name} ended with status {status}",
                    value=f"its log {child.log} ends with\n{child.output()}\n",
                    fix="See the log.",
                )

    def _start(self) -> None:
        """Start what can start together together; the Prefect server takes longest, so it goes first."""
        server = self._start_server()
        self._exit.enter_context(prefect_environment(self.environment))
        register = self._start_register(local=server is not None) if self.serves else None
        if self.serves and self.settings.uses_stand_in:
            self.market_url = self._exit.enter_context(embedded.start_market(self.settings)).url
        if server:
            server.wait_ready()
            assert server.child  # noqa: S101 - started above
            self._children.append(server.child)
        if register:
            register.wait_ready(lambda: register.said(TIDY), _REGISTER_SECONDS)
            self._start_worker()
            status = register.wait(_REGISTER_SECONDS)
            if status:
                raise FatalError("the deployments could not be registered", value=f"\n{register.output()}\n")
        else:
            bootstrap(self.settings)
        standing.announce(self.home, self._standing())

    def _start_server(self) -> PrefectServer | None:
        """Start PostgreSQL and the Prefect server on it, as far as no setting names others."""
        settings, server = self.settings, None
        if settings.database_url is None or settings.prefect_api_url is None:
            postgres = self._exit.enter_context(EmbeddedPostgres(self.home))
            if settings.prefect_api_url is None:
                postgres.ensure_database("prefect")
                server = PrefectServer(self.home, postgres.url("prefect", driver="postgresql+asyncpg"))
                self._exit.callback(server.stop)
                server.start()
            if settings.database_url is None:
                postgres.ensure_database(embedded.DATABASE)
                self.database_shown = without_password(postgres.url(embedded.DATABASE, driver="postgresql"))
        if settings.database_url is not None:
            self.database_shown = without_password(settings.database_url.get_secret_value())
        if server:
            self.environment = client_environment(self.home, server.api_url)
        else:
            self.environment = {"PREFECT_API_URL": str(settings.prefect_api_url)}
        return server

    def _child(self, name: str, module: str, *arguments: str, grace: float = 10.0) -> Child:
        environment = {**os.environ, **settings_environment(self.settings), **self.environment}
        environment["PREFECT_WORKER_QUERY_SECONDS"] = _WORKER_POLL
        child = Child(
            f"the {name}",
            [sys.executable, "-m", module, *arguments],
            self.home / "logs" / f"{name}.log",
            env=environment,
            cwd=CHECKOUT,
            grace=grace,
        )
        self._exit.callback(child.stop)
        child.start()
        return child

    def _start_register(self, *, local: bool) -> Child:
        way = "nightly" if self.nightly else "once"
        return self._child("register", "deployments.register", *(["--local", way] if local else []))

    def _start_worker(self) -> None:
        worker = self._child("worker", "prefect", "worker", "start", "--pool", POOL, "--type", "process")
        self._children.append(worker)

    def _standing(self) -> standing.Standing:
        market = standing.market_identity(self.settings) if self.market_url else None
        return standing.Standing(os.getpid(), self.api_url, self.market_url, market, self.serves)


def without_password(url: str) -> str:
    """The URL with its password left out."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=user.partition(":")[0] + at + host, query="").geturl()
