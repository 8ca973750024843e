"""Limits of a test's own on a real Prefect server, and a way to it that can be cut."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from closingbell.quota import Quota
from tasks.limits import limit_name
from tests.limiter.book import Book
from tests.proxy import Proxy


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    """A client of the real Prefect server."""
    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture
def book(client: SyncPrefectClient) -> Iterator[Callable[..., Book]]:
    """Makes limits for quotas, each the test's own: ``book("5/2s")``."""
    made: list[Book] = []

    def make(rate: str, *, limit: int | None = None, decay: float = 0.0) -> Book:
        quota, asset = Quota.parse(rate), f"test-{uuid.uuid4().hex[:8]}"
        client.upsert_global_concurrency_limit_by_name(limit_name(quota, asset), limit or quota.calls, decay)
        leases = Path(os.environ["PREFECT_HOME"]) / "concurrency_leases"
        made.append(Book(client, quota, asset, limit_name(quota, asset), leases))
        return made[-1]

    yield make
    for each in made:
        try:
            client.delete_global_concurrency_limit_by_name(each.name)
        except ObjectNotFound:
            continue


@pytest.fixture
def proxy(prefect_api: str) -> Iterator[Proxy]:
    """A way to the Prefect server that can be cut; clients made while the test runs go through it."""
    port = int(prefect_api.removesuffix("/api").rpartition(":")[2])
    with Proxy(port) as running, temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{running.port}/api"}):
        yield running


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds, or fail."""

    def wait(condition: Callable[[], object], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:g} s"
            time.sleep(0.02)

    return wait
