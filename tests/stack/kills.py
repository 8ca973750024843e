"""A served stack whose every process can be killed, and the rounds in which that happens."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg2
import sqlalchemy as sa

from closingbell.store import open_store
from infra import standing
from infra.cluster import running
from infra.postgres import EmbeddedPostgres
from tests.night.command import contents

ProcessesOf = Callable[[Path], list[str]]
Eventually = Callable[..., None]

#: What can be killed, by which part of its command line it is known, and how often; the command takes all along.
KNOWN_BY: Final = {
    "flow": "prefect.engine",
    "worker": "prefect worker start",
    "PostgreSQL": "postgres -D",
    "a backend of PostgreSQL": "postgres: closingbell",
    "the Prefect server": "prefect server start",
    "the market": "infra.market",
    "the command": "closingbell.cli up",
}
VICTIMS: Final = {victim: 1 if victim == "the command" else 5 for victim in KNOWN_BY}

#: Over. Anything else is under way, or waits.
FINAL: Final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

#: Seconds after which a run that should be over is taken for one that nobody will ever end.
LONGEST: Final = 180.0

TABLES: Final = "bar, gap, watermark, quarantine, split, split_revision, revision, claim, dividend, tenure"


@dataclass
class Served:
    """``closingbell up`` at a home, looked at from outside.

    Args:
        home: its home.
        settings: of the stack, beside the home.
        processes_of: finds its processes.
        eventually: waits.
    """

    home: Path
    settings: Mapping[str, str]
    processes_of: ProcessesOf
    eventually: Eventually
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def log(self) -> Path:
        """What it said in its terminal."""
        return self.home / "up.log"

    def start(self) -> None:
        """Start it, and wait until it serves."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "closingbell.cli", "up"],
                env={**environment, **self.settings, "CLOSINGBELL_HOME": str(self.home)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.eventually(lambda: standing.read(self.home) or self.process.poll() is not None, LONGEST)
        assert self.process.poll() is None, self.log.read_text()

    def pids(self, victim: str) -> list[int]:
        """The processes of that kind that live now."""
        return [
            int(line.split()[0])
            for line in self.processes_of(self.home)
            if KNOWN_BY[victim] in line and "leash.py" not in line
        ]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the Prefect server answers, as soon as there is one that can."""
        deadline = time.monotonic() + LONGEST
        while True:
            with suppress(httpx.TransportError):
                there = standing.read(self.home)
                assert there, self.log.read_text()
                answer = httpx.request(method, f"{there.prefect_api_url}{path}", json=body, timeout=30)
                if not answer.is_server_error:
                    assert answer.is_success, f"{path}: {answer.text}\n{self.log.read_text()}"
                    return answer.json()
            assert time.monotonic() < deadline, f"the Prefect server does not come back\n{self.log.read_text()}"
            time.sleep(0.1)

    def begin(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run; its id."""
        found = self.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": [deployment]}}})
        body = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
        return str(self.ask("POST", f"/deployments/{found[0]['id']}/create_flow_run", body)["id"])

    def end_of(self, run_id: str) -> tuple[str, str]:
        """Wait until a run is over; its state's type and message."""
        deadline = time.monotonic() + LONGEST
        while (run := self.ask("GET", f"/flow_runs/{run_id}"))["state_type"] not in FINAL:
            assert time.monotonic() < deadline, f"{run_id} is still {run['state']}\n{self.log.read_text()}"
            time.sleep(0.2)
        return str(run["state_type"]), str(run["state"]["message"])

    def under_way(self) -> list[str]:
        """Runs that hold something by their state, though nothing should be running."""
        states = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
        found = self.ask("POST", "/flow_runs/filter", {"flow_runs": states})
        return [f"{run['id']} {run['state_type']}" for run in found]

    def slots(self) -> dict[str, int]:
        """The slots that each limit counts as taken, without those that have none."""
        found = self.ask("POST", "/v2/concurrency_limits/filter", {})
        return {limit["name"]: limit["active_slots"] for limit in found if limit["active_slots"]}


@contextmanager
def database(home: Path) -> Iterator[str]:
    """The URL of the served database, once it answers."""
    server = EmbeddedPostgres(home)
    deadline = time.monotonic() + LONGEST
    while True:
        there = running(server.data)
        if there and there.ready:
            server.port = there.port
            with suppress(psycopg2.OperationalError):
                psycopg2.connect(server.url("closingbell", driver="postgresql")).close()
                yield server.url("closingbell")
                return
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wipe(home: Path) -> None:
    """Forget every bar and all that is known of them."""
    with database(home) as url:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            there = set(sa.inspect(connection).get_table_names())
            wanted = [table for table in TABLES.split(", ") if table in there]
            connection.execute(sa.text(f"TRUNCATE {', '.join(wanted)}"))


def look(home: Path) -> list[list[tuple[Any, ...]]]:
    """All that must not depend on kills; the ledger is held against the bars first."""
    with database(home) as url:
        store = open_store(url)
        try:
            for key, sums in store.records.audit().items():
                assert sums.expected == sums.stored + sum(sums.gaps.values()), key
                assert not sums.unexplained, key
                assert not sums.damage, key
            running_rows = [run for run in store.records.runs(200) if run["state"] == "Running"]
            assert not running_rows
        finally:
            store.close()
        return contents(url)


def kill(served: Served, victim: str, chance: random.Random) -> bool:
    """``kill -9`` one process of that kind; False when there is none."""
    pids = served.pids(victim)
    if not pids:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)
    return True
