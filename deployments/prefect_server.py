"""The Prefect server of the local stack: what it runs with, and what its clients need to know."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from closingbell.errors import FatalError
from closingbell.settings import Settings
from infra.process import Child

#: The port that people look at first; another one is taken when it is busy.
USUAL_PORT: Final = 4200
START_SECONDS: Final = 180.0


def client_environment(home: Path, api_url: str) -> dict[str, str]:
    """What a process needs in its environment to work with the local server, and with no other by accident."""
    return {
        "PREFECT_API_URL": api_url,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def settings_environment(settings: Settings) -> dict[str, str]:
    """The settings that someone made, as environment variables that mean the same in any directory."""
    values: dict[str, str] = {"CLOSINGBELL_HOME": str(settings.closingbell_home)}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, Path):
            value = value.expanduser().resolve()
        if hasattr(value, "get_secret_value"):
            value = value.get_secret_value()
        if hasattr(value, "isoformat"):
            value = value.isoformat()
        if value is not None:
            values[name.upper()] = str(value)
    return values


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without closingbell's own settings: what needs no key is given none."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in environment.items() if name.upper() not in ours}


def healthy(api_url: str) -> bool:
    """Whether a Prefect server answers there."""
    try:
        with urlopen(f"{api_url}/health", timeout=5) as answer:  # noqa: S310 - the address is the person's own
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False


def is_of(api_url: str, home: Path) -> bool:
    """Whether the local server of a ``CLOSINGBELL_HOME`` answers there, and not another one that took the port."""
    try:
        with urlopen(f"{api_url}/admin/settings", timeout=5) as answer:  # noqa: S310 - our own address
            return bool(json.load(answer).get("home") == str(home / "prefect"))
    except (URLError, OSError, ValueError):
        return False


def wait_until_healthy(api_url: str, seconds: float = START_SECONDS, home: Path | None = None) -> bool:
    """Wait for a Prefect server that somebody else starts; returns whether it answers.

    Args:
        api_url: its API.
        seconds: so long at most.
        home: whose it has to be; None: it is on no home's behalf.
    """
    deadline = time.monotonic() + seconds
    while not (there := is_of(api_url, home) if home else healthy(api_url)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return there


class PrefectServer:
    """A Prefect server on loopback that keeps its state in PostgreSQL.

    Args:
        home: ``CLOSINGBELL_HOME``.
        database_url: ``postgresql+asyncpg://`` URL of its own database.
    """

    def __init__(self, home: Path, database_url: str) -> None:
        self._home = home
        self._database_url = database_url
        self.child: Child | None = None
        self.api_url = ""

    @property
    def name(self) -> str:
        """What it is, for people."""
        return "the Prefect server"

    def start(self, port: int | None = None) -> None:
        """Start it, on the given port or a free one; :meth:`wait_ready` waits for it."""
        port = port or _free_port()
        self.api_url = f"http://127.0.0.1:{port}/api"
        environment = {
            **without_settings(os.environ),
            **client_environment(self._home, self.api_url),
            "PREFECT_API_DATABASE_CONNECTION_URL": self._database_url,
            # With leases kept in memory, a slot whose holder and server were both killed is lost for minutes.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            # By default each of a task's states is several statements of its own: half of all that a run costs it.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(self._home / "prefect" / "ui"),
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self.child = Child(
            self.name, command, self._home / "logs" / "prefect-server.log", env=environment, cwd=self._home
        )
        # Whoever held this lock is dead. Prefect would tell by the process id in it, which a container gives out again:
        # a server that finds its own there waits for itself, and no slot is ever granted.
        (self._home / "prefect" / "concurrency_leases" / "expirations.lock").unlink(missing_ok=True)
        self.child.start()

    def wait_ready(self) -> None:
        """Return when it answers; starts it once more, on another port, if someone took its port first.

        Only then is :attr:`api_url` certain.

        Raises:
            FatalError: it does not start.
        """
        for attempt in range(3):
            assert self.child is not None  # noqa: S101 - started before
            try:
                return self.child.wait_ready(self._answers, START_SECONDS)
            except FatalError:
                taken = self.child.said("already in use")
                self.child.stop()
                if attempt == 2 or not taken:
                    raise
                self.start()

    def _answers(self) -> bool:
        """Whether it is this server that answers there, not one that took the port before it could."""
        return is_of(self.api_url, self._home)

    def ended(self) -> str | None:
        """How it ended; None while it runs."""
        return self.child.ended() if self.child else None

    def revive(self, stopping: Callable[[], bool]) -> None:
        """Start it again where it was.

        Raises:
            FatalError: it does not start.
        """
        self.stop()
        self.start(urlsplit(self.api_url).port)
        assert self.child is not None  # noqa: S101 - started just now
        try:
            self.child.wait_ready(lambda: stopping() or self._answers(), START_SECONDS)
        except FatalError:
            self.stop()
            raise

    def stop(self) -> None:
        """End it."""
        if self.child:
            self.child.stop()


@contextlib.contextmanager
def prefect_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Put the variables into this process's environment, and into Prefect if it is loaded already."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        if "prefect" in sys.modules:
            import prefect.settings

            known = {name: value for name, value in environment.items() if name.startswith("PREFECT_")}
            with prefect.settings.temporary_settings({getattr(prefect.settings, n): v for n, v in known.items()}):
                yield
        else:
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    for wanted in (USUAL_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", wanted))
            return int(probe.getsockname()[1])
    raise FatalError("there is no free port on loopback", fix="Close some programs and try again.")
