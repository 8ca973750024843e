"""The limit follows the setting until a person changes it; then it is theirs."""

from __future__ import annotations

import random

import pytest
from prefect.client.orchestration import get_client

from closingbell.settings import load
from deployments.bootstrap import bootstrap
from tasks.limits import limit_name

pytestmark = pytest.mark.prefect


def test_the_limit_follows_the_setting_until_someone_changes_it(prefect_api: str) -> None:
    window = f"{random.randrange(1000, 9999)}.5s"

    def bootstrapped(calls: int) -> tuple[int, str]:
        settings = load(polygon_calls_per_minute=f"{calls}/{window}")
        said = "\n".join(bootstrap(settings))
        with get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name(limit_name(settings.quota)).limit, said

    assert bootstrapped(100)[0] == 100
    assert bootstrapped(5)[0] == 5
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(
            limit_name(load(polygon_calls_per_minute=f"5/{window}").quota), 7, 0
        )
    limit, said = bootstrapped(9)
    assert limit == 7
    assert "someone set its limit to 7, the setting says 9" in said


def test_each_quota_has_a_limit_of_its_own(prefect_api: str) -> None:
    key = f"test-{random.randrange(10**6)}"
    rates = {"polygon_calls_per_minute": "5", "polygon_crypto_calls_per_minute": "1/s"}
    for expected in ("created, 1 call a second", "there already, limit 1"):
        said = bootstrap(load(**rates, polygon_key_name=key))
        assert f"global concurrency limit polygon-{key}-crypto-calls-per-second: {expected}" in said
    with get_client(sync_client=True) as client:
        names = [limit.name for limit in client.read_global_concurrency_limits(limit=200, offset=0)]
    assert {name for name in names if key in name} == {
        f"polygon-{key}-stocks-calls-per-minute",
        f"polygon-{key}-crypto-calls-per-second",
    }
