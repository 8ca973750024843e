"""One limit on the server: what a person sees and does there, and what the server keeps of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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

    def lease_seconds(self) -> list[float]:
        """For how long each lease on this limit is still valid."""
        limit, now = str(self.client.read_global_concurrency_limit_by_name(self.name).id), datetime.now(UTC)
        leases = [json.loads(path.read_text()) for path in self.folder.glob("*-*.json")]
        mine = [lease for lease in leases if limit in lease["resource_ids"]]
        return [(datetime.fromisoformat(lease["expiration"]) - now).total_seconds() for lease in mine]
