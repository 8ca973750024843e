"""The local stack: everything that a night needs, on loopback, for as long as one process lives."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import click

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
from deployments.worker import Worker
from infra import embedded, standing
from infra.postgres import EmbeddedPostgres
from infra.process import Child
from infra.supervision import Supervisor

#: Seconds between a worker's questions for work; Prefect's own default makes a person wait up to 10.
_WORKER_POLL = "2"
_REGISTER_SECONDS = 240.0

#: Seconds between two looks for runs that died unseen.
_TIDY_SECONDS = 15.0


class Stack:
    """The embedded parts that the settings leave unset, with deployments and a worker; a context manager.

    While the block lasts, this process's environment names the Prefect server.

    Args:
        settings: what to start, and what the runs get.
        serves: whether to deploy the flows and start a market and a worker; else only the server and its limit.
        nightly: whether nights that were missed while it was down are made up for.
        say: told a line when a part has died, and when it is back.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        serves: bool = True,
        nightly: bool = False,
        say: Callable[[str], None] = lambda line: click.echo(line, err=True),
    ) -> None:
        self.settings = settings
        self.serves = serves
        self.nightly = nightly
        self.home = settings.closingbell_home
        self.environment: dict[str, str] = {}
        self.database_shown = ""
        self.market_url: str | None = None
        self._exit = ExitStack()
        self._supervisor = Supervisor(say)

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
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._supervisor.stop()
        self._exit.close()

    def check(self) -> None:
        """Raise when a part ends again and again; one that ends now and then is started again by itself.

        Raises:
            FatalError: it was given up; the message says why.
        """
        self._supervisor.check()

    def _start(self) -> None:
        """Start what can start together together; the Prefect server takes longest, so it goes first."""
        server = self._start_server()
        self._exit.enter_context(prefect_environment(self.environment))
        register = self._start_register(local=server is not None) if self.serves else None
        if self.serves and self.settings.uses_stand_in:
            market = self._exit.enter_context(embedded.StandIn(self.settings))
            self._supervisor.keep(market)
            self.market_url = market.url
        if server:
            server.wait_ready()
            if server.api_url != self.api_url:  # somebody took the port in the meantime
                self.environment = client_environment(self.home, server.api_url)
                self._exit.enter_context(prefect_environment(self.environment))
                if register:
                    register.stop()
                    register = self._start_register(local=True)
            self._supervisor.keep(server)
        if register:
            register.wait_ready(partial(register.said, TIDY), _REGISTER_SECONDS)
            worker = Worker(self._worker_process, self.api_url, home=self.home if server else None)
            self._exit.callback(worker.stop)
            self._supervisor.keep(worker)
            if server:
                self._supervisor.repeat(worker.tidy, _TIDY_SECONDS)
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
            self._supervisor.keep(postgres)
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

    def _child(self, name: str, module: str, *arguments: str, outlived: bool = False) -> Child:
        environment = {**os.environ, **settings_environment(self.settings), **self.environment}
        environment["PREFECT_WORKER_QUERY_SECONDS"] = _WORKER_POLL
        return Child(
            f"the {name}",
            [sys.executable, "-m", module, *arguments],
            self.home / "logs" / f"{name}.log",
            env=environment,
            cwd=CHECKOUT,
            outlived=outlived,
        )

    def _start_register(self, *, local: bool) -> Child:
        way = "nightly" if self.nightly else "once"
        child = self._child("register", "deployments.register", *(["--local", way] if local else []))
        self._exit.callback(child.stop)
        child.start()
        return child

    def _worker_process(self) -> Child:
        """A worker that is not started yet; a run that it started goes on when it is killed."""
        return self._child("worker", "prefect", "worker", "start", "--pool", POOL, "--type", "process", outlived=True)

    def _standing(self) -> standing.Standing:
        market = standing.market_identity(self.settings) if self.market_url else None
        return standing.Standing(os.getpid(), self.api_url, self.market_url, market, self.serves)


def without_password(url: str) -> str:
    """The URL with its password left out."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=user.partition(":")[0] + at + host, query="").geturl()
