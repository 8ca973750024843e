"""Two runs at once share one quota, down to the vendor's own count."""

from __future__ import annotations

from pathlib import Path

import pytest

from closingbell.settings import load
from deployments.bootstrap import bootstrap
from infra.market.process import MarketProcess
from tests.night.command import finish, start

pytestmark = pytest.mark.prefect


def test_two_runs_at_once_never_exceed_the_quota(prefect_api: str, database_url: str, tmp_path: Path) -> None:
    quota = "5/1.5s"  # the free plan's five calls a minute, at forty times its speed
    bootstrap(load(polygon_calls_per_minute=quota))
    with MarketProcess(size=600, quota=quota, retry_after=False) as market:
        environment = {
            "DATABASE_URL": database_url,
            "POLYGON_BASE_URL": market.url,
            "POLYGON_API_KEY": "any",
            "POLYGON_CALLS_PER_MINUTE": quota,
            "CLOSINGBELL_HOME": str(tmp_path / "home"),
            "MAX_RETRIES": "0",
        }
        dates = ("--start", "2026-03-02", "--end", "2026-03-06", "--batch-size", "2")
        runs = [
            start(environment, "ingest", "-t", "AAPL,MSFT,NVDA,AMZN,GOOGL,META,AVGO,TSLA,JPM,LLY,V,XOM", *dates),
            start(environment, "ingest", "-t", "NVDA,AMZN,KO,PEP,ORCL,COST,MA,HD,PG,WMT,NFLX,JNJ", *dates),
        ]
        told = [finish(run) for run in runs]
        statuses = [call["status"] for call in market.calls()]

    assert set(statuses) == {200}
    assert len(statuses) == sum(run["actual_calls"] for run in told)
    assert [run["state"] for run in told] == ["Completed", "Completed"]
    assert [run["stored_bars"] for run in told] == [60, 60]
