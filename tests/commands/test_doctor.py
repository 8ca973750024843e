"""What ``doctor`` says of a Prefect server and of a key, and by which exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from closingbell.cli import CANNOT_RUN, OK, cli
from closingbell.settings import load
from deployments.bootstrap import bootstrap
from infra.market.process import MarketProcess

pytestmark = pytest.mark.prefect

#: A quota of this file's own, so that its limit is nobody else's.
QUOTA, LIMIT = "7/3s", "polygon-stocks-calls-per-3s"


@pytest.fixture
def doctor(
    database_url: str,
    prefect_api: str,
    market: MarketProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Run it against a market with a key: its exit code and its findings by what was looked at."""
    for name, value in {
        "DATABASE_URL": database_url,
        "PREFECT_API_URL": prefect_api,
        "POLYGON_BASE_URL": market.url,
        "POLYGON_API_KEY": "canary-3fe1",
        "POLYGON_CALLS_PER_MINUTE": QUOTA,
    }.items():
        monkeypatch.setenv(name, value)
    bootstrap(load())
    capsys.readouterr()

    def run(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
        code = cli.run(["doctor", "--json", *arguments])
        told = json.loads(capsys.readouterr().out)
        assert told["ok"] == (code == OK)
        return code, {finding["check"]: finding for finding in told["checks"]}

    return run


def test_a_server_that_is_ready_but_has_no_worker(doctor: Any) -> None:
    code, found = doctor()
    assert code == OK
    assert {found[check]["level"] for check in ("settings", "home", "key", "database", "prefect", "limit")} == {"ok"}
    assert "0 of 7 in use" in found["limit"]["told"]
    assert "call" not in found, "none is made unless it is asked for"


def test_a_server_that_does_not_answer_hides_nothing_else(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    code, found = doctor()
    assert code == CANNOT_RUN
    assert (found["prefect"]["level"], found["database"]["level"]) == ("error", "ok")
    assert "127.0.0.1:9" in found["prefect"]["told"]
    assert "PREFECT_API_URL" in found["prefect"]["fix"]


def test_a_limit_that_somebody_changed_or_switched_off(doctor: Any) -> None:
    with get_client(sync_client=True) as client:
        try:
            client.upsert_global_concurrency_limit_by_name(LIMIT, 5, 0)
            code, found = doctor()
            assert (code, found["limit"]["level"]) == (OK, "warning")
            assert f"prefect gcl update {LIMIT} --limit 7" in found["limit"]["fix"]

            client.delete_global_concurrency_limit_by_name(LIMIT)
            code, found = doctor()
            assert (code, found["limit"]["level"]) == (CANNOT_RUN, "error")
            assert "missing" in found["limit"]["told"]
        finally:
            bootstrap(load())


def test_the_schedule_of_the_night_is_missed(doctor: Any) -> None:
    _, found = doctor()
    assert found["deploy"]["level"] == "warning"
    assert "nightly" in found["deploy"]["told"]
    assert "prefect deploy --all" in found["deploy"]["fix"]


def test_a_key_is_asked_about_by_one_call(doctor: Any, market: MarketProcess) -> None:
    code, found = doctor("--call")
    assert (code, found["call"]["level"]) == (OK, "ok"), found["call"]
    assert len(market.calls()) == 1


def test_a_key_that_the_vendor_refuses(doctor: Any, market: MarketProcess) -> None:
    market.fault("status", status=401)
    code, found = doctor("--call")
    assert (code, found["call"]["level"]) == (CANNOT_RUN, "error")
    assert "POLYGON_API_KEY" in found["call"]["fix"]
    assert "canary" not in json.dumps(found)


def test_a_key_that_is_none(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "'your key'")
    code, found = doctor()
    assert (code, found["key"]["level"]) == (OK, "warning")
    assert "your key" not in json.dumps(found)
