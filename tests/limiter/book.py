"""One limit on the server: what a person sees and does there, and what the server keeps of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

from closingbell.quota import Quota
from tasks.limiter import PrefectGate


@dataclass(frozen=True)
class Book:
    """A limit of a test's own."""

    client: SyncPrefectClient
    quota: Quota
    asset: str
    name: str
    folder: Path

    def gate(self, call_timeout: float = 5.0, books: Path | None = None) -> PrefectGate:
        """A gate on this limit, as one process has it."""
        return PrefectGate(self.quota, self.asset, call_timeout=call_timeout, books=books)

    def active(self) -> int:
        """Slots that the server counts as taken."""
        return self.client.read_global_concurrency_limit_by_name(self.name).active_slots

    def change(self, **values: Any) -> None:
        """What someone does in the Prefect UI."""
        self.client.update_global_concurrency_limit(self.name, GlobalConcurrencyLimitUpdate(**values))

    def delete(self) -> None:
        """Delete the limit."""
        self.client.delete_global_concurrency_limit_by_name(self.name)

    def leases(self) -> dict[Path, str]:
        """The leases on this limit, as the server keeps them."""
        limit = str(self.client.read_global_concurrency_limit_by_name(self.name).id)
        texts = {path: path.read_text() for path in self.folder.glob("*-*.json")}
        return {path: text for path, text in texts.items() if limit in text}

    def lose_leases(self) -> None:
        """What a restart does to leases that are kept in memory."""
        for path in self.leases():
            path.unlink()

    def restore(self, leases: dict[Path, str]) -> None:
        """What a server leaves that is killed just before it forgets them."""
        for path, text in leases.items():
            path.write_text(text)

    def age(self, server: sa.URL, seconds: float) -> None:
        """Let the limit be untouched for so long already."""
        found = sa.text("SELECT datname FROM pg_database WHERE datname LIKE 'prefect_%'")
        aged = sa.text(
            "UPDATE concurrency_limit_v2 SET updated = now() - make_interval(secs => :seconds) WHERE name = :name"
        )
        for database in _run(server, found).scalars():
            _run(server.set(database=database), aged, seconds=seconds, name=self.name)

    def lease_seconds(self) -> list[float]:
        """For how long each lease on this limit is still valid."""
        now, mine = datetime.now(UTC), [json.loads(text) for text in self.leases().values()]
        return [(datetime.fromisoformat(lease["expiration"]) - now).total_seconds() for lease in mine]


def _run(server: sa.URL, statement: sa.TextClause, **values: Any) -> sa.FrozenResult[Any] | Any:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        result = connection.execute(statement, values)
        return result.freeze()() if result.returns_rows else None
