"""The worker of the local stack, and the end of runs that died with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Final

from deployments import dead_runs
from deployments.prefect_server import healthy
from infra.process import Child

_START_SECONDS: Final = 120.0

#: What a living worker needs at most from taking a run to starting its process.
_STARTING: Final = timedelta(seconds=60)


class Worker:
    """A worker that can die and be started again; the runs that it had started go on meanwhile.

    Args:
        make: makes its process, not started yet.
        api_url: of the Prefect server that it works for.
        alone: whether no worker on another machine works for that server, so that runs can be told dead from here.
    """

    name: Final = "the worker"

    def __init__(self, make: Callable[[], Child], api_url: str, *, alone: bool) -> None:
        self._make = make
        self._api_url = api_url
        self._alone = alone
        self._exit = ExitStack()
        self._child = self._start()

    def ended(self) -> str | None:
        """How it ended; None while it runs."""
        return self._child.ended()

    def revive(self, stopping: Callable[[], bool]) -> None:
        """Start another one, once the Prefect server is there; first what the last one left is put right.

        Raises:
            FatalError: it does not start.
        """
        while not healthy(self._api_url):
            if stopping():
                return
            time.sleep(0.2)
        if self._alone:
            self.tidy(worker_lives=False)
        self._child = self._start()
        self._child.wait_ready(lambda: stopping() or self._child.said("started!"), _START_SECONDS)

    def tidy(self, *, worker_lives: bool = True) -> None:
        """End the runs whose process is gone; put those back that a dead worker had only taken."""
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        # The next look does what this one cannot, when the server is away.
        with (
            contextlib.suppress(httpx.HTTPError),
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True) as client,
        ):
            dead_runs.put_back(client, _STARTING if worker_lives else timedelta(0))
            dead_runs.bury_gone(client)

    def stop(self) -> None:
        """End it, and all runs that it and those before it started."""
        self._exit.close()

    def _start(self) -> Child:
        child = self._make()
        self._exit.callback(child.stop)
        child.start()
        return child
