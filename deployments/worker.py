"""The worker of the local stack, and the end of runs that died with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

from deployments import dead_runs
from deployments.prefect_server import healthy, is_of
from infra.process import Child

_START_SECONDS: Final = 120.0

#: What a living worker needs at most from taking a run to starting its process.
_STARTING: Final = timedelta(seconds=60)


class Worker:
    """A worker that can die and be started again; the runs that it had started go on meanwhile.

    Args:
        make: makes its process, not started yet.
        api_url: of the Prefect server that it works for.
        home: whose server it is, if of this machine: then no other machine's worker works for it, and runs can be told
            dead from here. None: somebody else's.
    """

    name: Final = "the worker"

    def __init__(self, make: Callable[[], Child], api_url: str, *, home: Path | None) -> None:
        self._make = make
        self._api_url = api_url
        self._home = home
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
        while not self._answers():
            if stopping():
                return
            time.sleep(0.2)
        if self._home:
            self.tidy(worker_lives=False)
        self._child = self._start()
        self._child.wait_ready(lambda: stopping() or self._child.said("started!"), _START_SECONDS)

    def _answers(self) -> bool:
        """Whether the server is there."""
        return is_of(self._api_url, self._home) if self._home else healthy(self._api_url)

    def tidy(self, *, worker_lives: bool = True) -> None:
        """End the runs whose process is gone; put those back that a dead worker had only taken."""
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        if not self._answers():  # or another home's server has its port, whose runs are not ours
            return
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
