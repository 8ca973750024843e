"""A whole night in one process: a real Prefect server, a real market, a database of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from closingbell.settings import load
from infra.market.process import MarketProcess

#: Monday evening in New York, after the close; the session of Friday 2026-03-06 is the last that is due.
NOW = "2026-03-10T02:00:00+00:00"

#: A lease or two a run, and a short window, which ends it sooner.
QUOTA = "1000/0.1s"


@dataclass
class Nights:
    """Runs flows against a market, and reads what came of them."""

    home: Path
    market: MarketProcess
    database_url: str
    setenv: Callable[[str, str], None]

    def quota(self, text: str) -> None:
        """Set the quota, and make its limit."""
        from deployments.bootstrap import bootstrap

        self.setenv("POLYGON_CALLS_PER_MINUTE", text)
        bootstrap(load())

    def environment(self, **settings: str) -> dict[str, str]:
        """What a process needs to work on the same; ``settings`` are others, or other than these."""
        return {
            "DATABASE_URL": self.database_url,
            "POLYGON_BASE_URL": self.market.url,
            "POLYGON_API_KEY": "any",
            "POLYGON_CALLS_PER_MINUTE": QUOTA,
            "CLOSINGBELL_HOME": str(self.home),
            "CLOSINGBELL_NOW": NOW,
            **settings,
        }

    def ingest(self, **parameters: Any) -> dict[str, Any]:
        """Run the ingest flow; its report."""
        from flows.ingest import ingest

        return self._run(ingest, parameters)

    def retry(self, **parameters: Any) -> dict[str, Any]:
        """Run the retry flow; its report."""
        from flows.retry_failed import retry_failed

        return self._run(retry_failed, parameters)

    def reconcile(self, **parameters: Any) -> dict[str, Any]:
        """Run the reconcile flow; its report."""
        from flows.reconcile import reconcile

        return self._run(reconcile, parameters)

    def facts(self, **parameters: Any) -> dict[str, Any]:
        """Run the facts flow; its report."""
        from flows.facts import facts

        return self._run(facts, parameters)

    def bar_calls(self) -> list[str]:
        """The paths of the calls for bars that the market received, without their queries."""
        return [path for path in self.paths() if path.startswith("/v2/aggs")]

    def paths(self) -> list[str]:
        """The paths of all calls that the market received, without their queries."""
        return [str(call["path"]).partition("?")[0] for call in self.market.calls()]

    def _run(self, flow: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        before = set(self._reports())
        state = flow(**parameters, return_state=True)
        (new,) = set(self._reports()) - before
        told: dict[str, Any] = json.loads(new.read_text())
        told["state_type"], told["state_name"], told["message"] = state.type.value, state.name, state.message
        return told

    def _reports(self) -> list[Path]:
        return list((self.home / "runs").glob("*.json"))


@pytest.fixture
def nights(
    prefect_api: str, database_url: str, market: MarketProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Nights:
    """Nights on the shared market, its clock at :data:`NOW`, at an ample quota."""
    # A flow in this process waits for its heartbeat's thread, which looks up once a second.
    monkeypatch.setattr("prefect.flow_engine.BaseFlowRunEngine.heartbeat_seconds", None)
    market.clear_calls()
    market.clear_faults()
    market.set_now(datetime.fromisoformat(NOW))
    home = tmp_path / "home"
    for name, value in {
        "DATABASE_URL": database_url,
        "POLYGON_BASE_URL": market.url,
        "POLYGON_API_KEY": "canary-3fe1",
        "CLOSINGBELL_HOME": str(home),
        "CLOSINGBELL_NOW": NOW,
        "RETRY_DELAY": "0",
    }.items():
        monkeypatch.setenv(name, value)
    made = Nights(home, market, database_url, monkeypatch.setenv)
    made.quota(QUOTA)
    return made
